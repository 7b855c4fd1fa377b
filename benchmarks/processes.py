"""Whole processes, measured from outside: wall time, processor time, peak memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn


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
    """Medians of paired runs, `ours` against `theirs` in seconds, and the spread of their ratios.

    `best` is the fastest of ours against the fastest of theirs: what a busy machine hides least.
    `cpu` and `peak` are seconds of processor time and bytes of ours, `their_peak` bytes of theirs.
    """

    ratio: float
    best: float
    low: float
    high: float
    theirs: float
    ours: float
    cpu: float
    peak: int
    their_peak: int


def turns(
    commands: Sequence[Sequence[str]], times: int, before: Callable[[], None] = lambda: None
) -> list[tuple[Run, ...]]:
    """Run `commands` in turns, A B A B, once unheeded and then `times` times.

    Neighbours can be compared: a machine that slows down halfway slows all. `before` prepares each
    run.

    Raises:
        RuntimeError: a process failed; its time would mean nothing.
    """
    rounds = []
    for _ in range(times + 1):
        done = []
        for command in commands:
            before()
            done.append(run(command))
            if done[-1].code:
                _complain(command, done[-1].code)
        rounds.append(tuple(done))
    return rounds[1:]


def _complain(command: Sequence[str], code: int) -> NoReturn:
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    raise RuntimeError(
        f"exit {code}: {' '.join(command)}\n"
        f"run again it ends with {again.returncode}: {again.stdout}{again.stderr}"
    )


def compare(
    theirs: Sequence[str],
    ours: Sequence[str],
    *,
    times: int,
    before: Callable[[], None] = lambda: None,
    of: Literal["wall", "cpu"] = "wall",
) -> Comparison:
    """Run the two in turns and compare their wall or processor time; the ratio is the median."""
    return comparison(turns([theirs, ours], times, before), of=of)


def comparison(
    pairs: Sequence[Sequence[Run]], *, of: Literal["wall", "cpu"] = "wall", less: float = 0
) -> Comparison:
    """Compare the last process of each round with the first.

    `less` are seconds of ours that are told elsewhere: what it costs to start a worker.
    """
    theirs = [getattr(pair[0], of) for pair in pairs]
    ours = [max(getattr(pair[-1], of) - less, 0) for pair in pairs]
    ratios = sorted(mine / other for mine, other in zip(ours, theirs, strict=True))
    return Comparison(
        ratio=statistics.median(ratios),
        best=min(ours) / min(theirs),
        low=ratios[0],
        high=ratios[-1],
        theirs=statistics.median(theirs),
        ours=statistics.median(ours),
        cpu=statistics.median(pair[-1].cpu for pair in pairs),
        peak=max(pair[-1].peak for pair in pairs),
        their_peak=max(pair[0].peak for pair in pairs),
    )


def drop_from_cache(path: Path) -> None:
    """Have the system forget the pages of one file; no privilege is needed for one's own.

    Raises:
        RuntimeError: it did not, so that nothing cold can be measured.
    """
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        middle = path.stat().st_size // 2
        try:
            os.preadv(file.fileno(), [bytearray(1)], middle, os.RWF_NOWAIT)
        except BlockingIOError:
            return
    raise RuntimeError(f"{path} stays in the page cache")
