"""Finds runs on disk, reads their checkpoints, and tells what made a run."""

import os
import platform
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
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
        with zipfile.ZipFile(path) as archive:  # torch.load would not notice a flipped bit
            if broken := archive.testzip():
                raise ValueError(f"checksum of {broken}")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path} is not a whole checkpoint ({type(error).__name__} while reading): give another one, "
                        f"or train again") from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise UserError(f"{path} is not a checkpoint of this suite: it holds no state_dict")
    return content


def origin(device: torch.device) -> dict[str, Any]:
    """What made a result: `command`, `commit` (null outside a repository), `device`, `versions`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"command": " ".join(["python", *sys.argv]), "commit": _commit(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda"
            else f"{platform.machine()} CPU, {min(torch.get_num_threads(), cores or 1)} threads",
            "versions": {"python": platform.python_version()} | {
                name: found for name in ("torch", "lightning", "mamba-ssm", "numba") if (found := _version(name))}}


def _commit() -> str | None:
    """GIT_COMMIT where that is set (as where only the files were copied); else the checkout's, a + if files differ."""
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True,
                              check=True, timeout=20).stdout.strip()

    if given := os.environ.get("GIT_COMMIT"):
        return given
    try:
        changed = "+" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "--short", "HEAD") + changed
    except (OSError, subprocess.SubprocessError):
        return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
