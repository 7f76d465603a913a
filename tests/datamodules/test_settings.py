"""Addition in settings other than interactive, by hand."""

import pytest

from length_gen.datamodules.tasks import Addition
from length_gen.datamodules.tokens import Kind
from tests.datamodules.tasks.test_base import replay

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
