"""What operating systems do each in their own way: one function for each, with what else can serve.

A call is looked for by its name when it is needed, never at import: so each can be hidden from a test,
one by one and all together (`tests/system`). Where nothing else can serve, the function says so in its
answer, and whoever called it says what is missing.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

DESCRIPTORS = "/proc/self/fd"
"""Where Linux gives a path to each open descriptor; a chroot may lack it."""

_PIECE = 1 << 20
"""Bytes that are read at once where they cannot be read into the caller's buffer."""
_UNCACHED = 0x80
"""`RWF_DONTCACHE`, Linux 6.14: pages that a read has to bring into the page cache leave it afterwards."""
_NOT_HERE = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}
)
"""What `copy_file_range` answers where it does not work between two files."""
_BEGIN_WRITE_BACK = 2
"""`SYNC_FILE_RANGE_WRITE`."""
_NO_RESERVE = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
_STOPPING = ("SIGTERM", "SIGHUP")

_position = Lock()
"""Held while a descriptor's own position is used; duplicates share theirs."""


def _flags(*names: str) -> int:
    """Those flags of `os.open` that this system has."""
    found = 0
    for name in names:
        found |= getattr(os, name, 0)
    return found


def open_to_read(path: Path, *, follow_symlinks: bool) -> int:
    """Open a file for reading, never waiting for a FIFO or a device.

    Raises:
        OSError: the system refuses; ``ELOOP`` where it is a symbolic link that is not to be followed.
    """
    if not follow_symlinks and not hasattr(os, "O_NOFOLLOW") and path.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    nofollow = () if follow_symlinks else ("O_NOFOLLOW",)
    return os.open(path, os.O_RDONLY | _flags("O_NONBLOCK", "O_CLOEXEC", "O_BINARY", *nofollow))


def read_into(fd: int, buffer: memoryview, offset: int, *, uncached: bool = False) -> int:
    """Read from `offset` on into `buffer` (bytes), as much as comes at once; 0 at the end.

    Raises:
        OSError: the system cannot read it, or cannot read it `uncached`.
    """
    if hasattr(os, "preadv"):
        return os.preadv(fd, [buffer], offset, _UNCACHED if uncached else 0)
    if uncached:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    wanted = min(len(buffer), _PIECE)
    if hasattr(os, "pread"):
        data = os.pread(fd, wanted, offset)
    else:
        with _position:
            os.lseek(fd, offset, os.SEEK_SET)
            data = os.read(fd, wanted)
    buffer[: len(data)] = data
    return len(data)


def write_at(fd: int, data: memoryview, offset: int) -> None:
    """Write all of `data` (bytes) at `offset`; raises `OSError`."""
    done = 0
    while done < len(data):
        if hasattr(os, "pwrite"):
            done += os.pwrite(fd, data[done:], offset + done)
        else:
            with _position:
                os.lseek(fd, offset + done, os.SEEK_SET)
                done += os.write(fd, data[done:])


def copy_range(source: int, target: int, count: int, offset: int) -> int | None:
    """Copy `count` bytes from `offset` on to the same place of `target`, inside the kernel.

    Returns how many were copied, 0 at the end; ``None`` where the kernel does not do that.

    Raises:
        OSError: it cannot be written.
    """
    if not hasattr(os, "copy_file_range"):
        return None
    try:
        return os.copy_file_range(source, target, count, offset, offset)
    except OSError as error:
        if error.errno in _NOT_HERE:
            return None
        raise


def begin_write_back(fd: int, offset: int, length: int) -> None:
    """Have the system begin to write a range of a file to disk, where it can; whoever flushes waits for less then.

    What goes wrong shows in the flush.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    begin = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if begin is not None:
        begin.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
        begin(fd, offset, length, _BEGIN_WRITE_BACK)


def reserve(fd: int, size: int) -> None:
    """Reserve `size` bytes for a new file, where the file system can; raises `OSError` if there is no room."""
    if not size or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in _NO_RESERVE:
            raise


def free_bytes(path: Path) -> int:
    """The bytes that this user may still write on the file system of `path`; raises `OSError`."""
    import shutil

    return shutil.disk_usage(path).free


def return_memory() -> None:
    """Let the system have what libraries have freed; where it cannot be told to, they keep it."""
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


@contextmanager
def hollow_file(begin: Iterable[bytes], size: int) -> Iterator[str]:
    """Give the path of a file that begins with the pieces of `begin` and is a hole up to `size` bytes.

    It lies in memory, or in the directory for temporary files where the system has no path to such.

    Raises:
        OSError: there is no room for it.
    """
    if hasattr(os, "memfd_create") and Path(DESCRIPTORS).is_dir():
        fd, path = os.memfd_create("header", os.MFD_CLOEXEC), None
    else:
        import tempfile

        fd, path = tempfile.mkstemp(prefix="ckptclamp-")
    try:
        with os.fdopen(fd, "wb", closefd=path is not None) as file:
            file.writelines(begin)
            file.truncate(size)
        yield path or f"{DESCRIPTORS}/{fd}"
    finally:
        if path is None:
            os.close(fd)
        else:
            Path(path).unlink()


class Folder:
    """An open directory in which names are given and taken; raises `OSError` as the system does.

    Where a directory cannot be opened, its path stands for it, and `fd` is -1.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = -1
        if hasattr(os, "O_DIRECTORY") and {os.open, os.rename} <= os.supports_dir_fd:
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _flags("O_CLOEXEC"))

    def create(self, name: str) -> int:
        """Make a file for reading and writing, for this user alone; there must be none."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _flags("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY")
        return os.open(*self._at(name), flags, 0o600, dir_fd=self._dir_fd)

    def create_unnamed(self) -> int:
        """Make a file that has no name yet; -1 where the system or the file system knows none."""
        able = hasattr(os, "O_TMPFILE") and hasattr(os, "link") and Path(DESCRIPTORS).is_dir()
        if self.fd < 0 or not able:
            return -1
        flags = os.O_TMPFILE | os.O_RDWR | _flags("O_CLOEXEC")
        try:
            return os.open(".", flags, 0o600, dir_fd=self.fd)
        except OSError:
            return -1

    def name(self, fd: int, new: str) -> None:
        """Give a file that has no name the name `new`, which must be free."""
        # With directory descriptors Python calls linkat, which alone follows this link.
        source = f"{DESCRIPTORS}/{fd}"
        os.link(source, new, src_dir_fd=self.fd, dst_dir_fd=self.fd, follow_symlinks=True)

    def link(self, old: str, new: str) -> None:
        """Give a file, or a symbolic link, a second name, which must be free."""
        at = self._dir_fd
        os.link(*self._at(old), *self._at(new), src_dir_fd=at, dst_dir_fd=at, follow_symlinks=False)

    def move(self, old: str, new: str) -> None:
        """Rename a file or directory; a file, or an empty directory, that has the name is replaced."""
        at = self._dir_fd
        os.replace(*self._at(old), *self._at(new), src_dir_fd=at, dst_dir_fd=at)

    def move_new(self, old: str, new: str) -> None:
        """Rename a file to `new`, which must be free."""
        try:
            self.link(old, new)
        except FileExistsError:
            raise
        except (OSError, NotImplementedError, AttributeError):
            self._move_without_links(old, new)
        else:
            self.remove(old)

    def _move_without_links(self, old: str, new: str) -> None:
        try:
            self._renameat(old, new, _NOREPLACE)
        except OSError as error:
            if error.errno not in _NO_FLAGS:
                raise
            # Some moment lies between the look and the step: nothing better is left.
            if os.path.lexists(self.path / new):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new) from error
            (self.path / old).rename(self.path / new)

    def exchange(self, one: str, other: str) -> bool:
        """Let two names change places at once; false where the system cannot."""
        try:
            self._renameat(one, other, _EXCHANGE)
        except OSError as error:
            if error.errno in _NO_FLAGS:
                return False
            raise
        return True

    def remove(self, name: str) -> None:
        """Remove a file."""
        os.unlink(*self._at(name), dir_fd=self._dir_fd)

    def flush(self) -> None:
        """Wait until the names in it are on disk, where a directory can be flushed."""
        if self.fd >= 0:
            os.fsync(self.fd)

    def lock(self) -> bool | None:
        """Lock it; see `lock`."""
        return lock(self.fd) if self.fd >= 0 else None

    def close(self) -> None:
        """Close it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @property
    def _dir_fd(self) -> int | None:
        return self.fd if self.fd >= 0 else None

    def _at(self, name: str) -> tuple[str | Path]:
        return (name if self.fd >= 0 else self.path / name,)

    def _renameat(self, old: str, new: str, flags: tuple[int, int]) -> None:
        call, flag = _rename_with_flags(flags) if self.fd >= 0 else (None, 0)
        if call is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        import ctypes

        if call(self.fd, os.fsencode(old), self.fd, os.fsencode(new), ctypes.c_uint(flag)) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), old, None, new)


_NOREPLACE, _EXCHANGE = (1, 4), (2, 2)
"""The flags of Linux' `renameat2`, and of `renameatx_np` of macOS."""
_NO_FLAGS = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})
"""What they answer where the system, or the file system, does not know a flag."""


def _rename_with_flags(flags: tuple[int, int]) -> tuple[Callable[..., int] | None, int]:
    """The C library's function that renames with flags, if there is one, and its flag of `flags`."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    for name, flag in zip(("renameat2", "renameatx_np"), flags, strict=True):
        if hasattr(libc, name):
            return getattr(libc, name), flag
    return None, 0


@contextmanager
def inherited(fd: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Let the process that is started in the block inherit `fd`, and no other descriptor.

    Gives the number by which the process opens it (`adopted` there), and arguments for `Popen`.
    """
    if sys.platform != "win32":
        yield fd, {"pass_fds": (fd,)}
        return
    import msvcrt
    import subprocess

    handle = msvcrt.get_osfhandle(fd)
    os.set_handle_inheritable(handle, True)
    try:
        startup = subprocess.STARTUPINFO(lpAttributeList={"handle_list": [handle]})
        yield handle, {"startupinfo": startup}
    finally:
        os.set_handle_inheritable(handle, False)


def adopted(number: int) -> int:
    """The descriptor that this process inherited by `number` (see `inherited`)."""
    if sys.platform != "win32":
        return number
    import msvcrt

    return msvcrt.open_osfhandle(number, os.O_RDWR | _flags("O_BINARY"))


def moves_open_files() -> bool:
    """Whether a file that is open can be renamed, and replaced; not so on Windows."""
    return os.name == "posix"


def set_mode(fd: int, mode: int) -> None:
    """Set the permissions of an open file, where the system has any; raises `OSError`."""
    if hasattr(os, "fchmod"):
        os.fchmod(fd, mode)


def set_owner(fd: int, user: int, group: int) -> None:
    """Give an open file away, where files have owners; raises `OSError`."""
    if hasattr(os, "fchown"):
        os.fchown(fd, user, group)


def copy_attributes(path: Path, fd: int) -> bool:
    """Copy what a user attached to `path`, and its access control list, to an open file.

    Returns false where Python cannot tell on this system what there is.

    Raises:
        OSError: some cannot be kept.
    """
    if not hasattr(os, "listxattr"):
        return False
    try:
        for name in os.listxattr(path, follow_symlinks=False):
            if name.startswith("user.") or name == "system.posix_acl_access":
                os.setxattr(fd, name, os.getxattr(path, name, follow_symlinks=False))
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
    return True


def lock(fd: int) -> bool | None:
    """Lock an open file or directory against others until it is closed, or its process ends.

    Returns false where somebody else has it locked, ``None`` where the system cannot lock it.
    """
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def is_mine(status: os.stat_result) -> bool:
    """Whether this user may call it theirs: they own it, or own everything, or files have no owners."""
    return not hasattr(os, "geteuid") or os.geteuid() in (0, status.st_uid)


def stopping_signals() -> tuple[signal.Signals, ...]:
    """The signals by which a program is told to stop, beside Ctrl-C."""
    return tuple(getattr(signal, name) for name in _STOPPING if hasattr(signal, name))


@contextmanager
def signals_later() -> Iterator[None]:
    """Let signals that stop the program wait until the block ends, where the system can."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *stopping_signals()})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
