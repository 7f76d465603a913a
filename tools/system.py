"""What several rooms ask of the operating system: its cores, and locks between its processes."""

import os
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def lock(path: Path, wait: bool = False, inherited: bool = False) -> IO[bytes] | None:
    """An open file that is this process's alone until it is closed or the process ends; None if another one has it.

    wait:      until it is free
    inherited: processes that are started with the open file keep it as well

    Where the system or the file system has no locks, every process gets it.
    """
    file = open(path, "ab")  # noqa: SIM115 (the caller's)
    try:
        if fcntl:
            (fcntl.flock if inherited else fcntl.lockf)(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (BlockingIOError, PermissionError):
        file.close()
        return None
    except OSError:
        pass
    return file
