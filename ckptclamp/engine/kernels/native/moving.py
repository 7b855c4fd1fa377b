"""Rows that move, as the compiled kernels take them: numbers for each, checked to be as many as the rows."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Numbers = NDArray[np.float64] | float

_POINTER = ctypes.c_void_p


class _Movement(ctypes.Structure):
    """`struct movement`."""

    _fields_: ClassVar = [
        *((name, _POINTER) for name in ("scale", "shift", "low", "high", "offset")),
        ("least", ctypes.c_double),
        ("most", ctypes.c_double),
        ("adds", ctypes.c_int),
    ]


class _Between(ctypes.Structure):
    """`struct between`."""

    _fields_: ClassVar = [(name, _POINTER) for name in ("outer", "inner", "sign", "power")]


@frozen
class Prepared:
    """A structure `at` an address, and what it points to: all stay as long as a call that is handed this."""

    at: int
    kept: Sequence[Any]

    @property
    def _as_parameter_(self) -> ctypes.c_void_p:
        """What ctypes hands to C."""
        return ctypes.c_void_p(self.at)


@frozen
class RowMovement:
    """How rows move: ``clip(w * scale + shift, low, high)``, then times ``1 + offset``, or plus it.

    Each is one number or shape (rows,), ``None`` where nothing of the kind is done; nothing is added
    where a shift or an offset is 0. `limits` are the least and the largest number of the dtype; `adds`
    tells whether the offset is added.
    """

    scale: Numbers
    shift: Numbers | None
    low: Numbers | None
    high: Numbers | None
    offset: Numbers | None
    adds: bool
    limits: tuple[float, float]

    def prepared(self, count: int) -> Prepared:
        """For `count` rows, as `struct movement`."""
        given = (self.scale, self.shift, self.low, self.high, self.offset)
        numbers = [None if value is None else _each(value, count) for value in given]
        pointers = [None if value is None else value.ctypes.data for value in numbers]
        structure = _Movement(*pointers, *self.limits, self.adds)
        return Prepared(ctypes.addressof(structure), (structure, numbers))


@frozen
class Offsets:
    """How rows move with the offset of `outer`, or with another one, and how what that gains counts.

    `inner` are the other offsets, `sign` and `power` what gains are multiplied by, shape (rows,) each;
    a square is multiplied by the power twice.
    """

    outer: RowMovement
    inner: NDArray[np.float64]
    sign: NDArray[np.float64]
    power: NDArray[np.float64]

    def prepared(self, count: int) -> Prepared:
        """For `count` rows, as `struct between`."""
        if self.outer.offset is None:
            raise ValueError("two offsets are wanted")
        outer = self.outer.prepared(count)
        numbers = [_each(value, count) for value in (self.inner, self.sign, self.power)]
        structure = _Between(outer.at, *(value.ctypes.data for value in numbers))
        return Prepared(ctypes.addressof(structure), (structure, outer, numbers))


def _each(value: Numbers, count: int) -> NDArray[np.float64]:
    """One number for each of `count` rows."""
    if not np.ndim(value):
        return np.full(count, value, np.float64)
    if np.shape(value) != (count,):
        raise ValueError(f"{np.shape(value)} numbers for {count} rows")
    return np.ascontiguousarray(value, np.float64)
