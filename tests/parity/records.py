"""What real Keras made of random weights, as ``fixtures/record_parity.py`` recorded it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ckptclamp.constraints.base import Constraint
from ckptclamp.constraints.registry import make

FOLDER = Path(__file__).parents[2] / "fixtures" / "parity"
BACKENDS = ("tensorflow", "torch")
DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}


@dataclass(frozen=True)
class Record:
    """One constraint over some axes of one tensor, and what Keras returned on each backend.

    `axes` are the reduced axes, sorted and non-negative, empty for elementwise constraints; `norms`
    are exact norms over them, kept with extent 1, or ``None``.
    """

    constraint: Constraint
    axes: tuple[int, ...]
    weights: NDArray[Any]
    outputs: dict[str, NDArray[Any]]
    norms: NDArray[np.float64] | None

    def __str__(self) -> str:
        return f"{self.constraint} over {self.axes} of {self.weights.shape}"


@cache
def records(dtype: str) -> tuple[Record, ...]:
    """Every recorded case of one dtype."""
    with np.load(FOLDER / f"{dtype}.npz") as archive:
        cases = json.loads(str(archive["cases"]))
        arrays = {name: archive[name] for name in archive.files}
    outputs = {b: _Tape(arrays[f"outputs_{b}"].view(DTYPES[dtype])) for b in BACKENDS}
    norms = _Tape(arrays["norms"])
    found = []
    for case in cases:
        weights = arrays[f"weights_{case['rank']}"].view(DTYPES[dtype])
        config = dict(case["config"])
        axes = _axes(config.pop("axis"), weights.ndim) if "axis" in config else ()
        units = tuple(1 if i in axes else n for i, n in enumerate(weights.shape))
        found.append(
            Record(
                constraint=make(case["constraint"], config),
                axes=axes,
                weights=weights,
                outputs={b: tape.take(weights.shape) for b, tape in outputs.items()},
                norms=norms.take(units) if axes else None,
            )
        )
    return tuple(found)


class _Tape:
    """A flat array from which arrays are taken one after the other."""

    def __init__(self, flat: NDArray[Any]) -> None:
        self.rest = flat

    def take(self, shape: tuple[int, ...]) -> NDArray[Any]:
        part, self.rest = np.split(self.rest, [math.prod(shape)])
        return part.reshape(shape)


def _axes(axis: int | list[int] | None, rank: int) -> tuple[int, ...]:
    axes = range(rank) if axis is None else [axis] if isinstance(axis, int) else axis
    return tuple(sorted(a % rank for a in axes))
