"""The LightningDataModule: a task's training stream, its validation rows and its evaluation problems."""

import random
import time
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from length_gen.datamodules.noise import Noise
from length_gen.datamodules.stream import ALIGNMENT, VERSION, BatchStream, Counting, TrajectoryStream, pack
from length_gen.datamodules.tasks import Problem, Task, check_task
from length_gen.datamodules.training_counts import TrainingCounts
from length_gen.tools import UserError
from length_gen.tools.system import cores

LARGEST_BATCH = 2**31
"""Tokens of the rows of one batch: they take 9 bytes each on the host alone."""


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
    """Streams tool-use trajectories of a task, each drawn as the task draws it and learnt whole.

    A batch is a fixed number of trajectories, `batch_trajectories`, packed into as many rows as they need: `batch_size`
    on average. So what is learnt has the distribution that the task samples, whatever fits into a row.

    Args:
        task: the task, with its largest training length and its style
        batch_size: rows of one batch on average, over all devices together
        packed: trajectories end to end in rows of `row_length` tokens, or one padded row a trajectory
        row_length: tokens of a packed row, a multiple of 64
        num_workers: processes that write trajectories; null: none on the CPU, up to 8 beside a GPU
        seed: seed of the training stream
        evaluation_seed: seed of the validation and test problems, which never depend on `seed`
        validation_rows: rows of the validation loss, on average
        mistakes: share of the training trajectories with wrong commands that are taken back; no loss on the mistakes
        corrupted: share of the predicted training tokens that are replaced by random ones, which the loss covers
        trajectories: of how many the training set consists, each item being drawn from them with replacement; they are
            the first so many of `run.py data`; null: a stream without end
    """

    def __init__(self, task: Task, batch_size: int = 32, packed: bool = True, row_length: int = 512,
                 num_workers: int | None = None, seed: int = 42, evaluation_seed: int = 0,
                 validation_rows: int = 64, mistakes: float = 0.0, corrupted: float = 0.0,
                 trajectories: int | None = None) -> None:
        super().__init__()
        sizes = {"batch_size": batch_size, "row_length": row_length, "validation_rows": validation_rows,
                 "trajectories": trajectories}
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise UserError(f"{name} {value} is not allowed: expected at least 1")
        if batch_size * row_length > LARGEST_BATCH:
            raise UserError(f"batch_size {batch_size} x row_length {row_length} is not allowed: expected at most "
                            f"{LARGEST_BATCH:,} tokens")
        if num_workers is not None and not 0 <= num_workers <= 1000:
            raise UserError(f"num_workers {num_workers} is not allowed: expected 0 (none) to 1,000, or null")
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
        self.trajectories = trajectories
        self.vocabulary, self.task_name = task.vocabulary(), task.name
        # Where the stream starts, and how many batches the run had taken by then: not 0 in a resumed run.
        self._start = self._start_batches = 0
        self.seen = TrainingCounts(task.variants, task.max_length)
        self._check_row_length()

    def _check_row_length(self) -> None:
        if self.mistakes:
            self.task.record(self.task.longest_problem(), Noise(random.Random(0)))  # says so if the task has none
        if not self.packed or self.task.truncated:
            return
        longest = len(self.task.record(self.task.longest_problem()).tokens)
        if self.row_length + 1 < longest:
            needed = -(-(longest - 1) // ALIGNMENT) * ALIGNMENT
            raise UserError(f"row_length {self.row_length} cannot hold one trajectory: {self.task.name} of length "
                            f"{self.task.max_length} takes {longest} tokens; give --data.row_length {needed} or more, "
                            f"or --data.packed false")

    def problem(self, split: str, length: int, index: int, variant: str) -> Problem:
        """Evaluation problem number `index` of a length, the same for every training seed."""
        return self.task.problem(split, self.evaluation_seed, length, index, variant)

    def problem_count(self, split: str, length: int, variant: str, most: int, problem_set: str = "uniform") -> int:
        """How many evaluation problems of a length there are, of at most `most`: there may be fewer structured ones."""
        return most if problem_set == "uniform" else len(self.problems(split, length, variant, most, problem_set))

    def problems(self, split: str, length: int, variant: str, most: int, problem_set: str = "uniform",
                 numbers: Iterable[int] | None = None) -> list[Problem]:
        """`most` evaluation problems of a length, of the structured ones as many as there are; those of the given
        numbers, where there are any given."""
        if problem_set == "structured":
            found = self.task.structured_problems(split, self.evaluation_seed, length, variant)[:most]
            return found if numbers is None else [found[number] for number in numbers]
        numbers = range(most) if numbers is None else numbers
        return [self.problem(split, length, number, variant) for number in numbers]

    @cached_property
    def _sample(self) -> list[int]:
        """Sizes of some trajectories, in tokens: apart from training, and the same for every seed."""
        stream, sizes = TrajectoryStream(self.task, 0, "sizes", self.mistakes), []
        while len(sizes) < 256 and sum(sizes) < 2**20:
            sizes.append(len(stream[len(sizes)].ids))
        return sizes

    @cached_property
    def _row_trajectories(self) -> float:
        """Trajectories in a row, on average."""
        if not self.packed:
            return 1.0
        capacity = self.row_length + 1
        sizes = [min(size, capacity) for size in self._sample] if self.task.truncated else self._sample
        sizes = sizes * -(-64 * capacity // sum(sizes))  # so many rows that the last, partly empty, hardly counts
        return len(sizes) / len(pack(sizes, max(capacity, *sizes)))

    @property
    def batch_trajectories(self) -> int:
        """Trajectories of one batch, over all devices together."""
        return max(1, round(self.batch_size * self._row_trajectories))

    def train_dataloader(self) -> DataLoader:
        if repeated := getattr(self.trainer, "overfit_batches", 0):
            raise UserError(f"overfit_batches {repeated} is not possible: the training stream has "
                            f"no end; give --data.trajectories, of how many the training set consists")
        if self.task.truncated and (cut := self._cut()):
            rank_zero_warn(cut)
        return self._loader(TrajectoryStream(self.task, self.seed, "training", self.mistakes, self.corrupted,
                                             self.trajectories))

    def _cut(self) -> str:
        """One line on how much the rows cut; nothing if all fits."""
        sizes = np.array(self._sample)
        long = sizes > self.row_length + 1
        if not long.any():
            return ""
        lost = (sizes[long] - self.row_length - 1).sum() / sizes.sum()
        return (f"row_length {self.row_length}: {long.mean():.0%} of the trajectories are longer and lose their ends, "
                f"{lost:.0%} of all tokens (of {len(sizes)} trajectories)")

    def val_dataloader(self) -> DataLoader:
        return self._held_out("validation")

    def test_dataloader(self) -> DataLoader:
        return self._held_out("test")

    def _held_out(self, split: str) -> DataLoader:
        _, world = self._ranks()
        if self.validation_rows < world:
            raise UserError(f"validation_rows {self.validation_rows} cannot be shared by {world} devices: give at "
                            f"least {world}")
        return self._loader(TrajectoryStream(self.task, self.evaluation_seed, split), held_out=True)

    def _loader(self, stream: TrajectoryStream, held_out: bool = False) -> DataLoader:
        rank, world = self._ranks()
        if self.batch_size < world:
            raise UserError(f"batch_size {self.batch_size} cannot be shared by {world} devices: give at least {world}")
        size, workers = self.batch_trajectories, 0 if held_out else self._workers()
        stop = max(1, round(self.validation_rows * self._row_trajectories)) if held_out else None
        start = (lambda: 0) if held_out else self._used
        return TimedLoader(BatchStream(stream, size, self.row_length, self.packed, rank, world, stop), batch_size=None,
                           sampler=Counting(start, size, stop), num_workers=workers, pin_memory=self._on_gpu(),
                           prefetch_factor=8 if workers else None, persistent_workers=workers > 0)

    def _workers(self) -> int:
        if self.num_workers is not None:
            return self.num_workers
        return min(8, max(1, self.cores - 1)) if self._on_gpu() else 0

    @property
    def cores(self) -> int:
        """CPU cores for this process, one of as many on this machine as the trainer has devices here."""
        return max(1, cores() // (self.trainer.num_devices if self.trainer else 1))

    def _on_gpu(self) -> bool:
        """Whether the rows go to a GPU; a run on the CPU of a machine with GPUs leaves those alone."""
        return self.trainer.strategy.root_device.type == "cuda" if self.trainer else torch.cuda.is_available()

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def on_before_batch_transfer(self, batch: dict[str, torch.Tensor], dataloader_idx: int) -> dict[str, torch.Tensor]:
        """Only the rows go to the device; what else is known of them is counted here."""
        if self.trainer.training:
            self.seen.add(batch)
        return {name: batch[name] for name in ("tokens", "kinds")}

    def state_dict(self) -> dict[str, Any]:
        """Position of the stream: trajectories that training has used, and the batches that it took for them."""
        return {"stream": VERSION, "trajectories": self._used(), "batches": self._batches(),
                "learnt": self.seen.counts.clone()}

    def _batches(self) -> int:
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.processed if self.trainer else self._start_batches

    def _used(self) -> int:
        """Trajectories that training has used."""
        return self._start + (self._batches() - self._start_batches) * self.batch_trajectories

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises UserError if a training would go on from another version of the stream, or of the task."""
        version, counts = state_dict.get("stream", 1), state_dict.get("learnt")
        same = version == VERSION and counts.shape == self.seen.counts.shape
        if not same and self.trainer.state.fn == "fit":
            what = f"version {version} of the data stream, which is now version {VERSION}" if version != VERSION else \
                f"{self.task_name} with other lengths or variants"
            raise UserError(f"the checkpoint was trained on {what}: train again (evaluating it is possible)")
        self.seen.version = version
        if same:
            self._start, self._start_batches = state_dict["trajectories"], state_dict["batches"]
            self.seen.counts = counts.clone()
