"""What can be trained on can be tested: at small lengths, by going through all that can be drawn."""

import random

import pytest

from length_gen.datamodules.tasks import (
    Addition,
    Copy,
    HanoiIterative,
    HanoiRecursive,
    LogicalGraph,
    Mixture,
    Multiplication,
    Reverse,
    Sort,
    Turing,
)
from length_gen.datamodules.tasks.machine import FOLDER

TASKS = [Addition(2), Multiplication(2), Copy(3), Reverse(3), Sort(3), HanoiIterative(3), HanoiRecursive(3),
         LogicalGraph(4), Mixture([Addition(2), Turing("add", 2)], [1, 2]),
         *(Turing(path.stem, 3) for path in sorted(FOLDER.glob("*.yaml")))]


class Branch(random.Random):
    """Draws what `path` says, then the first of everything; `arities` are the numbers of what there was to choose from.

    Of more than four things the first and the last stand for all, of more than a hundred the first.
    """

    def __init__(self, path):
        super().__init__()
        self.path, self.arities = path, []

    def choice(self, options):
        options = list(options)
        options = options[:1] if len(options) > 100 else options if len(options) <= 4 else [options[0], options[-1]]
        place = len(self.arities)
        self.arities.append(len(options))
        return options[self.path[place] if place < len(self.path) else 0]

    def choices(self, population, weights=None, k=1):
        return [self.choice(population) for _ in range(k)]

    def sample(self, population, k):
        if len(population) > 100:
            return list(population[:k])
        rest, drawn = list(population), []
        for _ in range(k):
            drawn.append(self.choice(rest))
            rest.remove(drawn[-1])
        return drawn

    def randint(self, a, b):
        return self.choice(range(a, b + 1))

    def randrange(self, n):
        return self.choice(range(n))

    def random(self):
        return self.choice((0.25, 0.75))


def everything(draw):
    """All that `draw` can give, over all outcomes of its draws."""
    found, path = set(), []
    while True:
        rng = Branch(path)
        problem = draw(rng)
        found.add((problem.length, problem.prompt))
        path = path + [0] * (len(rng.arities) - len(path))
        while path and path[-1] == rng.arities[len(path) - 1] - 1:
            path.pop()
        if not path:
            return found
        path[-1] += 1


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_training_problem_is_one_of_a_test(task):
    trained = everything(task.sample_training)
    tested = {variant: set().union(*(everything(lambda rng, n=n: task.sample(rng, n, variant))  # noqa: B023
                                     for n in {length for length, _ in trained} if variant in task.variants_at(n)))
              for variant in task.variants}
    assert trained and trained <= set().union(*tested.values())
    assert {length for length, _ in trained} == set(range(getattr(task, "shortest", 1), task.max_length + 1))
    assert all(tested.values())
