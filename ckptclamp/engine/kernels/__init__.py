"""The arithmetic over weights: one door to compiled kernels and to NumPy, which give the same bits.

These are all the functions that touch every weight of an audit:

- `measure`: statistics of each unit, in one pass; `measure_in_file`: of what is read in the same call;
- `widen`: any storage dtype to float64;
- `all_finite` and `count_nonfinite`; `reduce`: what else is asked of each unit.

A block has the shape of a box and some reduced axes. Size-1 axes are dropped and neighbours of the
same status merged, so that every case is one of a few: rows (the last axis is reduced), columns (the
last is kept), and sums of these. No call reaches a BLAS routine that starts threads of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.engine.kernels import native, numpy_kernels, numpy_widening
from ckptclamp.engine.kernels.numpy_kernels import merged, reduce

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from ckptclamp.engine.blocks import Workspace
    from ckptclamp.engine.kernels.native import Library
    from ckptclamp.engine.kernels.native.runs import FileRun
    from ckptclamp.engine.kernels.numpy_kernels import Values
    from ckptclamp.models.effective.codes import Codes

    Block = NDArray[Any] | Codes
    """Weights as they are stored, or in codes, which are decoded where they are measured."""


__all__ = [
    "all_finite",
    "count_nonfinite",
    "in_use",
    "measure",
    "measure_in_file",
    "measures_codes",
    "reduce",
    "widen",
]


_EXTREMES = frozenset({"min", "max"})
"""Measured together."""


def in_use() -> str:
    """Name the kernels that do the work here, for people: NumPy's, or the level of compiled ones."""
    library = native.loaded()
    return "NumPy" if library is None else f"compiled, level {library.level}"


def measures_codes() -> bool:
    """Whether `measure` and `widen` take blocks in codes here: compiled kernels do."""
    return native.loaded() is not None


def measure(
    block: Block, axes: tuple[int, ...], wanted: Iterable[str], workspace: Workspace
) -> Values:
    """Measure each unit of `block`, in its storage dtype; `axes` are the reduced ones, sorted.

    `wanted` are of "squares", "sum", "sum_abs", "min", "max", "nonzero" and "nonfinite".
    Returns float64 arrays of shape (units,), in C order of the kept axes. A NaN shows in each of
    them but the counts, as may an infinity; where a minimum is NaN, so is the maximum.
    """
    extents, rows = merged(block.shape, axes)
    wanted = set(wanted)
    names = _with_both_extremes(wanted)
    if rows or len(extents) == 1:
        length = extents[-1] if rows else 1
        found = _rows(block.reshape(-1, length), names, workspace)
        rest = extents[:-1] if rows else extents
    else:
        found = _columns(block.reshape(-1, *extents[-2:]), names, workspace)
        rest = _without_reduced(extents)
    found = {name: _over(rest, name, value, workspace) for name, value in found.items()}
    return _settled(found, wanted)


def measure_in_file(run: FileRun, wanted: Iterable[str], workspace: Workspace) -> Values | None:
    """Measure units of matrices that lie in a file, as `measure` does when each is read.

    Returns float64 arrays of shape (boxes * units,), or ``None`` where there are no compiled kernels, they do
    not know the dtype, or the file cannot be read whole.
    """
    library = native.loaded()
    if library is None:
        return None
    wanted = set(wanted)
    found = library.file(run, _with_both_extremes(wanted), workspace)
    return None if found is None else _settled(found, wanted)


def _with_both_extremes(wanted: set[str]) -> list[str]:
    return sorted(wanted | _EXTREMES if wanted & _EXTREMES else wanted)


def _settled(found: Values, wanted: set[str]) -> Values:
    """What was `wanted` of what was found, with one pattern of bits for NaN."""
    for value in found.values():
        value[np.isnan(value)] = np.nan  # of the bits that a NaN may have, always the same
    if "min" in found:
        lost = np.isnan(found["min"]) | np.isnan(found["max"])
        found["min"][lost] = found["max"][lost] = np.nan
    return {name: value for name, value in found.items() if name in wanted}


def widen(block: Block, workspace: Workspace, name: str = "widened") -> NDArray[np.float64]:
    """Return `block` as C-contiguous native float64, in a buffer of `workspace` unless it is one.

    Every value but integers beyond 2**53 is exact.
    """
    library = native.loaded()
    if not isinstance(block, np.ndarray):
        wide = workspace.float64(name, block.size).reshape(block.shape)
        _needed(library).decode(block, wide, workspace)
        return wide
    if library is None or block.dtype == np.float64 or not native.takes(block):
        return numpy_widening.widen(block, workspace, name)
    wide = workspace.float64(name, block.size).reshape(block.shape)
    library.widen(block, wide)
    return wide


def all_finite(values: NDArray[Any]) -> bool:
    """Whether no value is NaN or infinite."""
    return bool(np.isfinite(values).all())


def count_nonfinite(
    block: Block, axes: tuple[int, ...], workspace: Workspace
) -> NDArray[np.int64] | None:
    """Count the NaN and infinities of each unit; ``None`` if there are none at all."""
    count = measure(block, axes, ["nonfinite"], workspace)["nonfinite"].astype(np.int64)
    return count if count.any() else None


def _needed(library: Library | None) -> Library:
    if library is None:
        raise ValueError("a block in codes, which NumPy does not take")
    return library


def _rows(x: Block, names: Sequence[str], workspace: Workspace) -> Values:
    library = native.loaded()
    if not isinstance(x, np.ndarray):
        return _needed(library).code_rows(x, names, workspace)
    if library is None:
        return numpy_kernels.rows(x, names, workspace)
    return library.rows(native.prepared(x, workspace), names)


def _columns(x: Block, names: Sequence[str], workspace: Workspace) -> Values:
    library = native.loaded()
    if not isinstance(x, np.ndarray):
        return _needed(library).code_columns(x, names, workspace)
    if library is None:
        return numpy_kernels.columns(x, names, workspace)
    return library.columns(native.prepared(x, workspace), names)


def _without_reduced(extents: tuple[int, ...]) -> tuple[int, ...]:
    """Drop the last axis but one; the kept ones that were on its sides become one."""
    *outer, _, kept = extents
    return (*outer[:-1], outer[-1] * kept) if outer else (kept,)


def _over(
    extents: tuple[int, ...], name: str, parts: NDArray[np.float64], workspace: Workspace
) -> NDArray[np.float64]:
    """Join parts of units: of `extents` every second one is still to be reduced, never the last."""
    while len(extents) > 1:
        x = parts.reshape(-1, *extents[-2:])
        if name in _EXTREMES:
            parts = (np.minimum if name == "min" else np.maximum).reduce(x, axis=1)
        else:
            parts = _columns(x, ["sum"], workspace)["sum"]
        extents = _without_reduced(extents)
    return parts.reshape(-1)
