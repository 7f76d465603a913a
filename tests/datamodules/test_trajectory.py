"""What is recorded, by hand, and that speed in the recorder changes nothing."""

import random
from itertools import pairwise

import pytest

from length_gen.datamodules import trajectory
from length_gen.datamodules.noise import Noise
from length_gen.datamodules.tasks import Addition, LogicalGraph, Multiplication, Turing
from length_gen.datamodules.tokens import Kind
from length_gen.datamodules.trajectory import Scribe
from length_gen.tools import TICK, PointerMemory, UserError
from length_gen.tools.base import bare
from tests.datamodules.tasks.test_base import replay


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


def test_beacons_by_hand():
    """Every 16 tokens a tick, after the first command then that nothing else answers; the next command says its phase,
    and in the paper's style it is all the same without."""
    task, problem = Addition(5, "beacons_16"), Addition(5).parse("7+5")
    trajectory = task.record(problem)
    assert " ".join(trajectory.tokens) == (
        "7 + 5 = p1.init p2.init p1.read 7 p1.right p1.read + "
        "p2.read 7 p2.right p2.read + p2.right p2.read 5 p2.right [TICK] p2.read@find_equals = "
        "p1.left p2.left p1.read 7 p2.read 5 2 1 p1.left p2.left p1.read [EDGE] p2.read + 1 0 "
        "[ANS] p2.read + p2.right [TICK] p2.read@find_answer 5 p2.right p2.read = p2.right p2.read 2 p2.right "
        "p2.read 1 p2.right p2.read 1 p2.right p2.read 0 p2.right [TICK] p2.read@find_answer [ANS] "
        "p2.left p2.read 0 p2.left p2.read 1 1 p2.left p2.read 1 p2.left p2.read 2 2 p2.left [TICK] p2.read@copy = "
        "[END]")
    assert {kind for token, kind in zip(trajectory.tokens, trajectory.kinds, strict=True) if token == TICK} \
        == {Kind.OBSERVATION}
    assert [bare(token) for token in trajectory.tokens if token != TICK] == Addition(5, "paper").record(problem).tokens
    assert Addition(5, "beacons_999999999").record(problem).tokens == Addition(5, "paper").record(problem).tokens


@pytest.mark.parametrize("start", ["", "_random"])
@pytest.mark.parametrize("every", [1, 7, 40])
def test_beacons_are_answered_by_the_tool_with_mistakes_and_without_it(every, start):
    rng, style = random.Random(0), f"beacons_{every}{start}"
    for task in (Addition(5, style), Multiplication(5, style), Turing("add", 5, style), Addition(5, style, "no_tool")):
        vocabulary, marked = task.vocabulary(), set()
        for i in range(20):
            noise = Noise(random.Random(i), 0.2) if i % 2 and task.setting == "interactive" else None
            problem = task.sample_training(rng)
            trajectory = task.record(problem, noise)
            replay(task, problem, trajectory)
            vocabulary.encode(trajectory.tokens)
            said = [token for token, kind in zip(trajectory.tokens, trajectory.kinds, strict=True)
                    if kind in (Kind.COMMAND, Kind.MISTAKE) or token == TICK]
            assert all(("@" in token) == (before == TICK) for before, token in pairwise(said))
            assert all(token.split("@")[1] == trajectory.phase_at(k) for k, token in enumerate(trajectory.tokens)
                       if "@" in token)
            marked |= {token for token in said if "@" in token}
        assert marked or every == 40


def test_a_clock_that_begins_at_random_ticks_at_any_step():
    """Each question has its own time, the same whenever it is asked."""
    task, first = Addition(5, "beacons_16_random"), set()
    for i in range(300):
        problem = task.problem("test", 0, 5, i)
        trajectory = task.record(problem)
        assert task.record(problem).tokens == trajectory.tokens
        assert [bare(t) for t in trajectory.tokens if t != TICK] == Addition(5, "paper").record(problem).tokens
        first.add(trajectory.tokens.index(TICK) - len(problem.prompt))
    assert first == {1, 2, 5, 8, 11, 14, 17}  # after either init, and each of the moves that follow, every third token


def test_only_tools_whose_commands_are_single_tokens_have_a_clock():
    with pytest.raises(UserError, match="a SearchMemory has no clock, which style beacons_8 needs"):
        LogicalGraph(5, "beacons_8").vocabulary()
    assert LogicalGraph(5, "beacons_8", "direct").vocabulary() == LogicalGraph(5, setting="direct").vocabulary()
    for style in ("beacons_0", "beacons_", "beacons_1.5", "beacons", "beacons_8_x"):
        with pytest.raises(UserError, match=rf"unknown style '{style}': the styles are paper, local, and beacons_K"):
            Addition(5, style)


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
