"""Every violating unit, streamed to a file as JSON Lines while the audit runs.

A report keeps the worst few units of a tensor; whoever needs all of them asks for this file. One
line is one unit: ``{"tensor", "rule", "index", "measured", "bound", "distance", "excess",
"nonfinite"}``, with numbers as in the JSON report.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ckptclamp.auditing.results import WorstUnit
from ckptclamp.reports.codec import codec
from ckptclamp.reports.writing import whole_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

_TEXT = codec(str)
_UNIT = codec(WorstUnit)


class UnitsWriter:
    """Writes units to an open file, one line each, as they come."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, tensor: str, rule: str, unit: WorstUnit) -> None:
        """Write one violating unit of `tensor` under `rule`, both by their full names."""
        named = {"tensor": _TEXT.encode(tensor), "rule": _TEXT.encode(rule)}
        line = json.dumps(named | _UNIT.encode(unit), allow_nan=False)
        self._file.write(line.replace("##", r"#\u0023").encode() + b"\n")


@contextmanager
def units_file(path: Path) -> Iterator[UnitsWriter]:
    """A writer whose file appears at `path` when the block ends well, and not at all otherwise.

    Raises:
        CkptclampError: the file could not be written (exit 3).
    """
    with whole_file(path) as file:
        yield UnitsWriter(file)
