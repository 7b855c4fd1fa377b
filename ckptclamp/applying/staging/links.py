"""Files that come to a new directory without being copied: second names, and files that share blocks."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING

from ckptclamp.checkpoints.source import Identity

if TYPE_CHECKING:
    from ckptclamp.checkpoints.source import Source
    from ckptclamp.system import Folder

_FICLONE = 0x40049409
"""Linux' request for a file that shares the blocks of another one."""


class Link(StrEnum):
    """How a file that nothing changes comes to a new directory without being copied."""

    HARD = "hard"
    """A second name of the same file: whoever changes one changes the other."""
    REFLINK = "reflink"
    """A file of its own that shares blocks until one of the two is changed, where a file system can."""


def hard_link(source: Source, folder: Folder, name: str) -> bool:
    """Give the file of `source` the second name `name` in `folder`; false where the system cannot.

    That alone changes the time of its last change of any kind, which is then no sign of another's.
    """
    try:
        os.link(os.path.realpath(source.path), folder.path / name)
        now = Identity.of((folder.path / name).lstat())
    except (OSError, NotImplementedError, AttributeError):
        return False
    if replace(now, ctime_ns=0) != replace(source.identity, ctime_ns=0):
        folder.remove(name)
        return False
    source.identity = now
    return True


def clone(source: Source, fd: int) -> bool:
    """Let the empty file `fd` share all blocks of `source`; false where the file system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    import fcntl

    try:
        fcntl.ioctl(fd, _FICLONE, source.fd)
    except OSError:
        return False
    return True
