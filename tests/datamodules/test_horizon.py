import random

import pytest

from datamodules.horizon import horizon, verdict
from datamodules.tasks import Addition, Copy, Sort
from datamodules.tokens import PREDICTED
from datamodules.trajectory import Trajectory
from datamodules.vocabulary import Vocabulary


def by_force(trajectories):
    """The definition, word by word."""
    for k in range(max(len(t.tokens) for t in trajectories) + 1):
        seen, determined = {}, True
        for t in trajectories:
            for i, kind in enumerate(t.kinds):
                if kind in PREDICTED and i:
                    context = tuple(t.tokens[max(0, i - k) : i]) if i >= k else ("start", *t.tokens[:i])
                    determined &= seen.setdefault(context, t.tokens[i]) == t.tokens[i]
        if determined:
            return k
    return None


@pytest.mark.parametrize("task", [Addition(3), Addition(3, "paper"), Copy(4), Sort(4, "paper")], ids=lambda t: t.name)
def test_equals_the_definition(task):
    rng = random.Random(0)
    trajectories = [task.record(task.sample_training(rng)) for _ in range(12)]
    assert horizon(trajectories, task.vocabulary()).horizon == by_force(trajectories)


def test_random_tokens_equal_the_definition():
    rng, vocabulary = random.Random(1), Vocabulary("abc")
    for _ in range(50):
        chosen = []
        for _ in range(3):
            size = rng.randint(2, 12)
            chosen.append(Trajectory(rng.choices("abc", k=size), bytearray(rng.choices([1, 2, 3, 4], k=size)), []))
        expected = by_force(chosen)
        if expected is not None:  # else one trajectory's whole past equals another's
            assert horizon(chosen, vocabulary).horizon == expected


def test_the_clash_is_one():
    task = Addition(4, "paper")
    rng = random.Random(0)
    found = horizon([task.record(task.sample_training(rng)) for _ in range(200)], task.vocabulary())
    (a, b), (x, y) = found.clash.contexts, found.clash.following
    shared = found.horizon - 1
    assert a[-shared:] == b[-shared:] and a != b and x != y
    assert set(found.clash.phases) <= set(task.phases) and set(found.clash.phases) <= set(found.phases)


def test_local_addition_is_bounded_and_paper_addition_grows():
    horizons = {}
    for style in ("local", "paper"):
        task, trajectories, horizons[style] = Addition(5, style), [], []
        for n in (5, 10, 20, 40):
            trajectories += [task.record(task.problem("validation", 0, n, i)) for i in range(60)]
            horizons[style].append(horizon(trajectories, task.vocabulary()).horizon)
    assert verdict((5, 10, 20, 40), horizons["local"]).startswith("bounded") and max(horizons["local"]) < 20
    assert horizons["paper"] == sorted(set(horizons["paper"])) and horizons["paper"][-1] > 100
    assert verdict((5, 10, 20, 40), horizons["paper"]) == (
        "growing like n: 126 tokens at 40, 3.0 more for each unit of length")
    assert verdict((10, 20, 40), (10, 40, 160)) == "growing like n^2.0: 160 tokens at 40"
    assert verdict((50, 100, 200), (143, 143, 152)) == "nearly bounded: 152 tokens at 200, 143 at 50"
