import random
import sys

import pytest

from length_gen.datamodules.tasks import Addition, Copy, Multiplication, Reverse, Sort
from length_gen.datamodules.tokens import END, Kind
from length_gen.tools import InvalidCommand, UserError

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
            assert (observation is not None) == (kind in (Kind.COMMAND, Kind.MISTAKE))
            expected = list(observation or ())
    assert not expected


@pytest.mark.parametrize("task", TASKS, ids=NAMES)
def test_random_trajectories_replay_and_are_right(task):
    rng, vocabulary = random.Random(0), task.vocabulary()
    for _ in range(250):
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
