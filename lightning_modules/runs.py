"""Finds runs on disk, reads their checkpoints, and tells what made a run."""

import os
import platform
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger

from tools import UserError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

CHECKPOINT, PREVIOUS = Path("checkpoints") / "last.ckpt", Path("checkpoints") / "previous.ckpt"
"""In a run folder: the newest checkpoint, and the one before it, for when the newest is torn."""

SHIPPED = Path(__file__).resolve().parent.parent / "configs"
"""The suite's own configurations, in the source folder as where it is installed."""


def newest_run(root: str = "runs") -> Path:
    """Folder of the run whose checkpoint is the newest; raises UserError if there is none."""
    checkpoints = sorted((path for name in (PREVIOUS, CHECKPOINT) for path in Path(root).glob(f"*/*/{name}")),
                         key=lambda path: path.stat().st_mtime)
    if not checkpoints:
        raise UserError(f"there is no run with a checkpoint in {root}/: make one with "
                        f"python run.py fit --config configs/mult.yaml")
    return checkpoints[-1].parent.parent


def newest_checkpoint(run: Path) -> Path:
    """The newest whole checkpoint of a run; says so if that is not the last one. Raises UserError if none is whole."""
    try:
        load_checkpoint(run / CHECKPOINT)
        return run / CHECKPOINT
    except UserError as error:
        if not (run / PREVIOUS).is_file():
            raise
        step = load_checkpoint(run / PREVIOUS).get("global_step")
        print(f"{error}\ntaking the one before it: {run / PREVIOUS}, of step {step}", file=sys.stderr)
        return run / PREVIOUS


def claim_folder(logger: TensorBoardLogger, checkpoint: str | Path | None = None) -> IO[bytes] | None:
    """Make a training run's folder its own: the file that is returned is locked until this process ends.

    A logger without a version gets the next one that no other process has taken. Raises UserError if the folder holds
    another run, unless the run goes on from a `checkpoint` in it, or if another process is writing there.
    """
    made = logger._version is not None
    while not made:  # two processes may see the same next version
        try:
            Path(logger.root_dir, f"version_{logger.version}").mkdir(parents=True)
            made = True
        except FileExistsError:
            logger._version += 1
    folder = Path(logger.log_dir)
    folder.mkdir(parents=True, exist_ok=True)
    lock = open(folder / ".lock", "ab")  # noqa: SIM115  held until the process ends
    taken = False
    if fcntl:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            taken = True
        except OSError:  # a file system without locks
            pass
    resumed = checkpoint is not None and Path(checkpoint).resolve().parent.parent == folder.resolve()
    if taken or (not resumed and (folder / "config.yaml").exists()):
        raise UserError(f"{folder} holds another run, which {'is running' if taken else 'stays as it is'}: give "
                        f"another --trainer.logger.version, or go on with --ckpt_path last{' later' * taken}")
    return lock


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


def reproducing(arguments: Sequence[str]) -> str:
    """The command, as a user would type it, whose result is that of the program with these arguments (its name first).

    It does not say where the run's files were, nor that it went on from a checkpoint of its own, as in a sweep.
    """
    given = re.compile(r"--(trainer\.(?:logger\.(?:init_args\.)?)?(save_dir|name|version|default_root_dir|"
                       r"enable_progress_bar)|ckpt_path)(?:=(.*))?")
    kept, folder, checkpoint = [], {}, []
    rest = iter(arguments)
    for argument in rest:
        if not (found := given.fullmatch(argument)):
            kept.append(argument.replace(f"{SHIPPED}{os.sep}", f"{SHIPPED.name}/"))  # found wherever it is installed
            continue
        value = [] if found[3] is not None else [next(rest, "")]
        if found[1] == "ckpt_path":
            checkpoint = [argument, *value]
        else:
            folder[found[2]] = (found[3], *value)[-1]
    own = Path(*(folder.get(name, "") for name in ("save_dir", "name", "version"))) / CHECKPOINT.parent
    if checkpoint and (not folder or Path(checkpoint[-1].removeprefix("--ckpt_path=")).parent != own):
        kept += checkpoint
    return shlex.join(["python", *kept])


def origin(device: torch.device) -> dict[str, Any]:
    """What made a result: `command`, `commit` (null outside a repository), `device`, `versions`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"command": reproducing(sys.argv), "commit": _commit(),
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
        git("ls-files", "--error-unmatch", Path(__file__).name)  # not of a repository around an installed copy
        changed = "+" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "--short", "HEAD") + changed
    except (OSError, subprocess.SubprocessError):
        return None


def shipped(path: str | Path) -> Path:
    """`path`; or, where nothing is there and it begins with configs/, the file of that name that is shipped."""
    path = Path(path)
    own = SHIPPED.parent / path
    return own if path.parts[:1] == (SHIPPED.name,) and not path.exists() and own.is_file() else path


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
