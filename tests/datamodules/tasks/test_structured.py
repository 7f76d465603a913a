"""Problems that look for trouble: of the length that is asked for, the task's own, and as hard as they say."""

import random

import pytest

from length_gen.datamodules.datamodule import TrajectoryDataModule
from length_gen.datamodules.tasks import Addition, Copy, LogicalGraph, Mixture, Multiplication, Turing
from length_gen.datamodules.tasks.logical_graph import code
from tests.datamodules.tasks.test_check import MAKERS


def operands(problem, sign):
    return [int(part) for part in "".join(problem.prompt[:-1]).split(sign)]


@pytest.mark.parametrize("name", [name for name in MAKERS if not name.startswith("turing")])
def test_they_are_problems_of_the_task_and_of_that_length(name):
    task = MAKERS[name](style="local")
    for length in (4, 7, 10):
        for variant in task.variants_at(length):
            found = task.structured_problems("test", 0, length, variant)
            assert found == task.structured_problems("test", 0, length, variant)
            assert len({problem.prompt for problem in found}) == len(found) >= 3 * (not variant.startswith("turing"))
            for problem in found:
                assert (problem.length, problem.variant) == (length, variant)
                assert tuple(task.record(problem).outputs()) == task.answer(problem)
                part = task.part(variant)[0]
                text = code(problem.prompt) if "graph" in name else (" " * ("hanoi" in name)).join(problem.prompt)
                assert part.parse(text).prompt == problem.prompt


def carries(a, b):
    """Places from which a sum carries on, by schoolbook; the longest chain of them."""
    longest = chain = carry = 0
    while a or b or carry:
        carry = (a % 10 + b % 10 + carry) // 10
        chain = chain + 1 if carry else 0
        longest, a, b = max(longest, chain), a // 10, b // 10
    return longest


def test_additions_carry_through_all_digits_and_beyond_the_shorter_operand():
    task, n = Addition(5), 50
    equal = [operands(problem, "+") for problem in task.structured_problems("test", 0, n)]
    assert sum(carries(a, b) == n for a, b in equal) >= 4
    assert any(carries(a, b) == 0 and set(str(a + b)) == {"9"} for a, b in equal)  # every sum waits for a carry
    unequal = [operands(problem, "+") for problem in task.structured_problems("test", 0, n, "n + m")]
    alone = [(len(str(a)), len(str(b))) for a, b in unequal if carries(a, b) == n]
    assert any(a < b / 2 for a, b in alone) and any(b < a / 2 for a, b in alone)
    rng = random.Random(0)
    drawn = [operands(task.sample(rng, n), "+") for _ in range(1000)]
    assert max(carries(a, b) for a, b in drawn) < n / 2  # which is why these are needed


def test_products_have_the_largest_carries_and_none():
    task = Multiplication(5)
    for variant, factor in (("n x 1", 9), ("n x 2", 99)):
        found = [operands(problem, "x") for problem in task.structured_problems("test", 0, 30, variant)]
        assert [10**30 - 1, factor] in found and [10**29, factor] in found


def test_chains_need_every_node():
    task = LogicalGraph(10)
    for variant in task.variants:
        lengths = [len(task.record(problem).tokens) for problem in task.structured_problems("test", 0, 40, variant)]
        drawn = [len(task.record(task.problem("test", 0, 40, i, "any")).tokens) for i in range(20)]
        assert sum(length > 2 * sorted(drawn)[10] for length in lengths) >= 4


def test_some_of_them_by_their_numbers():
    data = TrajectoryDataModule(Mixture([Copy(3), Turing("add", 4)]))
    whole = data.problems("test", 6, "copy", 5, "structured")
    assert len(whole) == 5 and whole[:4] == data.problems("test", 6, "copy", 4, "structured")
    assert data.problems("test", 6, "copy", 5, "structured", [3, 0]) == [whole[3], whole[0]]
    assert data.problems("test", 6, "turing_add", 5, "structured") == []
    assert data.problems("test", 6, "copy", 5, "uniform", [4, 1]) \
        == [data.problem("test", 6, number, "copy") for number in (4, 1)]
    counts = [data.problem_count("test", 6, variant, 10**6, problem_set)
              for variant in ("copy", "turing_add") for problem_set in ("uniform", "structured")]
    assert counts == [10**6, len(data.problems("test", 6, "copy", 10**6, "structured")), 10**6, 0]
