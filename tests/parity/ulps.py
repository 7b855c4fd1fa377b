"""How many representable numbers two arrays of one floating-point dtype lie apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def ulps_apart(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.int64]:
    """Count the steps from each weight of `a` to that of `b`; both zeros are one number.

    The bits of IEEE numbers, read as integers and mirrored where negative, count in their order.
    """
    apart: NDArray[np.int64] = np.abs(_place(a) - _place(b))
    return apart


def _place(values: NDArray[Any]) -> NDArray[np.int64]:
    integer = np.dtype(f"i{values.dtype.itemsize}")
    bits = np.ascontiguousarray(values).view(integer).astype(np.int64)
    return np.where(bits < 0, np.iinfo(integer).min - bits, bits)
