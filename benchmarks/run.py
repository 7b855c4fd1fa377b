"""Measure ckptclamp against its yardsticks and print one table.

    python benchmarks/run.py [--only GROUP ...] [--results FILE] [--svg FILE] [--size MIB] [--times N]

Every ratio is of whole processes that ran in turns on this machine in this run; absolute times of a
shared machine mean little. With `--results` the rows of earlier runs are kept beside the new ones, so
that the groups can be run one at a time. The exit code is 1 if a yardstick was missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import audits
import containers
import copies
import drawing
import effective
import others
import scaling
import startup
import table
from setting import Setting

GROUPS: dict[str, Callable[[Setting], Iterator[table.Row]]] = {
    "audit": audits.warm,
    "numpy": audits.by_numpy,
    "statistics": audits.statistics,
    "cold": audits.cold,
    "effective": effective.warm,
    "peers": others.scripts,
    "apply": copies.copies,
    "containers": containers.containers,
    "keras": others.keras,
    "start-up": startup.startup,
}
SCALING = "scaling"


def main() -> int:
    options = _options()
    rows = table.load(options.results)
    print(table.machine())
    print(f"files of {options.size} MiB, {options.times} pairs; load {_load()} at the start\n")
    print(table.markdown([]))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        setting = Setting(
            Path(folder),
            options.size * table.MIB,
            options.largest << 30,
            options.times,
            options.peer_python,
        )
        for row in _measured(setting, options.only, options.svg):
            print(row, flush=True)
            rows = table.merge(rows, row)
            table.save(options.results, rows)
    print(f"\nload {_load()} at the end; {sum(row.missed for row in rows)} yardstick(s) missed")
    if options.results:
        print(f"\nAll that {options.results} holds:\n\n{table.markdown(rows)}")
    return int(any(row.missed for row in rows))


def _measured(setting: Setting, only: list[str], svg: Path | None) -> Iterator[table.Row]:
    for name in only:
        if name != SCALING:
            yield from GROUPS[name](setting)
            continue
        points, threaded = scaling.sizes(setting), scaling.threads(setting)
        yield from scaling.size_rows(points)
        yield from scaling.thread_rows(threaded)
        if svg is not None:
            svg.write_text(drawing.svg(scaling.curves(points, threaded)))


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}"


def _options() -> argparse.Namespace:
    groups = [*GROUPS, SCALING]
    parser = argparse.ArgumentParser(description="Measure against the yardsticks.")
    parser.add_argument(
        "--only", nargs="+", choices=groups, default=groups, metavar="GROUP", help=", ".join(groups)
    )
    parser.add_argument(
        "--results", type=Path, metavar="FILE", help="keep rows here, as JSON, and add to them"
    )
    parser.add_argument(
        "--svg", type=Path, metavar="FILE", help="draw the curves of the group scaling here"
    )
    parser.add_argument(
        "--size", type=int, default=4096, metavar="MIB", help="size of the files (4096)"
    )
    parser.add_argument(
        "--largest", type=int, default=16, metavar="GIB", help="largest sparse file (16)"
    )
    parser.add_argument(
        "--times", type=int, default=7, metavar="N", help="pairs of runs for each row (7)"
    )
    parser.add_argument(
        "--folder", metavar="DIR", help="where files go; its disk must have room for two"
    )
    parser.add_argument(
        "--peer-python",
        default=sys.executable,
        metavar="PYTHON",
        help="an interpreter with torch, safetensors and keras",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
