"""The endless training stream: rows made on the fly, the same whatever the number of ranks and workers."""

import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from datamodules.noise import Noise, corrupt
from datamodules.tasks import Task
from datamodules.tokens import Kind

ALIGNMENT = 64
"""Row lengths are multiples of this: other lengths cost the GPU nearly half its speed."""

Row = tuple[np.ndarray, np.ndarray]


class RowStream(Dataset):
    """Row i is a pure function of (split, seed, i): token ids int64 and kinds uint8, both [length].

    packed:     trajectories end to end, the last one cut; every row has `row_length` + 1 tokens (inputs and targets
                are the row without its last and without its first token)
    not packed: one whole trajectory a row
    mistakes:   share of the trajectories that have wrong commands, taken back, in them
    corrupted:  share of the predicted tokens that are replaced by random ones
    """

    def __init__(self, task: Task, seed: int, row_length: int, packed: bool, split: str = "training",
                 size: int | None = None, mistakes: float = 0.0, corrupted: float = 0.0) -> None:
        self.task, self.seed, self.row_length, self.packed, self.split = task, seed, row_length, packed, split
        self.vocabulary = task.vocabulary()
        self._size, self.mistakes, self.corrupted = size, mistakes, corrupted

    def __len__(self) -> int:
        if self._size is None:
            raise TypeError("the training stream has no end")
        return self._size

    def __getitem__(self, index: int) -> Row:
        # A string seed goes through SHA-512, so that neighbouring seeds and rows share nothing.
        rng = random.Random(f"{self.split}/{self.seed}/{index}")
        size = self.row_length + 1 if self.packed else 1
        tokens: list[str] = []
        kinds = bytearray()
        while len(tokens) < size:
            problem = self.task.sample_training(rng)
            noise = Noise(rng) if self.mistakes and rng.random() < self.mistakes else None
            trajectory = self.task.record(problem, noise)
            tokens += trajectory.tokens
            kinds += trajectory.kinds
        size = size if self.packed else len(tokens)
        ids, kind_ids = self.vocabulary.encode(tokens[:size]), np.frombuffer(kinds, dtype=np.uint8, count=size)
        if self.corrupted:
            ids = corrupt(ids, kind_ids, self.corrupted, len(self.vocabulary), rng)
        return ids, kind_ids


class RankSampler(Sampler[int]):
    """This rank's share of the row indices, from global row `start` on: start + rank, start + rank + world, ..."""

    def __init__(self, start: int, rank: int = 0, world: int = 1) -> None:
        self.start, self.rank, self.world = start, rank, world

    def __iter__(self) -> Iterator[int]:
        index = self.start + self.rank
        while True:
            yield index
            index += self.world


def collate(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """Rows as `tokens` int64 [B, T + 1] and `kinds` uint8 [B, T + 1], T a multiple of 64; padding has Kind.PADDING."""
    longest = max(len(tokens) for tokens, _ in rows) - 1
    width = -(-longest // ALIGNMENT) * ALIGNMENT + 1
    tokens = np.zeros((len(rows), width), dtype=np.int64)
    kinds = np.full((len(rows), width), Kind.PADDING, dtype=np.uint8)
    for i, (row_tokens, row_kinds) in enumerate(rows):
        tokens[i, : len(row_tokens)] = row_tokens
        kinds[i, : len(row_kinds)] = row_kinds
    return {"tokens": torch.from_numpy(tokens), "kinds": torch.from_numpy(kinds)}
