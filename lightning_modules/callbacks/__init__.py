"""Lightning callbacks: length generalization, and checkpoints that survive an interrupt."""

from lightning_modules.callbacks.last_checkpoint import LastCheckpoint
from lightning_modules.callbacks.length_generalization import LengthGeneralization

__all__ = ["LastCheckpoint", "LengthGeneralization"]
