"""Logs how long training waits for its data."""

import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class DataWait(Callback):
    """Logs `train/data_wait_share`: the share of the time since the last log that went by in waiting for batches.

    On a GPU, which works on the steps it was given in the meantime, it is an upper bound of the time that was lost.
    Validations do not count.
    """

    def __init__(self) -> None:
        self._since: tuple[float, float] | None = None  # the time, and what had been waited by then
        self._validating_since = 0.0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any,
                           batch_idx: int) -> None:
        """Log the share, every `log_every_n_steps` steps."""
        waited = getattr(trainer.train_dataloader, "waited", None)  # None: a loader of another data module
        every = trainer.log_every_n_steps  # 0: never
        if waited is None or not every or trainer.global_step % every:
            return
        now = time.perf_counter()
        if self._since:
            pl_module.log("train/data_wait_share", (waited - self._since[1]) / (now - self._since[0]))
        self._since = now, waited

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validating_since = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._since:
            self._since = self._since[0] + time.perf_counter() - self._validating_since, self._since[1]
