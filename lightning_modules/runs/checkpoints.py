"""Reads the checkpoints of runs: whole or refused, and each once. Pretrained weights: backbones/pretrained_files.py."""

import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import Strategy

from length_gen.lightning_modules.provenance import CHECKPOINT, MODELS, PREVIOUS, checkpoint_of
from length_gen.tools import UserError


def read_checkpoint(path: str | Path) -> tuple[Path, dict[str, Any]]:
    """A checkpoint, or the one before it where a run's last one is torn, which a line says; and its content.

    path: as `checkpoint_of` takes it

    Raises UserError if there is none that is whole.
    """
    path = checkpoint_of(path)
    before = path.with_name(PREVIOUS.name)
    try:
        return path, load_checkpoint(path)
    except UserError as error:
        if path.name != CHECKPOINT.name or not before.is_file():
            raise
        content = load_checkpoint(before)
        print(f"{error}\ntaking the one before it: {before}, of step {content.get('global_step')}", file=sys.stderr)
        return before, content


class ReadOnce(TorchCheckpointIO):
    """Hands the trainer what has been read, and found whole, already.

    content: of the checkpoint, on rank 0; the other ranks read the same file
    """

    def __init__(self, strategy: Strategy, content: dict[str, Any] | None) -> None:
        self.strategy, self.content = strategy, content

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) \
            -> dict[str, Any]:
        """What was given, the first time; else the file's content. All ranks must call it."""
        path = self.strategy.broadcast(str(path))
        content, self.content = self.content, None  # whose memory is free once it is loaded
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True) if content is None else content


def existing(path: str | Path) -> None:
    """Raises UserError if there is no such checkpoint."""
    if not Path(path).is_file():
        own = ", ".join(sorted(folder.name for folder in MODELS.glob("*/")))
        raise UserError(f"there is no checkpoint {path}: give the path of one{own and f', or one of {own}'}, or train "
                        f"with python run.py fit --config configs/mult.yaml")


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's content, tensors and plain values only; raises UserError if it is missing or not whole."""
    existing(path)
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load would not notice a flipped bit
            if any(member.compress_type for member in archive.infolist()):
                raise ValueError("it is compressed, so it may unpack to any size")
            if broken := archive.testzip():
                raise ValueError(f"checksum of {broken}")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path} is not a whole checkpoint ({type(error).__name__} while reading): give another one, "
                        f"or train again") from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise UserError(f"{path} is not a checkpoint of this suite: it holds no state_dict")
    return content


def check_content(path: str | Path, content: dict[str, Any]) -> None:
    """Raises UserError unless a checkpoint holds what the suite's have, of which Lightning asks without a look."""
    parts = {"pytorch-lightning_version": str, "task": str, "vocabulary": list}
    if missing := [name for name, kind in parts.items() if not isinstance(content.get(name), kind)]:
        raise UserError(f"{path} is not a checkpoint of this suite: it holds no {missing[0]}")
    if not all(isinstance(value, torch.Tensor) for value in content["state_dict"].values()):
        raise UserError(f"{path} is not a checkpoint of this suite: its state_dict holds more than tensors")
