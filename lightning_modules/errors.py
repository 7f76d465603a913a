"""What an error of a library is, where its type does not say: their words are read here, and nowhere else."""

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, numpy or PyTorch, on a GPU or the CPU, did not get the memory that it asked for."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # On the CPU PyTorch raises a RuntimeError that is no other.
    return isinstance(error, RuntimeError) and any(text in str(error) for text in (
        "can't allocate memory", "multiplication overflow", "calculation overflowed"))


def is_lost_process(error: BaseException) -> bool:
    """Whether another process of a run over several has ended, or was not there."""
    if isinstance(error, torch.distributed.DistBackendError):
        return True
    return type(error) is RuntimeError and "gloo" in str(error)  # whose errors have no type of their own
