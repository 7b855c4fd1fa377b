"""Thousands of cases a minute: each in a fork of a process that has loaded everything already.

A fresh interpreter takes a fifth of a second; a fork takes two thousandths. What runs in it is the
same code. Only the start of the HDF5 worker is replaced, and what follows in it, walls included, is
not.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, TypeVar

from ckptclamp.checkpoints.formats.hdf5 import sandbox

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1
_LONGEST = 86_400.0
"""Seconds of a part of a run."""
_MOST_FDS = 256
"""More than a process here ever has open."""


@dataclass(frozen=True)
class Outcome:
    """What became of a function in a fork.

    `failure` is empty, or says how it ended instead of returning; `memory` is the largest resident
    size, in bytes, of the fork or of a process that it started.
    """

    value: Any
    failure: str
    seconds: float
    memory: int


class Fork:
    """A function at work in a fork of this process, which must have one thread only."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._started = time.monotonic()
        self._heard, said = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._heard)
            os.setsid()
            _answer(function, said)
        os.close(said)

    def outcome(self, seconds: float) -> Outcome:
        """What becomes of it; it is killed `seconds` after its start."""
        answer = _hear(self._heard, self._started + seconds)
        if answer is None:
            os.killpg(self._pid, signal.SIGKILL)
        _, status, usage = os.wait4(self._pid, 0)
        took, memory = time.monotonic() - self._started, usage.ru_maxrss * 1024
        if answer is None:
            return Outcome(None, f"still at work after {seconds:.0f} s", took, memory)
        if os.WIFSIGNALED(status) or not answer:
            signalled = os.WIFSIGNALED(status)
            name = signal.Signals(os.WTERMSIG(status)).name if signalled else str(status)
            return Outcome(None, f"ended by {name}", took, memory)
        value, failure = pickle.loads(answer)
        return Outcome(value, failure, took, memory)


def forked(function: Callable[[], Any], seconds: float) -> Outcome:
    """Call `function` in a fork of this process, and kill it after `seconds`."""
    return Fork(function).outcome(seconds)


def in_parallel(functions: Iterable[Callable[[], T]]) -> list[T]:
    """Call each function in a fork of its own, all at once; return what they return."""
    forks = [Fork(function) for function in functions]
    outcomes = [fork.outcome(_LONGEST) for fork in forks]
    for outcome in outcomes:
        if outcome.failure:
            raise SystemExit(outcome.failure)
    return [outcome.value for outcome in outcomes]


def _answer(function: Callable[[], Any], said: int) -> None:
    """Never return to what was forked, and never outlive it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        answer = (function(), "")
    except BaseException:  # noqa: BLE001 - what came through is what is looked for
        answer = (None, traceback.format_exc())
    with os.fdopen(said, "wb") as pipe:
        pickle.dump(answer, pipe)
    os._exit(0)


def _hear(fd: int, deadline: float) -> bytes | None:
    """Everything that comes through `fd`; ``None`` if that did not end in time."""
    heard = b""
    with os.fdopen(fd, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], max(deadline - time.monotonic(), 0))[0]:
            block = pipe.read(1 << 16)
            if not block:
                return heard
            heard += block
    return None


def warm_workers() -> None:
    """From now on the HDF5 worker is a fork of this process, which must not open any HDF5 file."""
    os.environ["HDF5_PLUGIN_PRELOAD"] = "::"
    from ckptclamp.checkpoints.formats.hdf5 import worker  # noqa: F401 - loaded for the forks

    replaced = SimpleNamespace(
        Popen=WarmWorker, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired
    )
    vars(sandbox)["subprocess"] = replaced


class WarmWorker:
    """As much of `subprocess.Popen` as `worker_process` uses, by a fork."""

    at_start: Callable[[], None] = staticmethod(lambda: None)
    """Called in the worker before its work begins."""

    def __init__(self, command: list[str], *, pass_fds: tuple[int, ...], **_: object) -> None:
        pipes = [os.pipe() for _ in range(3)]
        theirs = (pipes[0][0], pipes[1][1], pipes[2][1])
        ours = (pipes[0][1], pipes[1][0], pipes[2][0])
        # A signal whose handler is still to run would else be handled in both processes.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self.pid = os.fork()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if self.pid == 0:
            _work(command, theirs, pass_fds)
        for fd in theirs:
            os.close(fd)
        self.stdin = os.fdopen(ours[0], "wb", buffering=0)
        self.stdout = os.fdopen(ours[1], "rb", buffering=0)
        self.stderr = os.fdopen(ours[2], "rb", buffering=0)
        self.returncode: int | None = None

    def kill(self) -> None:
        """As `subprocess.Popen.kill`."""
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """As `subprocess.Popen.wait`."""
        if self.returncode is None and timeout is not None:
            self._wait_until(time.monotonic() + timeout, timeout)
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def _wait_until(self, deadline: float, timeout: float) -> None:
        while self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("worker", timeout)
            else:
                time.sleep(0.0005)


def _work(command: list[str], streams: tuple[int, ...], keep: tuple[int, ...]) -> None:
    """Become the worker that `command` would have started."""
    from ckptclamp.checkpoints.formats.hdf5 import worker

    try:
        for number, fd in enumerate(streams):
            os.dup2(fd, number)
        bounds = [2, *sorted(keep), _MOST_FDS]
        for last, following in pairwise(bounds):
            os.closerange(last + 1, following)
        sys.argv = ["-c", *command[5:]]
        WarmWorker.at_start()
        worker.main()
    except BaseException:  # noqa: BLE001 - as an interpreter would
        os.write(2, traceback.format_exc().encode())
    os._exit(1)
