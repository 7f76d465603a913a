"""Finds runs on disk and reads their checkpoints."""

from pathlib import Path
from typing import Any

import torch

from tools import UserError

CHECKPOINT = Path("checkpoints") / "last.ckpt"


def newest_run(root: str = "runs") -> Path:
    """Folder of the run whose checkpoint is the newest; raises UserError if there is none."""
    checkpoints = sorted(Path(root).glob(f"*/*/{CHECKPOINT}"), key=lambda path: path.stat().st_mtime)
    if not checkpoints:
        raise UserError(f"there is no run with a checkpoint in {root}/: make one with "
                        f"python run.py fit --config configs/mult.yaml")
    return checkpoints[-1].parent.parent


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's content, tensors and plain values only; raises UserError if it is missing or not whole."""
    if not Path(path).is_file():
        raise UserError(f"there is no checkpoint {path}: give the path of one, or train with "
                        f"python run.py fit --config configs/mult.yaml")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path} is not a whole checkpoint ({type(error).__name__} while reading): give another one, "
                        f"or train again") from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise UserError(f"{path} is not a checkpoint of this suite: it holds no state_dict")
    return content
