"""How a task is asked: by hand, and what a setting leaves of the question."""

import random

import pytest

from length_gen.datamodules.noise import Noise
from length_gen.datamodules.tasks import Addition, LogicalGraph, Turing
from length_gen.datamodules.tokens import PREDICTED, Kind
from length_gen.datamodules.trajectory import STYLES, Sink
from tests.datamodules.tasks.test_base import replay
from tests.datamodules.tasks.test_check import MAKERS

SETTINGS = {  # addition of 7 and 5 in every other setting; kinds as letters
    "direct": ("7 + 5 = [ANS] 1 2 [END]", "QQQQ T AA E"),
    "direct_reversed": ("7 + 5 = [ANS] 2 1 [END]", "QQQQ T AA E"),
    "single_turn": ("7 + 5 = [CALL] 7 + 5 = [RETURN] 1 2 [ANS] 1 2 [END]", "QQQQ CCCCCC OO T AA E"),
}
HIDDEN = "question_in_tool"


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


@pytest.mark.parametrize("name", MAKERS)
def test_without_the_question_all_else_stays(name):
    """Also where it is taken part by part; the tool answers as if all had been read."""
    rng = random.Random(0)
    for style in STYLES:
        hidden, shown = (MAKERS[name](style=style, setting=setting) for setting in (HIDDEN, "interactive"))
        assert hidden.vocabulary() == shown.vocabulary() and hidden.setting == HIDDEN
        for i in range(6):
            problem = hidden.sample_training(rng)
            noise = [Noise(random.Random(i), 0.3) if i % 2 else None for _ in "12"]
            found, whole, parts = hidden.record(problem, noise[0]), shown.record(problem, noise[1]), []
            kept = hidden.shown(problem)
            cut = len(problem.prompt) - len(kept)
            assert kept == problem.prompt[cut:] and kept
            assert (found.tokens, found.kinds) == (whole.tokens[cut:], whole.kinds[cut:])
            assert found.phases == [(start - cut, phase) for start, phase in whole.phases]
            noise = Noise(random.Random(i), 0.3) if i % 2 else None
            hidden.record(problem, noise, Sink(7, parts.append))
            assert [token for tokens, _, _ in parts for token in tokens] == found.tokens


def test_by_hand():
    task = Addition(5, setting=HIDDEN)
    said = " ".join(task.record(task.parse("7+5")).tokens)
    assert said.startswith("= p1.init@start p2.init@start p1.read@find_plus 7 p1.right@find_plus p1.read@find_plus + ")
    assert said.endswith(" p2.read@copy 1 1 p2.left@copy p2.read@copy 1 p2.left@copy p2.read@copy 2 2 p2.left@copy "
                         "p2.read@copy = [END]")
    graph = LogicalGraph(5, setting=HIDDEN)
    assert " ".join(graph.shown(graph.parse("ra41 = True; zo12 = False; da03 = True; na76 = not zo12"))) == \
        "na 76 = not zo 12 \n"
    machine = Turing("increment", 5, setting=HIDDEN)
    assert machine.shown(machine.parse("1101")) == ("1",)


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_left_of_the_question_is_enough(name):
    """No two trajectories agree up to a token that the model has to predict, and not in it."""
    rng = random.Random(1)
    for style in STYLES:
        task, following = MAKERS[name](style=style, setting=HIDDEN), {}
        for _ in range(100):
            trajectory, before = task.record(task.sample_training(rng)), 0
            for token, kind in zip(trajectory.tokens, trajectory.kinds, strict=True):
                if kind in PREDICTED:
                    assert following.setdefault(before, token) == token
                before = hash((before, token))
