"""Unseen decisions against the definition, and by hand."""

import random
from collections import Counter

import numpy as np
import pytest

from length_gen.datamodules.contexts import nearest
from length_gen.datamodules.coverage import unseen
from length_gen.datamodules.tasks import Addition
from length_gen.datamodules.tasks.arithmetic import DIGITS
from length_gen.datamodules.tokens import PREDICTED
from length_gen.datamodules.trajectory import Trajectory
from length_gen.datamodules.vocabulary import Vocabulary


def by_force(training, others, alike):
    """The definition, word by word."""
    def said(t):
        tokens = ["#" if token in alike else token for token in t.tokens]
        return [(("start", *tokens[:i]), tokens[i], i) for i, kind in enumerate(t.kinds) if kind in PREDICTED and i]

    def common(a, b):
        return next((k for k in range(min(len(a), len(b))) if a[-1 - k] != b[-1 - k]), min(len(a), len(b)))

    known = [one for t in training for one in said(t)]
    result = []
    for t in others:
        result.append([])
        for before, token, place in said(t):
            most = max((common(before, other) for other, _, _ in known), default=0)
            like = {follows for other, follows, _ in known if common(before, other) == most}
            if like != {token}:
                result[-1].append(place)
    return result


def test_equals_the_definition():
    rng, vocabulary, some = random.Random(0), Vocabulary("abcd"), Counter()
    for _ in range(80):
        chosen = [Trajectory(rng.choices("abcd", k=size), bytearray(rng.choices([1, 2, 3, 4], k=size)), [])
                  for size in rng.choices(range(2, 12), k=5)]
        for alike in ((), "cd"):
            found = unseen(chosen[:3], chosen[3:], vocabulary, alike)
            assert found == by_force(chosen[:3], chosen[3:], alike)
            some.update(map(bool, found))
    assert some[True] > 50 and some[False] > 10


def test_what_is_shared_with_the_last_marked_one():
    shared, marked = np.array([3, 1, 5, 2]), np.array([False, True, False, False, True])
    assert nearest(shared, marked).tolist() == [-1, -1, 1, 1, 1]


@pytest.mark.parametrize(("style", "phases"), [
    ("local", set()), ("beacons_8", set()), ("paper", {"add", "find_answer"}),
    ("beacons_32", {"find_plus", "find_equals"})])
def test_what_up_to_five_digits_do_not_show(style, phases):
    """A clock that begins at 0 and ticks every 32 tokens never does so in `find_plus` of problems of up to 5 digits."""
    task, rng = Addition(5, style), random.Random(0)
    training = [task.record(task.sample_training(rng)) for _ in range(600)]
    others = [task.record(task.problem("test", 0, 30, i, "n + m")) for i in range(4)]
    found = {other.phase_at(place) for other, places in zip(others, unseen(training, others, task.vocabulary(), DIGITS),
                                                          strict=True) for place in places}
    assert phases <= found and (phases or not found)
