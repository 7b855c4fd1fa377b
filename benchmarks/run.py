"""Measure ckptclamp against its yardsticks and print one table.

    python benchmarks/run.py [--only GROUP ...] [--size MIB] [--times N] [--svg PATH]

Every figure is a ratio of whole processes that ran in turns on this machine in this run; absolute
times of a shared machine mean little. Groups: audit, statistics, cold, peers, apply, containers,
scaling.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from pathlib import Path

import cases
import scaling

MIB = 1 << 20
HEADER = "| group | what | against | ratio (lowest to highest) | best of each | yardstick | ours, s | CPU s | peak MiB |"


def main() -> int:
    options = _options()
    groups = options.only or [*cases.GROUPS, "scaling"]
    print(
        f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}; ",
        end="",
    )
    print(
        f"files of {options.size} MiB, {options.times} pairs; load {os.getloadavg()[0]:.1f} at the start\n"
    )
    missed = 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        setting = cases.Setting(
            Path(folder), options.size * MIB, options.times, options.peer_python
        )
        if set(groups) & set(cases.GROUPS):
            print(HEADER + "\n" + "|---" * 9 + "|")
        for group in groups:
            if group in cases.GROUPS:
                for row in cases.GROUPS[group](setting):
                    missed += _print_row(group, row)
        if "scaling" in groups:
            missed += _scaling(setting, options)
    print(f"\nload {os.getloadavg()[0]:.1f} at the end; {missed} yardstick(s) missed")
    return 1 if missed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure against the yardsticks.")
    parser.add_argument("--only", nargs="+", choices=[*cases.GROUPS, "scaling"])
    parser.add_argument("--size", type=int, default=4096, metavar="MIB", help="size of the files")
    parser.add_argument("--times", type=int, default=7, help="pairs of runs for each row")
    parser.add_argument("--folder", help="where files go; its disk must have room for two")
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter with torch")
    parser.add_argument("--svg", type=Path, help="draw memory and time by size here")
    parser.add_argument(
        "--largest", type=int, default=16, metavar="GIB", help="largest sparse file"
    )
    return parser.parse_args()


def _print_row(group: str, row: cases.Row) -> bool:
    """Print one row; whether it missed its yardstick."""
    limit = "-" if row.yardstick is None else f"{row.yardstick:.1f}"
    if row.result is None:
        print(
            f"| {group} | {row.name} | {row.against} | {row.note} | | {limit} | | | |", flush=True
        )
        return False
    r = row.result
    late = row.yardstick is not None and r.ratio > row.yardstick
    print(
        f"| {group} | {row.name} | {row.against} | {r.ratio:.2f} ({r.low:.2f} to {r.high:.2f}) "
        f"| {r.best:.2f} "
        f"| {limit}{' MISSED' if late else ''} | {r.ours:.2f} | {r.cpu:.2f} | {r.peak / MIB:.0f} |",
        flush=True,
    )
    return late


def _scaling(setting: cases.Setting, options: argparse.Namespace) -> bool:
    sizes = [64 * MIB << i for i in range(20) if (64 * MIB << i) <= options.largest << 30]
    found = scaling.points(setting, sizes)
    print("\n| sparse file, MiB | threads | s | peak MiB |\n|---|---|---|---|")
    for point in found:
        print(
            f"| {point.size / MIB:.0f} | {point.jobs} | {point.wall:.2f} | {point.peak / MIB:.0f} |"
        )
    for jobs in (1, 8):
        print(
            f"\ntime is linear in size, {jobs} thread(s): R² = {scaling.r_squared(found, jobs):.4f}"
        )
    print(f"\nstart-up: {scaling.start_up(setting):.2f} s of processor time")
    if options.svg:
        options.svg.write_text(scaling.svg(found))
    return max(point.peak for point in found) > scaling.BUDGET_AND_INTERPRETER


if __name__ == "__main__":
    sys.exit(main())
