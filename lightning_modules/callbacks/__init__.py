"""Lightning callbacks: length generalization, checkpoints that survive an interrupt, waiting for data, the progress
bar."""

from lightning_modules.callbacks.data_wait import DataWait
from lightning_modules.callbacks.last_checkpoint import REQUEUE, LastCheckpoint
from lightning_modules.callbacks.length_generalization import LengthGeneralization
from lightning_modules.callbacks.progress import RunProgress

__all__ = ["REQUEUE", "DataWait", "LastCheckpoint", "LengthGeneralization", "RunProgress"]
