import random

import numpy as np
import pytest

from length_gen.datamodules.automaton.windows import Ambiguous, of_trajectories
from length_gen.datamodules.tasks import Copy, Reverse
from length_gen.datamodules.tokens import PREDICTED


def trajectories(task, count=30):
    rng = random.Random(0)
    return [task.record(task.sample_training(rng)) for _ in range(count)]


@pytest.mark.parametrize("setting", ["interactive", "question_in_tool"])
def test_windows_edges_and_wanted_tokens_are_those_of_the_trajectories(setting):
    task, order = Reverse(4, setting=setting), 7
    vocabulary, recorded = task.vocabulary(), trajectories(task)
    automaton = of_trajectories(recorded, vocabulary, order)
    edges, wanted = set(), {}
    for trajectory in recorded:
        before = (-1,) * order
        for token, kind in zip(trajectory.tokens, trajectory.kinds, strict=True):
            after = (*before[1:], vocabulary.id(token))
            edges.add((before, after))
            if kind in PREDICTED:
                wanted[before] = vocabulary.id(token)
            before = after
    rows = [tuple(row) for row in automaton.windows.tolist()]
    assert rows == sorted({row for edge in edges for row in edge}) and rows[0] == (-1,) * order
    assert [(rows[t], rows[s]) for s, t in zip(automaton.source, automaton.target, strict=True)] \
        == sorted((after, before) for before, after in edges)
    assert automaton.wanted.tolist() == [wanted.get(row, -1) for row in rows]


def test_too_short_windows_are_told():
    task = Reverse(4, style="paper")
    with pytest.raises(Ambiguous, match=r"the last 2 tokens .* after 'p1.read h' come 'p1.right' and 'h'"):
        of_trajectories(trajectories(task), task.vocabulary(), 2)


def test_a_graph_contains_its_parts_and_no_others():
    task = Copy(5)
    few, many = (of_trajectories(trajectories(task, count), task.vocabulary(), 6) for count in (3, 100))
    assert many.contains(few) and many.contains(many) and not few.contains(many)
    backwards = of_trajectories(trajectories(task, 100)[::-1], task.vocabulary(), 6)
    assert few.digest() != many.digest() == backwards.digest()
    assert np.all(np.diff(many.target) >= 0)
