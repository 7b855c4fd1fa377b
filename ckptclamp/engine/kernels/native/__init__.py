"""The compiled kernels, where a compiler made them: C functions over buffers, called through ctypes.

They let go of the interpreter's lock, and give the same bits as NumPy does (`numpy_kernels`) at
every level of instructions. Sizes are checked here: C is handed nothing but whole C-contiguous arrays
of dtypes that it knows.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.engine.kernels.native.coded import Prepared
from ckptclamp.engine.kernels.native.moving import Offsets, RowMovement
from ckptclamp.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ckptclamp.engine.blocks import Workspace
    from ckptclamp.engine.kernels.native.runs import FileRun
    from ckptclamp.models.effective.codes import Codes, Octets

LEVELS = ("baseline", "v3", "v4")
"""Levels of instructions of x86-64; elsewhere there is only the first."""

VARIABLE = "CKPTCLAMP_KERNELS"
"""Forces ``numpy`` or a level, for comparison; one that the processor lacks is not used."""

STATISTICS = ("squares", "sum", "sum_abs", "min", "max", "nonzero", "nonfinite")
"""What the kernels measure, in the order of `enum statistic`."""

_DTYPES = {
    name: code
    for code, name in enumerate(
        (
            "float32",
            "float16",
            "bfloat16",
            "float8_e4m3fn",
            "float8_e4m3fnuz",
            "float8_e5m2",
            "float8_e5m2fnuz",
            "float8_e8m0fnu",
            "int8",
            "uint8",
            "int16",
            "uint16",
            "bool",
            "float64",
            "int32",
            "uint32",
            "int64",
            "uint64",
        )
    )
}
"""`enum dtype`."""

_SIZE, _POINTER = ctypes.c_size_t, ctypes.c_void_p
_ARGUMENTS = {
    "to_double": (ctypes.c_int, _POINTER, _SIZE, _POINTER),
    "rows": (ctypes.c_int, _POINTER, _SIZE, _SIZE, _POINTER),
    "columns": (ctypes.c_int, _POINTER, _SIZE, _SIZE, _SIZE, _POINTER),
    "file": (
        ctypes.c_int,
        ctypes.c_int64,
        ctypes.c_int,
        *(_SIZE, _SIZE, _SIZE),
        ctypes.c_int,
        *(_POINTER, _POINTER),
    ),
    "decode": (_POINTER, _SIZE, _SIZE, _POINTER),
    "turn_nibbles": (_POINTER, _SIZE, _SIZE, _POINTER),
    "code_rows": (_POINTER, _SIZE, _SIZE, _POINTER),
    "code_columns": (_POINTER, _SIZE, _SIZE, _SIZE, _POINTER),
    "move": (ctypes.c_int, _POINTER, _SIZE, _SIZE, _POINTER, _POINTER),
    "moved_rows": (
        ctypes.c_int,
        _POINTER,
        _SIZE,
        _SIZE,
        _POINTER,
        _POINTER,
        _POINTER,
        _SIZE,
    ),
    "gained": (ctypes.c_int, _POINTER, _SIZE, _SIZE, _POINTER, _POINTER),
    "fit": (ctypes.c_int, _POINTER, _SIZE, _SIZE, _POINTER, _POINTER, _POINTER),
    "gather": (_SIZE, _POINTER, _SIZE, _SIZE, _POINTER, _SIZE, _POINTER),
    "scatter": (_SIZE, _POINTER, _SIZE, _SIZE, _POINTER, _SIZE, _POINTER),
    "compare": (ctypes.c_int, _POINTER, _POINTER, _SIZE, _SIZE, _POINTER, _POINTER, _POINTER),
}

_SCRATCH = 64 << 10
"""Bytes of rows that are moved and measured at once: they stay in a second-level cache."""

_WRITTEN = frozenset(
    code
    for name, code in _DTYPES.items()
    if name not in {"float8_e8m0fnu", "bool", "float64", "int64", "uint64"}
)
"""Dtypes that weights are rounded to here: not rare ones, nor those as fine as float64."""


class Library:
    """The kernels at one level of instructions."""

    def __init__(self, library: ctypes.CDLL, level: str) -> None:
        self.level = level
        self._functions: dict[str, Any] = {}
        for name, arguments in _ARGUMENTS.items():
            function = getattr(library, f"ckptclamp_{name}_{level}")
            function.argtypes = arguments
            function.restype = ctypes.c_int if name == "file" else None
            self._functions[name] = function

    def rows(self, matrix: NDArray[Any], wanted: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Measure each row of `matrix`, shape (rows, length); returns arrays of shape (rows,)."""
        found, pointers = _results(wanted, matrix.shape[:1])
        code, at = _checked(matrix)
        self._functions["rows"](code, at, *matrix.shape, pointers)
        return found

    def columns(self, x: NDArray[Any], wanted: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Measure each column of matrices, shape (batch, rows, length); arrays (batch, length)."""
        found, pointers = _results(wanted, (x.shape[0], x.shape[2]))
        code, at = _checked(x)
        self._functions["columns"](code, at, *x.shape, pointers)
        return found

    def file(
        self, run: FileRun, wanted: Sequence[str], workspace: Workspace
    ) -> dict[str, NDArray[np.float64]] | None:
        """Measure what `run` says; returns arrays of shape (boxes * units,).

        ``None`` where it cannot be read whole, or is not of a dtype that the kernels know.
        """
        code = _code(run.dtype)
        if code is None:
            return None
        found, pointers = _results(wanted, (run.boxes * (run.length if run.columns else run.rows),))
        buffer = workspace.bytes("read", run.rows * run.length * run.dtype.itemsize)
        whole = self._functions["file"](
            *(run.fd, run.offset, code, run.boxes, run.rows, run.length, run.columns),
            *(pointers, buffer.ctypes.data),
        )
        return found if whole else None

    def widen(self, block: NDArray[Any], out: NDArray[np.float64]) -> None:
        """Put `block` into `out` of as many float64 elements."""
        code, at = _checked(block)
        _require(out.size == block.size and out.dtype == np.float64)
        self._functions["to_double"](code, at, block.size, _checked(out)[1])

    def code_rows(
        self, block: Codes, wanted: Sequence[str], workspace: Workspace
    ) -> dict[str, NDArray[np.float64]]:
        """Measure each row of a block in codes, shape (rows, length); see `rows`."""
        found, pointers = _results(wanted, block.shape[:1])
        prepared = self._prepared(block, workspace)
        self._functions["code_rows"](ctypes.byref(prepared.structure), *block.shape, pointers)
        return found

    def code_columns(
        self, block: Codes, wanted: Sequence[str], workspace: Workspace
    ) -> dict[str, NDArray[np.float64]]:
        """Measure each column of matrices in codes, shape (batch, rows, length); see `columns`."""
        found, pointers = _results(wanted, (block.shape[0], block.shape[2]))
        prepared = self._prepared(block, workspace)
        self._functions["code_columns"](ctypes.byref(prepared.structure), *block.shape, pointers)
        return found

    def decode(self, block: Codes, out: NDArray[np.float64], workspace: Workspace) -> None:
        """Put the weights of a block in codes into `out`, of as many float64 elements."""
        _require(out.size == block.size and out.dtype == np.float64)
        prepared = self._prepared(block, workspace)
        at = _checked(out)[1]
        self._functions["decode"](ctypes.byref(prepared.structure), 0, block.size, at)

    def _prepared(self, block: Codes, workspace: Workspace) -> Prepared:
        dtype = _code(block.octets.stored.dtype)
        _require(dtype is not None)
        return Prepared(block, dtype or 0, self._turned(block.octets, workspace))

    def _turned(self, octets: Octets, workspace: Workspace) -> NDArray[np.uint8]:
        """The bytes of codes, rows first: shape (matrices, rows, bytes)."""
        stored = octets.stored.view(np.uint8)
        if not octets.cell:
            return stored
        _require(stored.flags.c_contiguous)
        matrices, columns, width = stored.shape
        if octets.cell == 4:
            shape = (matrices, 2 * width, (columns + 1) // 2)
            nibbles = workspace.array("turned", stored.dtype, shape)
            for matrix, out in zip(stored, nibbles, strict=True):
                at, to = matrix.ctypes.data, out.ctypes.data
                self._functions["turn_nibbles"](at, columns, width, to)
            return nibbles
        cells = stored.view(f"u{octets.cell // 8}")
        turned = workspace.array("turned", cells.dtype, (matrices, cells.shape[2], columns))
        every = np.arange(cells.shape[2])
        for matrix, out in zip(cells, turned, strict=True):
            self._transpose("gather", matrix, every, out)
        return turned.view(np.uint8)

    def move(self, rows: NDArray[Any], by: RowMovement, out: NDArray[Any]) -> None:
        """Put `rows`, shape (rows, length), moved and rounded to their dtype (`writes`), into `out`."""
        code, at, to = self._written(rows, out)
        self._functions["move"](code, at, *rows.shape, by.prepared(len(rows)), to)

    def moved_rows(
        self, rows: NDArray[Any], by: RowMovement, wanted: Sequence[str], workspace: Workspace
    ) -> dict[str, NDArray[np.float64]]:
        """Measure each of `rows`, shape (rows, length), as `move` would make it; arrays (rows,)."""
        found, pointers = _results(wanted, rows.shape[:1])
        code, at, _ = self._written(rows)
        room = max(1, _SCRATCH // rows[0].nbytes)
        scratch = workspace.bytes("scratch", room * rows[0].nbytes)
        movement = by.prepared(len(rows))
        self._functions["moved_rows"](
            code, at, *rows.shape, movement, pointers, scratch.ctypes.data, room
        )
        return found

    def gained(self, rows: NDArray[Any], by: Offsets) -> NDArray[np.float64]:
        """What each of `rows`, shape (rows, length), gains with the inner of two offsets."""
        code, at, _ = self._written(rows)
        out = np.empty(len(rows))
        self._functions["gained"](code, at, *rows.shape, by.prepared(len(rows)), out.ctypes.data)
        return out

    def fit(
        self, rows: NDArray[Any], by: Offsets, rest: NDArray[np.float64], out: NDArray[Any]
    ) -> None:
        """Put `rows`, shape (rows, length), with the inner offset up to a gain of `rest` into `out`."""
        code, at, to = self._written(rows, out)
        _require(rest.shape == (len(rows),))
        gains = np.ascontiguousarray(rest, np.float64)
        prepared = by.prepared(len(rows))
        self._functions["fit"](code, at, *rows.shape, prepared, gains.ctypes.data, to)

    @staticmethod
    def _written(rows: NDArray[Any], out: NDArray[Any] | None = None) -> tuple[int, int, int]:
        """The dtype of `rows`, and where these lie and what is made of them is to lie."""
        _require(writes(rows) and rows.ndim == 2)
        out = rows if out is None else out
        _require(out.shape == rows.shape and out.dtype == rows.dtype)
        return *_checked(rows), _checked(out)[1]

    def compare(
        self, before: NDArray[Any], after: NDArray[Any]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
        """Tell of each row whether a byte differs, the largest change, and the largest magnitude before."""
        _require(before.shape == after.shape and before.dtype == after.dtype)
        differs = np.empty(len(before), np.bool_)
        change, peak = np.empty(len(before)), np.empty(len(before))
        code, at = _checked(before)
        results = (array.ctypes.data for array in (differs, change, peak))
        self._functions["compare"](code, at, _checked(after)[1], *before.shape, *results)
        return differs, change, peak

    def gather(self, matrix: NDArray[Any], columns: NDArray[np.intp], out: NDArray[Any]) -> None:
        """Put some columns of a C-contiguous `matrix` into `out`, one row for each of `columns`."""
        _require(out.shape == (len(columns), len(matrix)) and out.flags.c_contiguous)
        _require(out.dtype == matrix.dtype)
        self._transpose("gather", matrix, columns, out)

    def scatter(self, matrix: NDArray[Any], columns: NDArray[np.intp], rows: NDArray[Any]) -> None:
        """Replace some columns of `matrix` by `rows`; what `gather` does, undone."""
        _require(rows.shape == (len(columns), len(matrix)))
        self._transpose("scatter", matrix, columns, np.ascontiguousarray(rows, matrix.dtype))

    def _transpose(
        self, name: str, matrix: NDArray[Any], columns: NDArray[np.intp], rows: NDArray[Any]
    ) -> None:
        height, width = matrix.shape
        _require(matrix.flags.c_contiguous and matrix.itemsize in {1, 2, 4, 8})
        _require(not len(columns) or 0 <= columns.min() <= columns.max() < width)
        places = np.ascontiguousarray(columns, np.int64)
        at, to = matrix.ctypes.data, rows.ctypes.data
        size, count = matrix.itemsize, len(places)
        self._functions[name](size, at, height, width, places.ctypes.data, count, to)


def writes(block: NDArray[Any]) -> bool:
    """Whether the kernels can round to the dtype of `block`, which they can work on."""
    return takes(block) and rounds(block.dtype)


def rounds(dtype: np.dtype[Any]) -> bool:
    """Whether the kernels can round to `dtype`."""
    return _code(dtype) in _WRITTEN


def takes(block: NDArray[Any]) -> bool:
    """Whether the kernels can work on `block` as it lies in memory."""
    flags = block.flags
    return bool(
        flags.c_contiguous and flags.aligned and block.size and _code(block.dtype) is not None
    )


@cache
def _code(dtype: np.dtype[Any]) -> int | None:
    """Which of `enum dtype` it is, if any; NumPy takes its time to name one."""
    return _DTYPES.get(dtype.name) if dtype.isnative else None


def prepared(block: NDArray[Any], workspace: Workspace) -> NDArray[Any]:
    """Return `block`, or a copy of it that the kernels can work on: in order, in native bytes."""
    if takes(block) or not block.size:
        return block
    copy = workspace.array("prepared", block.dtype.newbyteorder("="), block.shape)
    np.copyto(copy, block)
    return copy


def _require(holds: bool) -> None:
    """Let nothing reach C that would have it read or write elsewhere; no `assert`, which ``-O`` drops."""
    if not holds:
        raise ValueError("an array of another size, dtype or layout than the kernels take")


def _checked(block: NDArray[Any]) -> tuple[int, int]:
    _require(takes(block))
    code = _code(block.dtype)
    assert code is not None  # or it would not be taken
    return code, block.ctypes.data


def _results(
    wanted: Sequence[str], shape: tuple[int, ...]
) -> tuple[dict[str, NDArray[np.float64]], Any]:
    found = {name: np.empty(shape) for name in wanted}
    _require(("min" in found) == ("max" in found))
    pointers = (_POINTER * len(STATISTICS))(
        *(found[name].ctypes.data if name in found else None for name in STATISTICS)
    )
    return found, pointers


def loaded(environment: Mapping[str, str] = os.environ) -> Library | None:
    """Return the kernels for this processor, or ``None`` where NumPy is to do the work.

    Raises:
        UsageError: the environment asks for kernels that do not exist.
    """
    wanted = environment.get(VARIABLE, "")
    if wanted not in {"", "numpy", *LEVELS}:
        raise UsageError(
            f"{VARIABLE} is {wanted!r}: expected numpy, or a level: {', '.join(LEVELS)}"
        )
    return None if wanted == "numpy" else _at_level(wanted)


@cache
def _at_level(wanted: str) -> Library | None:
    path = Path(__file__).with_name("lib") / "kernels.so"
    if not path.is_file():
        return None
    try:
        compiled = ctypes.CDLL(os.fspath(path))
        best: int = compiled.ckptclamp_best_level()
        level = min(best, LEVELS.index(wanted)) if wanted else best
        return Library(compiled, LEVELS[level])
    except (OSError, AttributeError):
        return None  # for another platform, or damaged: NumPy gives the same bits
