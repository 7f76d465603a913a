"""Runs inside the sandbox: writes files, runs bash commands under limits, reads files back; answers on stdout.

Its source is passed to `python3 -I -S -c`, and it imports only what starts in a few milliseconds. A message is a list
of byte strings: a line with their lengths, then the strings.

Arguments: `namespaced` or `plain`, then the limits in the order of `tools.sandbox.Limits.arguments`.
"""

import os
import resource
import select
import sys
import time

GRACE = 0.05
"""Seconds between two looks at what a command uses; a shorter command is never looked at."""


def receive(fd):
    """The next message, or None at the end."""
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
    data = b" ".join(b"%d" % len(part) for part in parts) + b"\n" + b"".join(parts)
    while data:
        data = data[os.write(fd, data) :]


def write_files(parts):
    for name, content in zip(parts[::2], parts[1::2], strict=False):
        folder = os.path.dirname(name)
        if folder:
            os.makedirs(folder, exist_ok=True)
        with open(name, "wb") as file:
            file.write(content)
        os.utime(name, (0, 0))  # listings are the same every time


def remove(folder):
    """All that is in a folder; links are not followed."""
    os.chmod(folder, 0o700)
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            remove(entry.path)
            os.rmdir(entry.path)
        else:
            os.unlink(entry.path)


def read_files(limit, most):
    """Name, content, name, content, ... of the regular files, no links; at most `limit` bytes and `most` files."""
    parts, total = [], 0
    for folder, folders, names in os.walk(b"."):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            except OSError:
                continue
            try:
                if os.fstat(fd).st_mode & 0o170000 != 0o100000:
                    continue
                content = os.read(fd, limit - total)
            except OSError:
                continue
            finally:
                os.close(fd)
            total += len(content) + len(path)
            parts += [path[2:], content]
            if total >= limit or len(parts) >= 2 * most:
                return parts
    return parts


class Runner:
    def __init__(self, namespaced, memory, processes, disk, output, files):
        self.namespaced, self.memory, self.processes = namespaced, memory, processes
        self.output, self.files = output, files
        self.null = os.open(os.devnull, os.O_RDONLY)
        # Commands inherit the limits; forking a process that sets its own would take as long as a short command.
        limits = [(resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, disk), (resource.RLIMIT_CORE, 0),
                  (resource.RLIMIT_NOFILE, 64)]
        if namespaced:  # counted for each sandbox; outside for all that the user runs
            limits.append((resource.RLIMIT_NPROC, processes))
        for limit, value in limits:
            resource.setrlimit(limit, (value, value))

    def run(self, command, seconds):
        """Return code, what was exceeded (empty if nothing was), output."""
        reader, writer = os.pipe()
        ends = [(os.POSIX_SPAWN_DUP2, self.null, 0), (os.POSIX_SPAWN_DUP2, writer, 1), (os.POSIX_SPAWN_DUP2, writer, 2)]
        pid = os.posix_spawn("/bin/bash", [b"bash", b"-c", command], os.environ, file_actions=ends, setsid=True)
        os.close(writer)
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        try:
            process = os.pidfd_open(pid)
            poll.register(process, select.POLLIN)
        except (OSError, AttributeError):  # a system that does not have it: look every now and then
            process = None
        output, exceeded, ended = bytearray(), b"", False
        deadline, look = time.monotonic() + seconds, time.monotonic() + GRACE
        files = used_files()
        while not exceeded and not ended:
            events = dict(poll.poll(GRACE * 1000 if process is not None else 2))
            if reader in events:
                chunk = os.read(reader, 65536)
                output += chunk
                if not chunk:
                    poll.unregister(reader)
            ended = process in events if process is not None else has_ended(pid)
            if not ended and time.monotonic() > look:
                look = time.monotonic() + GRACE
                exceeded = self.excess(files)
            if not ended and time.monotonic() > deadline:
                exceeded = b"timed out after %g seconds" % seconds
            if len(output) > self.output:
                exceeded = b"more than %d bytes of output" % self.output
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
        return b"%d" % (-1 if exceeded else code), exceeded, bytes(output[: self.output])

    def end(self, pid):
        """Kill the command's process and all that it left, until nothing is there; returns its return code."""
        kill_everything() if self.namespaced else kill_group(pid)
        status = os.waitpid(pid, 0)[1]
        deadline = time.monotonic() + 2
        while self.namespaced and others() and time.monotonic() < deadline:  # the first process reaps the orphans
            kill_everything()
            time.sleep(0.001)
        return os.waitstatus_to_exitcode(status)

    def excess(self, files):
        """What the processes use together beyond the limits (each alone is limited by the system).

        files: that were there before; a command is not to blame for them
        """
        if not self.namespaced:
            return b""
        if used_files() > max(self.files, files):
            return b"more than %d files" % self.files
        pages, processes = 0, others()
        for name in processes:
            try:
                with open(f"/proc/{name}/statm", "rb") as file:
                    pages += int(file.read().split()[1])
            except (OSError, IndexError):  # it has ended
                pass
        if pages * os.sysconf("SC_PAGE_SIZE") > self.memory:
            return b"more than %d MB of memory" % (self.memory >> 20)
        return b"more than %d processes" % self.processes if len(processes) > self.processes else b""


def used_files():
    system = os.statvfs(".")
    return system.f_files - system.f_ffree


def has_ended(pid):
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def others():
    """Processes of the namespace but this one and the first."""
    own = ("1", str(os.getpid()))
    return [name for name in os.listdir("/proc") if name.isdigit() and name not in own]


def kill_group(pid):
    try:  # noqa: SIM105 (contextlib takes long to import)
        os.killpg(pid, 9)
    except ProcessLookupError:
        pass


def kill_everything():
    """SIGKILL to every process of the namespace but this one and the first: also those that left the session."""
    if os.getpid() > 9:
        raise SystemExit("not in a namespace of its own")
    try:  # noqa: SIM105
        os.kill(-1, 9)
    except ProcessLookupError:
        pass


def main():
    namespaced = sys.argv[1] == "namespaced"
    memory, processes, disk, output, files = map(int, sys.argv[2:7])
    runner = Runner(namespaced, memory, processes, disk, output, files)
    while (message := receive(0)) is not None:
        name, *parts = message
        if name == b"write":
            write_files(parts)
            send(1, [b""])
        elif name == b"clear":
            remove(b".")
            send(1, [b""])
        elif name == b"cpu":
            send(1, [b"%.6f" % sum(os.times()[:4])])
        elif name == b"read":
            send(1, read_files(disk, files))
        else:
            send(1, runner.run(parts[0], float(parts[1])))
    os._exit(0)


if __name__ == "__main__":
    main()
