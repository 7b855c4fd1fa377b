"""What it costs to start, in processor time: the rest of the work has not begun."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import files
import processes
from setting import COMMAND, Setting
from table import Row, compared

SPEC = """version: 1
rules:
  - {id: norm, tensors: "**", constraint: MaxNorm, max_value: 2.0, axis: 0}
"""


def startup(setting: Setting) -> Iterator[Row]:
    """`--help` against an interpreter that does nothing; the smallest audit against NumPy."""
    tiny = files.save(setting.folder / "tiny.safetensors", "float32", (4, 4), 64)
    spec = setting.folder / "spec.yaml"
    spec.write_text(SPEC)
    audit = [*COMMAND, "audit", str(tiny), "--spec", str(spec), "--no-settings"]
    for what, ours, code, limit in (
        ("`ckptclamp --help`", [*COMMAND, "--help"], "pass", 4.0),
        ("audit of a tiny file with a spec", audit, "import numpy", 2.5),
    ):
        theirs = [sys.executable, "-c", code]
        found = processes.compare(theirs, ours, times=max(setting.times, 21), of="cpu")
        against = f"`python -c '{code}'`"
        yield compared("start-up", what, against, limit, found, measure="processor time")
