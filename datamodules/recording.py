"""Trajectories of any length in blocks, recorded while they are read: never the whole of one in memory.

The tool's own memory still grows with the problem; that is the external memory that the paper is about.
"""

import gc
import queue
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from length_gen.datamodules.tasks import Problem, Task
from length_gen.datamodules.tokens import PREDICTED, Kind
from length_gen.datamodules.trajectory import Sink, Taken
from length_gen.datamodules.vocabulary import Vocabulary

_PREDICTED = np.isin(np.arange(256), list(PREDICTED))


@dataclass(slots=True)
class Block:
    """Some tokens of a trajectory, in order.

    ids:       [n], in the smallest type that takes the vocabulary (moving the blocks between processes takes time)
    predicted: bool [n], whether the model has to predict the token
    phases:    (position in the block, name), in order; the first stands at 0, but in the question, which has none
    turns:     commands that were answered in it
    """

    ids: torch.Tensor
    predicted: torch.Tensor
    phases: list[tuple[int, str]]
    turns: int


class _Stopped(BaseException):
    """Nobody reads any more; no `Exception`, so that no algorithm takes it for its own."""


def blocks(task: Task, problem: Problem, vocabulary: Vocabulary, size: int) -> Iterator[Block]:
    """The reference trajectory of a problem in blocks of `size` tokens, the last one shorter.

    The algorithm runs in a thread of its own, a few blocks ahead.
    """
    waiting: queue.Queue = queue.Queue(maxsize=4)
    stop = threading.Event()

    def hand(item) -> None:
        while not stop.is_set():
            try:
                return waiting.put(item, timeout=0.1)
            except queue.Full:
                continue
        raise _Stopped

    def record() -> None:
        try:
            task.record(problem, sink=Sink(size, hand))
            hand(None)
        except _Stopped:
            pass
        except BaseException as error:  # the reader's to see
            hand(error)

    thread = threading.Thread(target=record, daemon=True)
    thread.start()
    try:
        yield from _cut(iter(waiting.get, None), vocabulary, size)
    finally:
        stop.set()
        thread.join()


def _cut(parts: Iterator[Taken | BaseException], vocabulary: Vocabulary, size: int) -> Iterator[Block]:
    """Blocks of exactly `size` tokens from parts of any size."""
    kind = np.uint8 if len(vocabulary) <= 2**8 else np.int16 if len(vocabulary) <= 2**15 else np.int32
    ids, kinds, phases, before = np.empty(0, kind), np.empty(0, np.uint8), [], 0
    for part in parts:
        if isinstance(part, BaseException):
            raise part
        tokens, part_kinds, part_phases = part
        offset = len(ids)
        phases += [(offset + position, name) for position, name in part_phases]
        ids = np.concatenate([ids, vocabulary.encode(tokens).astype(kind)])
        kinds = np.concatenate([kinds, np.frombuffer(part_kinds, dtype=np.uint8)])
        while len(ids) >= size:
            yield _block(ids[:size], kinds[:size], phases, before)
            before, phases = kinds[size - 1], _later(phases, size)
            ids, kinds = ids[size:], kinds[size:]
    if len(ids):
        yield _block(ids, kinds, phases, before)


def _block(ids: np.ndarray, kinds: np.ndarray, phases: list[tuple[int, str]], before: int) -> Block:
    previous = np.concatenate([[before], kinds[:-1]])
    turns = int(((previous == Kind.COMMAND) & (kinds == Kind.OBSERVATION)).sum())
    return Block(torch.from_numpy(ids.copy()), torch.from_numpy(_PREDICTED[kinds]),
                 [phase for phase in phases if phase[0] < len(ids)], turns)


def _later(phases: list[tuple[int, str]], size: int) -> list[tuple[int, str]]:
    """Phases after the first `size` tokens, the one that goes on there first."""
    going = [name for position, name in phases if position < size][-1:]
    return [(0, name) for name in going] + [(position - size, name) for position, name in phases if position >= size]


class RecordedRows:
    """Blocks of several problems side by side, recorded by worker processes.

    Iterating gives, for each next block of `size` tokens, the blocks of all problems: None where one has ended.
    """

    def __init__(self, task: Task, problems: Sequence[Problem], vocabulary: Vocabulary, size: int,
                 workers: int) -> None:
        self.problems = problems
        # Each worker has as many problems as any other: else some would run ahead, and their blocks pile up here.
        workers = max((n for n in range(1, workers + 1) if len(problems) % n == 0), default=0)
        self._loader = DataLoader(_Recordings(task, problems, vocabulary, size), batch_size=None, num_workers=workers,
                                  prefetch_factor=4 if workers else None)

    def __iter__(self) -> Iterator[list[Block | None]]:
        source = iter(self._loader)
        ready = [deque() for _ in self.problems]
        open_rows = [True] * len(self.problems)
        while True:
            for i, row in enumerate(ready):
                while open_rows[i] and not row:
                    owner, block = next(source)
                    if block is None:
                        open_rows[owner] = False
                    else:
                        ready[owner].append(block)
            now = [row.popleft() if row else None for row in ready]
            if not any(block is not None for block in now):
                return
            yield now


class _Recordings(IterableDataset):
    """(number of a problem, its next block or None at the end): a worker has problems of its own and takes turns."""

    def __init__(self, task: Task, problems: Sequence[Problem], vocabulary: Vocabulary, size: int) -> None:
        self.task, self.problems, self.vocabulary, self.size = task, problems, vocabulary, size

    def __iter__(self) -> Iterator[tuple[int, Block | None]]:
        info = get_worker_info()
        if info:
            # Full collections would go through the tool's memory, one list of millions, over and over; and what encodes
            # the blocks lets go of the interpreter at every call of numpy, and waits for the recording thread then.
            gc.set_threshold(*gc.get_threshold()[:2], 10_000)
            sys.setswitchinterval(1e-4)
        first, step = (info.id, info.num_workers) if info else (0, 1)
        running = {number: blocks(self.task, self.problems[number], self.vocabulary, self.size)
                   for number in range(first, len(self.problems), step)}
        while running:
            for number in list(running):
                block = next(running[number], None)
                yield number, block
                if block is None:
                    del running[number]
