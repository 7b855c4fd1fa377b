"""Linux's `renameat2`, which Python does not offer: renames that replace nothing, or exchange."""

from __future__ import annotations

import ctypes
import os

_NOREPLACE = 1
_EXCHANGE = 2


def rename_new(directory: int, old: str, new: str) -> None:
    """Rename `old` to `new` inside the open `directory`; `FileExistsError` if `new` exists.

    Raises:
        OSError: the system refuses, ``ENOSYS`` or ``EINVAL`` where it cannot do it.
    """
    _renameat2(directory, old, new, _NOREPLACE)


def exchange(directory: int, one: str, other: str) -> None:
    """Let two names inside the open `directory` change places at once; raises `OSError`."""
    _renameat2(directory, one, other, _EXCHANGE)


def _renameat2(directory: int, old: str, new: str, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    answer = libc.renameat2(
        directory, os.fsencode(old), directory, os.fsencode(new), ctypes.c_uint(flags)
    )
    if answer != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), old, None, new)
