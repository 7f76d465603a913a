"""What attacks share: what the attacker is after, defences that are switched off, and a trial in a process apart."""

import contextlib
import ctypes
import functools
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

from length_gen.tools import UserError
from length_gen.tools.sandbox import Limits, Result, Sandbox, bubblewrap, seccomp
from length_gen.tools.sandbox import sandbox as host
from length_gen.tools.sandbox.cgroup import Cgroup

ROOT = Path(__file__).parents[2]

HOST_MEMORY = 256 << 20
"""Bytes by which the process that uses the sandbox may grow."""

SMALL = Limits(seconds=4, memory=128 << 20, processes=48, disk=4 << 20, output=100_000, files=200)
NOBODY = 65534

new_sandbox: Callable[..., Any] = Sandbox
"""What attackers' commands run in."""

class Plain:
    """As `Sandbox`, but commands are plain processes in a temporary folder, without any limit but time."""

    def __init__(self, limits: Limits | None = None, user: int | None = None) -> None:
        self.top, self.user = Path(tempfile.mkdtemp(prefix="plain-")), user  # what is above the folder is its own, too
        self.folder = self.top / "repo"
        self.folder.mkdir()
        self.top.chmod(0o755)
        self.folder.chmod(0o777)
        if user is not None and not os.geteuid():
            os.chown(self.folder, user, user)

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write files by path; links are followed."""
        for name, content in files.items():
            path = self.folder / name.encode().decode()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o644)

    def read(self) -> dict[str, bytes]:
        """What is in the folder, by name, links as what they stand for."""
        return {path.name: path.read_bytes() for path in self.folder.iterdir() if not path.is_dir()}

    def run(self, command: str, seconds: float | None = None) -> Result:
        """Run `bash -c command`; what takes more than 15 seconds is left running."""
        rights = {} if self.user is None or os.geteuid() else {"user": self.user, "group": self.user,
                                                               "extra_groups": []}
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(["/bin/bash", "-c", command], cwd=self.folder, stdin=subprocess.DEVNULL,
                                       stdout=output, stderr=output, close_fds=False,
                                       env={**os.environ, "HOME": str(self.folder)}, **rights)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            output.seek(0)
            return Result(output.read().decode(errors="replace"), process.poll() or 0)

    def clear(self) -> None:
        """Remove all that is in the folder."""
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def close(self) -> None:
        """Remove the folder."""
        subprocess.run(["rm", "-rf", self.top], check=False)


class Stage:
    """What an attacker on this machine is after: a secret file, sockets, a process of the same user, a marker."""

    def __init__(self) -> None:
        self.token = secrets.token_hex(16)
        self.folder = Path(tempfile.mkdtemp(prefix="stage-"))
        self.folder.chmod(0o755)
        self.secret, self.marker = self.folder / "secret", self.folder / "marker"
        self.secret.write_text(self.token)
        self.open = self.folder / "open"
        self.open.mkdir()
        self.open.chmod(0o777)
        self.marker = self.open / "marker"

    @cached_property
    def victim(self) -> subprocess.Popen:
        """A process of the sandbox's user, with the token in its memory, environment and folder."""
        user = {} if os.geteuid() else {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        code = "import os, time; token = os.environ['TOKEN'] * 3; kept = open('secret'); print(1); time.sleep(60)"
        process = subprocess.Popen([bubblewrap.python(), "-u", "-c", code], env={"TOKEN": self.token}, cwd=self.folder,
                                   stdout=subprocess.PIPE, **user)
        process.stdout.readline()
        return process

    def listen(self, family: int, address: Any) -> Any:
        """A socket that gives the token to whoever connects; its address."""
        server = socket.socket(family)
        server.bind(address)
        server.listen()

        def serve() -> None:
            while True:
                with server.accept()[0] as connection:
                    connection.send(self.token.encode())

        threading.Thread(target=serve, daemon=True).start()
        return server.getsockname()

    def names(self, text: str) -> str:
        """Assignments of the names of the stage that stand in an attacker's code."""
        values = {"SECRET": lambda: str(self.secret), "MARKER": lambda: str(self.marker), "HOST": os.getpid,
                  "VICTIM": lambda: self.victim.pid, "TOKEN": lambda: self.token,
                  "PORT": lambda: self.listen(socket.AF_INET, ("127.0.0.1", 0))[1],
                  "ABSTRACT": lambda: self.listen(socket.AF_UNIX, f"\0{secrets.token_hex(8)}"),
                  "SOCKET": lambda: self.listen(socket.AF_UNIX, str(self.folder / "socket")),
                  "HANDLE": lambda: file_handle(self.secret), "MEMORY": lambda: SMALL.memory,
                  "SECONDS": lambda: SMALL.seconds, "DISK": lambda: SMALL.disk, "FILES": lambda: SMALL.files}
        return "".join(f"{name} = {value()!r}\n" for name, value in values.items() if re.search(rf"\b{name}\b", text))

    def close(self) -> None:
        """Kill the victim and remove all files."""
        if "victim" in self.__dict__:
            self.victim.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def file_handle(path: Path) -> tuple[int, bytes]:
    """Type and bytes of the handle by which open_by_handle_at opens a file, whatever the folders above it."""
    libc = ctypes.CDLL(None)
    buffer = ctypes.create_string_buffer((128).to_bytes(4, "little"), 200)
    libc.name_to_handle_at(-100, str(path).encode(), buffer, ctypes.byref(ctypes.c_int()), 0)
    size = int.from_bytes(buffer.raw[:4], "little")
    return int.from_bytes(buffer.raw[4:8], "little"), buffer.raw[8 : 8 + size]


@dataclass(frozen=True)
class Attack:
    """What one attacker tries.

    attempt: what the attacker got; empty if nothing
    off:     switches the defence off
    seconds: after which the host counts as hanging
    """

    kind: str
    name: str
    attempt: Callable[[Stage], str]
    off: Callable[[], AbstractContextManager]
    seconds: float = 40


@contextmanager
def plain(user: int | None = None) -> Iterator[None]:
    """No sandbox at all."""
    with patch(f"{__name__}.new_sandbox", functools.partial(Plain, user=user)):
        yield


@contextmanager
def weaker(supervisor: Mapping[str, str] | None = None, commands: Mapping[str, int] | None = None,
           cgroup: bool = False) -> Iterator[None]:
    """The sandbox without its filter of system calls, and without more.

    supervisor: texts of its source -> what takes their place
    commands:   options of the bubblewrap around a command that are left out -> number of their values
    """
    read, options = Path.read_bytes, [*bubblewrap.inner()]

    def changed(path: Path) -> bytes:
        source = read(path)
        for old, new in (supervisor or {}).items() if path.name == "supervisor.py" else ():
            if old.encode() not in source:
                raise LookupError(f"{old!r} is not in {path}")
            source = source.replace(old.encode(), new.encode())
        return source

    for name, values in (commands or {}).items():
        del options[options.index(name) : options.index(name) + 1 + values]
    host._program.cache_clear()
    try:
        with patch.object(Path, "read_bytes", changed), patch.object(bubblewrap, "inner", lambda: tuple(options)), \
                patch.object(seccomp, "program", lambda: None), \
                contextlib.nullcontext() if cgroup else patch.object(Cgroup, "new", lambda _: None):
            yield
    finally:
        host._program.cache_clear()


no_filter = weaker
own_namespaces = functools.partial(weaker, {'file.write(b"0")': 'file.write(b"9")'})
visible = functools.partial(weaker, None, {"--unshare-pid": 0, "--proc": 1, "--cap-drop": 1})
unwatched = functools.partial(weaker, {"exceeded = self.excess()": "pass"})


@dataclass
class Outcome:
    """got: what the attacker got; grown: bytes by which the process that uses the sandbox grew, at most"""

    got: str
    seconds: float
    grown: int


def trial(attack: Attack, defended: bool = True) -> Outcome:
    """Run an attack in a process of its own, which uses the sandbox."""
    with tempfile.TemporaryDirectory(prefix="trial-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)
        result = Path(folder, "result")  # an attacker may write into pipes
        server = _server()
        server.stdin.write(json.dumps([attack.kind, attack.name, defended, str(result)]) + "\n")
        server.stdin.flush()
        pid, begun = int(server.stdout.readline()), time.monotonic()
        while not result.exists() and Path(f"/proc/{pid}").exists() and time.monotonic() < begun + attack.seconds:
            time.sleep(0.005)
        taken = time.monotonic() - begun
        got, grown = json.loads(result.read_text()) if result.exists() else (
            "the host hangs" if Path(f"/proc/{pid}").exists() else "the host ends", 0)
        for end in (os.killpg, os.kill):  # it may not lead a group yet
            with contextlib.suppress(ProcessLookupError):
                end(pid, signal.SIGKILL)
        return Outcome(got, taken, grown)


@functools.cache
def _server() -> subprocess.Popen:
    """Forks trials: it has one thread, and the process that asks may have many, whose locks a fork would keep."""
    code = "from benchmarks import attacks; from benchmarks.attackers import trial; trial.serve(attacks.ATTACKS)"
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            text=True)


def serve(attacks: list[Attack]) -> None:
    """Fork a trial for each line of stdin, and tell its process."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps them
    for line in sys.stdin:
        kind, name, defended, result = json.loads(line)
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            attack, = (attack for attack in attacks if (attack.kind, attack.name) == (kind, name))
            _trial(attack, defended, Path(result))
        print(pid, flush=True)


def _trial(attack: Attack, defended: bool, result: Path) -> None:
    os.setsid()
    tempfile.tempdir = str(result.parent)  # what is left when this process is killed goes with it
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # orphans come to this process
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, stage = status("VmRSS"), Stage()
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(quiet, stream)
    os.chdir(stage.folder)
    try:
        with contextlib.nullcontext() if defended else attack.off():
            got = attack.attempt(stage)
    except UserError:
        got = ""
    except (Exception, SystemExit) as error:
        said = f"the host raises {type(error).__name__}: {' '.join(str(error).split())[:120]}"
        got = "" if getattr(error, "code", None) == 2 else said  # run.py's answer of one line
    finally:
        stage.close()
    grown = status("VmHWM") - before
    if grown > HOST_MEMORY:
        got = f"{got} {grown >> 20} MiB of the host".strip()
    if groups := cgroups():
        got = f"{got} {len(groups)} cgroups stay".strip()
    if left := children():
        got = f"{got} {len(left)} processes stay".strip()
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
    part = result.with_name("part")
    part.write_text(json.dumps([got, grown]))
    part.rename(result)
    os._exit(0)


def status(name: str) -> int:
    """A size of /proc/self/status, in bytes."""
    return int(re.search(rf"^{name}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)[1]) << 10


def children() -> list[int]:
    """Processes that this one has left behind, after a second in which they may end."""
    deadline = time.monotonic() + 1
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        left = [int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.01)


def cgroups() -> list[Path]:
    """Those that this process's sandboxes have made."""
    return [*Path("/sys/fs/cgroup").glob(f"**/sandbox-{os.getpid()}-*/")]
