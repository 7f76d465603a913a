import random
import sys

import pytest

from length_gen.datamodules import trajectory
from length_gen.datamodules.tasks import Addition, Copy, Multiplication, Reverse, Sort
from length_gen.datamodules.tokens import END, Kind
from length_gen.datamodules.trajectory import Scribe
from length_gen.tools import InvalidCommand, PointerMemory, UserError

TASKS = [cls(8, style) for cls in (Addition, Multiplication, Copy, Reverse, Sort) for style in ("paper", "local")]
NAMES = [f"{t.name}-{t.style}" for t in TASKS]


def value(task, problem):
    """The answer by Python's own means."""
    text = "".join(problem.prompt).rstrip("=")
    if isinstance(task, (Copy, Reverse, Sort)):
        return {"copy": text, "reverse": "".join(reversed(text)), "sort": "".join(sorted(text))}[task.name]
    left, right = text.replace("x", "+").split("+")
    return int(left) * int(right) if "x" in text else int(left) + int(right)


def replay(task, problem, trajectory):
    """Feed what the model would say to a fresh tool; the observations must be the recorded ones."""
    tool, expected = task.tool(), []
    tool.reset(problem.prompt)
    for token, kind in zip(trajectory.tokens, trajectory.kinds, strict=True):
        if kind == Kind.OBSERVATION:
            assert expected.pop(0) == token
        elif kind not in (Kind.PROMPT, Kind.END):
            assert not expected
            observation = tool.feed(token)
            assert (observation is not None) == (kind == Kind.COMMAND)
            expected = list(observation or ())
    assert not expected


@pytest.mark.parametrize("task", TASKS, ids=NAMES)
def test_random_trajectories_replay_and_are_right(task):
    rng, vocabulary = random.Random(0), task.vocabulary()
    for _ in range(1000):
        problem = task.sample_training(rng)
        trajectory = task.record(problem)
        replay(task, problem, trajectory)
        assert "".join(trajectory.outputs()) == str(value(task, problem))
        assert trajectory.tokens[-1] == END and trajectory.kinds[-1] == Kind.END
        assert vocabulary.decode(vocabulary.encode(trajectory.tokens)) == trajectory.tokens


@pytest.fixture
def numbers_of_any_length():
    """For this test alone: others need Python's limit."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    yield
    sys.set_int_max_str_digits(limit)


@pytest.mark.parametrize("task", TASKS, ids=NAMES)
def test_problems_of_5000_digits(task, numbers_of_any_length):
    for variant in task.variants:
        problem = task.problem("test", 0, 5000, 0, variant)
        trajectory = task.record(problem)
        replay(task, problem, trajectory)
        assert "".join(trajectory.outputs()) == str(value(task, problem)) == "".join(task.answer(problem))


def test_styles_differ_only_in_the_phase_that_commands_carry():
    paper, local = (Multiplication(5, style) for style in ("paper", "local"))
    problem = paper.parse("905x48")
    a, b = paper.record(problem), local.record(problem)
    assert [token.partition("@")[0] for token in b.tokens] == a.tokens
    assert a.kinds == b.kinds and a.phases == b.phases


def test_one_trajectory_by_hand():
    trajectory = Addition(5, "paper").record(Addition(5).parse("7+5"))
    assert " ".join(trajectory.tokens) == (
        "7 + 5 = p1.init p2.init p1.read 7 p1.right p1.read + "
        "p2.read 7 p2.right p2.read + p2.right p2.read 5 p2.right p2.read = "
        "p1.left p2.left p1.read 7 p2.read 5 2 1 p1.left p2.left p1.read [EDGE] p2.read + 1 0 "
        "[ANS] p2.read + p2.right p2.read 5 p2.right p2.read = p2.right p2.read 2 p2.right p2.read 1 p2.right "
        "p2.read 1 p2.right p2.read 0 p2.right p2.read [ANS] "
        "p2.left p2.read 0 p2.left p2.read 1 1 p2.left p2.read 1 p2.left p2.read 2 2 p2.left p2.read = [END]")
    letters = "".join(" QTCOAE"[kind] for kind in trajectory.kinds)
    assert letters == ("QQQQ" "CC" "COCCO" "COCCOCCOCCO" "CCCOCOTT" "CCCOCOTT"
                       "T" "COCCOCCOCCOCCOCCOCCOCCO" "CCOCCOA" "CCOCCOA" "CCO" "E")
    assert trajectory.phase_at(0) == "" and trajectory.phase_at(5) == "start" and trajectory.phase_at(6) == "find_plus"
    assert trajectory.phase_at(len(letters) - 1) == "copy"


SETTINGS = {  # addition of 7 and 5 in every other setting; kinds as letters
    "direct": ("7 + 5 = [ANS] 1 2 [END]", "QQQQ T AA E"),
    "direct_reversed": ("7 + 5 = [ANS] 2 1 [END]", "QQQQ T AA E"),
    "single_turn": ("7 + 5 = [CALL] 7 + 5 = [RETURN] 1 2 [ANS] 1 2 [END]", "QQQQ CCCCCC OO T AA E"),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_by_hand(setting):
    task = Addition(5, setting=setting)
    problem = task.parse("7+5")
    trajectory = task.record(problem)
    text, letters = SETTINGS[setting]
    assert " ".join(trajectory.tokens) == text
    assert "".join(" QTCOAE"[kind] for kind in trajectory.kinds) == letters.replace(" ", "")
    assert tuple(trajectory.outputs()) == task.outputs(problem)
    task.vocabulary().encode(trajectory.tokens)
    replay(task, problem, trajectory)


def test_without_a_tool_the_model_writes_the_observations():
    with_tool, without = Addition(5), Addition(5, setting="no_tool")
    problem = with_tool.parse("58+67")
    a, b = with_tool.record(problem), without.record(problem)
    assert a.tokens == b.tokens and a.outputs() == b.outputs() == ["1", "2", "5"]
    assert Kind.OBSERVATION not in b.kinds and with_tool.vocabulary() == without.vocabulary()
    replay(without, problem, b)


def test_the_solver_refuses_what_it_cannot_solve():
    tool = Addition(5, setting="single_turn").tool()
    tool.reset(("7", "+", "5", "="))
    for token in ("[CALL]", "7", "+"):
        assert tool.feed(token) == ()
    with pytest.raises(InvalidCommand, match="no solution for '7 \\+'"):
        tool.feed("[RETURN]")


def test_evaluation_problems_depend_on_split_seed_length_index_alone():
    task = Multiplication(10)
    problems = {task.problem(split, seed, 30, index, "n x 2").prompt
                for split in ("test", "validation") for seed in (0, 1) for index in range(5)}
    assert len(problems) == 20
    assert task.problem("test", 0, 30, 3, "n x 2") == Multiplication(3, "paper").problem("test", 0, 30, 3, "n x 2")
    assert task.problem("test", 0, 30, 3, "n x 2").length == 30


@pytest.mark.parametrize(("task", "text", "message"), [
    (Addition(5), "12-3", "not a problem of addition"), (Addition(5), "012+3", "leading zeros"),
    (Multiplication(5), "12x345", "1 or 2 digits"), (Multiplication(5), "0x3", "leading zeros"),
    (Multiplication(5), "", "not a problem")])
def test_text_that_is_no_problem(task, text, message):
    with pytest.raises(UserError, match=message):
        task.parse(text)


def test_impossible_settings():
    with pytest.raises(UserError, match="length 0 is not allowed: addition needs at least 1"):
        Addition(0)
    with pytest.raises(UserError, match="length -3"):
        Addition(5).problem("test", 0, -3, 0)
    with pytest.raises(UserError, match="paper, local"):
        Addition(5, "papr")
    with pytest.raises(UserError, match="unknown setting 'no tool': addition has interactive, no_tool, single_turn"):
        Addition(5, setting="no tool")
    with pytest.raises(UserError, match="unknown token 'x'"):
        Addition(5).vocabulary().encode(["1", "x"])


def test_use_before_init_never_happens_in_a_trajectory_but_is_caught():
    tool = Addition(5).tool()
    tool.reset(["1"])
    with pytest.raises(InvalidCommand):
        tool.feed("p1.read@add")


@pytest.mark.parametrize("style", ["local", "paper"])
@pytest.mark.parametrize("text", ["7" * 300 + "+" + "3" * 290, "9" * 205 + "+1", "12" * 40 + "+" + "89" * 40,
                                  "98" * 150 + "x79", "7" * 200 + "x8"])
def test_rounds_recorded_at_once_are_those_recorded_one_by_one(monkeypatch, style, text):
    task = (Addition if "+" in text else Multiplication)(5, style)
    problem, rounds = task.parse(text), []
    monkeypatch.setattr(trajectory, "MANY", 70)
    usual = Scribe._record_many
    monkeypatch.setattr(Scribe, "_record_many", lambda *args: rounds.append(usual(*args)) or rounds[-1])
    at_once = task.record(problem)
    assert any(rounds)
    monkeypatch.setattr(trajectory, "FEW", 10**9)
    rounds.clear()
    one_by_one = task.record(problem)
    assert not rounds
    assert (at_once.tokens, at_once.kinds, at_once.phases) == (one_by_one.tokens, one_by_one.kinds, one_by_one.phases)
    assert "".join(at_once.outputs()) == "".join(task.answer(problem))


def test_a_tool_that_does_something_else_beside_gets_one_command_after_the_other():
    class Counted(PointerMemory):
        reads = 0

        @property
        def commands(self):
            usual = super().commands

            def read():
                self.reads += 1
                return usual["p1.read"]()

            return {**usual, "p1.read": read}

    class Task(Addition):
        def memory(self):
            self.used = Counted(2)
            return self.used

    task, problem = Task(5), Addition(5).parse("7" * 200 + "+" + "3" * 200)
    trajectory = task.record(problem)
    assert trajectory.tokens == Addition(5).record(problem).tokens
    assert task.used.reads == sum(token.startswith("p1.read") for token in trajectory.tokens) > 400
