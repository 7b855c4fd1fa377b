"""Blocks in codes as the compiled kernels take them, checked so that nothing is read beside the arrays."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.models.effective.codes import Codes

_POINTERS = ("bytes", "places", "numbers", "table", "zeros", "factors", "group_of")
_SIZES = ("length", "per", "skip", "groups", "step", "first")


class Structure(ctypes.Structure):
    """`struct codes`."""

    _fields_: ClassVar = [
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_size_t) for name in _SIZES),
        ("divisor", ctypes.c_double),
        ("dtype", ctypes.c_int),
    ]


class Prepared:
    """What C is handed for a block in codes, and the arrays that it points into.

    `stored` are the bytes of the codes, rows first: shape (matrices, rows, bytes).
    """

    def __init__(self, codes: Codes, dtype: int, stored: NDArray[np.uint8]) -> None:
        octets = codes.octets
        matrices, height, width = stored.shape
        row = np.arange(height) if octets.places is None else octets.places
        places = (height * np.arange(matrices)[:, None] + row).reshape(-1) * width
        arrays: dict[str, tuple[NDArray[Any] | None, type]] = {
            "bytes": (stored, np.uint8),
            "places": (places, np.int64),
            "numbers": (codes.numbers, np.int64),
            "table": (octets.table, np.float32),
            "zeros": (codes.zeros, np.float64),
            "factors": (codes.factors, np.float64),
            "group_of": (codes.group_of, np.int32),
        }
        for array, expected in arrays.values():
            _require(array is None or (array.dtype == expected and array.flags.c_contiguous))
        _check_rows(codes, stored, row)
        _check_groups(codes)
        self._kept = arrays
        pointers = {n: None if a is None else a.ctypes.data for n, (a, _) in arrays.items()}
        self.structure = Structure(
            **pointers,
            length=codes.length,
            per=octets.per,
            skip=octets.skip,
            groups=codes.factors.shape[1],
            step=codes.step,
            first=codes.first,
            divisor=codes.divisor,
            dtype=dtype,
        )


def _check_rows(codes: Codes, stored: NDArray[np.uint8], row: NDArray[np.int64]) -> None:
    octets, (matrices, height, width) = codes.octets, stored.shape
    count = matrices * len(row)
    _require(codes.length > 0 and count * codes.length == codes.size)
    table = np.empty((256, 1)) if octets.table is None else octets.table
    _require(octets.stored.itemsize == 1 and table.shape in {(256, 1), (256, 2), (256, 4)})
    _require(octets.skip >= 0 and octets.skip + codes.length <= width * octets.per)
    _require(row.min() >= 0 and row.max() < height)
    _require(codes.numbers.shape == (count,))
    _require(codes.numbers.min() >= 0 and codes.numbers.max() < len(codes.factors))


def _check_groups(codes: Codes) -> None:
    groups = codes.factors.shape[1]
    _require(codes.zeros is None or codes.zeros.shape == codes.factors.shape)
    if codes.group_of is not None:
        _require(codes.group_of.shape == (codes.length,))
        _require(codes.group_of.min() >= 0 and codes.group_of.max() < groups)
    else:
        _require(codes.step > 0 and codes.first >= 0)
        _require((codes.first + codes.length - 1) // codes.step < groups)


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError("a block in codes of other sizes or dtypes than the kernels take")
