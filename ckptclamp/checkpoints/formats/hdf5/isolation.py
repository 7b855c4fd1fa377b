"""The sandbox of a process that reads untrusted bytes: it keeps its open files, and gets no more.

Each wall is raised where the kernel has it, without privileges, and stays up until the process ends:

- ``rlimits``: no new descriptors, no larger files, no core dump, a limit on memory;
- ``no-new-privileges``: no program that it runs can gain rights;
- ``landlock``: no path can be opened, no port reached, no other process signalled;
- ``seccomp``: no system call but those that reading, writing and ending take.

Everything must be imported before: afterwards no module can be opened.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    import resource
except ImportError:  # no POSIX system
    resource = None  # type: ignore[assignment]

SANDBOX_LAYERS = ("no-new-privileges", "landlock", "rlimits", "seccomp")
"""All of them, in the order in which they are raised."""

_PR_SET_PDEATHSIG = 1
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SIGKILL = 9

_SYS_LANDLOCK_CREATE_RULESET = 444
_SYS_LANDLOCK_RESTRICT_SELF = 446
_LANDLOCK_VERSION_FLAG = 1
_LANDLOCK_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""How many file rights each version of the interface knows; from 5 on there are 16."""

_SECCOMP_MODE_FILTER = 2
_SECCOMP_ALLOW = 0x7FFF0000
_SECCOMP_ERRNO_ENOSYS = 0x00050026
_SECCOMP_KILL_PROCESS = 0x80000000
_AUDIT_ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_SYSTEM_CALLS = {
    # name: (x86_64, aarch64)
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "readv": (19, 65),
    "writev": (20, 66),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "getpid": (39, 172),
    "exit": (60, 93),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "ftruncate": (77, 46),
    "getrusage": (98, 165),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "futex": (202, 98),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "preadv": (295, 69),
    "pwritev": (296, 70),
    "getrandom": (318, 278),
    "preadv2": (327, 286),
    "pwritev2": (328, 287),
    "rseq": (334, 293),
}


def lock_down(*, memory: int, file_size: int) -> list[str]:
    """Enter every layer of the sandbox that this system has, and return their names.

    `memory` is how many bytes of address space the process may take beyond what it has now;
    `file_size` how many bytes long a file that it writes may get.
    """
    address_space = _address_space() + memory
    layers: tuple[Callable[[], bool], ...] = (
        _forbid_new_privileges,
        _restrict_with_landlock,
        lambda: _set_limits(address_space, file_size),
        _restrict_with_seccomp,
    )
    return [name for name, enter_layer in zip(SANDBOX_LAYERS, layers, strict=True) if enter_layer()]


def _forbid_new_privileges() -> bool:
    if sys.platform != "linux":
        return False
    _prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    return _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _set_limits(address_space: int, file_size: int) -> bool:
    if resource is None:
        return False
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: file_size,
        resource.RLIMIT_NOFILE: 0,
        resource.RLIMIT_AS: address_space,
    }
    held = [_set_limit(limit, value) for limit, value in limits.items()]
    return all(held)


def _set_limit(limit: int, value: int) -> bool:
    hard = resource.getrlimit(limit)[1]
    ceiling = value if hard == resource.RLIM_INFINITY else min(value, hard)
    try:
        resource.setrlimit(limit, (ceiling, ceiling))
    except (OSError, ValueError):
        return False
    return True


def _address_space() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):
        return 4 << 30  # no /proc: what an interpreter with NumPy takes, generously
    return pages * os.sysconf("SC_PAGE_SIZE")


def _restrict_with_landlock() -> bool:
    """Handle every right that the kernel knows, and allow none of them anywhere."""
    if sys.platform != "linux":
        return False
    version = _syscall(_SYS_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION_FLAG)
    if version < 1:
        return False
    file_rights = (1 << _LANDLOCK_FILE_RIGHTS.get(version, 16)) - 1
    attributes = struct.pack("=Q", file_rights)
    if version >= 4:
        attributes += struct.pack("=Q", 0b11)  # TCP: bind, connect
    if version >= 6:
        attributes += struct.pack("=Q", 0b11)  # scope: abstract sockets, signals
    ruleset = _syscall(_SYS_LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return False
    try:
        return _syscall(_SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0
    finally:
        os.close(ruleset)


def _restrict_with_seccomp() -> bool:
    machine = os.uname().machine if sys.platform == "linux" else ""
    if machine not in _AUDIT_ARCHES or sys.maxsize < 1 << 32:
        return False
    program = ctypes.create_string_buffer(_filter_program(machine))
    count = (len(program) - 1) // 8
    header = struct.pack("@HP", count, ctypes.addressof(program))
    return _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header)


def _filter_program(machine: str) -> bytes:
    """Assemble the filter: this architecture only, these calls only; for others there is no such call."""
    column = list(_AUDIT_ARCHES).index(machine)
    numbers = sorted(call[column] for call in _SYSTEM_CALLS.values())
    load, equal, ret = 0x20, 0x15, 0x06
    instructions = [
        (load, 0, 0, 4),  # seccomp_data.arch
        (equal, 1, 0, _AUDIT_ARCHES[machine]),
        (ret, 0, 0, _SECCOMP_KILL_PROCESS),
        (load, 0, 0, 0),  # seccomp_data.nr; numbers of the x32 interface equal none of ours
        *((equal, len(numbers) - index, 0, nr) for index, nr in enumerate(numbers)),
        (ret, 0, 0, _SECCOMP_ERRNO_ENOSYS),
        (ret, 0, 0, _SECCOMP_ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


def _prctl(option: int, *arguments: int | bytes) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    wide = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments]
    padding = [ctypes.c_ulong(0)] * (4 - len(wide))
    return bool(libc.prctl(option, *wide, *padding) == 0)


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return int(libc.syscall(ctypes.c_long(number), *wide))
