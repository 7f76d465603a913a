"""Scores are the suite's own metrics, of what any model wrote or answered."""

import json

import pytest

from benchmarks.solve import scripted
from length_gen.datamodules.benchmark import Benchmark
from length_gen.lightning_modules.commands.main import main
from length_gen.lightning_modules.evaluation.metrics import wilson_interval
from length_gen.lightning_modules.evaluation.score import read_given, score


def records(path):
    benchmark, split, given = read_given(path, "length-gen-v1")
    return list(score(benchmark, split, given))


@pytest.mark.slow
def test_the_scripted_agent_is_exact_at_all_of_it(tmp_path):
    path = tmp_path / "scripted.jsonl"
    entries = list(Benchmark().entries("validation"))
    path.write_text("".join(map(scripted, entries)))
    found = records(path)
    assert sum(record["problems"] for record in found) == len(entries)
    assert {(r["exact_match"], r["answer_accuracy"], r["token_accuracy"]) for r in found} == {(1, 1, 1)}
    assert {record["task"] for record in found} == set(Benchmark().tasks)


def test_what_is_missing_made_up_or_wrong_is_not_solved(tmp_path):
    entries = [e for e in Benchmark().cell("validation", "addition", 5) if e.id.startswith("validation/addition//u")]
    lines = [json.loads(scripted(entry)) for entry in entries[:4]]
    lines[1]["written"][-2] = "7" if lines[1]["written"][-2] != "7" else "8"  # the answer's last digit, or a move
    lines[2]["written"] = lines[2]["written"][:-1]  # no [END]
    lines[3]["written"].insert(3, "1")  # what an observation would say is a thought, if the model writes it
    path = tmp_path / "some.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    record, = records(path)
    assert record["problems"] == 32 and record["exact_match"] == 1 / 32
    assert (record["exact_match_low"], record["exact_match_high"]) == wilson_interval(1, 32)
    assert record["reasons"]["missing"] == 28 and record["reasons"]["budget"] == 1


def test_answers_alone_and_the_line_to_cite(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_COMMIT", "abc")
    entries = list(Benchmark().cell("test", "multiplication", 10))
    answers = [str(eval(entry.question.replace(" ", "").replace("x", "*").rstrip("="))) for entry in entries]
    answers[0] = "0"
    (tmp_path / "answers.jsonl").write_text("".join(map(lambda e, a: e.line(a), entries, answers)))
    main(["score", "answers.jsonl", "--out", "scores.json"])
    said = capsys.readouterr().out
    cite = said.partition("To cite: ")[2].strip()
    low, high = wilson_interval(len(entries) - 1, len(entries))
    assert "answers right (95%)" in said and "exact match" not in said
    assert cite.startswith(f"length-gen-v1, test, interactive: {(len(entries) - 1) / len(entries):.1%} of "
                           f"{len(entries)} answers right (95% {low:.1%} to {high:.1%}); all up to length 0 in")
    assert f"problems {Benchmark().known_digest()[:12]}" in cite and cite.endswith("commit abc")
    assert json.loads((tmp_path / "scores.json").read_text())["cite"] == cite


@pytest.mark.parametrize("lines, message", [
    ("", "has no lines"), ("{}", "line 1 is not possible (no key 'id')"), ("[1]", "line 1 is not possible"),
    ('{"id": "test/addition//uniform/10/0"}', "expected either `written` or `answer`"),
    ('{"id": "test/addition//uniform/10/0", "written": [1]}', "`written` is no list of tokens"),
    ('{"id": "test/addition//uniform/11/0", "answer": "1"}', "no test problems of addition of length 11: expected one"),
    ('{"id": "test/addition//uniform/10/99", "answer": "1"}', "has no problem test/addition//uniform/10/99"),
    ('{"id": "test/adding//uniform/10/0", "answer": "1"}', "has no test problems of adding"),
    ('{"id": "test/addition//uniform/10/0", "answer": "1"}\n' * 2, "line 2: test/addition//uniform/10/0 a second time"),
    ('{"id": "test/addition//uniform/10/0", "answer": "1"}\n{"id": "validation/addition//uniform/10/0", "answer": "1"}',
     "lines of several kinds")])
def test_lines_that_are_none_are_told(lines, message, tmp_path, refused):
    (tmp_path / "lines.jsonl").write_text(lines)
    assert message in refused("score", "lines.jsonl")
    assert "there is no file nothing.jsonl" in refused("score", "nothing.jsonl")
