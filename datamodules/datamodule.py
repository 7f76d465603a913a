"""The LightningDataModule: a task's training stream, its validation rows and its evaluation problems."""

import os
import random
import time
from collections.abc import Iterator
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.noise import Noise
from datamodules.stream import ALIGNMENT, RankSampler, RowStream, collate
from datamodules.tasks import Problem, Task, check_task
from tools import UserError


class TimedLoader(DataLoader):
    """A DataLoader that adds up the seconds that its user has waited for batches, in `waited`."""

    waited = 0.0

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        batches = super().__iter__()
        while True:
            begun = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - begun
            if batch is None:
                return
            yield batch


class TrajectoryDataModule(LightningDataModule):
    """Streams tool-use trajectories of a task.

    Args:
        task: the task, with its largest training length and its style
        batch_size: rows of one batch, over all devices together
        packed: trajectories end to end in rows of `row_length` tokens, or one padded row a trajectory
        row_length: tokens of a packed row, a multiple of 64
        num_workers: processes that write trajectories; null: none on the CPU, up to 8 beside a GPU
        seed: seed of the training stream
        evaluation_seed: seed of the validation and test problems, which never depend on `seed`
        validation_rows: rows of the validation loss
        mistakes: share of the training trajectories with wrong commands that are taken back; no loss on the mistakes
        corrupted: share of the predicted training tokens that are replaced by random ones, which the loss covers
    """

    def __init__(self, task: Task, batch_size: int = 32, packed: bool = True, row_length: int = 512,
                 num_workers: int | None = None, seed: int = 42, evaluation_seed: int = 0,
                 validation_rows: int = 64, mistakes: float = 0.0, corrupted: float = 0.0) -> None:
        super().__init__()
        sizes = {"batch_size": batch_size, "row_length": row_length, "validation_rows": validation_rows}
        for name, value in sizes.items():
            if value < 1:
                raise UserError(f"{name} {value} is not allowed: expected at least 1")
        if num_workers is not None and num_workers < 0:
            raise UserError(f"num_workers {num_workers} is not allowed: expected 0 (none) or more, or null")
        for name, value in {"mistakes": mistakes, "corrupted": corrupted}.items():
            if not 0 <= value <= 1:
                raise UserError(f"{name} {value} is not a share: expected a number from 0 to 1")
        if row_length % ALIGNMENT:
            raise UserError(f"row_length {row_length} is not a multiple of {ALIGNMENT}: try "
                            f"{-(-row_length // ALIGNMENT) * ALIGNMENT}")
        check_task(task)
        self.task, self.batch_size, self.packed, self.row_length = task, batch_size, packed, row_length
        self.num_workers, self.seed, self.evaluation_seed = num_workers, seed, evaluation_seed
        self.validation_rows, self.mistakes, self.corrupted = validation_rows, mistakes, corrupted
        self.vocabulary, self.task_name = task.vocabulary(), task.name
        # Where the stream starts, and how many batches the run had taken by then: not 0 in a resumed run.
        self._start = self._start_batches = 0
        self._check_row_length()

    def _check_row_length(self) -> None:
        if self.task.truncated:
            return
        problems = [self.problem("validation", self.task.part(variant)[0].max_length, 0, variant)
                    for variant in self.task.variants]
        longest = max(len(self.task.record(problem).tokens) for problem in problems)
        if self.mistakes:
            self.task.record(problems[0], Noise(random.Random(0)))  # says so if the task has none
        if self.packed and self.row_length < longest:
            raise UserError(f"row_length {self.row_length} cannot hold one trajectory: {self.task.name} of length "
                            f"{self.task.max_length} takes {longest} tokens; give --data.row_length "
                            f"{-(-longest // ALIGNMENT) * ALIGNMENT} or more, or --data.packed false")

    def problem(self, split: str, length: int, index: int, variant: str) -> Problem:
        """Evaluation problem number `index` of a length, the same for every training seed."""
        return self.task.problem(split, self.evaluation_seed, length, index, variant)

    def train_dataloader(self) -> DataLoader:
        rank, world = self._ranks()
        sampler = RankSampler(self._start, rank, world)
        stream = RowStream(self.task, self.seed, self.row_length, self.packed, mistakes=self.mistakes,
                           corrupted=self.corrupted)
        return self._loader(stream, sampler)

    def val_dataloader(self) -> DataLoader:
        return self._held_out("validation")

    def test_dataloader(self) -> DataLoader:
        return self._held_out("test")

    def _held_out(self, split: str) -> DataLoader:
        rank, world = self._ranks()
        if self.validation_rows < world:
            raise UserError(f"validation_rows {self.validation_rows} cannot be shared by {world} devices: give at "
                            f"least {world}")
        stream = RowStream(self.task, self.evaluation_seed, self.row_length, self.packed, split, self.validation_rows)
        return self._loader(stream, range(rank, self.validation_rows, world), workers=0)

    def _loader(self, stream: RowStream, sampler, workers: int | None = None) -> DataLoader:
        _, world = self._ranks()
        if self.batch_size % world:
            raise UserError(f"batch_size {self.batch_size} cannot be shared by {world} devices: give a multiple")
        workers = self._workers() if workers is None else workers
        return TimedLoader(stream, batch_size=self.batch_size // world, sampler=sampler, collate_fn=collate,
                           num_workers=workers, pin_memory=self._on_gpu(),
                           prefetch_factor=8 if workers else None, persistent_workers=workers > 0)

    def _workers(self) -> int:
        if self.num_workers is not None:
            return self.num_workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(8, max(1, cores - 1)) if self._on_gpu() else 0

    def _on_gpu(self) -> bool:
        """Whether the rows go to a GPU; a run on the CPU of a machine with GPUs leaves those alone."""
        return self.trainer.strategy.root_device.type == "cuda" if self.trainer else torch.cuda.is_available()

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def state_dict(self) -> dict[str, Any]:
        """Position of the stream: global rows that training has used, and the batches that it took for them."""
        batches = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed
        return {"rows": self._start + (batches - self._start_batches) * self.batch_size, "batches": batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._start, self._start_batches = state_dict["rows"], state_dict["batches"]
