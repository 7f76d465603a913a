"""Runs inside bubblewrap: keeps the files, starts each command in namespaces of its own, watches and ends it.

It is passed to Python compiled (`sandbox._program`), and imports only what starts in a few milliseconds. A message is a
list of byte strings: a line with their lengths, then the strings; the first of an answer is what was wrong, or empty.

Arguments: the limits in the order of `tools.sandbox.Limits.arguments`, the filter of system calls in hexadecimal, and
the command line that starts a command (`bubblewrap.inner`). Without one commands are plain processes in a temporary
folder, with a time limit and the limits of each process only.
"""

import _ctypes
import os
import resource
import select
import sys
import time

FOLDER = b"/repo"

GRACE = 0.05
"""Seconds between two looks at what a command uses; a shorter command is never looked at."""

SOCKETS = 32
"""Most sockets at the same time: what waits in their buffers, some 200 KB each, is no process's memory."""

MAPPING = 512
"""Bytes of the system's memory, about, for one mapping of a process."""

PAGE = os.sysconf("SC_PAGE_SIZE")

OWN = 2
"""Processes of bubblewrap around a command."""


def receive(fd):
    """The strings of the next message, or None at the end."""
    header = b""
    while not header.endswith(b"\n"):
        byte = os.read(fd, 1)
        if not byte:
            return None
        header += byte
    parts = []
    for size in map(int, header.split()):
        chunks = []
        while size:
            chunk = os.read(fd, min(size, 1 << 20))
            if not chunk:
                return None
            chunks.append(chunk)
            size -= len(chunk)
        parts.append(b"".join(chunks))
    return parts


def send(fd, parts):
    """Write a message: the line with the lengths of its strings, then these."""
    data = b" ".join(b"%d" % len(part) for part in parts) + b"\n" + b"".join(parts)
    while data:
        data = data[os.write(fd, data) :]


def write_files(parts):
    """Write name, content, name, content, ...; folders are made, and a link in the place of a file is refused
    (OSError)."""
    for name, content in zip(parts[::2], parts[1::2], strict=False):
        if folder := os.path.dirname(name):
            os.makedirs(folder, exist_ok=True)
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
        with open(fd, "wb") as file:
            file.write(content)
        os.utime(name, (0, 0))  # listings are the same every time


def read_files(limit, most):
    """Name, content, name, content, ... of the regular files, no links; at most `limit` bytes and `most` files."""
    parts, total, folders = [], 0, [b"."]
    while folders:
        folder = folders.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:  # such as a path that is too long for the system
            continue
        folders += [entry.path for entry in reversed(entries) if entry.is_dir(follow_symlinks=False)]
        for entry in entries:
            if not entry.is_file(follow_symlinks=False):
                continue
            try:
                fd = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            except OSError:
                continue
            with open(fd, "rb") as file:
                content = file.read(limit - total)
            total += len(content) + len(entry.path)
            parts += [entry.path[2:], content]
            if total >= limit or len(parts) >= 2 * most:
                return parts
    return parts


def system(name, *arguments):
    """Call a function of the C library; raises OSError where it fails.

    By ctypes without its module, whose import takes as long as a command.
    """
    function = _ctypes.dlsym(_ctypes.dlopen(None, 0), name)
    if _ctypes.call_function(function, arguments):
        raise OSError(f"{name} is refused")


class Mounts:
    """The file system of the sandbox: an empty folder whenever it is asked for, of so many bytes and files."""

    def __init__(self, disk, files):
        self.options = b"size=%d,nr_inodes=%d,mode=0755" % (disk, files + 1)
        self.mount(b"proc", b"/tmp", b"proc", None)
        with open("/tmp/sys/user/max_user_namespaces", "wb") as file:
            file.write(b"0")
        self.unmount(b"/tmp")

    def mount(self, kind, folder, name, options):
        """Mount a file system of this kind; raises OSError where the system refuses."""
        nosuid_nodev = 2 | 4
        system("mount", name, folder, kind, nosuid_nodev, options)

    def unmount(self, folder):
        """Take a folder's file system away, also while it is in use; raises OSError where the system refuses."""
        detach = 2
        system("umount2", folder, detach)

    def clear(self):
        """Make /repo an empty folder, the working one."""
        if os.path.ismount(FOLDER):
            self.unmount(FOLDER)
        self.mount(b"tmpfs", FOLDER, b"tmpfs", self.options)
        os.chdir(FOLDER)


class Supervisor:
    """Answers messages; runs one command at a time.

    memory, disk, output: bytes; processes, files: numbers; as in `tools.sandbox.Limits`
    program: the filter of system calls; inner: the command line that starts a command, empty without bubblewrap
    """

    def __init__(self, memory, processes, disk, output, files, program, inner):
        self.memory, self.processes, self.disk, self.output, self.files = memory, processes, disk, output, files
        self.program, self.inner = program, inner
        self.null = os.open(os.devnull, os.O_RDONLY)
        if inner:
            self.mounts = Mounts(disk, files)
            self.mounts.clear()
            set_child_subreaper = 36
            system("prctl", set_child_subreaper, 1)
        # Commands inherit the limits; forking a process that sets its own would take as long as a short command.
        # No core is dumped: of 0 the system's handler of dumps, a program outside, would take no notice; 1 ends it.
        limits = [(resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, disk), (resource.RLIMIT_CORE, 1),
                  (resource.RLIMIT_NOFILE, 64)]
        if inner:  # counted for each sandbox; outside for all that the user runs
            limits.append((resource.RLIMIT_NPROC, processes + OWN + 2))  # this one, and the first of the namespace
        for limit, value in limits:
            resource.setrlimit(limit, (value, value))

    def answer(self, name, parts):
        """The strings of an answer to write, clear, read, cpu (seconds that were used) or run."""
        if name == b"write":
            write_files(parts)
            return []
        if name == b"clear":
            self.mounts.clear()
            return []
        if name == b"read":
            return read_files(self.disk, self.files)
        if name == b"cpu":
            used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
            return [b"%.6f" % sum(usage.ru_utime + usage.ru_stime for usage in used)]
        return self.run(parts[0], float(parts[1]))

    def run(self, command, seconds):
        """Return code, what was exceeded (empty if nothing was), output."""
        reader, writer = os.pipe()
        ends = [(os.POSIX_SPAWN_DUP2, self.null, 0), (os.POSIX_SPAWN_DUP2, writer, 1), (os.POSIX_SPAWN_DUP2, writer, 2)]
        line = [b"/bin/bash", b"-c", command]
        if self.inner:
            program, filled = os.pipe()
            os.write(filled, self.program)
            os.close(filled)
            ends.append((os.POSIX_SPAWN_DUP2, program, 9))
            line = [*self.inner, *([b"--seccomp", b"9"] if self.program else []), b"--", *line]
        pid = os.posix_spawn(line[0], line, os.environ, file_actions=ends, setsid=True)
        os.close(writer)
        if self.inner:
            os.close(program)
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        try:
            process = os.pidfd_open(pid)
            poll.register(process, select.POLLIN)
        except (OSError, AttributeError):  # a system that does not have it: look every now and then
            process = None
        output, exceeded, ended = bytearray(), b"", False
        deadline, look = time.monotonic() + seconds, time.monotonic() + GRACE
        try:
            while not exceeded and not ended:
                events = dict(poll.poll(GRACE * 1000 if process is not None else 2))
                if reader in events:
                    chunk = os.read(reader, 65536)
                    output += chunk
                    if not chunk:
                        poll.unregister(reader)
                ended = process in events if process is not None else has_ended(pid)
                if not ended and self.inner and time.monotonic() > look:
                    look = time.monotonic() + GRACE
                    exceeded = self.excess()
                if not ended and time.monotonic() > deadline:
                    exceeded = b"timed out after %g seconds" % seconds
                if len(output) > self.output:
                    exceeded = b"more than %d bytes of output" % self.output
        finally:
            code = self.end(pid)
        if not exceeded:
            os.set_blocking(reader, False)
            try:
                while len(output) <= self.output and (chunk := os.read(reader, 65536)):
                    output += chunk
            except BlockingIOError:  # a process that is gone by now held the pipe
                pass
        os.close(reader)
        if process is not None:
            os.close(process)
        return [b"%d" % (-1 if exceeded else code), exceeded, bytes(output[: self.output])]

    def end(self, pid):
        """Kill the command's process and all that it left, until nothing is there; returns its return code."""
        kill_everything() if self.inner else kill_group(pid)
        status = os.waitpid(pid, 0)[1]
        while self.inner:  # orphans are this process's children; their namespace's first ends after all others in it
            try:
                os.wait()
            except ChildProcessError:
                break
        return os.waitstatus_to_exitcode(status)

    def excess(self):
        """What the processes use together beyond the limits (each alone is limited by the system)."""
        processes = others()
        addresses, memory = (PAGE * sum(pages) for pages in zip(*map(sizes, processes), (0, 0), strict=True))
        if addresses > self.memory:  # enough to hide in
            for process in processes:
                memory += hidden(process, self.memory)
        if memory > self.memory:
            return b"more than %d MB of memory" % (self.memory >> 20)
        if len(processes) - OWN > self.processes:
            return b"more than %d processes" % self.processes
        return b"more than %d sockets" % SOCKETS if sockets() > SOCKETS else b""


def sizes(process):
    """Pages of address space and of memory; where the first thread has ended, of the others, which share them."""
    try:
        if (pages := statm(f"/proc/{process}"))[0]:
            return pages
        return max(statm(f"/proc/{process}/task/{thread}") for thread in os.listdir(f"/proc/{process}/task"))
    except (OSError, ValueError):  # it has ended
        return 0, 0


def statm(folder):
    """Pages of address space and of memory, of a folder of /proc. Raises OSError or ValueError where it has ended."""
    with open(f"{folder}/statm", "rb") as file:
        size, resident = file.read().split()[:2]
    return int(size), int(resident)


def hidden(process, most):
    """Bytes that a process may hold beside its resident memory (or so many that `most` is passed).

    Shared memory stays when it is no longer mapped to pages, and each mapping is a record in the system's memory.
    """
    found = 0
    try:
        threads = os.listdir(f"/proc/{process}/task")
        with open(f"/proc/{process}/task/{threads[-1]}/maps", "rb") as file:
            for line in file:
                found += MAPPING
                span, permissions, _, _, _, *name = line.split(None, 5)
                of_file = name and name[0].startswith(b"/") and not name[0].startswith(b"/dev/zero")
                if permissions.endswith(b"s") and not of_file:  # files are bounded by the disk
                    start, _, end = span.partition(b"-")
                    found += int(end, 16) - int(start, 16)
                if found > most:
                    break
    except OSError:  # it has ended
        pass
    return found


def sockets():
    """Those of the network namespace, also where no process has them open any more but data waits in them."""
    with open("/proc/net/sockstat", "rb") as file:
        return int(file.readline().split()[2])


def has_ended(pid):
    """Whether a child has ended; it still has to be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def others():
    """Processes of the namespace, and of those inside it, but this one and the first."""
    own = ("1", str(os.getpid()))
    return [name for name in os.listdir("/proc") if name.isdigit() and name not in own]


def kill_group(pid):
    """SIGKILL to a process group, if there is one."""
    try:  # noqa: SIM105 (contextlib takes long to import)
        os.killpg(pid, 9)
    except ProcessLookupError:
        pass


def kill_everything():
    """SIGKILL to every process of the namespace, and of those inside it, but this one and the first.

    Raises SystemExit outside of a namespace of its own.
    """
    if os.getpid() > 9:
        raise SystemExit("not in a namespace of its own")
    try:  # noqa: SIM105
        os.kill(-1, 9)
    except ProcessLookupError:
        pass


def main():
    """Answer messages from standard input until it ends."""
    memory, processes, disk, output, files = map(int, sys.argv[1:6])
    inner = [os.fsencode(part) for part in sys.argv[7:]]
    supervisor = Supervisor(memory, processes, disk, output, files, bytes.fromhex(sys.argv[6]), inner)
    while (message := receive(0)) is not None:
        try:
            answer = [b"", *supervisor.answer(message[0], message[1:])]
        except (OSError, ValueError) as error:  # such as a full disk, or a name that is not possible
            answer = [str(error).encode(errors="replace")]
        send(1, answer)
    os._exit(0)


if __name__ == "__main__":
    main()
