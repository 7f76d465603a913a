"""A filter of system calls for the sandbox: none that holds memory outside files and processes, or reaches into others.

A classic BPF program, as bubblewrap's `--seccomp` takes it; blocked calls fail as if the system did not have them.
"""

import platform
import struct

_BLOCKED = {
    # name: number on x86_64, number on aarch64
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "msgget": (68, 186),
    "semget": (64, 190), "mq_open": (240, 180), "io_uring_setup": (425, 425), "add_key": (248, 217),
    "request_key": (249, 218), "keyctl": (250, 219), "userfaultfd": (323, 282), "bpf": (321, 280),
    "perf_event_open": (298, 241), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40),
    "umount2": (166, 39), "pivot_root": (155, 41), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsmount": (432, 432), "mount_setattr": (442, 442),
}
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _NO_SUCH_CALL = 0x7FFF0000, 0x00050000 | 38
_NUMBER, _ARCHITECTURE = 0, 4
_FOREIGN = 0x40000000
"""Numbers from here on are calls of another kind (x32), which would go round the list."""


def program() -> bytes | None:
    """The filter for this machine; None where the numbers of the calls are not known."""
    if (architecture := _ARCHITECTURES.get(platform.machine())) is None:
        return None
    column, code = architecture
    numbers = [row[column] for row in _BLOCKED.values()]
    steps = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, code), (_RETURN, 0, 0, _NO_SUCH_CALL),
             (_LOAD, 0, 0, _NUMBER), (_AT_LEAST, len(numbers) + 1, 0, _FOREIGN)]
    # A jump skips so many steps: from each comparison to the last step, which refuses.
    steps += [(_EQUAL, len(numbers) - i, 0, number) for i, number in enumerate(numbers)]
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _NO_SUCH_CALL)]
    return b"".join(struct.pack("HBBI", *step) for step in steps)
