"""Commands that use more than they may: memory, processes, time, output, disk."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.attackers.commands import command
from benchmarks.attackers.trial import SMALL, Attack, Stage, unwatched
from length_gen.tools.sandbox import Limits, Result
from length_gen.tools.sandbox.cgroup import Cgroup


def left_over(marker: str) -> bool:
    """Whether a process with the marker in its command line is still there after half a second."""
    time.sleep(0.5)
    return any(marker in path.read_bytes().decode(errors="replace") for path in Path("/proc").glob("[0-9]*/cmdline")
               if path.exists())


def overtime(stage: Stage, box: Any, result: Result) -> str:
    """Whether another second is granted to what takes longer."""
    begun = time.monotonic()
    box.run("sleep 5", 1)
    return "more time" * (time.monotonic() - begun > 4 or not result.exceeded)


def big(files: Mapping[str, bytes]) -> str:
    """Whether files that are read back are larger than the disk they were on."""
    size = sum(map(len, files.values()))
    return f"{size >> 20} MB" * (size > 2 * SMALL.disk)


def memory(kind: str, name: str, code: str, limits: Limits = SMALL) -> Attack:
    """A command that takes memory, tried where a cgroup can be made, and as if none could."""
    attack = command(kind, name, code, unwatched, limits=limits)

    def attempt(stage: Stage) -> str:
        if got := attack.attempt(stage):
            return got
        with patch.object(Cgroup, "new", lambda _: None):
            return attack.attempt(stage)

    return replace(attack, attempt=attempt)


RESOURCES = [
    memory("memory of processes", "many that hold a little each", """
hold(lambda: bytearray(80 << 20), 5)
"""),
    memory("memory of processes", "threads that outlive their leader", """
hold(lambda: bytearray(80 << 20), 5, leave=True)
"""),
    memory("memory of processes", "while what watches is stopped", """
for pid in others():
    try: os.kill(pid, signal.SIGSTOP)
    except OSError: pass
hold(lambda: bytearray(80 << 20), 5)
"""),
    memory("memory of sockets", "unix", """
def more(kept):
    kept.append(socket.socketpair())
    return pour(kept[-1])
hold(sockets(more), 12)
"""),
    memory("memory of sockets", "TCP", """
def more(kept):
    if not kept: kept.append(socket.create_server(("127.0.0.1", 0)))
    kept += [socket.create_connection(kept[0].getsockname()), kept[0].accept()[0]]
    return pour(kept[-2:])
hold(sockets(more), 12)
"""),
    memory("memory of sockets", "UDP", """
def more(kept):
    kept.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    kept[-1].setsockopt(1, socket.SO_RCVBUF, 4 << 20)
    kept[-1].bind(("127.0.0.1", 0))
    for _ in range(200): kept[-1].sendto(bytes(60000), kept[-1].getsockname())
    return struct.unpack("9I", kept[-1].getsockopt(1, 55, 36))[0]
hold(sockets(more), 12)
"""),
    memory("memory without an owner", "shared mappings that are let go of", """
def fill():
    size = 80 << 20
    globals()["keep"] = shared = mmap.mmap(-1, size)
    for start in range(0, size, 4 << 20):
        shared[start : start + (4 << 20)] = b"x" * (4 << 20)
        shared.madvise(mmap.MADV_DONTNEED)
    return size
hold(fill, 5)
"""),
    memory("memory without an owner", "memfd_create", """
def fill():
    fds = [call((319, 279), b"x", 0) for _ in range(40)]
    return sum(os.write(fd, bytes(DISK // 2)) for fd in fds) if fds[0] >= 0 else 0
hold(fill, 5)
"""),
    memory("memory without an owner", "shared memory of System V", """
libc.shmat.restype = ctypes.c_void_p
def fill():
    identity, size = call((29, 194), 0, 80 << 20, 0o1600), 80 << 20
    if identity < 0: return 0
    for start in range(0, size, 4 << 20):
        address = libc.shmat(identity, None, 0)
        ctypes.memset(address, 1, size)
        libc.shmdt(ctypes.c_void_p(address))
        return size
hold(fill, 5)
call((31, 195), 0, 0, 0)
"""),
    memory("memory of the kernel", "mappings of one page each", """
libc.mmap.restype = ctypes.c_void_p
def fill():
    pages, made = 24000, 0
    start = libc.mmap(None, ctypes.c_size_t(pages * 4096), 0, 0x22, -1, ctypes.c_long(0))
    for page in range(0, pages, 2):
        made += libc.mprotect(ctypes.c_void_p(start + page * 4096), ctypes.c_size_t(4096), 1) == 0
    return made * 2 * 256
hold(fill, 64)
""", replace(SMALL, processes=80, seconds=20)),
    command("too many processes", "fork", """
for _ in range(100):
    if os.fork() == 0: time.sleep(3); os._exit(0)
time.sleep(0.3); got("100 processes")
"""),
    command("too many processes", "vfork", """
import subprocess
kept = [os.posix_spawn("/bin/sleep", ["sleep", "3"], {}) for _ in range(100)]
time.sleep(0.3); got("100 processes")
"""),
    command("too many processes", "threads", """
for _ in range(100): threading.Thread(target=time.sleep, args=(3,), daemon=True).start()
time.sleep(0.3); got("100 threads"); os._exit(0)
"""),
    command("outliving the command", "a session of its own, forked twice", """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))
        for fd in range(64):
            try: os.close(fd)
            except OSError: pass
        os.execvp("sleep", ["sleep", "5." + str(int(TOKEN[:8], 16))])
    os._exit(0)
os.wait()
""", judge=lambda stage, *_: "a process" * left_over(f"5.{int(stage.token[:8], 16)}")),
    command("outliving the command", "write into the next command's folder", """
if os.fork() == 0:
    os.setsid()
    for _ in range(40):
        time.sleep(0.05)
        try: open("later", "w").write(str(os.getpid()))
        except OSError: pass
    os._exit(0)
""", judge=lambda stage, box, _: "a file, afterwards" * ("later" in box.run("rm -f later; sleep 0.3; ls").output)),
    command("time", "never end, and take no signal", """
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))
for fd in (0, 1, 2): os.close(fd)
time.sleep(SECONDS + 3)
""", judge=overtime),
    command("time", "stop itself and the shell", """
if os.fork() == 0: time.sleep(SECONDS + 3); os.kill(os.getppid(), signal.SIGCONT); os._exit(0)
os.kill(os.getpid(), signal.SIGSTOP)
""", judge=overtime),
    command("output", "endless", """
for _ in range(64): os.write(1 + _ % 2, b"x" * (1 << 20))
""", judge=lambda stage, box, result: f"{len(result.output):,} bytes" * (len(result.output) > 2 * SMALL.output)),
    command("output", "one byte at a time, from many processes", """
for _ in range(20):
    if os.fork() == 0:
        for _ in range(100000): os.write(1, b"x")
        os._exit(0)
for _ in range(20): os.wait()
""", judge=lambda stage, box, result: f"{len(result.output):,} bytes" * (len(result.output) > 2 * SMALL.output)),
    command("disk", "one large file", """
file = open("large", "wb", 0)
size = sum(file.write(bytes(1 << 20)) for _ in range(3 * DISK >> 20))
if size >= 3 * DISK: got(f"{size >> 20} MB")
"""),
    command("disk", "many files", """
for i in range(20 * FILES): open(f"file{i}", "w")
os.sync(); got(f"{len(os.listdir('.'))} files")
"""),
    command("disk", "many attributes, links and long names", """
for i in range(4000):
    name = f"{i:0250}"
    try: os.symlink("x" * 4000, name)
    except OSError: break
if i > 10 * FILES: got(f"{i} links")
"""),
    command("what is read back", "links to files of the host", """
os.symlink(SECRET, "link"); os.symlink(f"/proc/self/environ", "environ"); os.symlink("/dev/zero", "zero")
os.unlink("zero")
""", judge=lambda stage, box, _: "the token" * any(stage.token.encode() in text for text in box.read().values())),
    command("what is read back", "a fifo, which never ends", """
os.mkfifo("fifo"); os.unlink("attack.py")
""", judge=lambda stage, box, _: "" * len(box.read())),
    command("what is read back", "sparse files and hard links, larger than the disk", """
try: os.truncate(os.open("sparse", os.O_CREAT | os.O_RDWR), 64 << 20)
except OSError as error: print(error)
open("one", "wb").write(bytes(DISK // 2))
for i in range(50): os.link("one", f"link{i}")
""", judge=lambda stage, box, _: big(box.read())),
]
