"""A filter of system calls for commands: none that holds memory outside files and processes, reaches into others, or
administers the system; no sockets but those between processes.

A classic BPF program, as bubblewrap's `--seccomp` takes it; blocked calls fail as if the system did not have them.
"""

import errno
import platform
import struct

_BLOCKED = {
    # name: number on x86_64, number on aarch64 (-1: it has none)
    # memory that belongs to no process
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "msgget": (68, 186),
    "semget": (64, 190), "mq_open": (240, 180), "io_setup": (206, 0), "vmsplice": (278, 75),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "inotify_init": (253, -1), "inotify_init1": (294, 26),
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "kcmp": (312, 272), "move_pages": (279, 239),
    "migrate_pages": (256, 238), "userfaultfd": (323, 282), "bpf": (321, 280), "perf_event_open": (298, 241),
    # namespaces, mounts, files by number
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "landlock_create_ruleset": (444, 444), "landlock_add_rule": (445, 445), "landlock_restrict_self": (446, 446),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "fanotify_init": (300, 262),
    "quotactl": (179, 60), "quotactl_fd": (443, 443),
    # the system
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "acct": (163, 89), "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266),
    "adjtimex": (159, 171), "syslog": (103, 116), "iopl": (172, -1), "ioperm": (173, -1), "modify_ldt": (154, -1),
    "uselib": (134, -1), "lookup_dcookie": (212, 18), "vhangup": (153, 58), "sethostname": (170, 161),
    "setdomainname": (171, 162), "set_mempolicy": (238, 237), "mbind": (237, 235), "personality": (135, 92),
}
_SOCKET = {"socket": (41, 198), "socketpair": (53, 199)}
_FAMILIES = (1,)
"""AF_UNIX. Others reach past the network namespace (AF_VSOCK) or into the kernel (AF_NETLINK); those of the internet
reach nothing here, and what they have sent stays in memory for minutes after all their processes have ended."""

_NEWEST = 462
"""Calls after this one are not known here; so are those of another kind (x32), which have large numbers."""

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16


def program() -> bytes | None:
    """The filter for this machine; None where the numbers of the calls are not known."""
    if (architecture := _ARCHITECTURES.get(platform.machine())) is None:
        return None
    column, code = architecture
    refused = [row[column] for row in _BLOCKED.values() if row[column] >= 0]
    sockets = [row[column] for row in _SOCKET.values()]
    tests = [(_AT_LEAST, _NEWEST + 1, "no call"), *((_EQUAL, number, "no call") for number in refused),
             *((_EQUAL, number, "socket") for number in sockets)]
    # Below the tests stand: allow, no call, socket (load the family, compare it), no family. A jump skips steps.
    ends = {"no call": 1, "socket": 2}
    steps = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, code), (_RETURN, 0, 0, _FAIL | errno.ENOSYS),
             (_LOAD, 0, 0, _NUMBER)]
    steps += [(kind, len(tests) - 1 - i + ends[end], 0, number) for i, (kind, number, end) in enumerate(tests)]
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _FAIL | errno.ENOSYS), (_LOAD, 0, 0, _FIRST_ARGUMENT)]
    steps += [(_EQUAL, len(_FAMILIES) - i, 0, family) for i, family in enumerate(_FAMILIES)]
    steps += [(_RETURN, 0, 0, _FAIL | errno.EAFNOSUPPORT), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("HBBI", *step) for step in steps)
