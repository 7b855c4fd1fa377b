"""Running work in order, with a bounded window, on any executor."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ckptclamp.engine.executors import concurrently, in_order, threads


@pytest.mark.parametrize("jobs", [1, 3])
def test_results_come_in_the_order_of_the_items(jobs):
    """Later items finish first here; their results must wait."""

    def work(n):
        time.sleep(0.002 * (5 - n % 5))
        return n * n

    with threads(jobs) as pool:
        results = list(in_order(work, range(20), pool, 4))
    assert results == [(n, n * n) for n in range(20)]


def test_items_are_drawn_no_faster_than_results_are_taken():
    """An endless source must not be drained into memory while the reader is slow."""
    drawn = itertools.count()
    with ThreadPoolExecutor(2) as pool:
        results = in_order(str, drawn, pool, 4)
        taken = [next(results) for _ in range(10)]
    assert taken[-1] == (9, "9")
    assert next(drawn) <= 10 + 4


def test_what_work_raises_is_raised_and_the_rest_is_dropped():
    """A bug in a worker must not end as a shorter result."""

    def work(n):
        if n == 3:
            raise ValueError("three")
        return n

    with threads(2) as pool, pytest.raises(ValueError, match="three"):
        list(in_order(work, range(10), pool, 4))


def test_work_beside_a_block_is_done_when_the_block_is():
    """Whoever leaves the block may rely on the work."""
    done = []

    def work():
        time.sleep(0.01)
        done.append(True)

    with concurrently(work):
        pass
    assert done


def test_a_failure_beside_a_block_is_raised_behind_it():
    """A flush that fails in the background must not end as a success."""

    def work():
        raise OSError("no space")

    seen = []
    with pytest.raises(OSError, match="no space"), concurrently(work):  # noqa: PT012
        time.sleep(0.01)
        seen.append("the block went on")
    assert seen


def test_what_the_block_raises_comes_first():
    """Two failures at once are told by the one that the caller knows of; both are waited for."""
    done = []
    with pytest.raises(ValueError, match="mine"), concurrently(lambda: done.append(True)):
        raise ValueError("mine")
    assert done
