"""Running work on any `concurrent.futures.Executor`, in order and never far ahead of the reader."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor, Future


Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def threads(jobs: int) -> Iterator[Executor | None]:
    """Give a pool of `jobs` threads, or ``None`` where one thread is enough: the caller's own."""
    if jobs <= 1:
        yield None
        return
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(jobs, thread_name_prefix="ckptclamp")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def is_elsewhere(executor: Executor | str | None) -> bool:
    """Whether `executor` runs work in other processes, so that these open files themselves."""
    return executor not in (None, "threads") and lent_threads(executor) is None


def lent_threads(executor: Executor | str | None) -> Executor | None:
    """`executor` if it is a pool of threads of this process; ``None`` if it is a name, or another."""
    if executor is None or isinstance(executor, str):
        return None
    from concurrent.futures import ThreadPoolExecutor

    return executor if isinstance(executor, ThreadPoolExecutor) else None


@contextmanager
def concurrently(work: Callable[[], None]) -> Iterator[None]:
    """Do `work` in a thread of its own while the block runs, and wait for it when the block ends.

    What `work` raises is raised then, unless the block raises something itself.
    """
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1, thread_name_prefix="beside") as pool:
        future = pool.submit(work)
        yield
        future.result()


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], executor: Executor | None, window: int
) -> Iterator[tuple[Item, Result]]:
    """Run `work` on each item and yield the results in the order of the items.

    At most `window` items are in flight, and `items` is drawn from no faster. Without an executor
    each item is worked on when its result is asked for. What `work` raises is raised here.
    """
    if executor is None:
        for item in items:
            yield item, work(item)
        return
    pending: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            pending.append((item, executor.submit(work, item)))
            if len(pending) >= window:
                first, future = pending.popleft()
                yield first, future.result()
        while pending:
            first, future = pending.popleft()
            yield first, future.result()
    finally:
        for _, future in pending:
            future.cancel()


Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all), with growing numbers until both are the same.

One that has a method `phase(name)` is asked for a `Progress` for each phase: measuring, copying,
projecting, comparing, hashing, flushing. One that has a method `at(place)` is told at which of several
files that are made one after another the phases are.
"""


def in_phase(progress: Progress | None, name: str) -> Progress | None:
    """`progress` for one phase of the work, if it can tell phases apart; else as it is."""
    phase: Callable[[str], Progress] | None = getattr(progress, "phase", None)
    return progress if phase is None else phase(name)


class Phases:
    """Adds up the bytes that each phase has done of `total`, in any thread, for `progress`.

    A `progress` that cannot tell phases apart is told of none of these.
    """

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress if hasattr(progress, "phase") else None
        self._total = total
        self._meters: dict[str, Meter] = {}
        self._lock = Lock()

    def add(self, name: str, more: int) -> None:
        """Count `more` bytes as done in the phase called `name`."""
        if self._progress is None:
            return
        with self._lock:
            if name not in self._meters:
                self._meters[name] = Meter(in_phase(self._progress, name), self._total)
            self._meters[name].add(more)


class Meter:
    """Adds up the bytes of one pass over `total` bytes, for `progress` (``None``: for nobody)."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def add(self, more: int) -> None:
        """Count `more` bytes as done; work that is done twice counts once."""
        self._done = min(self._done + more, self._total)
        if self._progress is not None:
            self._progress(self._done, self._total)
