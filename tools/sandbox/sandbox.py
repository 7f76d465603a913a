"""The host's side of a sandbox: a supervisor in bubblewrap is asked to write files, run commands, read files back."""

import contextlib
import os
import select
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from length_gen.tools.sandbox import bubblewrap, seccomp
from length_gen.tools.sandbox.bubblewrap import FOLDER, check_bubblewrap
from length_gen.tools.sandbox.cgroup import Cgroup

_GRACE = 5.0
"""Seconds that the supervisor has beyond a command's time limit to end it and answer."""

_ANSWER = 60.0


class SandboxError(Exception):
    """The sandbox is gone, does not answer, or cannot do what it is asked for."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one command may use; what is beyond ends the command with all its processes.

    seconds:   wall-clock time
    memory:    bytes, of all its processes together and of the address space of each
    processes: at the same time
    disk:      bytes of all files together; held in memory; no more can be written
    output:    bytes of stdout and stderr together
    files:     number of files and folders; no more can be made
    """

    seconds: float = 10.0
    memory: int = 512 << 20
    processes: int = 64
    disk: int = 16 << 20
    output: int = 1 << 20
    files: int = 10_000

    def arguments(self) -> list[str]:
        """All but `seconds`, which is sent with each command, in the order of the supervisor's command line."""
        return [str(value) for value in (self.memory, self.processes, self.disk, self.output, self.files)]


@dataclass(frozen=True, slots=True)
class Result:
    """What a command gave. `exceeded` says which limit ended it; then `returncode` is -1."""

    output: str
    returncode: int
    exceeded: str = ""


class Sandbox:
    """Files in a folder `/repo`, and bash commands that run there, each in a shell of its own.

    Bubblewrap (`bwrap`) gives it namespaces of its own (user, process, network, IPC, host name, mount), and each
    command again process, IPC, host name and mount namespaces inside: it sees `/usr` and the Python interpreter
    read-only, its own processes, and the folder, which lives in memory. After a command all that it started is killed.
    Where a sandbox has ended all the same, the next command or `clear` starts it anew, with the files written so far.

    unsandboxed: run commands as plain processes in a temporary folder instead: whatever they do, they do to this
                 machine, with a time limit only

    Raises UserError if bubblewrap cannot run here.
    """

    def __init__(self, limits: Limits | None = None, unsandboxed: bool = False) -> None:
        self.limits, self.unsandboxed, self._owner = limits or Limits(), unsandboxed, os.getpid()
        self._files: dict[str, bytes] = {}
        self._process: subprocess.Popen | None = None
        self._folder: str | None = None
        self._cgroup: Cgroup | None = None
        if not unsandboxed:
            check_bubblewrap()
        self._start()

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write files by path in the folder. Raises SandboxError where they do not fit or a name is not possible."""
        parts = []
        for name, content in files.items():
            if name.startswith("/") or ".." in name.split("/"):
                raise SandboxError(f"{name!r} is no path inside the folder")
            try:
                parts += [os.fsencode(name), content]
            except UnicodeEncodeError as error:
                raise SandboxError(f"{name!r} is not possible as a name") from error
        self._ask("write", *parts)
        self._files |= files

    def read(self) -> dict[str, bytes]:
        """All regular files, as they are now; links are left out. Those of the beginning if the sandbox is gone."""
        try:
            parts = self._ask("read")
        except SandboxError:
            return dict(self._files)
        return {os.fsdecode(name): content for name, content in zip(parts[::2], parts[1::2], strict=False)}

    def clear(self) -> None:
        """Remove all files; a sandbox that has ended begins anew."""
        self._files = {}
        try:
            if not self.unsandboxed:
                self._ask("clear")
                return
        except SandboxError:
            pass
        self._start()

    def cpu_seconds(self) -> float:
        """Processor time of all commands so far, and of the supervisor that runs them. Raises SandboxError if it is
        gone."""
        return float(self._ask("cpu")[0])

    def run(self, command: str, seconds: float | None = None) -> Result:
        """Run `bash -c command`, by default with the limit of all commands on time. Nothing that the command does
        raises."""
        seconds = seconds or self.limits.seconds
        if "\0" in command:
            return Result("bash: a command cannot contain the character of code 0\n", 126)
        if len(text := command.encode(errors="replace")) >= 128 << 10:  # the kernel's limit on one argument
            return Result("bash: argument list too long\n", 126)
        try:
            code, exceeded, output = self._ask("run", text, str(seconds).encode(), seconds=seconds + _GRACE)
            returncode = int(code)
        except (SandboxError, ValueError):
            self._start()
            self.write(self._files)
            return Result("", -1, "the command ended the sandbox, which starts anew with its first files")
        text = output.decode(errors="replace")
        if self._folder:
            text = text.replace(self._folder, FOLDER)
        return Result(text, returncode, exceeded.decode(errors="replace"))

    def close(self) -> None:
        """End all processes of the sandbox, and its files; not where a forked process holds a copy of it."""
        if self._owner != os.getpid():
            return
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()  # the supervisor ends, and with it the namespaces and all that is in them
            try:
                self._process.wait(0.5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process.stdout.close()
            self._process = None
        if self._cgroup is not None:
            self._cgroup.remove()
            self._cgroup = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    __del__ = close

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        self.close()
        program = (seccomp.program() or b"").hex()
        inner = () if self.unsandboxed else bubblewrap.inner()
        supervisor = [bubblewrap.python(), "-I", "-S", "-c", _LOADER.format(size=len(_program())),
                      *self.limits.arguments(), program, *inner]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "bufsize": 0}
        if self.unsandboxed:
            self._folder = os.path.realpath(tempfile.mkdtemp(prefix="repo-"))
            self._process = subprocess.Popen(supervisor, cwd=self._folder, env=bubblewrap.environment(),
                                             start_new_session=True, **pipes)
        else:
            self._cgroup = Cgroup.new(self.limits.memory + self.limits.disk)
            self._process = self._cgroup.start(supervisor, **pipes) if self._cgroup else \
                bubblewrap.start(supervisor, **pipes)
        os.set_blocking(self._process.stdin.fileno(), False)
        with contextlib.suppress(OSError, ValueError):  # the first message tells
            self._send(_program(), time.monotonic() + _ANSWER)

    def _ask(self, name: str, *parts: bytes, seconds: float | None = None) -> list[bytes]:
        """The supervisor's answer to a message. It is trusted, but may have been killed, or be too slow."""
        if self._process is None:
            raise SandboxError("the sandbox is closed")
        deadline = time.monotonic() + (seconds or _ANSWER)
        message = [name.encode(), *parts]
        try:
            self._send(b" ".join(b"%d" % len(part) for part in message) + b"\n" + b"".join(message), deadline)
            wrong, *answer = self._receive(deadline)
        except (OSError, ValueError) as error:
            self.close()  # what it says later would be taken for the answer to something else
            raise SandboxError(f"the sandbox does not answer: {error}") from error
        if wrong:
            raise SandboxError(wrong.decode(errors="replace"))
        return answer

    def _send(self, data: bytes, deadline: float) -> None:
        fd, view = self._process.stdin.fileno(), memoryview(data)
        while view:
            _wait(fd, select.POLLOUT, deadline)
            view = view[os.write(fd, view) :]

    def _receive(self, deadline: float) -> list[bytes]:
        fd, data, sizes = self._process.stdout.fileno(), bytearray(), None
        most = 2 * (self.limits.disk + self.limits.output) + (1 << 20)
        while sizes is None or len(data) < sum(sizes):
            _wait(fd, select.POLLIN, deadline)
            chunk = os.read(fd, 1 << 20)
            if not chunk:
                raise ValueError("it ended")
            data += chunk
            if sizes is None and b"\n" in data:
                header, _, rest = data.partition(b"\n")
                sizes, data = [int(size) for size in header.split()], bytearray(rest)
            if len(data) > most or (sizes and (min(sizes) < 0 or sum(sizes) > most)):
                raise ValueError("it said too much")
        parts, start = [], 0
        for size in sizes:
            parts.append(bytes(data[start : start + size]))
            start += size
        return parts


class _Thread(threading.local):
    """What belongs to one thread, and ends with it."""

    def __init__(self) -> None:
        self.sandboxes: dict[tuple[int, str, Limits, bool], Sandbox] = {}


_thread = _Thread()


def of_thread(use: str, limits: Limits, unsandboxed: bool) -> Sandbox:
    """This thread's sandbox for a use, kept until the thread ends; whoever takes it clears it first."""
    key = (os.getpid(), use, limits, unsandboxed)
    if key not in _thread.sandboxes:
        _thread.sandboxes[key] = Sandbox(limits, unsandboxed)
    return _thread.sandboxes[key]


def _wait(fd: int, event: int, deadline: float) -> None:
    """Until a pipe is ready; raises ValueError at the deadline."""
    poll = select.poll()
    poll.register(fd, event)
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(left * 1000):
        raise ValueError("no answer in time")


@cache
def _program() -> bytes:
    """The supervisor, compiled by the interpreter that will run it: to compile it takes as long as to start Python."""
    compiler = ("import marshal, sys; sys.stdout.buffer.write(marshal.dumps(compile(sys.stdin.read(), 'supervisor', "
                "'exec', optimize=2)))")
    return subprocess.run([bubblewrap.python(), "-I", "-S", "-c", compiler], check=True, stdout=subprocess.PIPE,
                          input=Path(__file__).with_name("supervisor.py").read_bytes()).stdout


_LOADER = """\
import marshal, os
data = b""
while len(data) < {size}:
    data += os.read(0, {size} - len(data))
exec(marshal.loads(data))"""
