"""Starts the command line in processes forked from one that has imported everything already (`imported.py`)."""

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

ROOT = Path(__file__).parent.parent


def from_imported() -> Any:
    """A context of multiprocessing whose processes are forked from one that has imported the suite."""
    os.environ["PYTHONPATH"] = str(ROOT)  # before the first fork: the server imports this checkout
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.imported"])
    return context


class Command:
    """`python run.py ARGUMENTS` in a folder, as the leader of a process group of its own.

    logs:      folder of what it prints; without one it is forgotten with this object
    variables: of the environment, beside those of this process
    """

    started: ClassVar[list["Command"]] = []

    def __init__(self, arguments: Sequence[str], cwd: Path, logs: Path | None = None, **variables: str) -> None:
        method, context = multiprocessing.get_start_method(), from_imported()
        if logs is None:
            logs = Path(tempfile.mkdtemp(prefix="logs"))
            weakref.finalize(self, shutil.rmtree, logs, ignore_errors=True)
        self._files = logs / "stdout.txt", logs / "stderr.txt"
        self._process = context.Process(target=_main, args=(method, list(arguments), cwd, self._files, variables))
        self._process.start()
        self.started.append(self)

    def wait(self, seconds: float | None = None) -> int | None:
        """The exit code, negative for a signal; None if it still runs after so many seconds."""
        self._process.join(seconds)
        return self._process.exitcode

    def send(self, sign: signal.Signals) -> None:
        """Send a signal to the process alone."""
        os.kill(self._process.pid, sign)

    def kill(self) -> None:
        """SIGKILL to the process and to all that it started."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:  # not yet a group leader, or gone
            self._process.kill()
        self._process.join()

    @classmethod
    def kill_all(cls) -> None:
        """Kill those that still run."""
        for command in cls.started:
            if command._process.is_alive():
                command.kill()
        cls.started.clear()

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return _read(self._files[0])

    @property
    def stderr(self) -> str:
        """What it has printed to stderr so far."""
        return _read(self._files[1])


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _main(method: str, arguments: list[str], cwd: Path, files: tuple[Path, Path], variables: dict[str, str]) -> None:
    multiprocessing.set_start_method(method, force=True)  # of a DataLoader's workers
    os.setpgrp()
    os.chdir(cwd)
    os.environ.update(variables)
    for stream, path in enumerate(files, start=1):
        with open(path, "ab", buffering=0) as file:
            os.dup2(file.fileno(), stream)
    sys.argv = ["run.py", *arguments]
    from length_gen.lightning_modules.commands.main import main

    main(arguments)
