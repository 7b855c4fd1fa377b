"""How far a run is: bars on a terminal, a line every so often in a log. Always on stderr.

What is counted are the bytes that a phase has done, so that speed and time left are those of the work.
Phases run beside each other (a copy is compared, hashed and flushed at once), in several threads.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING

import click

from ckptclamp.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from ckptclamp.cli.options import ReportOptions
    from ckptclamp.engine.executors import Progress

_EVERY = 10.0
"""Seconds between two lines of a log."""


class InterruptedWritingError(KeyboardInterrupt):
    """The user ended a run that had written something: its message says what."""


@contextmanager
def watching(copy: Path) -> Iterator[None]:
    """Tell of an interrupt after a `copy` was published that it is there."""
    before = _state(copy)
    try:
        yield
    except KeyboardInterrupt:
        if _state(copy) != before:
            said = f"{printable(str(copy))} was written, and its reports were not"
            raise InterruptedWritingError(said) from None
        raise


def _state(path: Path) -> set[tuple[str, int, int]]:
    """What stands at `path`, by what changes when it is replaced."""
    found = set()
    for entry in (path, *(path.iterdir() if path.is_dir() else ())):
        with suppress(OSError):
            status = entry.lstat()
            stays = entry is path and path.is_dir()  # a folder's time tells of files within
            found.add((entry.name, status.st_ino, 0 if stays else status.st_mtime_ns))
    return found


def after_interrupt(cause: BaseException | None) -> str:
    """What an interrupted run leaves, in words."""
    if isinstance(cause, InterruptedWritingError):
        return str(cause)
    reports = sys.modules.get("ckptclamp.reports")
    written = [] if reports is None else reports.WRITTEN
    if not written:
        return "nothing was written"
    return f"only {', '.join(printable(str(path)) for path in written)} was written"


@contextmanager
def progress_bar(reports: ReportOptions) -> Iterator[Progress | None]:
    """Tell on stderr how far each phase is, unless the run is to be quiet."""
    if reports.quiet:
        yield None
        return
    if not sys.stderr.isatty():
        yield Log(partial(click.echo, err=True))
        return
    from rich import progress
    from rich.console import Console

    with progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True, no_color=reports.color == "never" or None),
        transient=True,
    ) as bars:
        yield Bars(bars)


class _Phases:
    """A `Progress` that can tell phases apart, and at which of several files they are."""

    place = ""

    def at(self, place: str) -> None:
        """Say what all phases are at from now on, such as ``shard 3 of 12``; nothing if it is empty."""
        self.place = f", {place}" if place else ""

    def __call__(self, done: int, total: int) -> None:
        self.show("measuring", done, total)

    def phase(self, name: str) -> Progress:
        """What is to be called for one phase."""
        return partial(self.show, name)

    def show(self, name: str, done: int, total: int) -> None:
        """Show how far the phase called `name` is."""
        raise NotImplementedError


class Bars(_Phases):
    """A bar for each phase that is at work."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._lock = Lock()

    def show(self, name: str, done: int, total: int) -> None:
        """Show the bar of a phase until it is done."""
        with self._lock:
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, total=total)
            task = self._tasks[name]
            told = f"{name}{self.place}"
            self._bars.update(task, completed=done, total=total, description=told)
            if done >= total:
                self._bars.remove_task(self._tasks.pop(name))


@dataclass
class _Seen:
    """When a phase was last told of, and how far it was."""

    at: float
    done: int


class Log(_Phases):
    """A line every ten seconds, for whoever reads what a job printed."""

    def __init__(
        self, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write, self._clock = write, clock
        self._seen: dict[str, _Seen] = {}
        self._last = clock()
        self._lock = Lock()

    def show(self, name: str, done: int, total: int) -> None:
        """Write a line if the last one is old enough."""
        now = self._clock()
        with self._lock:
            seen = self._seen.setdefault(name, _Seen(now, done))
            if now - self._last < _EVERY:
                return
            self._last = now
            self._write(f"ckptclamp: {name}{self.place}: {_told(seen, now, done, total)}")
            self._seen[name] = _Seen(now, done)


def _told(seen: _Seen, now: float, done: int, total: int) -> str:
    """How far, how fast since the last line, and how long at that speed."""
    from ckptclamp.reports.wording import file_size

    far = f"{file_size(done)} of {file_size(total)}"
    elapsed = now - seen.at
    if elapsed <= 0 or done <= seen.done:
        return far
    rate = (done - seen.done) / elapsed
    return f"{far}, {file_size(round(rate))}/s, {_duration((total - done) / rate)} left"


def _duration(seconds: float) -> str:
    """``42 s``, ``3 min 5 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
