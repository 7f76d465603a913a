"""Supervisors that a command has taken over, if one could, and that turn on the host."""

import contextlib
import functools
import os
import select
from collections.abc import Callable
from contextlib import AbstractContextManager
from unittest.mock import patch

from benchmarks.attackers.trial import HOST_MEMORY, SMALL, Attack, Stage, weaker
from length_gen.tools.sandbox import Sandbox, SandboxError
from length_gen.tools.sandbox import sandbox as host


def taken_over(name: str, code: str, off: Callable[[], AbstractContextManager], size: int = 0) -> Attack:
    """A supervisor that a command has taken over, if one could, and that now turns on the host."""
    supervisor = {"\nif __name__ ==": f"\n{code}\nif __name__ =="}

    def attempt(stage: Stage) -> str:
        with weaker(supervisor), patch.object(host, "_ANSWER", 1.0), patch.object(host, "_GRACE", 1.0), \
                contextlib.suppress(SandboxError), contextlib.closing(Sandbox(SMALL)) as box:
            box.write({"file": bytes(size)})
            box.run("true", 1)
        return ""

    return Attack("a supervisor taken over", name, attempt, off, 12)


def endless(pipe: int, event: int, deadline: float) -> None:
    """As `_wait`, without a deadline."""
    poll = select.poll()
    poll.register(pipe, event)
    poll.poll()


def take_all(box: Sandbox, deadline: float) -> list[bytes]:
    """As `_receive`, without a bound."""
    data = bytearray()
    while len(data) < 2 * HOST_MEMORY:
        data += os.read(box._process.stdout.fileno(), 1 << 20)
    raise ValueError(len(data))


patient = functools.partial(patch.object, host, "_wait", endless)
SUPERVISORS = [
    taken_over("never reads", "time.sleep(99)", patient, 1 << 20),
    taken_over("answers a byte at a time", "while True: time.sleep(0.2); os.write(1, b'1')", patient),
    taken_over("answers without end", "while True: os.write(1, b'1 ' * 65536)",
               functools.partial(patch.object, Sandbox, "_receive", take_all)),
]
