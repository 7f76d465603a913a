"""The command lines of bubblewrap: `outer` holds a sandbox and its supervisor, `inner` each command in it."""

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from length_gen.tools.errors import UserError

FOLDER = "/repo"
"""Where the files are, as commands see it."""

NOBODY = 65534

NAMESPACES = ("this system does not let it make namespaces, by AppArmor (Ubuntu from 23.10 on: sudo sysctl -w "
              "kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for bwrap with the right userns) "
              "or since this is a container (start it with --security-opt seccomp=unconfined --security-opt "
              "apparmor=unconfined --security-opt systempaths=unconfined); give it that right")
"""What to do where bubblewrap is there and may not work."""

_FORBIDDEN = re.compile(r"[ug]id map|namespace|user ns|RTM_NEW|mount proc|make / slave|pivot_root")
_PATH = "/usr/local/bin:/usr/bin:/bin"

_CAPABILITIES = ("SYS_ADMIN", "SYS_RESOURCE", "DAC_OVERRIDE")
"""Of the supervisor, over its own namespaces alone: to mount and make namespaces, to forbid commands to make more, to
read files of any permissions. No command has them."""


@cache
def python() -> str:
    """The interpreter that commands find as `python3`: the system's if there is one, which starts faster."""
    return shutil.which("python3", path=_PATH) or os.path.join(sys.base_prefix, "bin", "python3")


def environment() -> dict[str, str]:
    """All variables that a command sees, the same on every machine (but for a Python outside the usual folders)."""
    folder = os.path.dirname(python())
    return {"PATH": _PATH if folder in _PATH.split(":") else f"{folder}:{_PATH}", "HOME": FOLDER, "LC_ALL": "C.UTF-8",
            "TZ": "UTC", "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONNODEBUGRANGES": "1",
            "PYTHON_COLORS": "0", "PAGER": "cat", "TERM": "dumb"}


@cache
def outer() -> tuple[str, ...]:
    """Starts the supervisor: the system's files to read, an empty network, root over namespaces of its own."""
    arguments = [_bwrap(), "--unshare-all", "--unshare-user", "--uid", "0", "--gid", "0", "--die-with-parent",
                 "--new-session", "--hostname", "sandbox", "--clearenv", "--cap-drop", "ALL"]
    for name in _CAPABILITIES:
        arguments += ["--cap-add", f"CAP_{name}"]
    for name, value in environment().items():
        arguments += ["--setenv", name, value]
    arguments += ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "lib", "lib64", "lib32"):
        if os.path.islink(f"/{name}"):
            arguments += ["--symlink", f"usr/{name}", f"/{name}"]
        elif os.path.isdir(f"/{name}"):
            arguments += ["--ro-bind", f"/{name}", f"/{name}"]
    arguments += ["--ro-bind-try", "/etc/alternatives", "/etc/alternatives"]
    if not _bwrap().startswith("/usr/"):
        arguments += ["--ro-bind", _bwrap(), _bwrap()]
    if not python().startswith("/usr/"):
        arguments += ["--ro-bind", sys.base_prefix, sys.base_prefix]
    # The standard library only: installed packages differ between machines, and their start-up hooks take time.
    for folder in (root for prefix in ("/usr", "/usr/local", sys.base_prefix) for kind in ("dist", "site")
                   for root in Path(prefix, "lib").glob(f"python3*/{kind}-packages")):
        if str(folder).startswith("/usr/") or not python().startswith("/usr/"):
            arguments += ["--tmpfs", str(folder), "--remount-ro", str(folder)]
    return (*arguments, "--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev", "--dir", "/tmp", "--dir", FOLDER,
            "--remount-ro", "/")


@cache
def inner() -> tuple[str, ...]:
    """Starts a command inside `outer`: it sees its own processes only, and has no rights beyond its files."""
    return (_bwrap(), "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--cap-drop", "ALL", "--dev-bind", "/", "/",
            "--proc", "/proc", "--chdir", FOLDER)


@cache
def _bwrap() -> str:
    return os.path.realpath(shutil.which("bwrap") or "bwrap")


@cache
def _identity() -> dict:
    """Options of Popen that make root nobody. Raises UserError if nobody cannot run Python.

    A command that has root's user id, even without its capabilities, may write the kernel's settings in /proc/sys.
    """
    if os.geteuid():
        return {}
    path = os.path.realpath(python())
    if not all(os.stat(part).st_mode & 0o001 for part in (path, *Path(path).parents)):
        raise UserError(f"only root can run {path}, and commands in the sandbox must not be root's: install a python3 "
                        f"for all users (Debian and Ubuntu: apt-get install python3), or be another user")
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []}


def start(command: list[str], options: list[str] | None = None, **popen: Any) -> subprocess.Popen:
    """Start a command in `outer`, with more options of bubblewrap."""
    # bwrap's own environment is what the supervisor gets.
    return subprocess.Popen([*outer(), *(options or []), "--", *command], env=environment(), start_new_session=True,
                            **_identity(), **popen)


@cache
def check_bubblewrap() -> None:
    """Raises UserError, with what to do, unless bubblewrap runs here."""
    install = "install it (Debian and Ubuntu: apt-get install bubblewrap, 0.8 or newer)"
    unsandboxed = ("or run model-written commands as they are on this machine, which may damage it, with "
                   "--data.task.unsandboxed true (collect: --unsandboxed true)")
    if shutil.which("bwrap") is None:
        raise UserError(f"there is no bubblewrap (bwrap) for the sandbox: {install}, {unsandboxed}")
    process = start([*inner(), "--", "true"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _, said = process.communicate()
    if process.returncode:
        advice = NAMESPACES if _FORBIDDEN.search(said) else install
        raise UserError(f"bubblewrap cannot make a sandbox here ({' '.join(said.split())[:200]}): {advice}, "
                        f"{unsandboxed}")
