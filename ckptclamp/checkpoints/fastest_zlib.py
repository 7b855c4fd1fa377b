"""zlib, or what is faster and decides the same."""

from __future__ import annotations

import zlib
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType


@cache
def fastest_zlib() -> ModuleType:
    """Return zlib-ng where it is installed, or else zlib, of which it is a faster copy.

    It is for inflating and for checksums. Faster inflaters than this were written anew, and differ in
    which broken streams they refuse. Nothing is deflated with it: its bytes are not those of zlib.
    """
    try:
        from zlib_ng import zlib_ng
    except ImportError:
        return zlib
    return zlib_ng
