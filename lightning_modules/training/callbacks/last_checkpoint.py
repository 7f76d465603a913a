"""Keeps the newest state of a run on disk, also when it is interrupted."""

import math
import os
import signal
import threading
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info

from length_gen.lightning_modules.errors import is_lost_process
from length_gen.lightning_modules.provenance import CHECKPOINT, PREVIOUS
from length_gen.tools import UserError
from length_gen.tools.files import atomic_path, read_text

VALIDATED = CHECKPOINT.with_name("validated")
"""In a run folder: after which step the last validation ended, and its loss."""

AGREEMENT = 10
"""Steps after which several ranks ask each other whether to stop: asking makes a GPU wait for its last step."""

REQUEUE = 75
"""Exit code of a run that SIGTERM ended (EX_TEMPFAIL of sysexits.h): it is saved, and should be run again."""


class LastCheckpoint(Checkpoint):
    """Writes `checkpoints/last.ckpt` in the run folder every `every_n_steps` steps, before every validation, at the
    end, and on Ctrl-C; the one before stays as `previous.ckpt`.

    The file is replaced in one step, so it is always whole. The first Ctrl-C lets the running step finish, so that the
    checkpoint resumes exactly (`fit --ckpt_path last`); a second one ends the run at once, and so does the first during
    a validation. SIGTERM, which a scheduler sends before it takes the machine away, does the same, however often it
    comes, and the command exits with `REQUEUE`. Several ranks agree every `AGREEMENT` steps on whether one of them was
    told to stop.

    A validation that was cut off is made up where the run goes on, so that its curve has the point.

    interrupted: whether either of them ended the training
    terminated:  whether it was SIGTERM

    Args:
        every_n_steps: how often it is written
    """

    def __init__(self, every_n_steps: int = 500) -> None:
        if every_n_steps < 1:
            raise UserError(f"every_n_steps {every_n_steps} is not allowed: expected at least 1")
        self.every_n_steps = every_n_steps
        self.interrupted = self.terminated = False
        self._told = 0  # the signal that came, if one did
        self._handlers: dict[signal.Signals, Any] = {}
        self._saved = -1
        self._whole = self._validating = False  # whether last.ckpt is known to be whole, so that it may be kept

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen for Ctrl-C and SIGTERM, and make up a validation that was cut off."""
        self._whole = bool(trainer.ckpt_path) and Path(trainer.ckpt_path).resolve() == self.path(trainer).resolve()
        if threading.current_thread() is threading.main_thread():
            self._handlers = {sign: signal.signal(sign, self._interrupt) for sign in (signal.SIGINT, signal.SIGTERM)}
        self.make_up(trainer)

    def make_up(self, trainer: Trainer) -> None:
        """Run the validation before which the checkpoint was written that a run goes on from, if that was cut off."""
        loop = trainer.fit_loop.epoch_loop
        cut_off = trainer.ckpt_path is not None and self._due(trainer) \
            and last_validation(run_folder(trainer))[0] != trainer.global_step
        if trainer.strategy.broadcast(cut_off):
            if self._whole:
                self._saved = trainer.global_step
            first = trainer._logger_connector._first_loop_iter  # as Lightning does around a validation
            trainer.validating, loop.val_loop.restarting = True, False
            loop.val_loop.run()
            trainer.training, trainer._logger_connector._first_loop_iter = True, first

    @staticmethod
    def _due(trainer: Trainer) -> bool:
        """Whether a validation follows the batch that was the last one."""
        return (trainer.fit_loop.epoch_loop.total_batch_idx + 1) % (trainer.val_check_batch or 1) == 0

    def _interrupt(self, sign: int, frame: Any) -> None:
        if sign == signal.SIGINT:  # SIGTERM may come by several ways, and who sends it has SIGKILL to end a run at once
            signal.signal(sign, self._handlers[signal.SIGINT])
        if self._validating:
            rank_zero_info("\nInterrupted during a validation; the training is saved: go on with --ckpt_path last")
            raise SystemExit(REQUEUE if sign == signal.SIGTERM else 128 + sign)
        if self._told != sign:
            once_more = " Once more ends the run at once." * (sign == signal.SIGINT)
            rank_zero_info(f"\nInterrupted: finishing this step and saving.{once_more}")
        self._told = sign

    def _terminate(self, sign: int, frame: Any) -> None:
        """SIGTERM in the evaluation after the training, which is saved."""
        raise SystemExit(REQUEUE)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any,
                           batch_idx: int) -> None:
        """Save after a step where it is due; stop the training where a rank was told to."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # half a step
        told = self._agreed(trainer, pl_module)
        self.interrupted, self.terminated = bool(told), told == signal.SIGTERM
        due = trainer.global_step % self.every_n_steps == 0 or self._due(trainer) or self.interrupted
        if due and trainer.global_step != self._saved:
            self._save(trainer)
        if self.interrupted:
            trainer.should_stop = True
            trainer.fit_loop.epoch_loop._skip_next_val = True  # else it validates

    def _agreed(self, trainer: Trainer, pl_module: LightningModule) -> int:
        """The signal that came to any rank; 0 if none did. All ranks must stop after the same step."""
        if trainer.world_size == 1:
            return self._told
        if trainer.global_step % AGREEMENT:
            return 0
        told = torch.tensor(self._told, device=pl_module.device)
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
        return int(told)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on a signal ends the run at once, if all that was trained is saved."""
        self._validating = trainer.state.fn == "fit" and trainer.global_step == self._saved

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write to the disk that this validation is done, and what it logged before that."""
        self._validating = False
        if trainer.state.fn == "fit" and trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.save()  # what is said to be done is on the disk
            with atomic_path(run_folder(trainer) / VALIDATED) as path:
                loss = float(trainer.callback_metrics.get("validation/loss", math.nan))
                path.write_text(f"{trainer.global_step} {loss!r}", encoding="utf-8")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last step. From here on SIGTERM ends the run at once, and it exits with `REQUEUE`."""
        if trainer.global_step != self._saved:
            self._save(trainer)
        if self._handlers:
            signal.signal(signal.SIGINT, self._handlers[signal.SIGINT])
            self._handlers = {}
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._terminate)
        if self._told == signal.SIGTERM and not self.interrupted:  # since the ranks last agreed
            self._terminate(self._told, None)
        if self.interrupted:
            rank_zero_info(f"Saved {self.path(trainer)}; go on with: python run.py fit --config "
                           f"{run_folder(trainer) / 'config.yaml'} --ckpt_path last")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Kill the ranks that this one has started, which would wait for it for half an hour."""
        for process in getattr(trainer.strategy.launcher, "procs", ()):
            process.kill()

    def path(self, trainer: Trainer) -> Path:
        """The run's checkpoints/last.ckpt."""
        return run_folder(trainer) / CHECKPOINT

    def _save(self, trainer: Trainer) -> None:
        path = self.path(trainer)
        partial = path.with_suffix(".partial")
        try:
            trainer.save_checkpoint(partial, weights_only=False)  # on all ranks: sharded strategies gather here
            if trainer.is_global_zero:
                replace(partial, path, self._whole)
        except (OSError, RuntimeError) as error:  # PyTorch's writer raises RuntimeError where the disk is full
            if is_lost_process(error):
                raise
            partial.unlink(missing_ok=True)
            kept = f"; {path} is still the one before" if path.is_file() else ""
            raise UserError(f"cannot write {path} ({' '.join(str(error).split())[:200]}){kept}: make room, then go on "
                            f"with --ckpt_path last") from None
        self._saved, self._whole = trainer.global_step, True


def replace(new: Path, path: Path, keep: bool) -> None:
    """Put a checkpoint in the place of another; with `keep` the other one becomes previous.ckpt beside it.

    At every moment there is a whole checkpoint under one of the names, also if the machine loses power.
    """
    with open(new, "rb") as file:
        os.fsync(file.fileno())
    if keep and path.is_file():
        link = path.with_suffix(".link")
        link.unlink(missing_ok=True)
        try:
            os.link(path, link)
        except OSError:  # a file system without hard links
            os.replace(path, path.with_name(PREVIOUS.name))
        else:
            os.replace(link, path.with_name(PREVIOUS.name))
    os.replace(new, path)


def last_validation(run: Path) -> tuple[int, float]:
    """After which step a run's last validation ended, and its loss; -1 and NaN if there was none."""
    try:
        step, loss = read_text(run / VALIDATED, 1000).split()
        return int(step), float(loss)
    except (OSError, ValueError):  # none yet, or torn
        return -1, math.nan


def run_folder(trainer: Trainer) -> Path:
    """The run's folder, `runs/<experiment>/<version>`."""
    return Path(trainer.log_dir or trainer.default_root_dir)
