import random

import numpy as np
import pytest
import torch

from length_gen.datamodules.recording import RecordedRows, blocks
from length_gen.datamodules.tasks import (
    Addition,
    Copy,
    HanoiIterative,
    LogicalGraph,
    Mixture,
    Multiplication,
    Reverse,
    Turing,
)
from length_gen.datamodules.tokens import PREDICTED
from length_gen.datamodules.vocabulary import Vocabulary

TASKS = [Addition(4), Addition(4, "beacons_8"), Multiplication(4, "paper"), Multiplication(4, setting="no_tool"),
         Reverse(4), Copy(4, setting="direct"), HanoiIterative(4), LogicalGraph(5), Turing("sort", 5),
         Mixture([Addition(4), Multiplication(4)])]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.name}-{task.setting}")
@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_blocks_make_up_the_trajectory(task, size):
    problem = task.sample(random.Random(3), 6, task.variants[-1])
    reference, vocabulary = task.record(problem), task.vocabulary()
    parts = list(blocks(task, problem, vocabulary, size))
    assert all(len(part.ids) == size for part in parts[:-1]) and 0 < len(parts[-1].ids) <= size
    assert torch.cat([part.ids for part in parts]).tolist() == vocabulary.encode(reference.tokens).tolist()
    assert torch.cat([part.predicted for part in parts]).tolist() == [kind in PREDICTED for kind in reference.kinds]
    assert sum(part.turns for part in parts) == reference.turns()
    for number, part in enumerate(parts):
        for place in range(len(part.ids)):
            name = ([name for position, name in part.phases if position <= place] or [""])[-1]
            assert name == reference.phase_at(number * size + place)


@pytest.mark.parametrize(("tokens", "kind"), [(256, torch.uint8), (257, torch.int16), (2**15 + 1, torch.int32)])
def test_ids_are_of_the_smallest_type_that_takes_the_vocabulary(tokens, kind):
    task = Addition(4)
    few, problem = task.vocabulary().tokens, task.problem("test", 0, 3, 0)
    vocabulary = Vocabulary([*map(str, range(1000, 1000 + tokens - len(few))), *few])  # those that are used come last
    block, = blocks(task, problem, vocabulary, 1000)
    assert block.ids.dtype == kind and vocabulary.decode(block.ids.tolist()) == task.record(problem).tokens


def test_rows_side_by_side_are_the_same_with_and_without_workers():
    task = Addition(4)
    problems = [task.problem("test", 0, n, 0) for n in (1, 9, 4)]
    for workers in (0, 2):
        rows = [[] for _ in problems]
        for several in RecordedRows(task, problems, task.vocabulary(), 50, workers):
            for row, block in zip(rows, several, strict=True):
                if block:
                    row.append(block.ids.numpy())
        for row, problem in zip(rows, problems, strict=True):
            assert np.concatenate(row).tolist() == task.vocabulary().encode(task.record(problem).tokens).tolist()


def test_an_error_of_the_algorithm_reaches_the_reader():
    class Broken(Addition):
        def solve(self, problem, scribe):
            raise RuntimeError("broken algorithm")

    task = Broken(4)
    with pytest.raises(RuntimeError, match="broken algorithm"):
        list(blocks(task, task.parse("1+2"), task.vocabulary(), 10))


def test_a_reader_that_stops_leaves_no_thread():
    import threading

    task, before = Addition(4), threading.active_count()
    reader = blocks(task, task.problem("test", 0, 500, 0), task.vocabulary(), 10)
    next(reader)
    reader.close()
    assert threading.active_count() == before
