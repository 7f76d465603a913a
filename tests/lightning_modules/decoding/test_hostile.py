import pytest

from benchmarks.hostile import KINDS, ROW_BYTES, TASKS, row_memory, storm
from length_gen.datamodules.rollout import Rollout, budget
from length_gen.datamodules.tasks import HanoiIterative, LogicalGraph, Problem
from length_gen.tools import SearchMemory, Tool


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.name}-{task.setting}")
def test_nonsense_ends_with_a_reason_and_disturbs_no_other_row(task, kind):
    """Every row, six side by side in a batch of three, is what it is alone."""
    tokens, reasons = storm(task, kind, rows=6, budget=300, seed=7, again=6)
    assert tokens > 0 and sum(reasons.values()) == 6


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.name}-{task.setting}")
def test_the_memory_of_a_row_is_bounded(task):
    for kind in KINDS:
        assert 0 < row_memory(task, kind, budget=1000) <= ROW_BYTES


@pytest.mark.parametrize(("lines", "reason"), [(100, "budget"), (101, "invalid_command")])
def test_huge_results_of_a_search(lines, reason):
    """The whole memory is found, again and again: the budget cuts it short; one line more than allowed is an error."""
    prompt = ("a", *["7"] * 198, "\n") * lines
    row = Rollout(Problem(prompt, lines), len(prompt) + 50_000, SearchMemory(100))
    search = iter(["find", "a", "[OBSERVATION]"] * 1000)
    while not row.reason:
        row.advance("" if row._given else next(search))
    assert row.reason == reason and len(row.tokens) <= row.budget
    assert len(row._given) <= len(prompt)
    assert reason == "budget" or f"{lines} lines match" in row.detail
    assert LogicalGraph(6).tool().max_lines == 100


def rolled(task, problem, said):
    """A row of a model that says `said`, and the end of it over and over."""
    row, rest = Rollout(problem, budget(task.record(problem)), task.tool(problem)), iter(said)
    while not row.reason:
        row.advance("" if row._given else next(rest, said[-1]))
        assert len(row.tokens) + len(row._given) <= row.budget + 1
    return row


@pytest.mark.parametrize("disks", [4, 24, 50])
def test_a_question_of_the_models_own_is_no_longer_than_the_problem(disks):
    """24 disks have 16,777,215 moves."""
    task = HanoiIterative(3, setting="single_turn")
    question = ["A", *map(str, range(disks, 0, -1)), "B", "C", "="]
    row = rolled(task, task.problem("test", 0, 3, 0), ["[CALL]", *question, "[RETURN]"])
    assert row.reason == "invalid_command" and row.detail == (
        f"the solver takes no question of {disks + 4} tokens: the problem has 7")


def test_questions_as_long_as_the_problem_are_solved():
    """Another question than the problem's, answered as another problem: by hand."""
    task = HanoiIterative(3, setting="single_turn")
    said = ["[CALL]", "A", "9", "4", "B", "C", "=", "[RETURN]", "[END]"]
    row = rolled(task, task.problem("test", 0, 3, 0), said)
    assert row.tokens[-10:-1] == ["4", "A", "B", "9", "A", "C", "4", "B", "C"] and row.reason == "end"


def test_an_answer_that_is_no_token_of_the_task_is_none():
    """Python takes `00` for a number, which it writes `0`."""
    task = LogicalGraph(6, setting="single_turn")
    row = rolled(task, task.problem("test", 0, 4, 0, "any"), ["[CALL]", "ba", "11", "=", "00", "\n", "[RETURN]"])
    assert row.reason == "invalid_command" and "no solution for 'ba 11 = 00" in row.detail


def test_no_observation_is_longer_than_the_budget():
    class Talkative(Tool):
        commands = {"talk": lambda: ("7",) * 1000}  # noqa: RUF012

        def reset(self, prompt):
            pass

        def write(self, token):
            return None

    row, most = Rollout(Problem(("1",), 1), 20, Talkative()), 0
    while not row.reason:
        row.advance("talk")
        most = max(most, len(row._given))
    assert row.reason == "budget" and row.tokens == ["1", "talk", *["7"] * 18] and most <= 20
