"""What made a result (command, commit, device, versions), and where a run and the suite keep their files."""

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from length_gen.tools.system import cores

NAME = "tool-use-length-generalization"
"""Of the package where it is installed."""

CHECKPOINT, PREVIOUS = Path("checkpoints") / "last.ckpt", Path("checkpoints") / "previous.ckpt"
"""In a run folder: the newest checkpoint, and the one before it, for when the newest is torn."""

SHIPPED = Path(__file__).resolve().parent.parent / "configs"
"""The suite's own configurations, in the source folder as where it is installed."""

MODELS = SHIPPED.parent / "results" / "models"
"""The suite's own trained models, in the source folder alone."""


def reproducing(arguments: Sequence[str]) -> str:
    """The command, as a user would type it, whose result is that of the program with these arguments (its name first).

    The program is run.py, wherever it is installed. It does not say where the run's files were, nor that it went on
    from a checkpoint of its own, as in a sweep.
    """
    given = re.compile(r"--(trainer\.(?:logger\.(?:init_args\.)?)?(save_dir|name|version|default_root_dir|"
                       r"enable_progress_bar)|ckpt_path)(?:=(.*))?")
    rest = iter(arguments)
    program = next(rest)
    kept = ["run.py" if program.endswith(("/length_gen/__main__.py", "/length-generalization")) else program]
    folder, checkpoint = {}, []
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
    path = checkpoint[-1].removeprefix("--ckpt_path=") if checkpoint else "last"
    if path != "last" and (not folder or Path(path).parent != own):
        kept += checkpoint
    return shlex.join(["python", *kept])


def origin(device: torch.device) -> dict[str, Any]:
    """What made a result: `command`, `commit` (null outside a repository), `device`, `versions`."""
    return {"command": reproducing(sys.argv), "commit": _commit(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda"
            else f"{platform.machine()} CPU, {min(torch.get_num_threads(), cores())} threads",
            "versions": {"python": platform.python_version()} | {
                name: found for name in ("torch", "lightning", "mamba-ssm", "numba") if (found := _version(name))}}


def program() -> str:
    """The suite as a result cites it: its name, version and commit."""
    commit = _commit()
    return f"{NAME} {_version(NAME) or 'of a source folder'}" + f", commit {commit}" * bool(commit)


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


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def shipped(path: str | Path) -> Path:
    """`path`; or, where no file is there, the shipped one of that name, with or without configs/ and .yaml: `add`,
    `model/gru_small`."""
    path = Path(path)
    if path.is_file() or path.is_absolute():
        return path
    own = [SHIPPED / f"{path}.yaml"] + [SHIPPED.parent / path] * (path.parts[:1] == (SHIPPED.name,))
    return next((found for found in own if found.is_file()), path)


def checkpoint_of(path: str | Path) -> Path:
    """`path`; or, where that is the folder of a run or the name of one of the suite's own models, its checkpoint."""
    path = Path(path)
    return next((folder / CHECKPOINT for folder in (path, MODELS / path) if (folder / CHECKPOINT).is_file()), path)
