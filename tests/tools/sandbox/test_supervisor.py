"""What a command may use, and what becomes of one that uses more or does not end. The attempts are real."""


import pytest

from tests.agents import needs_bubblewrap
from tests.tools.sandbox.boxes import SMALL, gone


@needs_bubblewrap
@pytest.mark.parametrize("command", [
    ":(){ :|:& };:; wait", "python3 -c 'import os\nwhile True: os.fork()'",
    "for i in $(seq 100); do sleep 54321 & done; wait"], ids=["bash", "python", "many"])
def test_fork_bombs_end(box, command):
    result = box.run(command, 1)
    assert "Resource temporarily unavailable" in result.output or result.exceeded
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
    result = box.run(command, 0.3)
    assert gone("sleep 54322")
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
def test_processor_time_is_counted(box):
    before = box.cpu_seconds()
    used = float(box.run("""python3 -c 'from time import process_time
while process_time() < 0.3: pass
print(process_time())'""").output)
    assert 0.3 <= used <= box.cpu_seconds() - before < 2 * used  # counted once
