"""System calls that a command is refused."""

import pytest

from length_gen.tools.sandbox import seccomp
from tests.agents import needs_bubblewrap


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
