"""Processes of this machine: each worker is a pool of its own, so that one that dies takes no other along."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import types
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Lock, Thread
from typing import ParamSpec, TypeVar

from ckptclamp.engine.elsewhere import Engine

P = ParamSpec("P")
Answer = TypeVar("Answer")

_STARTING = Lock()


@contextmanager
def processes(workers: int) -> Iterator[Engine]:
    """Give an engine of so many processes; they are started as they are needed, and end with the block."""
    executor = Processes(workers)
    try:
        yield Engine(executor, workers)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


class Processes(Executor):
    """Runs one item in each of `workers` processes; `submit` waits while all of them are at work."""

    def __init__(self, workers: int) -> None:
        self._pools: set[ProcessPoolExecutor] = set()
        self._free: SimpleQueue[ProcessPoolExecutor] = SimpleQueue()
        for _ in range(workers):
            self._add()

    def submit(
        self, function: Callable[P, Answer], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[Answer]:
        """See `Executor.submit`."""
        pool = self._free.get()
        with without_main():
            future = pool.submit(function, *args, **kwargs)
        future.add_done_callback(lambda done: self._back(pool, done))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `Executor.shutdown`."""
        for pool in list(self._pools):
            pool.shutdown(wait=wait, cancel_futures=cancel_futures)

    def _add(self) -> None:
        spawning = multiprocessing.get_context("spawn")  # a fork would copy locks of other threads
        pool = ProcessPoolExecutor(1, mp_context=spawning, initializer=_begin)
        self._pools.add(pool)
        self._free.put(pool)

    def _back(self, pool: ProcessPoolExecutor, done: Future[Answer]) -> None:
        """Let `pool` do the next item, or another one if its process is gone."""
        if not done.cancelled() and isinstance(done.exception(), BrokenProcessPool):
            self._pools.discard(pool)
            self._add()
        else:
            self._free.put(pool)


@contextmanager
def without_main() -> Iterator[None]:
    """Start processes that do not run the caller's own program once more to import it.

    Items are made of this package's classes; a script without a guard would start anew in each.
    """
    with _STARTING:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def _begin() -> None:
    """Leave an interrupt to the caller, and end when the caller is no more, however it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_follow, name="parent", daemon=True).start()


def _follow() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
