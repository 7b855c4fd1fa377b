"""Work in other processes, on this machine or on others: items out, answers back, in any order.

An engine is an executor and how much may be in flight at once. Whose worker dies, or cannot do an item,
has it tried again, and after a few times is told as lost: the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import TypeVar

from ckptclamp.errors import Reason
from ckptclamp.frozen import frozen

Item = TypeVar("Item")
Answer = TypeVar("Answer")

ATTEMPTS = 3
"""How often an item is tried before it is lost."""


@frozen
class Engine:
    """What runs items elsewhere.

    `window` is how many are in flight at once; `final` are failures after which it is of no use to try
    again, since the engine has done so itself.
    """

    executor: Executor
    window: int
    final: tuple[type[BaseException], ...] = ()


@frozen
class Lost:
    """An item that nobody could do, and why."""

    reason: Reason


def answers(
    engine: Engine, work: Callable[[Item], Answer], items: Iterable[Item]
) -> Iterator[tuple[Item, Answer | Lost]]:
    """Do `work` on each item and yield the answers as they come.

    At most `Engine.window` items are in flight, and `items` is drawn from no faster. An item whose work
    fails is done again, by whichever worker is free, and after `ATTEMPTS` times is lost.
    """
    flight: dict[Future[Answer], tuple[Item, int]] = {}
    waiting = iter(items)
    again: list[tuple[Item, int]] = []
    try:
        while True:
            while len(flight) < engine.window and (entry := _next(again, waiting)) is not None:
                flight[_submitted(engine.executor, work, entry[0])] = entry
            if not flight:
                return
            done, _ = wait(flight, return_when=FIRST_COMPLETED)
            for future in done:
                item, tried = flight.pop(future)
                error = future.exception()
                if error is None:
                    yield item, future.result()
                elif tried < ATTEMPTS and not isinstance(error, engine.final):
                    again.append((item, tried + 1))
                else:
                    yield item, Lost(_why(error, tried))
    finally:
        for future in flight:
            future.cancel()


def _next(again: list[tuple[Item, int]], waiting: Iterator[Item]) -> tuple[Item, int] | None:
    """What is to be done next, and for which time."""
    if again:
        return again.pop()
    for item in waiting:
        return item, 1
    return None


def _submitted(executor: Executor, work: Callable[[Item], Answer], item: Item) -> Future[Answer]:
    """Hand `item` over; an executor that takes nothing any more fails it at once."""
    try:
        return executor.submit(work, item)
    except RuntimeError as error:
        refused: Future[Answer] = Future()
        refused.set_exception(error)
        return refused


def _why(error: BaseException, tried: int) -> Reason:
    """Why an item is lost, in one line."""
    said = " ".join(str(error).split())[:200]
    times = "" if tried == 1 else f" {tried} times"
    return Reason("worker-lost", f"a worker failed{times}: {said or type(error).__name__}")
