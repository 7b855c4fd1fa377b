"""What workers do in tests: die, fail, or hold on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptclamp.constraints.sets.norms import MaxNorm


def square(number: int) -> int:
    """Work that is done."""
    return number * number


def process(_: int) -> int:
    """Tell which process works."""
    return os.getpid()


def slow_process(_: int) -> int:
    """Take a moment, and tell which process works."""
    time.sleep(0.1)
    return os.getpid()


def fails_until(item: tuple[Path, int, int]) -> int:
    """Fail as often as is asked for, and then return a number."""
    folder, number, times = item
    if count(folder / f"{number}") <= times:
        raise OSError(f"no luck with {number}")
    return number


def dies_until(item: tuple[Path, int, int]) -> int:
    """Be killed as often as is asked for, and then return a number."""
    folder, number, times = item
    if count(folder / f"{number}") <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def count(path: Path) -> int:
    """How often this was asked of `path`, in any process."""
    with path.open("a") as file:
        file.write(".")
        return file.tell()


@dataclass(frozen=True)
class Deadly(MaxNorm):
    """A bound that kills whoever judges by it, so many times."""

    folder: str = ""
    times: int = 0

    def judge(self, statistics: Any) -> Any:
        """Be killed, or judge."""
        is_worker = multiprocessing.parent_process() is not None
        if is_worker and count(Path(self.folder) / "deaths") <= self.times:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().judge(statistics)
