"""Starts the command line in processes forked from one that has imported everything already: a second each, not six."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path


class Command:
    """`python run.py ARGUMENTS` in a folder; what it prints goes to `log` there. It leads a process group of its own.

    variables: of the environment, beside those of this process
    """

    def __init__(self, arguments: Sequence[str], folder: Path, log: str = "log.txt", **variables: str) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["run"])
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / log
        self._process = context.Process(target=_main, args=(list(arguments), folder, self.log, variables))
        self._process.start()

    def wait(self, seconds: float | None = None) -> int | None:
        """The exit code, negative for a signal; None if it still runs after so many seconds."""
        self._process.join(seconds)
        return self._process.exitcode

    def send(self, sign: signal.Signals) -> None:
        os.kill(self._process.pid, sign)

    def kill(self) -> None:
        """SIGKILL to the process and to all that it started."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:  # not yet a group leader, or gone
            self._process.kill()
        self._process.join()

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.is_file() else ""


def _main(arguments: list[str], folder: Path, log: Path, variables: dict[str, str]) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.update(variables)
    with open(log, "ab", buffering=0) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.argv = ["run.py", *arguments]
    from run import main

    main(arguments)
