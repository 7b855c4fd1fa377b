"""The storage dtypes of checkpoints: one table, keyed by NumPy's (or ml_dtypes') name.

`unit_roundoff` is u = eps/2, the largest relative error that rounding to the dtype makes in a
normal number; 0 for dtypes that hold no fractions.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    import numpy as np


class Kind(StrEnum):
    """What sort of number a dtype holds."""

    FLOAT = "float"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    COMPLEX = "complex"


@frozen
class StorageDType:
    """One dtype as it lies in a file.

    `name` is NumPy's or ml_dtypes' name (``float32``, ``bfloat16``); `bits` is the width of one
    element; `byte_order` is ``<`` or ``>`` (``<`` where one byte has no order).
    """

    name: str
    bits: int
    kind: Kind
    unit_roundoff: float = 0.0
    byte_order: Literal["<", ">"] = "<"

    @property
    def itemsize(self) -> int:
        """Bytes of one element; sub-byte dtypes have none and are described by `bits`."""
        return self.bits // 8

    @property
    def numpy(self) -> np.dtype[Any]:
        """The NumPy dtype, in the file's byte order (imports ml_dtypes where it is needed)."""
        return _numpy(self.name, self.byte_order)

    def __str__(self) -> str:
        return self.name if self.byte_order == "<" else f"{self.name} (big-endian)"


@lru_cache(maxsize=64)
def _numpy(name: str, byte_order: Literal["<", ">"]) -> np.dtype[Any]:
    import numpy as np

    if name.startswith(("bfloat", "float8_", "float6_", "float4_")):
        import ml_dtypes

        low_precision: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return low_precision
    return np.dtype(name).newbyteorder(byte_order)


def _float(name: str, bits: int, mantissa_bits: int) -> StorageDType:
    return StorageDType(name, bits, Kind.FLOAT, 2.0 ** -(mantissa_bits + 1))


DTYPES: dict[str, StorageDType] = {
    dtype.name: dtype
    for dtype in (
        _float("float64", 64, 52),
        _float("float32", 32, 23),
        _float("float16", 16, 10),
        _float("bfloat16", 16, 7),
        _float("float8_e4m3fn", 8, 3),
        _float("float8_e4m3fnuz", 8, 3),
        _float("float8_e5m2", 8, 2),
        _float("float8_e5m2fnuz", 8, 2),
        _float("float8_e8m0fnu", 8, 0),
        *(
            StorageDType(f"{sign}int{bits}", bits, Kind.INTEGER)
            for sign in ("", "u")
            for bits in (8, 16, 32, 64)
        ),
        StorageDType("bool", 8, Kind.BOOLEAN),
        StorageDType("complex64", 64, Kind.COMPLEX),
    )
}

PACKED_DTYPES: dict[str, StorageDType] = {
    dtype.name: dtype
    for dtype in (
        _float("float6_e2m3fn", 6, 3),
        _float("float6_e3m2fn", 6, 2),
        _float("float4_e2m1fn", 4, 1),
    )
}
"""Dtypes of which several elements share a byte: they can be named and counted, but not read."""

CODE_DTYPES = frozenset(
    {
        "float8_e4m3fn",
        "float8_e4m3fnuz",
        "float8_e5m2",
        "float8_e5m2fnuz",
        "int8",
        "uint8",
        "int16",
        "uint16",
        "int32",
        "uint32",
    }
)
"""The names of dtypes that hold codes of quantised weights, of which scales make numbers."""
