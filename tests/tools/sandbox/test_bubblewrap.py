"""What a command sees and reaches of the host, by real attempts; what is told where bubblewrap may not work."""

import os
import socket
from pathlib import Path

import pytest

from length_gen.tools import UserError
from length_gen.tools.sandbox import Sandbox, bubblewrap, check_bubblewrap
from tests.agents import needs_bubblewrap
from tests.tools.sandbox.boxes import SMALL


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
    assert not any(text in result.output for text in ("is-secret", "root:x", Path(__file__).name, "PYTEST"))


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
