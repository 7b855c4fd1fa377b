"""Whole processes, measured from outside: wall time, processor time, peak memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """One process: seconds of wall and processor time, peak memory in bytes, exit code."""

    wall: float
    cpu: float
    peak: int
    code: int


# wait4's ru_maxrss begins with the peak of the process that forked. This launcher is smaller than
# anything that is measured, so what it reports is the measured process's own.
_LAUNCHER = """
import os, sys, time
start = time.perf_counter()
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
wall = time.perf_counter() - start
code = os.waitstatus_to_exitcode(status)
report = f"{wall} {usage.ru_utime + usage.ru_stime} {usage.ru_maxrss * 1024} {code}"
os.write(3, report.encode())
"""


def run(command: Sequence[str]) -> Run:
    """Run `command` to its end; its output is thrown away."""
    reader, writer = os.pipe()
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    try:
        process = subprocess.Popen(
            [
                "sh",
                "-c",
                f'exec "$@" 3>&{writer}',
                "sh",
                sys.executable,
                "-S",
                "-c",
                _LAUNCHER,
                *command,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(writer,),
            env=environment,
        )
    finally:
        os.close(writer)
    with os.fdopen(reader) as pipe:
        wall, cpu, peak, code = pipe.read().split()
    process.wait()
    return Run(float(wall), float(cpu), int(peak), int(code))


@dataclass(frozen=True)
class Comparison:
    """Medians of paired runs, `ours` against `base`, and the spread of their ratios.

    `best` is the fastest of ours against the fastest of theirs: what a busy machine hides least.
    """

    ratio: float
    best: float
    low: float
    high: float
    base: float
    ours: float
    cpu: float
    peak: int


def compare(
    base: Sequence[str],
    ours: Sequence[str],
    *,
    times: int,
    before: Callable[[], None] = lambda: None,
    expected: frozenset[int] = frozenset({0}),
) -> Comparison:
    """Run the two in turns, A B A B, after one of each that does not count.

    The ratio is the median of the ratios of neighbours, so that a machine that slows down halfway
    slows both. `before` prepares each run.

    Raises:
        RuntimeError: a process ended in another way than expected; its time would mean nothing.
    """
    pairs = []
    for number in range(times + 1):
        pair = []
        for command, codes in ((base, frozenset({0})), (ours, expected)):
            before()
            done = run(command)
            if done.code not in codes:
                said = subprocess.run(command, capture_output=True, text=True, check=False)
                raise RuntimeError(
                    f"exit {done.code}: {' '.join(command)}\n"
                    f"run again it ends with {said.returncode}: {said.stdout}{said.stderr}"
                )
            pair.append(done)
        if number:
            pairs.append(pair)
    ratios = sorted(mine.wall / theirs.wall for theirs, mine in pairs)
    return Comparison(
        ratio=statistics.median(ratios),
        best=min(mine.wall for _, mine in pairs) / min(theirs.wall for theirs, _ in pairs),
        low=ratios[0],
        high=ratios[-1],
        base=statistics.median(theirs.wall for theirs, _ in pairs),
        ours=statistics.median(mine.wall for _, mine in pairs),
        cpu=statistics.median(mine.cpu for _, mine in pairs),
        peak=max(mine.peak for _, mine in pairs),
    )


def drop_from_cache(path: Path) -> None:
    """Ask the system to forget the pages of one file (no privilege is needed for one's own)."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
