import random

import pytest

from datamodules.datamodule import TrajectoryDataModule
from datamodules.tasks import Addition, Copy, Mixture, Multiplication
from tools import UserError


def mixture(*weights):
    return Mixture([Multiplication(4), Addition(6)], list(weights) or None)


def test_parts_keep_their_trajectories_answers_and_tools():
    task, rng = mixture(), random.Random(0)
    assert task.name == "multiplication_and_addition" and task.max_length == 6
    assert task.variants == ("multiplication n x 1", "multiplication n x 2", "addition")
    vocabulary = task.vocabulary()
    for variant in task.variants:
        problem = task.sample(rng, 3, variant)
        part, own = task.part(variant)
        theirs = part.sample(random.Random(1), 3, own)
        ours = task.sample(random.Random(1), 3, variant)
        assert ours.prompt == theirs.prompt and ours.variant == variant
        assert task.record(ours).tokens == part.record(theirs).tokens
        assert tuple(task.record(problem).outputs()) == task.answer(problem) == task.outputs(problem)
        vocabulary.encode(task.record(problem).tokens)
        assert len(part.tool().commands) == 8


def test_weights_are_shares_of_the_trajectories():
    task, rng = mixture(3, 1), random.Random(0)
    problems = [task.sample_training(rng) for _ in range(4000)]
    additions = [p for p in problems if p.variant == "addition"]
    assert 0.22 < len(additions) / len(problems) < 0.28
    assert max(p.length for p in additions) == 6 and max(p.length for p in problems if p not in additions) == 4
    assert {p.variant for p in problems} == set(task.variants)


def test_a_typed_problem_finds_its_task():
    assert mixture().parse("12+3").variant == "addition" and mixture().parse("12x34").variant == "multiplication n x 2"
    with pytest.raises(UserError, match=r"problem of multiplication.*problem of addition"):
        mixture().parse("12-3")


def test_the_longest_training_problem_of_each_part_must_fit():
    longest = max(len(t.record(t.problem("validation", 0, n, 0, t.variants[-1])).tokens)
                  for t, n in ((Multiplication(4), 4), (Addition(6), 6)))
    TrajectoryDataModule(mixture(), row_length=-(-longest // 64) * 64)


@pytest.mark.parametrize(("tasks", "weights", "message"), [
    ([], None, "no tasks"),
    ([Copy(3)], [1, 2], "2 weights for 1 tasks"), ([Copy(3), Addition(3)], [1, -1], "not all 0"),
    ([Copy(3)], [0], "not all 0"), ([Copy(3), Copy(4)], None, "names a task twice")])
def test_mixtures_that_are_not_possible(tasks, weights, message):
    with pytest.raises(UserError, match=message):
        Mixture(tasks, weights)
