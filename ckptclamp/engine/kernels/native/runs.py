"""What a kernel reads by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    import numpy as np


@frozen
class FileRun:
    """Matrices that follow each other in a file from byte `offset` on, each of `rows` of `length`.

    Units are their rows, or their `columns`.
    """

    fd: int
    offset: int
    dtype: np.dtype[Any]
    boxes: int
    rows: int
    length: int
    columns: bool
