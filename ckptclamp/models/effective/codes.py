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
    """Bytes with the codes of rows.

    `stored`, C-contiguous, has shape (matrices, rows, bytes), or with a `cell`, the other way round,
    (matrices, columns, bytes): of each column as many bits as `cell` says (4 or whole bytes) belong to
    a row, the lower nibble of a byte to the first of two. Row i of a matrix of codes is row ``places[i]``
    of them, by default the same one; the first `skip` codes of each do not count. A byte stands for
    what `table`, shape (256, codes in a byte), has for it; without one `stored` has numbers of its dtype.
    """

    stored: NDArray[Any]
    table: NDArray[np.float32] | None = None
    skip: int = 0
    cell: int = 0
    places: NDArray[np.int64] | None = None

    @property
    def per(self) -> int:
        """How many codes of a row lie in a byte."""
        return 1 if self.table is None else int(self.table.shape[-1])


@frozen
class Codes:
    """A block of weights of `shape`, in C order: (value of the code - zero point) · factor / divisor.

    The codes lie in rows of `length`. Row i has ``factors[numbers[i]]``, and such zero points, each for
    a group of its codes: code c is of group ``(first + c) // step``, or of ``group_of[c]``. Each of the
    operations is rounded.
    """

    shape: tuple[int, ...]
    octets: Octets
    length: int
    numbers: NDArray[np.int64]
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


def octets_of(
    found: NDArray[Any], table: NDArray[np.float32] | None = None, *, cell: int = 0, skip: int = 0
) -> Octets:
    """The codes in `found`, an array of bytes of which the last axis, or with a `cell` two, make a matrix."""
    columns = found.shape[-2] if cell else -1
    return Octets(found.reshape(-1 if cell else 1, columns, found.shape[-1]), table, skip, cell)


def values_of(
    table: Sequence[float], bits: int, *, upper_first: bool = False
) -> NDArray[np.float64]:
    """What each of the 256 bytes stands for, shape (256, codes of `bits` bits in a byte).

    The first code lies in the lowest bits, or with `upper_first` in the highest ones.
    """
    return _values(np.array(table).tobytes(), bits, upper_first)


@lru_cache(maxsize=32)
def floats_of(
    table: tuple[float, ...], bits: int, *, upper_first: bool = False
) -> NDArray[np.float32] | None:
    """The same as floats, for kernels; ``None`` where one of them is none."""
    values = values_of(table, bits, upper_first=upper_first)
    with np.errstate(all="ignore"):
        floats = values.astype(np.float32)
    return floats if (floats == values).all() else None


@lru_cache(maxsize=32)
def _values(table: bytes, bits: int, upper_first: bool) -> NDArray[np.float64]:
    """The table is told by its bits, for 0 and -0 are equal."""
    shifts = np.arange(0, 8, bits)[:: -1 if upper_first else 1]
    codes = np.arange(256)[:, None] >> shifts & (1 << bits) - 1
    values: NDArray[np.float64] = np.frombuffer(table)[codes]
    return values
