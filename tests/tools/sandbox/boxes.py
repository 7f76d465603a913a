"""What the tests of the sandbox share."""

import contextlib
import os
import time
from pathlib import Path

from length_gen.tools.sandbox import Limits, Sandbox

SMALL = Limits(seconds=60, memory=128 << 20, processes=24, disk=4 << 20, output=100_000, files=200)


def processes(marker: str) -> list[str]:
    """Command lines on this machine that contain `marker`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if marker in line and path.parent.name != str(os.getpid()):
                found.append(line)
    return found


def running(command: str) -> list[int]:
    """Processes on this machine of exactly this command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().decode(errors="replace").rstrip("\0").split("\0") == command.split():
                found.append(int(path.parent.name))
    return found


def children(pid: int) -> list[str]:
    """Processes that a process started, and those that these started."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return found + [below for child in found for below in children(int(child))]


def kill(box: Sandbox) -> None:
    """End a sandbox from outside, and wait until its supervisor is gone."""
    pids = children(box._process.pid)
    box._process.kill()
    box._process.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.001)


def gone(marker: str) -> bool:
    """Whether no such process is left, or will be in a moment: the system takes a little to end one."""
    deadline = time.monotonic() + 60
    while processes(marker) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not processes(marker)
