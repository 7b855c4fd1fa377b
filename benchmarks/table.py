"""One table: rows that are added to, kept between runs, and printed as Markdown."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from processes import Comparison

MIB = 1 << 20
HEADER = (
    "| group | what | against | what is compared | ratio (lowest to highest) | best of each "
    "| yardstick | theirs | ours | CPU s | peak MiB | note |"
)


@dataclass(frozen=True)
class Row:
    """One row: what was measured against what, what came out, and what it had to reach.

    `value` is a ratio, or a number in `unit` where there is nothing to divide by. It must not exceed
    the `yardstick`; with `at_least` it must not fall short of it.
    """

    group: str
    what: str
    against: str
    measure: str = "wall time"
    value: float | None = None
    yardstick: float | None = None
    at_least: bool = False
    unit: str = ""
    result: Comparison | None = None
    note: str = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What makes it the same row in another run."""
        return self.group, self.what, self.against, self.measure

    @property
    def missed(self) -> bool:
        if self.value is None or self.yardstick is None:
            return False
        return self.value < self.yardstick if self.at_least else self.value > self.yardstick

    def __str__(self) -> str:
        limit = (
            "-" if self.yardstick is None else f"{'≥' if self.at_least else '≤'} {self.yardstick:g}"
        )
        value = (
            "-" if self.value is None else f"{self.value:.{4 if self.at_least else 2}f}{self.unit}"
        )
        cells = [self.group, self.what, self.against, self.measure, value, ""]
        cells.append(f"{limit}{' **missed**' if self.missed else ''}")
        cells += ["", "", "", "", self.note]
        if (r := self.result) is not None:
            cells[4] += f" ({r.low:.2f} to {r.high:.2f})"
            cells[5] = f"{r.best:.2f}"
            cells[7:11] = [
                f"{r.theirs:.2f}",
                f"{r.ours:.2f}",
                f"{r.cpu:.2f}",
                f"{r.peak / MIB:.0f}",
            ]
        return f"| {' | '.join(cells)} |"


def compared(
    group: str, what: str, against: str, yardstick: float | None, result: Comparison, **options: str
) -> Row:
    """Return the row of a comparison: its value is the median ratio."""
    return Row(
        group, what, against, value=result.ratio, yardstick=yardstick, result=result, **options
    )


def machine() -> str:
    """Say what was measured on."""
    model = next(
        (
            line.split(":")[1].strip()
            for line in _lines("/proc/cpuinfo")
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo")), 0)
    return (
        f"{model} ({platform.machine()}), {len(os.sched_getaffinity(0))} processors, "
        f"{memory / MIB:.0f} GiB of memory, Linux {platform.release()}, "
        f"Python {platform.python_version()}, NumPy {np.__version__}"
    )


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def load(path: Path | None) -> list[Row]:
    """Return the rows that earlier runs left in `path`."""
    if path is None or not path.exists():
        return []
    rows = json.loads(path.read_text())
    return [Row(**row | {"result": row["result"] and Comparison(**row["result"])}) for row in rows]


def merge(before: list[Row], row: Row) -> list[Row]:
    """Put `row` into its group: in the place of the same row of an earlier run, if there is one."""
    places = [i for i, other in enumerate(before) if other.key == row.key]
    if places:
        return [*before[: places[0]], row, *before[places[0] + 1 :]]
    last = max(
        (i + 1 for i, other in enumerate(before) if other.group == row.group), default=len(before)
    )
    return [*before[:last], row, *before[last:]]


def save(path: Path | None, rows: list[Row]) -> None:
    """Leave `rows` for a later run to add to."""
    if path is not None:
        path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def markdown(rows: list[Row]) -> str:
    """Return the whole table."""
    return "\n".join([HEADER, "|---" * HEADER.count(" | ") + "|---|", *map(str, rows)])
