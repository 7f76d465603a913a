"""What a command may do in the sandbox, and what it tries in vain. The escapes are really tried."""

import contextlib
import gc
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from length_gen.tools import UserError
from length_gen.tools.sandbox import (
    Limits,
    Sandbox,
    SandboxError,
    bubblewrap,
    cgroup,
    check_bubblewrap,
    of_thread,
    seccomp,
)
from tests.agents import needs_bubblewrap

SMALL = Limits(seconds=2, memory=128 << 20, processes=24, disk=4 << 20, output=100_000, files=200)


@pytest.fixture(scope="module")
def shared():
    with Sandbox(SMALL) as box:
        yield box


@pytest.fixture
def box(shared):
    """The same sandbox for all tests: it must survive what each of them does."""
    shared.clear()
    shared.write({"main.py": b"print('hello')\n"})
    yield shared
    result = shared.run("cat main.py; exit 3")
    assert (result.output, result.returncode, result.exceeded) == ("print('hello')\n", 3, "")


def processes(marker: str) -> list[str]:
    """Command lines on this machine that contain `marker`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if marker in line and path.parent.name != str(os.getpid()):
                found.append(line)
    return found


def children(pid: int) -> list[str]:
    """Processes that a process started, and those that these started."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return found + [below for child in found for below in children(int(child))]


def kill(box: Sandbox) -> None:
    """End a sandbox from outside, and wait until its supervisor is gone."""
    pids = children(box._process.pid)
    box._process.kill()
    box._process.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.001)


def gone(marker: str) -> bool:
    """Whether no such process is left, or will be in a moment: the system takes a little to end one."""
    deadline = time.monotonic() + 2
    while processes(marker) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not processes(marker)


@needs_bubblewrap
def test_commands_see_only_their_folder_and_the_system(box):
    result = box.run("python3 main.py; pwd; ls -A; echo $HOME; echo wrong >&2; false")
    assert (result.output, result.returncode) == ("hello\n/repo\nmain.py\n/repo\nwrong\n", 1)
    assert box.run("cd /; ls -A").output.split() == ["bin", "dev", "etc", "lib", "lib64", "proc", "repo", "tmp", "usr"]
    assert box.run("python3 -c 'import json, sqlite3'; python3 -c 'import pip'").output.endswith("named 'pip'\n")
    assert box.run("X=1; cd /usr").returncode == 0 and box.run("echo $X; pwd").output == "\n/repo\n"


@needs_bubblewrap
def test_the_environment_is_clean_and_listings_are_the_same_every_time(box, monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "abc")
    with Sandbox(SMALL) as other:
        other.write({"main.py": b"print('hello')\n"})
        again = [other.run(command) for command in ("env | sort", "ls -l", "id -u; hostname; cat x")]
    assert "SECRET" not in again[0].output and "Jan  1  1970" in again[1].output
    assert again == [box.run(command) for command in ("env | sort", "ls -l", "id -u; hostname; cat x")]


@needs_bubblewrap
def test_files_of_the_host_cannot_be_read(tmp_path, monkeypatch):
    secret = tmp_path / "secret.txt"
    secret.write_text("42-is-secret")
    monkeypatch.setenv("SECRET_IN_ENVIRONMENT", "43-is-secret")
    host = os.getpid()
    with Sandbox(SMALL) as box:
        result = box.run(f"cat {secret} /etc/passwd /etc/shadow /proc/{host}/environ /proc/[0-9]*/root{secret}; "
                         f"cat /proc/[0-9]*/environ; ls /root /home {tmp_path} {Path(__file__).parent}; "
                         f"find / -maxdepth 2 -name secret.txt; cat /proc/[0-9]*/cwd/{secret.name}")
    assert "HOME=/repo" in result.output  # it did read what it could
    assert not any(text in result.output for text in ("is-secret", "root:x", "test_sandbox.py", "PYTEST"))


@needs_bubblewrap
def test_nothing_outside_the_folder_can_be_written(box, tmp_path):
    packages = [f"{path}/" for path in Path("/usr/lib").glob("python3*/dist-packages")]
    places = ["/", "/usr/", "/usr/bin/", *packages, "/etc/", "/dev/", "/dev/shm/", "/proc/", f"{tmp_path}/"]
    result = box.run("; ".join(f"touch {place}escaped && echo wrote {place}" for place in places))
    assert "wrote" not in result.output
    assert not any(Path(place, "escaped").exists() for place in places)
    assert "yes" not in box.run("unshare -rm mount -t tmpfs none /repo && echo yes; mount -o remount,rw / && echo yes; "
                                "mount -t tmpfs none /repo && echo yes; chroot / true && echo yes").output


@needs_bubblewrap
def test_links_lead_nowhere(box, tmp_path):
    (tmp_path / "secret").write_text("42-is-secret")
    box.run(f"ln -s {tmp_path}/secret link; ln -s {tmp_path} folder; ln -s / root; ln -s ../../.. up; mkfifo pipe; "
            f"ln -s /dev/zero zero; mkdir deep; ln -s . deep/deeper; echo x > folder/new; echo y > deep/own")
    assert box.read() == {"main.py": b"print('hello')\n", "deep/own": b"y\n"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret"]
    assert "secret" not in box.run("cat link folder/secret root/root/secret up/secret").output.replace("/secret", "")


@needs_bubblewrap
def test_there_is_no_network(box):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        result = box.run(f"(exec 3<>/dev/tcp/127.0.0.1/{port}) && echo reached; python3 -c 'import socket; "
                         f"socket.create_connection((\"127.0.0.1\", {port}), 1); print(\"reached\")'; "
                         "tail -n +3 /proc/net/dev | cut -d: -f1")
        with pytest.raises(TimeoutError):
            server.accept()
    assert "reached" not in result.output and result.output.endswith("\n    lo\n")


@needs_bubblewrap
@pytest.mark.parametrize(("command", "seconds"), [
    (":(){ :|:& };:; wait", 8), ("python3 -c 'import os\nwhile True: os.fork()'", 8),
    ("for i in $(seq 100); do sleep 54321 & done; wait", 8)], ids=["bash", "python", "many"])
def test_fork_bombs_end(box, command, seconds):
    start = time.monotonic()
    box.run(command)
    assert time.monotonic() - start < seconds
    assert box.run("echo again").output == "again\n" and gone("sleep 54321")


@needs_bubblewrap
def test_memory_is_limited_for_one_process_and_for_all_together(box):
    one = box.run("python3 -c 'x = bytearray(1 << 30)'")
    assert one.returncode and "MemoryError" in one.output
    hold = "import time; x = bytearray(90 << 20); time.sleep(60)"
    many = box.run(f"while true; do echo; sleep 0.01; done & for i in 1 2 3 4 5; do python3 -c '{hold}' & done; wait")
    assert many.exceeded == "more than 128 MB of memory" and many.returncode == -1


@needs_bubblewrap
def test_memory_of_a_process_whose_first_thread_has_ended_counts(box):
    hold = ("import ctypes, threading, time; x = bytearray(50 << 20); threading.Thread(target=time.sleep, args=[60])."
            "start(); ctypes.CDLL(None).pthread_exit(None)")
    result = box.run(f"for i in 1 2 3 4; do python3 -c '{hold}' & done; wait; sleep 60")
    assert result.exceeded == "more than 128 MB of memory"


@needs_bubblewrap
def test_memory_in_sockets_is_bounded(box):
    # Nobody accepts the connections, and who made them has closed them: no process holds what was sent.
    result = box.run("""python3 -c '
import contextlib, socket, time
server = socket.socket(socket.AF_UNIX); server.bind("x"); server.listen(4000)
for i in range(4000):
    with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(BlockingIOError):
        client.setblocking(False)
        client.connect("x")
        while True:
            client.send(bytes(65536))
time.sleep(60)'""")
    assert result.exceeded == "more than 32 sockets"
    assert box.run("head -1 /proc/net/sockstat").output == "sockets: used 0\n"


@needs_bubblewrap
@pytest.mark.skipif(seccomp.program() is None, reason="the numbers of this machine's system calls are not known")
def test_memory_cannot_hide_from_the_limit(box):
    result = box.run("""python3 -c '
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
for call in (lambda: libc.syscall(600), lambda: libc.memfd_create(b"x", 0),
             lambda: libc.shmget(0, 1 << 20, 0o1600), lambda: libc.unshare(1 << 28),
             lambda: libc.ptrace(16, os.getppid(), 0, 0)):
    print(call(), ctypes.get_errno() == errno.ENOSYS)
'""")
    assert result.output == "-1 True\n" * 5


@needs_bubblewrap
@pytest.mark.skipif(seccomp.program() is None, reason="the numbers of this machine's system calls are not known")
def test_sockets_are_those_between_processes(box):
    result = box.run("""python3 -c '
import socket
import subprocess
for family in range(1, 46):
    for kind in 1, 2, 3, 5:
        try:
            with socket.socket(family, kind) as one:
                print(family)
        except PermissionError:
            pass
        except OSError as error:
            assert error.errno == 97 or family == 1, (family, error)
'""")
    assert set(result.output.split()) == {"1"}


@needs_bubblewrap
def test_disk_is_limited(box):
    full = box.run("cat /dev/zero > a; cat /dev/zero > b; echo end")
    assert "end" in full.output and sum(map(len, box.read().values())) <= SMALL.disk
    box.clear()
    box.write({"main.py": b"print('hello')\n"})
    flood = box.run("for i in $(seq 300); do : > file$i; done; ls | wc -l")
    assert flood.output.endswith("No space left on device\n200\n") and len(box.read()) == SMALL.files
    assert box.run("rm file*; touch again; ls").output == "again\nmain.py\n"


@needs_bubblewrap
@pytest.mark.parametrize("command", ["yes", "cat /dev/zero", "python3 -c 'while True: print(1)' >&2"])
def test_endless_output_is_cut(box, command):
    result = box.run(command)
    assert result.exceeded == "more than 100000 bytes of output" and len(result.output) == 100_000


@needs_bubblewrap
@pytest.mark.parametrize("command", [
    "sleep 54322", "while true; do :; done", "trap '' TERM INT HUP; sleep 54322", "cat", "kill -STOP $$",
    "exec >&-; exec 2>&-; sleep 54322"])
def test_what_never_ends_is_ended(box, command):
    start = time.monotonic()
    result = box.run(command, 0.3)
    assert time.monotonic() - start < 3 and gone("sleep 54322")
    assert result.exceeded == "timed out after 0.3 seconds" or command == "cat"  # its input is empty


@needs_bubblewrap
def test_background_processes_do_not_outlive_their_command(box):
    result = box.run("""
        sleep 54323 & setsid nohup sleep 54323 &
        (setsid bash -c 'sleep 54323 & disown; sleep 54323' &)
        python3 -c 'import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "54323"])'
        echo done""")
    assert "done" in result.output and not result.exceeded
    assert gone("sleep 54323") and "sleep" not in box.run("cat /proc/[0-9]*/comm").output


@needs_bubblewrap
@pytest.mark.parametrize("command", ["kill -9 -1; sleep 54324", "kill -STOP $PPID; sleep 54324", "kill -9 $PPID",
                                     "kill -STOP -1; kill -9 -1", "kill -STOP 1; kill -9 1; echo -5 > /proc/1/fd/1"])
def test_a_command_reaches_nothing_but_its_own_processes(box, command):
    supervisor = box._process.pid
    box.run("echo changed > other.txt")
    result = box.run(command, 1)
    assert result.returncode == -1 or not result.exceeded
    assert gone("sleep 54324")
    assert box.run("cat other.txt").output == "changed\n" and box._process.pid == supervisor


@needs_bubblewrap
def test_the_supervisor_and_other_commands_are_out_of_sight(box):
    box.run("setsid sleep 54328 &")
    result = box.run("echo $$; cat /proc/[0-9]*/comm; grep -h -e CapEff -e NoNewPrivs /proc/self/status; "
                     "cat /proc/sys/user/max_user_namespaces; "
                     "python3 -c 'import os; print(*sorted(os.listdir(f\"/proc/{os.getppid()}/fd\")))'; true")
    assert result.output.split()[:4] == ["2", "bwrap", "bash", "CapEff:"]
    assert result.output.split()[4:] == ["0000000000000000", "NoNewPrivs:", "1", "0", "0", "1", "2"]
    # pidfd_open works on what is there; pidfd_getfd, and writing to the memory of what started the command, do not.
    assert box.run("""python3 -c '
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
for process in 1, 2:
    print(libc.syscall(438, os.pidfd_open(process), 1, 0), errno.errorcode[ctypes.get_errno()])
for process in 3, 4, 5, 20, 300:
    try:
        os.kill(process, 0)
        print(process, open(f"/proc/{process}/comm").read() == "python3\\n")
    except ProcessLookupError:
        pass
'""").output.replace("3 True\n", "").replace("4 True\n", "") == "-1 ENOSYS\n" * 2


@needs_bubblewrap
def test_what_has_ended_starts_anew(box):
    box.run("echo changed > other.txt")
    kill(box)
    assert box.read() == {"main.py": b"print('hello')\n"}
    assert "starts anew with its first files" in box.run("true").exceeded
    assert box.run("ls").output == "main.py\n"
    kill(box)
    box.clear()
    assert box.run("ls").output == ""
    box.write({"main.py": b"print('hello')\n"})


@needs_bubblewrap
@pytest.mark.parametrize("stopped", [signal.SIGSTOP, signal.SIGKILL])
def test_one_that_does_not_answer_is_given_up_in_time(stopped, monkeypatch):
    monkeypatch.setattr("length_gen.tools.sandbox.sandbox._ANSWER", 0.5)
    monkeypatch.setattr("length_gen.tools.sandbox.sandbox._GRACE", 0.5)
    with Sandbox(SMALL) as box:
        box.run("true")
        for pid in children(box._process.pid):
            with contextlib.suppress(ProcessLookupError):  # the first one's end is the others'
                os.kill(int(pid), stopped)
        start = time.monotonic()
        with pytest.raises(SandboxError, match="does not answer"):
            box.write({"large": bytes(3 << 20)})  # more than a pipe holds
        assert time.monotonic() - start < 3
        assert box.run("echo again").exceeded and box.run("echo again").output == "again\n"


@needs_bubblewrap
@pytest.mark.parametrize("answer", ["9" * 100_000, "-5\n", "x y\n", "99999999999\n" + "x" * 1000, "1\n", "\n" * 5000])
def test_whatever_a_supervisor_says_is_no_more_than_an_error(answer, monkeypatch):
    monkeypatch.setattr("length_gen.tools.sandbox.sandbox._ANSWER", 0.3)
    with Sandbox(SMALL) as box:
        monkeypatch.setattr("length_gen.tools.sandbox.sandbox._LOADER",
                            f"import os, time; os.write(1, {answer!r}.encode()); "
                            "os.read(0, 1); time.sleep(9) # {size}")
        box._start()
        with pytest.raises(SandboxError):
            box._ask("read")


@needs_bubblewrap
@pytest.mark.parametrize("left", [
    "dd if=/dev/zero of=full bs=1M; touch another", "mkdir shut; echo x > shut/x; chmod 0 shut main.py; chmod 0 .",
    "python3 -c 'import os\nfor i in range(1500): os.mkdir(\"d\"); os.chdir(\"d\")'",
    "for i in $(seq 150); do ln main.py link$i; done", "python3 -c 'open(b\"\\xff\\n\\xfe.py\", \"w\").write(\"x\")'",
    "mkfifo pipe; ln -s pipe p; ln -s /dev/zero zero; ln -s . loop; mkdir -p a/b; ln -s ../.. a/b/c; rm main.py"])
def test_whatever_a_command_leaves_is_gone_after_clear(box, left):
    box.run(left)
    files = box.read()
    assert sum(map(len, files.values())) <= SMALL.disk and all(len(name) < 5000 for name in files)
    assert not left.startswith("python3 -c 'open") or files.pop("\udcff\n\udcfe.py") == b"x"
    box.clear()
    assert box.run("ls -A").output == "" and box.read() == {}
    box.write(files)
    assert box.read() == files
    box.clear()
    box.write({"main.py": b"print('hello')\n"})


@needs_bubblewrap
@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "x" * 300, "a" * 200 + "/main.py/b\0c"])
def test_names_that_are_no_path_inside_the_folder(box, name):
    with pytest.raises(SandboxError):
        box.write({name: b""})


@needs_bubblewrap
def test_files_that_do_not_fit(box):
    with pytest.raises(SandboxError, match="No space left on device"):
        box.write({"large": bytes(SMALL.disk + 1)})
    box.clear()
    box.write({"main.py": b"print('hello')\n"})


@needs_bubblewrap
def test_commands_that_are_no_text(box):
    assert box.run("echo \0").returncode == 126
    assert box.run("x" * 200_000).output == "bash: argument list too long\n"
    assert box.run("\x01\x02\udcff\ufffd").returncode == 127
    assert box.run("printf '\\xff\\xfe'").output == "\ufffd\ufffd"


@needs_bubblewrap
def test_processor_time_is_counted(box):
    before = box.cpu_seconds()
    box.run("python3 -c 'import time\nwhile time.process_time() < 0.3: pass'")
    assert 0.3 <= box.cpu_seconds() - before < 1


@needs_bubblewrap
def test_a_thread_has_a_sandbox_of_its_own_that_ends_with_it():
    found = []
    for _ in range(2):  # the second thread may get the number of the first
        thread = threading.Thread(target=lambda: found.append(
            (box := of_thread("test", SMALL, False), box._process.pid, box.run("echo alive").output,
             of_thread("test", SMALL, False) is box)))
        thread.start()
        thread.join()
    assert [rest for _, _, *rest in found] == [["alive\n", True]] * 2 and found[0][0] is not found[1][0]
    pids = [pid for _, pid, *_ in found]
    found.clear()
    gc.collect()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@needs_bubblewrap
def test_closing_leaves_no_process():
    box = Sandbox(Limits(disk=(16 << 20) + 54326))
    box.write({"a": b"b"})
    pid = box._process.pid
    box.close()
    box.close()
    assert not Path(f"/proc/{pid}").exists()
    assert gone(f"{box.limits.memory} {box.limits.processes} {box.limits.disk}")


def test_without_bubblewrap_there_is_a_refusal(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    check_bubblewrap.cache_clear()
    with pytest.raises(UserError, match=r"no bubblewrap.*apt-get install bubblewrap"):
        Sandbox()
    check_bubblewrap.cache_clear()


@pytest.mark.parametrize(("said", "words"), [
    ("bwrap: setting up uid map: Permission denied", "AppArmor .*kernel.apparmor_restrict_unprivileged_userns=0.*"
     "container.*seccomp=unconfined"),
    ("bwrap: No permissions to create a new namespace, likely because", "AppArmor.*container"),
    ("bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted", "AppArmor.*container"),
    ("bwrap: Can't mount proc on /newroot/proc: Operation not permitted", "systempaths=unconfined"),
    ("bwrap: Unknown option --cap-add", "apt-get install bubblewrap, 0.8 or newer"),
    ("bwrap: execvp python3: Permission denied", "apt-get install bubblewrap, 0.8 or newer")])
def test_where_bubblewrap_may_not_work_the_ways_out_are_told(said, words, monkeypatch, tmp_path):
    (tmp_path / "bwrap").write_text(f'#!/bin/sh\necho "{said}" >&2\nexit 1\n')
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("length_gen.tools.sandbox.bubblewrap._identity", dict)  # nobody may not look into this folder
    for cached in (check_bubblewrap, bubblewrap.outer, bubblewrap.inner, bubblewrap._bwrap):
        cached.cache_clear()
    with pytest.raises(UserError, match=f"cannot make a sandbox here.*{words}.*--data.task.unsandboxed true"):
        Sandbox()
    for cached in (check_bubblewrap, bubblewrap.outer, bubblewrap.inner, bubblewrap._bwrap):
        cached.cache_clear()


def test_commands_are_never_roots(monkeypatch, tmp_path):
    """Root's user id alone opens /proc/sys/kernel/core_pattern for writing."""
    (tmp_path / "python3").touch(0o755)
    tmp_path.chmod(0o700)
    monkeypatch.setattr(bubblewrap, "python", lambda: str(tmp_path / "python3"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    bubblewrap._identity.cache_clear()
    with pytest.raises(UserError, match=r"only root can run .*python3.*apt-get install python3"):
        bubblewrap._identity()
    bubblewrap._identity.cache_clear()


@needs_bubblewrap
def test_what_killed_processes_have_left_is_removed():
    if (parent := cgroup._parent()) is None:
        pytest.skip("no cgroup can be made here")
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = parent / f"sandbox-{dead.pid}-0"
    left.mkdir()
    Sandbox(SMALL).close()
    assert not left.exists()


def test_unsandboxed_says_the_same_of_the_same_commands():
    with Sandbox(SMALL, unsandboxed=True) as plain:
        folder = plain._folder
        plain.write({"main.py": b"import sys\nprint(sys.path[0])\nx\n", "a/b": b"1"})
        result = plain.run("python3 main.py; pwd; ls; sleep 54325 & sleep 54325")
        assert result.exceeded == "timed out after 2 seconds" and gone("sleep 54325")
        assert result.output.startswith("/repo\nTraceback") or "File \"/repo/main.py\"" in result.output
        assert folder not in result.output and plain.read()["a/b"] == b"1"
        assert len(plain.run("yes").output) == 100_000
    assert not Path(folder).exists()
