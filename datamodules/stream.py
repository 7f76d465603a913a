"""The endless training stream: trajectories made on the fly and packed whole, the same for any number of ranks."""

import itertools
import random
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from length_gen.datamodules.noise import Noise, corrupt
from length_gen.datamodules.tasks import Task
from length_gen.datamodules.tokens import Kind

VERSION = 2
"""Of the stream, in every result. In version 1 item i was a row of trajectories end to end, the last one cut: of the
longest problems few kept their endings, so that less was learnt of them than was drawn."""

ALIGNMENT = 64
"""Row lengths are multiples of this: other lengths cost the GPU nearly half its speed."""


class Item(NamedTuple):
    """A recorded trajectory: token ids int64 and kinds uint8, both [tokens]; its problem's length and variant."""

    ids: np.ndarray
    kinds: np.ndarray
    length: int
    variant: str


class TrajectoryStream(Dataset):
    """Item i, a trajectory, is a pure function of (split, seed, i), independent of all others.

    mistakes:     share of the trajectories that have wrong commands, taken back, in them
    corrupted:    share of the predicted tokens that are replaced by random ones
    trajectories: of how many it consists: each item is drawn from the first so many, with replacement; None: no end
    """

    def __init__(self, task: Task, seed: int, split: str = "training", mistakes: float = 0.0,
                 corrupted: float = 0.0, trajectories: int | None = None) -> None:
        self.task, self.seed, self.split, self.mistakes, self.corrupted = task, seed, split, mistakes, corrupted
        self.trajectories = trajectories
        self.vocabulary = task.vocabulary()

    def __getitem__(self, index: int) -> Item:
        if self.trajectories is not None:
            index = random.Random(f"drawn/{self.seed}/{index}").randrange(self.trajectories)
        # A string seed goes through SHA-512, so that neighbouring seeds and items share nothing.
        rng = random.Random(f"{self.split}/{self.seed}/{index}")
        held_out = self.split in ("validation", "test")
        problem = self.task.sample_held_out(rng, self.split) if held_out else self.task.sample_training(rng)
        noise = Noise(rng) if self.mistakes and rng.random() < self.mistakes else None
        trajectory = self.task.record(problem, noise)
        ids, kinds = self.vocabulary.encode(trajectory.tokens), np.frombuffer(trajectory.kinds, dtype=np.uint8)
        if self.corrupted:
            ids = corrupt(ids, kinds, self.corrupted, len(self.vocabulary), rng)
        return Item(ids, kinds, problem.length, problem.variant)


class BatchStream(Dataset):
    """The batch of `size` items from item i on, packed whole, and of its rows this rank's share: every `world`-th.

    A batch does not depend on the number of ranks: each of them records all of it, many times as fast as it trains.

    tokens, kinds: int64 and uint8 [B, T + 1], T a multiple of 64: inputs are the rows without their last, targets
                   without their first token; padding has Kind.PADDING. A rank for which there is no row gets padding
    lengths, variants, whole: [items] of the batch: length, variant (its place in `task.variants`), and whether it is
                   whole, not cut
    size:          tokens of the batch with and without padding

    row_length: tokens of a packed row (targets); a batch with a longer trajectory has rows of its length
    packed:     items end to end, in the order in which they were drawn, in as few rows as may be; or one a row
    stop:       the item that ends it all; None: there is no end
    """

    def __init__(self, stream: TrajectoryStream, size: int, row_length: int, packed: bool, rank: int = 0,
                 world: int = 1, stop: int | None = None) -> None:
        self.stream, self.size, self.row_length, self.packed = stream, size, row_length, packed
        self.rank, self.world, self.stop = rank, world, stop

    def __getitem__(self, first: int) -> dict[str, torch.Tensor]:
        end = first + self.size if self.stop is None else min(first + self.size, self.stop)
        items, task = [self.stream[i] for i in range(first, end)], self.stream.task
        batch = collate(items, self.row_length, self.packed, task.truncated)
        variants = [task.variants.index(item.variant) if item.variant in task.variants else 0 for item in items]
        kinds = batch["kinds"]
        facts = {"lengths": torch.tensor([item.length for item in items]), "variants": torch.tensor(variants),
                 "size": torch.tensor([kinds.numel(), int((kinds != Kind.PADDING).sum())])}
        if self.world > 1:
            rows = range(self.rank, len(kinds), self.world)
            batch |= {name: batch[name][rows.start :: rows.step] if rows else torch.zeros_like(batch[name][:1])
                      for name in ("tokens", "kinds")}
        return batch | facts


class Counting(Sampler[int]):
    """start, start + step, start + 2 step, ... below `stop`, if there is one.

    start: asked for whenever counting begins, as what Lightning calls an epoch does: a stream has none, and goes on
    """

    def __init__(self, start: Callable[[], int], step: int, stop: int | None = None) -> None:
        self.start, self.step, self.stop = start, step, stop

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.start(), self.step) if self.stop is None else iter(self._range())

    def __len__(self) -> int:
        if self.stop is None:
            raise TypeError("the training stream has no end")
        return len(self._range())

    def _range(self) -> range:
        return range(self.start(), self.stop, self.step)


def collate(items: Sequence[Item], row_length: int, packed: bool, cut: bool = False) -> dict[str, torch.Tensor]:
    """Rows of items: `tokens` int64 and `kinds` uint8 [B, T + 1], T a multiple of 64, and `whole` bool [items].

    cut: whether an item that is longer than row_length + 1 loses its end, instead of making all rows longer
    """
    sizes = np.array([len(item.ids) for item in items])
    kept = np.minimum(sizes, row_length + 1) if cut else sizes
    rows = pack(kept, max(row_length + 1, kept.max())) if packed else [[i] for i in range(len(items))]
    fullest = max(int(kept[row].sum()) for row in rows)
    width = -(-(fullest - 1) // ALIGNMENT) * ALIGNMENT + 1
    tokens = np.zeros((len(rows), width), dtype=np.int64)
    kinds = np.full((len(rows), width), Kind.PADDING, dtype=np.uint8)
    for place, row in enumerate(rows):
        end = 0
        for i in row:
            begun, end = end, end + kept[i]
            tokens[place, begun:end], kinds[place, begun:end] = items[i].ids[: kept[i]], items[i].kinds[: kept[i]]
    return {"tokens": torch.from_numpy(tokens), "kinds": torch.from_numpy(kinds),
            "whole": torch.from_numpy(kept == sizes)}


def pack(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows that hold all of `sizes`, none more than `capacity`: the places in `sizes` of what each row holds, rising.

    Best fit, the largest first: each goes where it leaves the least room. Raises ValueError if one is too large.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # what is free in each row, and which row that is; rising
    for place in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        size = int(sizes[place])
        if size > capacity:
            raise ValueError(f"{size} tokens do not fit in a row of {capacity}")
        at = bisect_left(room, (size, 0))
        free, row = room.pop(at) if at < len(room) else (capacity, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(place)
        insort(room, (free - size, row))
    return sorted(sorted(row) for row in rows)
