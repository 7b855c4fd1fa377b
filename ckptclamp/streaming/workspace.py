"""Buffers that a worker uses again for every block, so that blocks cost no page faults."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ALIGNMENT = 64


class Workspace(threading.local):
    """Named, aligned byte buffers, one set a thread; each grows to the largest size asked for."""

    def __init__(self) -> None:
        self._buffers: dict[str, NDArray[np.uint8]] = {}

    def bytes(self, name: str, size: int) -> NDArray[np.uint8]:
        """Return `size` bytes of the buffer `name`; what it held is gone or garbage."""
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < size:
            raw = np.empty(size + _ALIGNMENT, np.uint8)
            buffer = raw[-raw.ctypes.data % _ALIGNMENT :]
            self._buffers[name] = buffer
        return buffer[:size]

    def array(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Return the buffer `name` as an array; what it held is gone or garbage."""
        return self.bytes(name, math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)

    def float64(self, name: str, size: int) -> NDArray[np.float64]:
        """Return `size` float64 elements of the buffer `name`."""
        return self.bytes(name, 8 * size).view(np.float64)
