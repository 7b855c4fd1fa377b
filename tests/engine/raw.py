"""The smallest reader and copy there can be: tensors at offsets of one raw file or of memory."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.checkpoints.tensor import Box, Contiguous, Tensor


class InMemory:
    """Tensors that are arrays; reads and writes them as a copy of a checkpoint does."""

    def __init__(self, **arrays: NDArray[Any]) -> None:
        self.arrays = {name: np.asarray(array).copy(order="C") for name, array in arrays.items()}
        self.tensors = {name: describe(name, array) for name, array in self.arrays.items()}
        self.written: list[str] = []

    def read(self, tensor: Tensor, box: Box, buffer: memoryview | None = None) -> NDArray[Any]:
        part = self.arrays[tensor.name][tuple(slice(*span) for span in box)]
        out = np.ndarray(part.shape, part.dtype, buffer=buffer)
        out[...] = part
        return out

    def write(self, tensor: Tensor, box: Box, values: NDArray[Any]) -> None:
        self.written.append(tensor.name)
        target = self.arrays[tensor.name][tuple(slice(*span) for span in box)]
        assert values.dtype == target.dtype
        assert values.shape == target.shape
        target[...] = values

    files = ()

    def finish(self) -> None:
        pass

    def flush(self) -> None:
        pass

    def compare(self, jobs: int) -> None:
        pass

    def reopen(self) -> Any:
        raise NotImplementedError


def describe(name: str, array: NDArray[Any]) -> Tensor:
    """The description of a contiguous tensor that holds `array`."""
    dtype = DTYPES[array.dtype.name]
    if array.dtype.byteorder == ">":
        dtype = replace(dtype, byte_order=">")
    return Tensor(name, array.shape, dtype, Contiguous(0, 0))


def units_of(array: NDArray[Any], axes: tuple[int, ...]) -> NDArray[Any]:
    """One row a unit, in C order of the kept axes."""
    kept = tuple(axis for axis in range(array.ndim) if axis not in axes)
    rows = math.prod(array.shape[axis] for axis in kept)
    size = math.prod(array.shape[axis] for axis in axes)
    return array.transpose(kept + axes).reshape(rows, size)
