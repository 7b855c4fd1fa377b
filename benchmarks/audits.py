"""Audits against reading the same file with `cat`: warm, with more statistics, and cold."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import files
import kernels
import processes
from setting import COMMAND, CONV, MATRIX, Setting, audit, cat
from table import Row, compared

NORM = """version: 1
declared: ignore
rules:
  - {id: norm, tensors: "**", constraint: MaxNorm, max_value: 2.0, axis: 1}
"""
EXTREMES = """  - {id: sign, tensors: "**", constraint: {class_name: Clip, config: {low: -9, high: 9}}}
"""
ROWS, COLUMNS, FILTERS = (
    ("rows", MATRIX, (1,)),
    ("columns", MATRIX, (0,)),
    ("convolution, axes 0, 1, 2", CONV, (0, 1, 2)),
)
PLAN = [
    ("float32", ROWS, 1.0),
    ("float32", COLUMNS, 1.15),
    ("float32", FILTERS, 1.2),
    ("bfloat16", ROWS, 1.1),
    ("bfloat16", COLUMNS, 1.4),
    ("float16", ROWS, 1.1),
    ("float16", COLUMNS, 1.4),
    ("float8_e4m3fn", ROWS, 1.6),
    ("float8_e4m3fn", COLUMNS, 2.0),
    ("int8", ROWS, 1.6),
    ("int8", COLUMNS, 2.0),
    ("float64", ROWS, None),
]
BY_NUMPY = [
    ("float32", ROWS, 3.2),
    ("float32", COLUMNS, 3.3),
    ("bfloat16", ROWS, 5.1),
    ("bfloat16", COLUMNS, 5.3),
    ("float16", ROWS, 7.5),
    ("float8_e4m3fn", ROWS, 11.2),
    ("int8", ROWS, 7.5),
]
"""Limits of 1.6 times what NumPy took before there were compiled kernels."""


def warm(setting: Setting) -> Iterator[Row]:
    """Audits of files in the page cache; beside each, what its kernel does on weights in the cache."""
    for dtype, (units, shape, axes), limit in PLAN:
        found = _against_cat(setting, dtype, shape, axes)
        speed = kernels.gigabytes_per_second(dtype, shape, axes)
        note = f"kernel alone, one thread: {speed:.1f} GB/s"
        yield compared("audit", f"{units}, {dtype}", "`cat`", limit, found, note=note)


def by_numpy(setting: Setting) -> Iterator[Row]:
    """The same where no compiler was."""
    for dtype, (units, shape, axes), limit in BY_NUMPY:
        found = _against_cat(setting, dtype, shape, axes, "env", "CKPTCLAMP_KERNELS=numpy")
        yield compared("numpy", f"{units}, {dtype}, by NumPy", "`cat`", limit, found)


def _against_cat(
    setting: Setting, dtype: str, shape: tuple[int, ...], axes: tuple[int, ...], *prefix: str
) -> processes.Comparison:
    path = files.save(setting.folder / "audit.safetensors", dtype, shape, setting.size)
    ours = audit(path, "--axis", ",".join(map(str, axes)), "--max-norm", "1e4")
    ours += ["--storage", "raw"] if dtype == "int8" else []
    found = processes.compare(cat(path), [*prefix, *ours], times=setting.times)
    path.unlink()
    return found


def statistics(setting: Setting) -> Iterator[Row]:
    """Norm, extremes and non-finite weights together, against the norm alone."""
    alone, both = setting.folder / "alone.yaml", setting.folder / "both.yaml"
    alone.write_text(NORM)
    both.write_text(NORM + EXTREMES)
    for dtype in ("float32", "bfloat16"):
        path = files.save(setting.folder / "both.safetensors", dtype, MATRIX, setting.size)
        commands = [
            [*COMMAND, "audit", str(path), "--no-settings", "--quiet", "--spec", str(spec)]
            for spec in (alone, both)
        ]
        found = processes.compare(*commands, times=setting.times)
        path.unlink()
        yield compared("statistics", f"extremes too, {dtype}", "the norm alone", 1.15, found)


def cold(setting: Setting) -> Iterator[Row]:
    """The same with the file dropped from the page cache before each run."""
    path = files.save(setting.folder / "cold.safetensors", "float32", MATRIX, setting.size)
    ours = audit(path, "--axis", "1", "--max-norm", "2")
    before = partial(processes.drop_from_cache, path)
    try:
        found = processes.compare(cat(path), ours, times=setting.times, before=before)
    except RuntimeError as error:
        yield Row("cold", "rows, float32, cold", "`cat`, cold", yardstick=1.1, note=str(error))
    else:
        yield compared("cold", "rows, float32, cold", "`cat`, cold", 1.1, found)
    path.unlink()
