"""A cgroup around a sandbox, where this process may make one: the kernel's own limit on all of its memory.

It counts what the sandbox's supervisor cannot see: buffers of sockets and pipes, locks, page tables.
"""

import contextlib
import itertools
import json
import os
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import Any

from length_gen.tools.sandbox import bubblewrap

_SUPERVISOR = 64 << 20
"""Bytes beyond a command's for what keeps it."""

_numbers = itertools.count()


class Cgroup:
    """A folder below /sys/fs/cgroup with a limit on memory, of version 1 or 2."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def new(cls, memory: int) -> "Cgroup | None":
        """One with a limit of so many bytes, and of what the supervisor needs; None where none can be made."""
        if (parent := _parent()) is None:
            return None
        for left in parent.glob("sandbox-*-*"):  # by processes that were killed
            if not Path("/proc", left.name.split("-")[1]).exists():
                with contextlib.suppress(OSError):
                    left.rmdir()
        path = parent / f"sandbox-{os.getpid()}-{next(_numbers)}"
        try:
            path.mkdir()
        except OSError:
            return None
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError):
                (path / name).write_text(str(memory + _SUPERVISOR))
                break
        else:
            path.rmdir()
            return None
        for name in ("memory.swap.max", "memory.memsw.limit_in_bytes"):
            with contextlib.suppress(OSError):
                (path / name).write_text("0" if "max" in name else str(memory + _SUPERVISOR))
        return cls(path)

    def start(self, command: list[str], **popen: Any) -> subprocess.Popen:
        """Start a command in bubblewrap, in this cgroup.

        The process itself stays outside: it only waits for its child, which holds all that is in the namespaces.
        """
        told, tells = os.pipe()
        try:
            process = bubblewrap.start(command, ["--info-fd", str(tells)], pass_fds=[tells], **popen)
            os.close(tells)
            tells, said = -1, b""
            while b"}" not in said and (more := os.read(told, 4096)):
                said += more
            with contextlib.suppress(OSError, ValueError, KeyError):
                self._join(json.loads(said)["child-pid"])
            return process
        finally:
            for fd in (told, tells):
                if fd >= 0:
                    os.close(fd)

    def _join(self, pid: int) -> None:
        """Move a process here, and then those that it had started by then; those that it starts later are born here."""
        (self.path / "cgroup.procs").write_text(str(pid))
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            self._join(int(child))

    def remove(self) -> None:
        """Remove it, once all of its processes have ended; waits a second for that at most."""
        for _ in range(100):
            try:
                self.path.rmdir()
                return
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.01)


@cache
def _parent() -> Path | None:
    """Where new cgroups go: beside this process's own, since in version 2 one with processes has none below it."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, own = line.split(":", 2)
        roots = {"": "/sys/fs/cgroup", "memory": "/sys/fs/cgroup/memory"}
        root = next((roots[name] for name in controllers.split(",") if name in roots), None)
        if root is not None and os.access(folder := Path(root + own).parent if own != "/" else Path(root), os.W_OK):
            return folder
    return None
