"""Ends a process of a run over several where another one has died: it would wait for that one, or compute in vain."""

import multiprocessing
import os
import secrets
import selectors
import socket
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

LINE = "another process of this run has ended, see its message"

GRACE, LONGEST_GRACE = 1.0, 10.0
"""Seconds in which this process may end by an error of its own; and where it is about to."""

PATIENCE = 30.0
"""Seconds in which the processes connect."""

LEFT = b"."
"""What a process says that needs the others no longer."""


class Peers(Callback):
    """Every process of a run holds a connection to the first one, which the system closes when it dies, however that
    happens. The others then end with one line and exit code 2, whatever they do: gloo tells only who waits in a
    collective operation, and NCCL nobody, for minutes.
    """

    def __init__(self) -> None:
        self._connections: list[socket.socket] = []
        self._leaving = self._failing = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Connect; on all ranks."""
        if trainer.world_size == 1:
            return
        self._leaving = self._failing = False
        here = trainer.num_nodes == 1
        server = socket.create_server(("127.0.0.1" if here else "", 0)) if trainer.is_global_zero else None
        key, port = trainer.strategy.broadcast((secrets.token_bytes(16), server.getsockname()[1] if server else 0))
        if server:
            with server:
                self._connections = _accepted(server, key, trainer.world_size - 1)
        else:
            address = "127.0.0.1" if here else trainer.strategy.cluster_environment.main_address
            try:
                connection = socket.create_connection((address, port), PATIENCE)
                connection.sendall(key)
            except OSError as error:
                warnings.warn(f"the death of another process will not be noticed: {address} port {port} cannot be "
                              f"reached ({error})", stacklevel=2)
                return
            self._connections = [connection]
        for connection in self._connections:
            connection.settimeout(None)
        os.register_at_fork(after_in_child=self._close)  # a worker that outlives this process would keep them open
        threading.Thread(target=self._watch, args=(list(self._connections),), name="peers", daemon=True).start()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave: the others may go on."""
        self._leaving = True
        for connection in self._connections:
            with suppress(OSError):  # it has left too
                connection.sendall(LEFT)
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give this process the time to tell its own error."""
        self._failing = True

    def _close(self) -> None:
        for connection in self._connections:
            connection.close()
        self._connections = []

    def _watch(self, connections: Sequence[socket.socket]) -> None:
        with selectors.DefaultSelector() as selector:
            for connection in connections:
                selector.register(connection, selectors.EVENT_READ)
            while not self._leaving and selector.get_map():
                for ready, _ in selector.select(timeout=1.0):
                    try:
                        said = ready.fileobj.recv(1)
                    except OSError:
                        said = b""
                    selector.unregister(ready.fileobj)
                    if said != LEFT and not self._leaving:
                        self._end(connections)

    def _end(self, connections: Sequence[socket.socket]) -> None:
        for connection in connections:  # tell the others at once
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        since = time.monotonic()
        while time.monotonic() - since < (LONGEST_GRACE if self._failing else GRACE):
            time.sleep(0.1)
            if self._leaving:
                return
        print(f"error: {LINE}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(2)


def _accepted(server: socket.socket, key: bytes, count: int) -> list[socket.socket]:
    """So many connections of who knows the key; fewer where the others do not come in time."""
    found, deadline = [], time.monotonic() + PATIENCE
    while len(found) < count and (left := deadline - time.monotonic()) > 0:
        server.settimeout(left)
        with suppress(OSError):
            connection, _ = server.accept()
            connection.settimeout(5.0)
            if secrets.compare_digest(connection.recv(len(key), socket.MSG_WAITALL), key):
                found.append(connection)
            else:
                connection.close()
    return found
