"""What does not fit into a ratio: peak memory and time by size, and what it costs to start."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

import files
import numpy as np
import processes
from cases import MATRIX, Setting, audit

BUDGET_AND_INTERPRETER = (256 + 60) << 20


@dataclass(frozen=True)
class Point:
    """One size: bytes, threads, seconds of wall time (median), peak memory in bytes."""

    size: int
    jobs: int
    wall: float
    peak: int


def points(setting: Setting, sizes: list[int]) -> list[Point]:
    """Audit sparse files of each size with one thread and with eight."""
    found = []
    for size in sizes:
        path = files.save(
            setting.folder / "sparse.safetensors", "float32", MATRIX, size, sparse=True
        )
        for jobs in (1, 8):
            command = audit(path, "--axis", "0", "--max-norm", "2", "--jobs", str(jobs))
            runs = [processes.run(command) for _ in range(4)][1:]
            if any(done.code for done in runs):
                raise RuntimeError(f"exit {[done.code for done in runs]}: {' '.join(command)}")
            wall = statistics.median(done.wall for done in runs)
            found.append(Point(size, jobs, wall, max(done.peak for done in runs)))
        path.unlink()
    return found


def r_squared(found: list[Point], jobs: int) -> float:
    """How well time is a straight line in size."""
    chosen = [point for point in found if point.jobs == jobs]
    size, wall = (np.array([getattr(p, key) for p in chosen], float) for key in ("size", "wall"))
    line = np.polyval(np.polyfit(size, wall, 1), size)
    return float(1 - ((wall - line) ** 2).sum() / ((wall - wall.mean()) ** 2).sum())


def start_up(setting: Setting) -> float:
    """Processor seconds to audit a file of next to nothing."""
    path: Path = files.save(setting.folder / "tiny.safetensors", "float32", (4, 4), 64)
    command = audit(path, "--axis", "0", "--max-norm", "2")
    return statistics.median(processes.run(command).cpu for _ in range(setting.times))


def svg(found: list[Point]) -> str:
    """Peak memory and time against size, side by side, in plain SVG."""
    return "\n".join(
        [
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 260" font-family="sans-serif" font-size="11">',
            _panel(found, "peak", 1 << 20, "peak memory, MiB", 50),
            _panel(found, "wall", 1.0, "time, s", 410),
            "</svg>\n",
        ]
    )


def _panel(found: list[Point], key: str, unit: float, title: str, left: int) -> str:
    width, height, top = 280, 190, 30
    widest = max(point.size for point in found)
    tallest = max(getattr(point, key) for point in found) or 1
    parts = [
        f'<text x="{left}" y="18">{title} (1 thread solid, 8 dashed)</text>',
        f'<path d="M{left},{top} v{height} h{width}" fill="none" stroke="#888"/>',
        f'<text x="{left - 4}" y="{top + 8}" text-anchor="end">{tallest / unit:.3g}</text>',
        f'<text x="{left + width}" y="{top + height + 16}" text-anchor="end">{widest / 2**30:.3g} GiB</text>',
    ]
    for jobs, dash in ((1, ""), (8, ' stroke-dasharray="5 4"')):
        places = " ".join(
            f"{left + width * p.size / widest:.1f},{top + height * (1 - getattr(p, key) / tallest):.1f}"
            for p in found
            if p.jobs == jobs
        )
        parts.append(f'<polyline points="{places}" fill="none" stroke="#2563eb"{dash}/>')
    return "\n".join(parts)
