import random

import numpy as np
import pytest

from length_gen.datamodules.datamodule import TrajectoryDataModule
from length_gen.datamodules.noise import Noise, corrupt
from length_gen.datamodules.stream import TrajectoryStream
from length_gen.datamodules.tasks import Addition, Copy, HanoiIterative, LogicalGraph, Multiplication, Turing
from length_gen.datamodules.tokens import PREDICTED, Kind
from length_gen.tools import UserError

TASKS = [Addition(6), Multiplication(6, "paper"), HanoiIterative(4), LogicalGraph(8), Turing("add", 5)]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_mistakes_are_taken_back(task):
    rng, mistakes = random.Random(0), 0
    for _ in range(100):
        problem = task.sample_training(rng)
        clean, noisy = task.record(problem), task.record(problem, Noise(rng, 0.2))
        assert noisy.outputs() == clean.outputs()
        task.vocabulary().encode(noisy.tokens)
        tool, given = task.tool(), []
        tool.reset(problem.prompt)
        for token, kind in zip(noisy.tokens, noisy.kinds, strict=True):
            if kind == Kind.OBSERVATION:
                assert given.pop(0) == token
            elif kind not in (Kind.PROMPT, Kind.END):
                assert not given
                given = list(tool.feed(token) or ())
        mistakes += noisy.kinds.count(Kind.MISTAKE)
    assert mistakes > 100 and Kind.MISTAKE not in PREDICTED


def test_a_mistake_by_hand():
    noisy = Copy(3).record(Copy(3).parse("ab"), Noise(random.Random(1), 0.3))
    said = " ".join(f"{token.partition('@')[0]}{'!' * (kind == Kind.MISTAKE)}"
                    for token, kind in zip(noisy.tokens, noisy.kinds, strict=True))
    assert said == "a b = p1.init [ANS] p1.read a a p1.right p1.right! p1.left p1.read b b p1.right p1.read = [END]"


def test_shares():
    task = Addition(5)
    clean, noisy, wrong = (TrajectoryStream(task, 0, **noise) for noise in
                           ({}, {"mistakes": 0.5}, {"corrupted": 0.1}))
    assert 0.005 < np.mean([(noisy[i].kinds == Kind.MISTAKE).mean() for i in range(100)]) < 0.03
    assert not any((clean[i].kinds == Kind.MISTAKE).any() for i in range(100))
    changed = [(clean[i].ids != wrong[i].ids)[np.isin(clean[i].kinds, list(PREDICTED))].mean() for i in range(100)]
    assert 0.08 < np.mean(changed) < 0.12
    assert all((clean[i].ids == wrong[i].ids)[clean[i].kinds == Kind.OBSERVATION].all() for i in range(100))
    assert (wrong[3].ids == wrong[3].ids).all() and (noisy[3].ids == noisy[3].ids).all()


def test_corrupted_tokens_are_others():
    tokens, kinds = np.arange(100) % 7, np.full(100, Kind.OUTPUT)
    result = corrupt(tokens, kinds, 1.0, 7, random.Random(0))
    assert (result != tokens).all() and set(result) <= set(range(7))


def test_noise_that_is_not_possible():
    with pytest.raises(UserError, match="mistakes need setting interactive, not direct"):
        TrajectoryDataModule(Addition(5, setting="direct"), mistakes=0.1)
    with pytest.raises(UserError, match="corrupted 2 is not a share"):
        TrajectoryDataModule(Addition(5), corrupted=2)
