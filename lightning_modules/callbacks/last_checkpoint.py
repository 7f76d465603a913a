"""Keeps the newest state of a run on disk, also when it is interrupted."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info

from tools import UserError

REQUEUE = 75
"""Exit code of a run that SIGTERM ended (EX_TEMPFAIL of sysexits.h): it is saved, and should be run again."""


class LastCheckpoint(Checkpoint):
    """Writes `checkpoints/last.ckpt` in the run folder every `every_n_steps` steps, at the end, and on Ctrl-C.

    The file is replaced in one step, so it is always whole. The first Ctrl-C lets the running step finish, so that the
    checkpoint resumes exactly (`fit --ckpt_path last`); a second one ends the run at once. SIGTERM, which a scheduler
    sends before it takes the machine away, does the same, and the command exits with `REQUEUE`.

    interrupted: whether either of them ended the training
    terminated:  whether it was SIGTERM
    """

    def __init__(self, every_n_steps: int = 500) -> None:
        if every_n_steps < 1:
            raise UserError(f"every_n_steps {every_n_steps} is not allowed: expected at least 1")
        self.every_n_steps = every_n_steps
        self.interrupted = self.terminated = False
        self._handlers: dict[signal.Signals, Any] = {}
        self._saved = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            self._handlers = {sign: signal.signal(sign, self._interrupt) for sign in (signal.SIGINT, signal.SIGTERM)}

    def _interrupt(self, sign: int, frame: Any) -> None:
        self.interrupted, self.terminated = True, sign == signal.SIGTERM
        signal.signal(sign, self._handlers[signal.Signals(sign)])
        rank_zero_info("\nInterrupted: finishing this step and saving. Once more ends the run at once.")

    def _terminate(self, sign: int, frame: Any) -> None:
        """SIGTERM in the evaluation after the training, which is saved."""
        raise SystemExit(REQUEUE)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any,
                           batch_idx: int) -> None:
        due = trainer.global_step % self.every_n_steps == 0 and trainer.global_step != self._saved
        if due or self.interrupted:
            self._save(trainer)
        if self.interrupted:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step != self._saved:
            self._save(trainer)
        if self._handlers:
            signal.signal(signal.SIGINT, self._handlers[signal.SIGINT])
            signal.signal(signal.SIGTERM, self._terminate)
            self._handlers = {}
        if self.interrupted:
            rank_zero_info(f"Saved {self.path(trainer)}; go on with: python run.py fit --config "
                           f"{run_folder(trainer) / 'config.yaml'} --ckpt_path last")

    def path(self, trainer: Trainer) -> Path:
        return run_folder(trainer) / "checkpoints" / "last.ckpt"

    def _save(self, trainer: Trainer) -> None:
        path = self.path(trainer)
        partial = path.with_suffix(".partial")
        try:
            trainer.save_checkpoint(partial, weights_only=False)  # on all ranks: sharded strategies gather here
        except (OSError, RuntimeError) as error:  # PyTorch's writer raises RuntimeError where the disk is full
            partial.unlink(missing_ok=True)
            kept = f"; {path} is still the one before" if path.is_file() else ""
            raise UserError(f"cannot write {path} ({' '.join(str(error).split())[:200]}){kept}: make room, then go on "
                            f"with --ckpt_path last") from None
        if trainer.is_global_zero:
            os.replace(partial, path)
        self._saved = trainer.global_step


def run_folder(trainer: Trainer) -> Path:
    """The run's folder, `runs/<experiment>/<version>`; of the checkpoint, where one is evaluated without a logger."""
    if trainer.logger is None and trainer.ckpt_path:
        return Path(trainer.ckpt_path).resolve().parent.parent
    return Path(trainer.log_dir or trainer.default_root_dir)
