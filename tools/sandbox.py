"""A sandbox for bash commands: one folder that is writable, no network, limits on all that a command can use."""

import contextlib
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tools import seccomp
from tools.errors import UserError
from tools.sandbox_server import receive, send  # noqa: F401  (the two ends share the format)

FOLDER = "/repo"
"""Where the files are, as commands see it."""

NAMESPACES = ("this system does not let it make namespaces, by AppArmor (Ubuntu from 23.10 on: sudo sysctl -w "
              "kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for bwrap with the right userns) "
              "or since this is a container (start it with --security-opt seccomp=unconfined --security-opt "
              "apparmor=unconfined --security-opt systempaths=unconfined); give it that right")
"""What to do where bubblewrap is there and may not work."""

_FORBIDDEN = re.compile(r"[ug]id map|namespace|user ns|RTM_NEW|mount proc|make / slave|pivot_root")

NOBODY = 65534
_PATH = "/usr/local/bin:/usr/bin:/bin"
_GRACE = 5.0


class SandboxError(Exception):
    """The sandbox is gone, or does not answer."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one command may use; what is beyond ends the command with all its processes.

    seconds:   wall-clock time
    memory:    bytes, of all its processes together and of the address space of each
    processes: at the same time
    disk:      bytes of all files together; held in memory
    output:    bytes of stdout and stderr together
    files:     number of files
    """

    seconds: float = 10.0
    memory: int = 512 << 20
    processes: int = 64
    disk: int = 16 << 20
    output: int = 1 << 20
    files: int = 10_000

    def arguments(self) -> list[str]:
        return [str(value) for value in (self.memory, self.processes, self.disk, self.output, self.files)]


@dataclass(frozen=True, slots=True)
class Result:
    """What a command gave. `exceeded` says which limit ended it; then `returncode` is -1."""

    output: str
    returncode: int
    exceeded: str = ""


class Sandbox:
    """Files in a folder `/repo`, and bash commands that run there, each in a shell of its own.

    Bubblewrap (`bwrap`) gives it namespaces of its own (user, process, network, IPC, host name, mount): commands see
    `/usr` and the Python interpreter read-only, their own processes, and the folder, which lives in memory. After a
    command all that it started is killed. A command that ends the sandbox itself finds the first files again.

    unsandboxed: run commands as plain processes in a temporary folder instead: whatever they do, they do to this
                 machine, with a time limit only
    seed_time:   files written from outside have a fixed time of change

    Raises UserError if bubblewrap cannot run here.
    """

    def __init__(self, limits: Limits | None = None, unsandboxed: bool = False) -> None:
        self.limits, self.unsandboxed = limits or Limits(), unsandboxed
        self._files: dict[str, bytes] = {}
        self._process: subprocess.Popen | None = None
        self._folder: str | None = None
        if not unsandboxed:
            check_bubblewrap()
        self._start()

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write files, by path inside the folder."""
        self._files |= files
        self._ask([b"write", *(part for name, content in files.items() for part in (name.encode(), content))])

    def read(self) -> dict[str, bytes]:
        """All regular files, as they are now; links are left out. Those of the beginning if the sandbox is gone."""
        try:
            parts = self._ask([b"read"])
        except SandboxError:
            return dict(self._files)
        return {name.decode(errors="replace"): text for name, text in zip(parts[::2], parts[1::2], strict=False)}

    def clear(self) -> None:
        """Remove all files."""
        self._files = {}
        self._ask([b"clear"])

    def cpu_seconds(self) -> float:
        """Processor time of all commands so far, and of the server that runs them."""
        return float(self._ask([b"cpu"])[0])

    def run(self, command: str, seconds: float | None = None) -> Result:
        """Run `bash -c command`. Nothing that it does raises."""
        seconds = seconds or self.limits.seconds
        if "\0" in command:
            return Result("bash: a command cannot contain the character of code 0\n", 126)
        if len(text := command.encode(errors="replace")) >= 128 << 10:  # the kernel's limit on one argument
            return Result("bash: argument list too long\n", 126)
        try:
            code, exceeded, output = self._ask([b"run", text, str(seconds).encode()], seconds + _GRACE)
            returncode = int(code)
        except (SandboxError, ValueError):
            self.close()
            self._start()
            self.write({})
            self._ask([b"write", *(part for pair in self._files.items() for part in (pair[0].encode(), pair[1]))])
            return Result("", -1, "the command ended the sandbox, which starts anew with its first files")
        text = output.decode(errors="replace")
        if self._folder:
            text = text.replace(self._folder, FOLDER)
        return Result(text, returncode, exceeded.decode(errors="replace"))

    def close(self) -> None:
        """End all processes of the sandbox, and its files."""
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()  # the server ends, and with it the namespaces and all that is in them
            try:
                self._process.wait(0.5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process.stdout.close()
            self._process = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        mode = "plain" if self.unsandboxed else "namespaced"
        server = [python(), "-I", "-S", "-c", _server_source(), mode, *self.limits.arguments()]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "bufsize": 0}
        if self.unsandboxed:
            self._folder = os.path.realpath(tempfile.mkdtemp(prefix="repo-"))
            self._process = subprocess.Popen(server, cwd=self._folder, env=_environment(), start_new_session=True,
                                             **pipes)
        else:
            self._process = _confined(server, self.limits.disk, **pipes)

    def _ask(self, message: list[bytes], seconds: float = 60.0) -> list[bytes]:
        if self._process is None:
            raise SandboxError("the sandbox is closed")
        try:
            send(self._process.stdin.fileno(), message)
            return self._receive(time.monotonic() + seconds)
        except (OSError, ValueError) as error:
            raise SandboxError(f"the sandbox does not answer: {error}") from error

    def _receive(self, deadline: float) -> list[bytes]:
        """As `receive`, but from a process that may say anything, or nothing."""
        fd, data, sizes = self._process.stdout.fileno(), bytearray(), None
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        most = 2 * (self.limits.disk + self.limits.output) + (1 << 20)
        while sizes is None or len(data) < sum(sizes):
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise ValueError("no answer in time")
            chunk = os.read(fd, 1 << 20)
            if not chunk:
                raise ValueError("it ended")
            data += chunk
            if sizes is None and b"\n" in data:
                header, _, rest = data.partition(b"\n")
                sizes, data = [int(size) for size in header.split()], bytearray(rest)
            if len(data) > most or (sizes and not 0 <= sum(sizes) <= most):
                raise ValueError("it said too much")
        parts, start = [], 0
        for size in sizes:
            parts.append(bytes(data[start : start + size]))
            start += size
        return parts


@cache
def python() -> str:
    """The interpreter that commands find as `python3`: the system's if there is one, which starts faster."""
    return shutil.which("python3", path=_PATH) or os.path.join(sys.base_prefix, "bin", "python3")


def _environment() -> dict[str, str]:
    """All variables that a command sees, the same on every machine (but for a Python outside the usual folders)."""
    folder = os.path.dirname(python())
    return {"PATH": _PATH if folder in _PATH.split(":") else f"{folder}:{_PATH}", "HOME": FOLDER, "LC_ALL": "C.UTF-8",
            "TZ": "UTC", "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONNODEBUGRANGES": "1",
            "PYTHON_COLORS": "0", "PAGER": "cat", "TERM": "dumb"}


@cache
def _server_source() -> str:
    return Path(__file__).with_name("sandbox_server.py").read_text(encoding="utf-8")


@cache
def bubblewrap(disk: int) -> tuple[str, ...]:
    """The command line that starts something in a sandbox with a folder of `disk` bytes."""
    arguments = [shutil.which("bwrap") or "bwrap", "--unshare-all", "--unshare-user", "--disable-userns",
                 "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--hostname", "sandbox", "--clearenv"]
    for name, value in _environment().items():
        arguments += ["--setenv", name, value]
    arguments += ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "lib", "lib64", "lib32"):
        if os.path.islink(f"/{name}"):
            arguments += ["--symlink", f"usr/{name}", f"/{name}"]
        elif os.path.isdir(f"/{name}"):
            arguments += ["--ro-bind", f"/{name}", f"/{name}"]
    arguments += ["--ro-bind-try", "/etc/alternatives", "/etc/alternatives"]
    if not python().startswith("/usr/"):
        arguments += ["--ro-bind", sys.base_prefix, sys.base_prefix]
    # The standard library only: installed packages differ between machines, and their start-up hooks take time.
    for folder in (root for prefix in ("/usr", "/usr/local", sys.base_prefix) for kind in ("dist", "site")
                   for root in Path(prefix, "lib").glob(f"python3*/{kind}-packages")):
        if str(folder).startswith("/usr/") or not python().startswith("/usr/"):
            arguments += ["--tmpfs", str(folder), "--remount-ro", str(folder)]
    return (*arguments, "--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev", "--size", str(disk), "--tmpfs",
            FOLDER, "--chdir", FOLDER, "--remount-ro", "/")


@cache
def _identity() -> dict:
    """Options of Popen that make root nobody, if nobody can run Python: the system does not limit root's processes."""
    path = os.path.realpath(python())
    reachable = all(os.stat(part).st_mode & 0o001 for part in (path, *Path(path).parents))
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 and reachable else {}


def _confined(command: list[str], disk: int, **options: Any) -> subprocess.Popen:
    """Start a command in a sandbox of its own."""
    reader, writer = os.pipe()
    try:
        os.write(writer, seccomp.program() or b"")
        os.close(writer)
        filtered = ["--seccomp", str(reader)] if seccomp.program() else []
        # bwrap's own environment is what commands get: they can read it, too.
        return subprocess.Popen([*bubblewrap(disk), *filtered, "--", *command], env=_environment(), pass_fds=[reader],
                                start_new_session=True, **_identity(), **options)
    finally:
        os.close(reader)


@cache
def check_bubblewrap() -> None:
    """Raises UserError, with what to do, unless bubblewrap runs here."""
    install = "install it (Debian and Ubuntu: apt-get install bubblewrap, 0.8 or newer)"
    unsandboxed = ("or run model-written commands as they are on this machine, which may damage it, with "
                   "--data.task.unsandboxed true (collect: --unsandboxed true)")
    if shutil.which("bwrap") is None:
        raise UserError(f"there is no bubblewrap (bwrap) for the sandbox: {install}, {unsandboxed}")
    process = _confined(["true"], 1 << 20, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _, said = process.communicate()
    if process.returncode:
        advice = NAMESPACES if _FORBIDDEN.search(said) else install
        raise UserError(f"bubblewrap cannot make a sandbox here ({' '.join(said.split())[:200]}): {advice}, "
                        f"{unsandboxed}")
