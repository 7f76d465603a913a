import random

import pytest
import yaml

from datamodules.tasks import Turing
from datamodules.tasks.machine import FOLDER
from datamodules.tokens import Kind
from tools import UserError
from tools.tape import Tape


def balanced(word):
    while "()" in word:
        word = word.replace("()", "")
    return not word


EXPECTED = {  # by Python's own means
    "increment": lambda w: f"{int(w, 2) + 1:0{len(w)}b}",
    "add": lambda w: f"{sum(int(x, 2) for x in w.split('+')):b}",
    "multiply_unary": lambda w: w.split("x")[0] * (len(w.split("x")[1]) - 1),
    "palindrome": lambda w: "01"[w == w[::-1]],
    "brackets": lambda w: "01"[balanced(w)],
    "copy": lambda w: w + w[:-1],
    "sort": lambda w: "".join(sorted(w)),
}


@pytest.mark.parametrize("machine", EXPECTED)
def test_random_inputs(machine):
    assert {path.stem for path in FOLDER.glob("*.yaml")} == EXPECTED.keys()
    task, rng, seen = Turing(machine, 8), random.Random(0), set()
    vocabulary, tool = task.vocabulary(), task.tool()
    for _ in range(1000):
        problem = task.sample_training(rng)
        trajectory = task.record(problem)
        vocabulary.encode(trajectory.tokens)
        result = "".join(trajectory.outputs())
        seen.add(result)
        assert tuple(trajectory.outputs()) == task.answer(problem)
        expected = EXPECTED[machine]("".join(problem.prompt))
        assert (result.lstrip("0") or "0") == expected if machine == "add" else result == expected
        tool.reset(problem.prompt)
        observed = [o for t, k in zip(trajectory.tokens, trajectory.kinds, strict=True)
                    if k in (Kind.THOUGHT, Kind.COMMAND, Kind.OUTPUT) for o in tool.feed(t) or ()]
        assert observed == [t for t, k in zip(trajectory.tokens, trajectory.kinds, strict=True)
                            if k == Kind.OBSERVATION]
    assert len(seen) > 1


def test_one_trajectory_by_hand():
    task = Turing("increment", 3, "paper")
    assert " ".join(task.record(task.parse("1")).tokens) == (
        "1 <to_end> read 1 write.1 right <to_end> read _ write._ left <carry> read 1 write.0 left "
        "<carry> read _ write.1 <done> read 1 left read _ [ANS] right read 1 1 right read 0 0 right read _ [END]")


def test_the_tape_has_no_ends():
    tape = Tape("ab")
    tape.reset("ab")
    for command in ("left", "left", "write.a", "right", "right", "right"):
        assert tape.feed(command) == ()
    assert tape.feed("read") == ("b",) and tape.feed("<state>") is None
    for _ in range(3):
        tape.feed("left@run")
    assert tape.feed("read") == ("a",)
    for _ in range(9):
        tape.feed("right")
    assert tape.feed("read") == ("_",)


GOOD = {"symbols": "01", "start": "go", "halt": ["done"], "inputs": [[{"symbols": "01", "length": "n"}]],
        "transitions": {"go": {"0": ["1", "R", "go"], "else": ["same", "S", "done"]}}}
BAD = [
    ({"start": "gone"}, "start state gone"),
    ({"halt": []}, "halt is missing"),
    ({"transitions": {"go": {"0": ["1", "R", "go"]}}}, "state go has no transition for '1': add one, or an else"),
    ({"transitions": {"go": {"else": ["same", "R", "go"]}}}, "no halting state .done. can be reached from go"),
    ({"transitions": {"go": {"2": ["1", "R", "go"]}}}, "unknown symbol '2'"),
    ({"transitions": {"go": {"else": ["2", "R", "done"]}}}, "writes the unknown symbol '2'"),
    ({"transitions": {"go": {"else": ["same", "U", "done"]}}}, "unknown move 'U'; expected L, R, S"),
    ({"transitions": {"go": {"else": ["same", "R", "stop"]}}}, "goes on to 'stop'"),
    ({"transitions": {"go": {"else": ["same", "R"]}}}, "is no transition"),
    ({"inputs": [[{"symbols": "ab", "length": "n"}]]}, "an input has the unknown symbol 'a'"),
    ({"inputs": [[{"symbols": "01", "length": 0}]]}, "length 0"),
    ({"inputs": [[7]]}, "7 is no part of an input"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_tables(change, message, tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(GOOD | change))
    with pytest.raises(UserError, match=f"machine mine: .*{message}"):
        Turing(str(tmp_path / "mine.yaml"), 3)


def test_a_table_of_ones_own(tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(GOOD))
    task = Turing(str(tmp_path / "mine.yaml"), 3)
    assert task.name == "turing_mine" and task.answer(task.parse("001")) == ("1", "1", "1")
    with pytest.raises(UserError, match="not an input of machine mine: expected symbols from 0 1"):
        task.parse("012")
    with pytest.raises(UserError, match=r"no machine bubble: the suite has add, brackets, copy"):
        Turing("bubble", 3)


def test_a_machine_that_never_halts(tmp_path):
    row = {"0": ["0", "S", "go"], "else": ["same", "S", "done"]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(GOOD | {"transitions": {"go": row}}))
    with pytest.raises(UserError, match="does not halt on '0'"):
        Turing(str(tmp_path / "mine.yaml"), 3).parse("0")
