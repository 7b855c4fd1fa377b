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
PLAN = [
    ("rows", "float32", MATRIX, (1,), 1.5),
    ("columns", "float32", MATRIX, (0,), 2.0),
    ("convolution, axes 0, 1, 2", "float32", CONV, (0, 1, 2), 2.0),
    ("rows", "bfloat16", MATRIX, (1,), 2.5),
    ("columns", "bfloat16", MATRIX, (0,), 3.5),
    ("rows", "float16", MATRIX, (1,), None),
    ("rows", "float8_e4m3fn", MATRIX, (1,), None),
    ("rows", "int8", MATRIX, (1,), None),
    ("rows", "float64", MATRIX, (1,), None),
]


def warm(setting: Setting) -> Iterator[Row]:
    """Audits of files in the page cache; beside each, what its kernel does on weights in the cache."""
    for units, dtype, shape, axes, limit in PLAN:
        path = files.save(setting.folder / "audit.safetensors", dtype, shape, setting.size)
        ours = audit(path, "--axis", ",".join(map(str, axes)), "--max-norm", "1e4")
        found = processes.compare(cat(path), ours, times=setting.times)
        path.unlink()
        speed = kernels.gigabytes_per_second(dtype, shape, axes)
        note = f"kernel alone, one thread: {speed:.1f} GB/s"
        yield compared("audit", f"{units}, {dtype}", "`cat`", limit, found, note=note)


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
        yield compared("statistics", f"extremes too, {dtype}", "the norm alone", 1.5, found)


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
