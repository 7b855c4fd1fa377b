"""How time and memory grow: with the size of a file, and with the number of threads."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import files
import numpy as np
import processes
from setting import MATRIX, Setting, audit
from table import MIB, Row, compared

SMALLEST = 64 * MIB
BUDGET = 256 * MIB
INTERPRETER = 60 * MIB
JOBS = (1, 8)
STRAIGHT = 0.99
THREADS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Point:
    """One size: bytes, threads, the fastest run in seconds, the highest peak in bytes."""

    size: int
    jobs: int
    wall: float
    peak: int


def sizes(setting: Setting) -> list[Point]:
    """Audit sparse files of each size with one thread and with eight, in turns."""
    found = []
    for doubling in range(64):
        if (size := SMALLEST << doubling) > setting.largest:
            break
        path = setting.folder / "sparse.safetensors"
        files.save(path, "float32", MATRIX, size, sparse=True)
        commands = [audit(path, "--axis", "1", "--max-norm", "2", "--jobs", str(j)) for j in JOBS]
        rounds = processes.turns(commands, setting.times)
        path.unlink()
        for place, jobs in enumerate(JOBS):
            runs = [done[place] for done in rounds]
            wall, peak = min(run.wall for run in runs), max(run.peak for run in runs)
            found.append(Point(size, jobs, wall, peak))
    return found


def size_rows(points: list[Point]) -> Iterator[Row]:
    """Judge the points: memory within the budget, time a straight line up to 8 GiB."""
    for jobs in JOBS:
        chosen = [point for point in points if point.jobs == jobs]
        highest = max(point.peak for point in chosen) / MIB
        what = f"{_gib(chosen[0])} to {_gib(chosen[-1])}, sparse, {jobs} thread(s)"
        limit, note = (BUDGET + INTERPRETER) // MIB, "the highest of all sizes"
        yield Row(
            "memory",
            what,
            "the budget and 60 MB",
            "peak memory",
            highest,
            limit,
            unit=" MiB",
            note=note,
        )
        line = [point for point in chosen if point.size <= 8 << 30]
        what = f"{_gib(line[0])} to {_gib(line[-1])}, {jobs} thread(s)"
        note = f"R² of the fastest runs; {_slope(line):.2f} s for each GiB"
        yield Row(
            "size",
            what,
            "a straight line",
            "wall time",
            _r_squared(line),
            STRAIGHT,
            at_least=True,
            note=note,
        )


def _gib(point: Point) -> str:
    gib = point.size >> 30
    return f"{gib} GiB" if gib else f"{point.size // MIB} MiB"


def _columns(points: list[Point]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([p.size / 2**30 for p in points]), np.array([p.wall for p in points])


def _slope(points: list[Point]) -> float:
    return float(np.polyfit(*_columns(points), 1)[0]) if len(points) > 1 else 0.0


def _r_squared(points: list[Point]) -> float | None:
    """How much of the variance of time a straight line in size explains."""
    if len(points) < 3:
        return None
    size, wall = _columns(points)
    rest = wall - np.polyval(np.polyfit(size, wall, 1), size)
    return float(1 - (rest**2).sum() / ((wall - wall.mean()) ** 2).sum())


def threads(setting: Setting) -> list[tuple[int, list[processes.Run]]]:
    """Audit one file with each number of threads, in turns."""
    path = files.save(setting.folder / "threads.safetensors", "float32", MATRIX, setting.size)
    commands = [audit(path, "--axis", "0", "--max-norm", "2", "--jobs", str(n)) for n in THREADS]
    rounds = processes.turns(commands, setting.times)
    path.unlink()
    return [(n, [done[place] for done in rounds]) for place, n in enumerate(THREADS)]


def thread_rows(found: list[tuple[int, list[processes.Run]]]) -> Iterator[Row]:
    """Compare each number of threads with one."""
    (_, one), *others = found
    for number, runs in others:
        result = processes.comparison(list(zip(one, runs, strict=True)))
        yield compared("threads", f"columns, float32, {number} threads", "1 thread", None, result)


def curves(
    points: list[Point], threaded: list[tuple[int, list[processes.Run]]]
) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Return what is drawn: for each diagram its lines, for each line its points."""
    lines = {f"{jobs} thread(s)": [p for p in points if p.jobs == jobs] for jobs in JOBS}
    walls = [(float(n), statistics.median(run.wall for run in runs)) for n, runs in threaded]
    return {
        "time, s, by size, GiB": {
            k: [(p.size / 2**30, p.wall) for p in v] for k, v in lines.items()
        },
        "peak memory, MiB, by size, GiB": {
            k: [(p.size / 2**30, p.peak / MIB) for p in v] for k, v in lines.items()
        },
        "time, s, by threads": {"columns, float32": walls},
    }
