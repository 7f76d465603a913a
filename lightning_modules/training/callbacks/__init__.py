"""Lightning callbacks: evaluation by length, checkpoints that survive an interrupt, waiting for data, the bar, and the
death of another process."""

from length_gen.lightning_modules.training.callbacks.data_wait import DataWait
from length_gen.lightning_modules.training.callbacks.last_checkpoint import REQUEUE, LastCheckpoint
from length_gen.lightning_modules.training.callbacks.length_generalization import LengthGeneralization
from length_gen.lightning_modules.training.callbacks.peers import Peers
from length_gen.lightning_modules.training.callbacks.progress import RunProgress

__all__ = ["REQUEUE", "DataWait", "LastCheckpoint", "LengthGeneralization", "Peers", "RunProgress"]
