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
from contextlib import suppress

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

LINE = "another process of this run has ended, see its message"

GRACE, LONGEST_GRACE = 1.0, 10.0
"""Seconds in which this process may end by an error of its own; and where it is about to."""

LEFT = b"."
"""What a process says that needs the others no longer."""


class Peers(Callback):
    """Every process of a run holds a connection to the first one, which the system closes when it dies, however that
    happens. The others then end with one line and exit code 2, whatever they do: gloo tells only who waits in a
    collective operation, and NCCL nobody, for minutes.
    """

    def __init__(self) -> None:
        self._connections: list[socket.socket] = []
        self._server: socket.socket | None = None
        self._leaving = self._failing = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Connect; on all ranks."""
        if trainer.world_size == 1:
            return
        self._leaving = self._failing = False
        self._connections, self._server = [], socket.create_server(("", 0)) if trainer.is_global_zero else None
        port = self._server.getsockname()[1] if self._server else 0
        key, port = trainer.strategy.broadcast((secrets.token_bytes(16), port))
        if self._server is None:
            address = trainer.strategy.cluster_environment.main_address
            try:
                connection = socket.create_connection((address, port), timeout=30)
                connection.settimeout(None)
                connection.sendall(key)
            except OSError as error:
                warnings.warn(f"the death of another process will not be noticed: {address} port {port} cannot be "
                              f"reached ({error})", stacklevel=2)
                return
            self._connections.append(connection)
        os.register_at_fork(after_in_child=self._close)  # a worker that outlives this process would keep them open
        threading.Thread(target=self._watch, args=(key,), name="peers", daemon=True).start()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave: the others may go on."""
        self._leaving = True
        for connection in self._connections:
            with suppress(OSError):  # it has left too
                connection.sendall(LEFT)
        self._close()

    def _close(self) -> None:
        for opened in filter(None, (self._server, *self._connections)):
            opened.close()
        self._connections = []

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give this process the time to tell its own error."""
        self._failing = True

    def _watch(self, key: bytes) -> None:
        with selectors.DefaultSelector() as selector:
            for source in (self._server, *self._connections):
                if source:
                    selector.register(source, selectors.EVENT_READ)
            while not self._leaving and selector.get_map():
                for ready, _ in selector.select(timeout=1.0):
                    if ready.fileobj is self._server:
                        if connection := self._accepted(key):
                            selector.register(connection, selectors.EVENT_READ)
                    else:
                        said = self._read(ready.fileobj)
                        selector.unregister(ready.fileobj)
                        if said != LEFT and not self._leaving:
                            self._end()

    def _accepted(self, key: bytes) -> socket.socket | None:
        """The next connection, if it is of a process of this run."""
        try:
            connection, _ = self._server.accept()
            connection.settimeout(5.0)
            said = connection.recv(len(key), socket.MSG_WAITALL)
        except OSError:
            return None
        if not secrets.compare_digest(said, key):
            connection.close()
            return None
        self._connections.append(connection)
        return connection

    def _read(self, connection: socket.socket) -> bytes:
        try:
            return connection.recv(1)
        except OSError:
            return b""

    def _end(self) -> None:
        for connection in self._connections:  # tell the others at once
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
