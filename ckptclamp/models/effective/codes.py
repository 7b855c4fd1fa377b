"""Blocks of weights that are still in codes, for kernels that decode them where they measure them."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@frozen
class Octets:
    """Bytes with the codes of rows, the first of a byte in its lowest bits or wherever `table` has it.

    `stored`, C-contiguous, has shape (matrices, rows, bytes), or with a `cell`, the other way round,
    (matrices, columns, rows, cell): a row is made of so many bytes of each column. Row i of a matrix of
    codes is in row ``places[i]`` of the bytes, and is what ``table[tables[i]]``, shape (256, codes in
    a byte), has for them; by default the same row, and the only table. Without a table the codes are
    numbers of the dtype of `stored`, of one byte. Of each row the first `skip` codes do not count.
    """

    stored: NDArray[Any]
    table: NDArray[np.float64] | None = None
    skip: int = 0
    cell: int = 0
    places: NDArray[np.int64] | None = None
    tables: NDArray[np.int64] | None = None

    @property
    def per(self) -> int:
        """How many codes of a row lie in a byte."""
        return 1 if self.table is None else int(self.table.shape[-1])


@frozen
class Codes:
    """A block of weights of `shape`, in C order: (value of the code - zero point) · factor / divisor.

    The codes lie in rows of `length`. `factors` and `zeros`, shape (rows, groups), are shared by groups
    of a row's codes: code c is of group ``(first + c) // step``, or of ``group_of[c]``. Each of the
    operations is rounded.
    """

    shape: tuple[int, ...]
    octets: Octets
    length: int
    factors: NDArray[np.float64]
    zeros: NDArray[np.float64] | None = None
    step: int = 1
    first: int = 0
    group_of: NDArray[np.int32] | None = None
    divisor: float = 1.0

    @property
    def dtype(self) -> np.dtype[np.float64]:
        """The dtype of the weights."""
        return np.dtype(np.float64)

    @property
    def size(self) -> int:
        """How many weights there are."""
        return math.prod(self.shape)

    @property
    def ndim(self) -> int:
        """The axes of the block."""
        return len(self.shape)

    def reshape(self, *shape: int) -> Codes:
        """Return the same weights, in C order, in another shape, of which one extent may be -1."""
        rest = self.size // max(1, abs(math.prod(shape)))
        return replace(self, shape=tuple(rest if n < 0 else n for n in shape))


def matrices_of(
    found: NDArray[Any], table: NDArray[np.float64] | None, *, turned: bool, cell: int = 1
) -> Octets:
    """Codes in the bytes `found`, rows along its last axis; `turned`, columns of cells of some bytes."""
    if not turned:
        return Octets(found.reshape(1, -1, found.shape[-1] if found.ndim else 1), table)
    return Octets(
        found.reshape(-1, found.shape[-2], found.shape[-1] // cell, cell), table, cell=cell
    )


def values_of(
    table: Sequence[float], bits: int, *, upper_first: bool = False
) -> NDArray[np.float64]:
    """What each of the 256 bytes stands for, shape (256, codes of `bits` bits in a byte).

    The first code lies in the lowest bits, or with `upper_first` in the highest ones.
    """
    return _values(np.array(table).tobytes(), bits, upper_first)


@lru_cache(maxsize=32)
def _values(table: bytes, bits: int, upper_first: bool) -> NDArray[np.float64]:
    """The table is told by its bits, for 0 and -0 are equal."""
    shifts = np.arange(0, 8, bits)[:: -1 if upper_first else 1]
    codes = np.arange(256)[:, None] >> shifts & (1 << bits) - 1
    values: NDArray[np.float64] = np.frombuffer(table)[codes]
    return values
