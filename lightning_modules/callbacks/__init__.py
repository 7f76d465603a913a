"""Lightning callbacks: length generalization, checkpoints that survive an interrupt, the progress bar."""

from lightning_modules.callbacks.last_checkpoint import REQUEUE, LastCheckpoint
from lightning_modules.callbacks.length_generalization import LengthGeneralization
from lightning_modules.callbacks.progress import RunProgress

__all__ = ["REQUEUE", "LastCheckpoint", "LengthGeneralization", "RunProgress"]
