import dataclasses
import shlex

import pytest

from length_gen.datamodules.tasks import (
    Addition,
    Copy,
    HanoiIterative,
    LogicalGraph,
    Multiplication,
    Problem,
    Sort,
    Turing,
)
from length_gen.lightning_modules.evaluation.solve import typed


def test_a_right_rollout_shows_no_error(solved, capsys):
    solved[0].show()
    shown = capsys.readouterr().out
    assert "answer 3: right (expected 3); trajectory exact" in shown
    assert "first" not in shown and "memory" not in shown and "≠" not in shown


def test_a_wrong_rollout_shows_its_phases_the_first_error_and_the_memory_there(solved, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    row = solved[1]
    row.show(limit=40)
    lines = capsys.readouterr().out.splitlines()
    # The walk of p1 ends after 8 digits, that of p2 after 17: 18 tokens of the question, 2 of init, 3 for each step.
    place = 18 + 2 + 3 * 9 - 1 + 3 * 18 - 1
    assert row.first_error == place and row.tokens[place - 1] == "=" and row.tokens[place] != "p1.left"
    assert {line.split()[0] for line in lines} > {"prompt", "find_equals", "..."}
    assert next(line for line in lines if line.startswith("≠ reference")).split()[2].strip("▸") == row.tokens[place]
    assert lines[-6:] == [
        f"first error: token {place} of {len(row.tokens)}, in phase add",
        f"  written  {row.tokens[place]:8}  99.9%",  # a logit of 10 against 0: exp(10) / (exp(10) + 24)
        "  due      p1.left   <0.1%",
        f"memory before token {place}:",
        "  [EDGE] 1 2 3 4 5 6 7 8 +   9 8 7 6 5 4 3 2 =",
        "                         ↑p1                 ↑p2"]


def test_a_question_that_stands_in_the_tool_alone_is_said_and_one_in_the_prompt_is_not(solved, capsys):
    dataclasses.replace(solved[0], question=(*"1234", *solved[0].question)).show()
    assert capsys.readouterr().out.startswith("question: 12341+2= (in the tool; the prompt is its end)\n")
    solved[0].show()
    assert "question" not in capsys.readouterr().out


def test_the_memory_is_shown_around_any_token(solved, capsys):
    solved[0].show(limit=4, around=6)
    shown = capsys.readouterr().out
    assert "memory before token 6:\n  [EDGE] 1      + 2 =\n         ↑p1,p2\n" in shown
    assert "... 4 tokens ...\nstart      ▸p2.init\nfind_plus  ▸p1.read\n... 57" in shown


@pytest.mark.parametrize("task", [
    Addition(5), Multiplication(5), Copy(5), Sort(5), HanoiIterative(5), Turing("brackets", 6), LogicalGraph(6)],
    ids=lambda task: task.name)
def test_a_problem_is_written_as_it_is_typed(task):
    for variant in task.variants:
        problem = task.problem("test", 0, 5, 0, variant)
        text, = shlex.split(shlex.quote(typed(task, problem)))
        assert task.parse(text).prompt == problem.prompt and "\n" not in text


def test_a_problem_that_nobody_types_is_left_open():
    assert typed(Addition(5), Problem(("7", "="), 1)) == "PROBLEM"
