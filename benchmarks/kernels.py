"""What measuring costs once the weights are in the cache: the most that any way of reading allows."""

from __future__ import annotations

import math
import time
from typing import Any

import files
import numpy as np

from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.checkpoints.tensor import Box, Contiguous, Tensor
from ckptclamp.constraints.sets.norms import MaxNorm
from ckptclamp.engine.measure import measure
from ckptclamp.engine.measure.requests import Request

_WEIGHTS = 1 << 26
_ROUNDS = 5


class _Cached:
    """Gives the same few weights for every box."""

    def __init__(self, dtype: str) -> None:
        self.weights = files.weights(dtype, (1 << 20,))

    def read(self, tensor: Tensor, box: Box, buffer: memoryview | None = None) -> Any:
        shape = tuple(stop - start for start, stop in box)
        if math.prod(shape) > len(self.weights):
            self.weights = np.resize(self.weights, math.prod(shape))
        return self.weights[: math.prod(shape)].reshape(shape)


def gigabytes_per_second(dtype: str, shape: tuple[int, ...], axes: tuple[int, ...]) -> float:
    """Measure norms over `axes` in one thread of this process, again and again on the same block."""
    reader, needs = _Cached(dtype), MaxNorm(max_value=1.0).needs
    count = max(1, _WEIGHTS // math.prod(shape))
    tensors = [Tensor(f"w{i}", shape, DTYPES[dtype], Contiguous(0, 0)) for i in range(count)]
    requests = [Request(tensor, axes, needs) for tensor in tensors]
    size = sum(tensor.nbytes for tensor in tensors)
    best = math.inf
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        for _answer in measure(reader, requests, jobs=1):
            pass
        best = min(best, time.perf_counter() - start)
    return size / best / 1e9
