"""Threads that wait for servers, and end with the program whatever they wait for."""

from __future__ import annotations

from concurrent.futures import Future
from functools import cache
from queue import SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

AT_ONCE = 16
"""Requests that are made at once."""
LOOKING_UP = 0.2
"""Seconds after which who waits looks whether it is still wanted."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """At most `count` threads. An executor's would be waited for when the program is to end."""

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._work: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]]
        self._work = SimpleQueue()
        self._started = 0
        self._lock = Lock()

    def submit(self, work: Callable[..., Result], *arguments: Any) -> Future[Result]:  # noqa: ANN401 - any
        """Do `work` in one of the threads; see `concurrent.futures.Executor.submit`."""
        future: Future[Result] = Future()
        self._work.put((future, work, arguments))
        with self._lock:
            if self._started < self._count:
                self._started += 1
                Thread(target=self._run, daemon=True, name=self._name).start()
        return future

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield what `work` makes of each of `items`, in their order; what nobody waits for is not begun."""
        coming = [self.submit(work, item) for item in items]
        try:
            for future in coming:
                yield future.result()
        finally:
            for future in coming:
                future.cancel()

    def _run(self) -> None:
        while True:
            future, work, arguments = self._work.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = work(*arguments)
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                future.set_exception(error)
            else:
                future.set_result(result)


@cache
def fetchers() -> Workers:
    """Those that make requests; they wait for nobody else."""
    return Workers(AT_ONCE, "fetch")


@cache
def readers() -> Workers:
    """Those that read, and so may wait for requests."""
    return Workers(AT_ONCE // 2, "read")
