"""The rows of the table: what is compared with what, and the most that the ratio may be."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import files
import peers
import processes

# -P: what is installed is measured, not what happens to lie in the working directory.
COMMAND = [sys.executable, "-P", "-m", "ckptclamp"]
INLINE = ["--tensors", "**", "--no-settings", "--quiet"]
NORM = """version: 1
declared: ignore
rules:
  - {id: norm, tensors: "**", constraint: MaxNorm, max_value: 2.0, axis: 1}
"""
EXTREMES = """  - {id: sign, tensors: "**", constraint: {class_name: Clip, config: {low: -9, high: 9}}}
"""
MATRIX = (4096, 4096)
CONV = (3, 3, 512, 512)


@dataclass(frozen=True)
class Setting:
    """Where files go, how large they are, and which interpreter has the frameworks."""

    folder: Path
    size: int
    times: int
    python: str


@dataclass(frozen=True)
class Row:
    """One row: its name, what it is measured against, the yardstick, and what came out."""

    name: str
    against: str
    yardstick: float | None
    result: processes.Comparison | None
    note: str = ""
    group: str = field(default="", compare=False)


def audit(path: Path, *options: str) -> list[str]:
    return [*COMMAND, "audit", str(path), *INLINE, *options]


def _shell(command: str) -> list[str]:
    return ["sh", "-c", command]


def _compared(  # noqa: PLR0917 - a row is written as it reads in the table
    setting: Setting, name: str, against: str, limit: float | None, base, ours, **options
) -> Row:
    codes = options.pop("expected", frozenset({0}))
    result = processes.compare(base, ours, times=setting.times, expected=codes, **options)
    return Row(name, against, limit, result)


def audits(setting: Setting) -> Iterator[Row]:
    """Audits of files in the page cache, against reading them with `cat`."""
    plan = [
        ("rows float32", "float32", MATRIX, "1", 1.5),
        ("columns float32", "float32", MATRIX, "0", 2.0),
        ("conv [0,1,2] float32", "float32", CONV, "0,1,2", 2.0),
        ("rows bfloat16", "bfloat16", MATRIX, "1", 2.5),
        ("columns bfloat16", "bfloat16", MATRIX, "0", 3.5),
        ("rows float64", "float64", MATRIX, "1", None),
        ("rows float16", "float16", MATRIX, "1", None),
        ("rows float8_e4m3fn", "float8_e4m3fn", MATRIX, "1", None),
        ("rows int8", "int8", MATRIX, "1", None),
    ]
    for name, dtype, shape, axis, limit in plan:
        path = files.save(setting.folder / "audit.safetensors", dtype, shape, setting.size)
        ours = audit(path, "--axis", axis, "--max-norm", "1e4")
        yield _compared(
            setting, name, "cat", limit, _shell(f"cat {shlex.quote(str(path))} >/dev/null"), ours
        )
        path.unlink()


def statistics(setting: Setting) -> Iterator[Row]:
    """Norm, extremes and non-finite weights together, against the norm alone."""
    alone, both = setting.folder / "alone.yaml", setting.folder / "both.yaml"
    alone.write_text(NORM)
    both.write_text(NORM + EXTREMES)
    for dtype in ("float32", "bfloat16"):
        path = files.save(setting.folder / "both.safetensors", dtype, MATRIX, setting.size)
        base, ours = (
            [*COMMAND, "audit", str(path), "--no-settings", "--quiet", "--spec", str(spec)]
            for spec in (alone, both)
        )
        yield _compared(setting, f"extremes too, {dtype}", "norm alone", 1.5, base, ours)
        path.unlink()


def cold(setting: Setting) -> Iterator[Row]:
    """The same with the file dropped from the page cache before each run."""
    path = files.save(setting.folder / "cold.safetensors", "float32", MATRIX, setting.size)
    base = _shell(f"cat {shlex.quote(str(path))} >/dev/null")
    ours = audit(path, "--axis", "1", "--max-norm", "2")
    before = partial(processes.drop_from_cache, path)
    yield _compared(setting, "rows float32, cold", "cat, cold", None, base, ours, before=before)
    path.unlink()


def peer_tools(setting: Setting) -> Iterator[Row]:
    """Against what people write by hand; below 1 is faster than they are."""
    path = files.save(setting.folder / "peer.safetensors", "float32", MATRIX, setting.size)
    ours = audit(path, "--axis", "1", "--max-norm", "2")
    for name, program, modules in (
        ("torch", peers.TORCH, ("torch", "safetensors")),
        ("numpy", peers.NUMPY, ("numpy", "safetensors")),
    ):
        if not peers.installed(setting.python, *modules):
            yield Row("rows float32", f"safetensors + {name}", None, None, "not installed")
            continue
        base = [setting.python, "-c", program, str(path)]
        yield _compared(setting, "rows float32", f"safetensors + {name}", None, base, ours)
    path.unlink()


def applies(setting: Setting) -> Iterator[Row]:
    """Copies with nothing, one unit in a hundred, and everything to mend, against `cp` and `sync`."""
    source = files.save(setting.folder / "apply.safetensors", "float32", MATRIX, setting.size)
    target = setting.folder / "copy.safetensors"
    quoted = shlex.quote(str(source)), shlex.quote(str(target))
    base = _shell(f"cp {quoted[0]} {quoted[1]} && sync {quoted[1]}")
    limits = {"1": (1.5, 1.8, 1.8), "0": (2.0, 2.6, 2.6)}
    for axis, what in (("1", "rows"), ("0", "columns")):
        bounds = (("nothing", "2"), ("1 %", "1.026"), ("all", "0.5"))
        for (share, bound), limit in zip(bounds, limits[axis], strict=True):
            ours = [*COMMAND, "apply", str(source), "-o", str(target), *INLINE, "--axis", axis]
            ours += ["--max-norm", bound, "--tolerance", "0"]
            yield _compared(
                setting,
                f"apply {what}, {share}",
                "cp + sync",
                limit,
                base,
                ours,
                before=partial(target.unlink, missing_ok=True),
            )
    target.unlink(missing_ok=True)
    source.unlink()


def containers(setting: Setting) -> Iterator[Row]:
    """HDF5, plain against safetensors, compressed against h5py reading everything."""
    import h5py

    shape, count = (2048, 2048), max(1, setting.size // 4 // (2048 * 2048 * 4))
    data = files.weights("float32", shape)
    plain, packed = setting.folder / "plain.h5", setting.folder / "packed.h5"
    for path, how in (
        (plain, {}),
        (packed, {"compression": "gzip", "compression_opts": 1, "shuffle": True}),
    ):
        with h5py.File(path, "w") as file:
            for i in range(count):
                file.create_dataset(f"layer_{i}/kernel", data=data, **how)
    same = files.save(setting.folder / "same.safetensors", "float32", shape, setting.size // 4)
    options = ("--axis", "1", "--max-norm", "2")
    yield _compared(
        setting,
        "rows, plain HDF5",
        "safetensors",
        None,
        audit(same, *options),
        audit(plain, *options),
    )
    base = [sys.executable, "-c", peers.H5PY, str(packed)]
    yield _compared(
        setting,
        "rows, gzip HDF5, 1 thread",
        "h5py, whole",
        None,
        base,
        audit(packed, *options, "--jobs", "1"),
    )
    for path in (plain, packed, same):
        path.unlink()


GROUPS = {
    "audit": audits,
    "statistics": statistics,
    "cold": cold,
    "peers": peer_tools,
    "apply": applies,
    "containers": containers,
}
