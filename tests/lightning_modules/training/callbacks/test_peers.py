"""Processes of a run that notice each other's end; whole commands are killed in commands/test_distributed.py."""

import os
import signal
import socket
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from benchmarks.processes import from_imported
from length_gen.lightning_modules.training.callbacks import peers
from length_gen.lightning_modules.training.callbacks.peers import LINE, Peers, _accepted


def trainer(rank, world, pipes):
    """What the callback asks of one; rank 0 sends what it broadcasts through the pipes."""
    def broadcast(value):
        for pipe in pipes if rank == 0 else ():
            pipe.send(value)
        return value if rank == 0 else pipes[0].recv()

    return SimpleNamespace(world_size=world, num_nodes=1, is_global_zero=rank == 0,
                           strategy=SimpleNamespace(broadcast=broadcast))


def process(rank, world, pipes, told, does):
    """A rank that connects, says so and `does`: leaves at once, works until it is ended, dies, or is about to fail."""
    sys.stderr = open(told.replace("RANK", str(rank)), "w", buffering=1)  # noqa: SIM115
    given, own = trainer(rank, world, pipes), Peers()
    own.setup(given, None, "fit")
    if does == "fails":
        own.on_exception(given, None, ValueError())
    print("connected", file=sys.stderr)
    if does == "fails":
        time.sleep(2)  # longer than another one would have
        print("my own error", file=sys.stderr)
        os._exit(3)
    if does != "leaves":
        time.sleep(60)
    own.teardown(given, None, "fit")
    os._exit(0)


def ranks(tmp_path, *does):
    """Processes of which each does something, and what each has written so far."""
    context = from_imported()
    ends = [context.Pipe() for _ in does[1:]]
    pipes = [[end[0] for end in ends], *([end[1]] for end in ends)]
    started = [context.Process(target=process, args=(rank, len(does), pipes[rank], str(tmp_path / "RANK"), what))
               for rank, what in enumerate(does)]
    for each in started:
        each.start()

    def said(rank):
        path = tmp_path / str(rank)
        return path.read_text() if path.exists() else ""

    deadline = time.monotonic() + 200
    while not all("connected" in said(rank) for rank in range(len(does))):
        assert time.monotonic() < deadline, list(map(said, range(len(does))))
        time.sleep(0.02)
    return started, said


@pytest.mark.slow
@pytest.mark.parametrize("dies", [0, 2])
def test_where_one_dies_all_others_end_with_one_line(tmp_path, dies):
    started, said = ranks(tmp_path, "works", "works", "works")
    os.kill(started[dies].pid, signal.SIGKILL)
    for rank, each in enumerate(started):
        each.join(20)
        assert each.exitcode == (-signal.SIGKILL if rank == dies else 2)
        assert said(rank).count(f"error: {LINE}") == (rank != dies)


@pytest.mark.slow
def test_one_that_leaves_ends_nobody(tmp_path):
    started, said = ranks(tmp_path, "works", "leaves", "works")
    started[1].join(20)
    assert started[1].exitcode == 0
    time.sleep(peers.GRACE + 1)
    assert started[0].is_alive() and started[2].is_alive() and LINE not in said(0) + said(2)
    os.kill(started[2].pid, signal.SIGKILL)
    started[0].join(20)
    assert started[0].exitcode == 2 and LINE in said(0)


@pytest.mark.slow
def test_one_that_is_about_to_fail_tells_its_own_error(tmp_path):
    started, said = ranks(tmp_path, "works", "fails")
    os.kill(started[0].pid, signal.SIGKILL)
    started[1].join(20)
    assert started[1].exitcode == 3 and "my own error" in said(1) and LINE not in said(1)


def test_strangers_are_no_peers(monkeypatch):
    monkeypatch.setattr(peers, "PATIENCE", 5.0)
    server = socket.create_server(("127.0.0.1", 0))
    address = server.getsockname()

    def call():
        for text in (b"not the key at all", b"key"):
            with socket.create_connection(address) as stranger:
                stranger.sendall(text)
        friend = socket.create_connection(address)
        friend.sendall(b"the key's 16 B..")
        kept.append(friend)

    kept = []
    calling = threading.Thread(target=call)
    calling.start()
    found = _accepted(server, b"the key's 16 B..", 1)
    calling.join()  # it may be accepted before it is kept
    assert [connection.getpeername() for connection in found] == [friend.getsockname() for friend in kept]
    for opened in (server, *found, *kept):
        opened.close()


def test_one_process_alone_connects_to_nobody():
    own = Peers()
    own.setup(SimpleNamespace(world_size=1), None, "fit")
    own.teardown(None, None, "fit")
    assert threading.current_thread() is threading.main_thread() and not own._connections
