import os
import random

import pytest
import yaml
from torch.utils.data import DataLoader

from length_gen.datamodules.stream import TrajectoryStream
from length_gen.datamodules.tasks import Problem, Turing
from length_gen.datamodules.tasks.machine import FOLDER, load_machine
from length_gen.datamodules.tokens import Kind
from length_gen.tools import UserError
from length_gen.tools.tape import Tape


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
    "decrement": lambda w: f"{(int(w, 2) - 1) % 2 ** len(w):0{len(w)}b}",
    "collatz": lambda w: f"{3 * int(w, 2) + 1 if int(w, 2) % 2 else int(w, 2) // 2:b}",
    "erase": lambda w: "01"[len(w) % 2],
}


@pytest.mark.parametrize("machine", EXPECTED)
def test_random_inputs(machine):
    assert {path.stem for path in FOLDER.glob("*.yaml")} == EXPECTED.keys()
    task, rng, seen = Turing(machine, 8), random.Random(0), set()
    vocabulary, tool = task.vocabulary(), task.tool()
    for _ in range(250):
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
    ({"halt": []}, "halt is empty"),
    ({"transitions": {"go": {"0": ["1", "R", "go"]}}}, "state go has no transition for '1': add one, or an else"),
    ({"transitions": {"go": {"else": ["same", "R", "go"]}}}, "no halting state .done. can be reached from go"),
    ({"transitions": {"go": {"2": ["1", "R", "go"]}}}, "unknown symbol '2'"),
    ({"transitions": {"go": {"else": ["2", "R", "done"]}}}, "writes the unknown symbol '2'"),
    ({"transitions": {"go": {"else": ["same", "U", "done"]}}}, "unknown move 'U'; expected L, R, S"),
    ({"transitions": {"go": {"else": ["same", "R", "stop"]}}}, "goes on to 'stop'"),
    ({"transitions": {"go": {"else": ["same", "R"]}}}, "is no transition"),
    ({"inputs": [[{"symbols": "ab", "length": "n"}]]}, "an input has the unknown symbol 'a'"),
    ({"inputs": [[{"symbols": "01", "length": 0}]]}, "length: Expected .* Got value: 0"),
    ({"inputs": [[7]]}, "inputs: Expected str, dict. Got value: 7"),
    ({"inputs": [7]}, "inputs: Expected a list. Got value: 7"),
    ({"inputs": [[]]}, "an input is empty"),
    ({"inputs": [[{"symbols": 1, "length": "n"}]]}, "symbols: Expected a str. Got value: 1; .* needs quotes"),
    ({"inputs": [[{"symbols": "01"}]]}, "a length .* goes with symbols"),
    ({"inputs": [[{"symbols": "", "length": "n"}]]}, "expected one of symbols, balanced, mirror and change"),
    ({"inputs": [[{"balanced": "0", "length": "n"}]]}, "an opening and a closing symbol"),
    ({"inputs": [[{"mirror": True}]]}, "needs something before it"),
    ({"inputs": [["0", {"chance": 1}]]}, "'chance' is not"),
    ({"transitions": {}}, "transitions is empty"),
    ({"transitions": ["go"]}, "transitions: Expected a dict"),
    ({"transitions": {"go": ["same", "S", "done"]}}, "transitions: Expected a dict"),
    ({"transitions": {"go": None}}, "transitions: Expected a dict"),
    ({"transitions": {"go": {"else": "done"}}}, "transitions: Expected a list. Got value: done"),
    ({"transitions": {"go": {0: ["1", "R", "go"], "else": ["same", "S", "done"]}}}, "0 is no text; .* quotes"),
    ({"transitions": {"go": {"else": [1, "S", "done"]}}}, "Expected a str. Got value: 1"),
    ({"symbols": 10}, "symbols: Expected a str. Got value: 10"),
    ({"symbols": "011"}, "symbol '1' is given twice"),
    ({"halt": "done"}, "halt: Expected a list. Got value: done"),
    ({"steps": 5}, "'steps' is not"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_tables(change, message, tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(GOOD | change))
    with pytest.raises(UserError, match=f"machine mine: .*{message}"):
        Turing(str(tmp_path / "mine.yaml"), 3)


@pytest.mark.parametrize("text", ["", "[a]", "7", "a: b", "symbols: '01'", b"\xff\xfe", "a: ["])
def test_files_that_are_no_tables(text, tmp_path):
    (tmp_path / "mine.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=r"machine .*mine"):
        Turing(str(tmp_path / "mine.yaml"), 3)


def test_any_change_of_a_table_builds_or_gets_one_line(tmp_path):
    rng, refused = random.Random(0), 0
    for _ in range(80):
        table = yaml.safe_load((FOLDER / f"{rng.choice(sorted(EXPECTED))}.yaml").read_text())
        place, key = None, None
        inner = table
        while isinstance(inner, (dict, list)) and inner and (place is None or rng.random() < 0.8):
            place, key = inner, rng.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
            inner = inner[key]
        if rng.random() < 0.3:
            del place[key]
        else:
            place[key] = rng.choice([None, 0, 1, -1, 2.5, True, "", "0", "x", [], ["1", "R", "done"], {}, {"a": 1}])
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(table))
        try:
            task = Turing(str(tmp_path / "mine.yaml"), 3)
            task.record(task.sample_training(rng))
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
    assert 20 < refused < 80


def test_a_table_of_ones_own(tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(GOOD))
    task = Turing(str(tmp_path / "mine.yaml"), 3)
    assert task.name == "turing_mine" and task.answer(task.parse("001")) == ("1", "1", "1")
    with pytest.raises(UserError, match="not an input of machine mine: expected symbols from 0 1"):
        task.parse("012")
    with pytest.raises(UserError, match=r"no machine bubble: the suite has add, brackets, collatz, copy"):
        Turing("bubble", 3)


def test_a_machine_that_never_halts(tmp_path):
    row = {"0": ["0", "S", "go"], "else": ["same", "S", "done"]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(GOOD | {"transitions": {"go": row}}))
    task = Turing(str(tmp_path / "mine.yaml"), 3)
    for work in (task.parse, lambda text: task.record(Problem(tuple(text), len(text)))):
        with pytest.raises(UserError, match="machine mine does not halt on '0'"):
            work("0")


@pytest.mark.parametrize(("halting", "expected"), [("after", ""), ("before", "011"), ("on it", "011")])
def test_a_machine_that_halts_on_a_blank(halting, expected, tmp_path):
    """The result is what follows the nearest blank that is not right of the head."""
    end = {"after": ["same", "S", "done"], "before": ["same", "L", "back"], "on it": ["same", "L", "done"]}[halting]
    rows = {"go": {"_": end, "else": ["same", "R", "go"]},
            "back": {"_": ["same", "S", "done"], "else": ["same", "L", "back"]}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(GOOD | {"transitions": rows}))
    task = Turing(str(tmp_path / "mine.yaml"), 3)
    problem = task.parse("011")
    assert task.answer(problem) == tuple(task.record(problem).outputs()) == tuple(expected)


def test_an_input_on_which_a_machine_never_halts_is_one_line_from_a_worker_process_too(tmp_path):
    row = {"0": ["0", "S", "go"], "else": ["same", "S", "done"]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(GOOD | {"transitions": {"go": row}}))
    stream = TrajectoryStream(Turing(str(tmp_path / "mine.yaml"), 3), 0)
    errors = []
    for workers in (0, 1):
        with pytest.raises(UserError) as error:
            list(DataLoader(stream, sampler=range(50), num_workers=workers, collate_fn=len))
        errors.append(str(error.value))
    assert errors[0] == errors[1] and errors[0].startswith("machine mine does not halt on '0")


@pytest.mark.parametrize(("name", "words"), [("pipe", "there is no machine"), ("large", "at most 1,048,576 are read"),
                                             ("laughs", "more than 100,000 values")])
def test_a_machines_file_that_would_take_any_memory_gets_one_line(name, words, tmp_path):
    path = tmp_path / f"{name}.yaml"
    if name == "pipe":
        os.mkfifo(path)
    else:
        path.write_text(" " * 2**21 if name == "large" else "".join(
            f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]\n" for i in range(12)))
    with pytest.raises(UserError, match=words):
        load_machine(str(path))
