"""What a command may do in the sandbox, and what it tries in vain. The escapes are really tried."""

import contextlib
import gc
import os
import signal
import threading
from pathlib import Path

import pytest

from length_gen.tools.sandbox import Limits, Sandbox, SandboxError, of_thread
from tests.agents import needs_bubblewrap
from tests.tools.sandbox.boxes import SMALL, children, gone, kill


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
        with pytest.raises(SandboxError, match="does not answer"):
            box.write({"large": bytes(3 << 20)})  # more than a pipe holds
        monkeypatch.undo()
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


def test_unsandboxed_says_the_same_of_the_same_commands():
    with Sandbox(SMALL, unsandboxed=True) as plain:
        folder = plain._folder
        plain.write({"main.py": b"import sys\nprint(sys.path[0])\nx\n", "a/b": b"1"})
        result = plain.run("python3 main.py; pwd; ls; sleep 54325 & sleep 54325", 2)
        assert result.exceeded == "timed out after 2 seconds" and gone("sleep 54325")
        assert result.output.startswith("/repo\nTraceback") or "File \"/repo/main.py\"" in result.output
        assert folder not in result.output and plain.read()["a/b"] == b"1"
        assert len(plain.run("yes").output) == 100_000
    assert not Path(folder).exists()
