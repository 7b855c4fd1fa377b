"""Dask and Ray: a cluster of this machine that is started here, or one that runs at an address.

Both try an item again whose worker died, and say when they give up. Whoever connects to a cluster trusts
it: what is sent and answered are Python objects.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager
from importlib import import_module
from tempfile import TemporaryDirectory
from typing import Any, ParamSpec, TypeVar

from ckptclamp.engine.elsewhere import ATTEMPTS, Engine
from ckptclamp.engine.elsewhere.processes import without_main
from ckptclamp.errors import CkptclampError, UsageError, printable

P = ParamSpec("P")
Answer = TypeVar("Answer")

_AHEAD = 2
"""Items in flight for each that can be worked on, so that no worker waits for the next one."""

_PATIENCE = 30
"""Seconds in which a cluster must answer."""


_OWN_DASK = {
    "distributed.scheduler.allowed-failures": ATTEMPTS - 1,
    # Nobody looks at what it would tell of itself, up to a hundred times a second.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "10s",
}
"""Settings of a cluster that is started here."""


def _needed(module: str, name: str) -> Any:  # noqa: ANN401 - a module
    """Import `module`, which the extra `name` installs.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UsageError(
            f"--executor {name} needs {module}, which is not installed",
            hint=f"pip install 'ckptclamp[{name}]'",
        ) from error


def _unreachable(name: str, address: str | None, error: BaseException) -> CkptclampError:
    said = printable(" ".join(str(error).split()) or type(error).__name__, limit=200)
    if address is None:
        return CkptclampError(f"no {name} cluster can be started on this machine: {said}")
    return CkptclampError(
        f"the {name} cluster at {printable(address)} does not answer: {said}",
        hint="is it running, and is this its address?",
    )


@contextmanager
def dask(address: str | None, workers: int) -> Iterator[Engine]:
    """Give the Dask cluster whose scheduler is at `address`, or a local one of so many processes.

    Raises:
        UsageError: Dask is not installed.
        CkptclampError: the scheduler does not answer.
    """
    distributed = _needed("distributed", "dask")
    config = import_module("dask").config
    given_up = (distributed.scheduler.KilledWorker,)
    with config.set(_OWN_DASK):
        try:
            client = distributed.Client(
                address or _local_dask(distributed, workers),
                timeout=_PATIENCE,
                set_as_default=False,
            )
        except (OSError, ValueError) as error:
            raise _unreachable("Dask", address, error) from error
        try:
            threads = sum(client.nthreads().values())
            # Not as a context: it would wait for what nobody will do any more after an interrupt.
            yield Engine(client.get_executor(), _AHEAD * max(threads, workers), given_up)
        finally:
            cluster = client.cluster
            client.close()
            if address is None and cluster is not None:
                cluster.close()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Start processes that ignore an interrupt, which is for this one; it has its turn afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _local_dask(distributed: Any, workers: int) -> Any:  # noqa: ANN401 - no stubs
    """A cluster of processes, which nobody else can reach, and which says nothing of itself."""
    with without_main(), _interrupts_held():
        return distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            # It serves pages of its state all the same; 8787, where it would, may be taken.
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
            silence_logs=logging.CRITICAL,
        )


@contextmanager
def ray(address: str | None, workers: int) -> Iterator[Engine]:
    """Give the Ray cluster at `address`, or a local one for so many items at once.

    Raises:
        UsageError: Ray is not installed.
        CkptclampError: the cluster does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would call home
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray = _needed("ray", "ray")
    with ExitStack() as undone:
        if address is None:
            # "local": else it would join whichever cluster was started here last.
            folder = TemporaryDirectory(prefix="ckptclamp-", ignore_cleanup_errors=True)
            where = {"_temp_dir": undone.enter_context(folder), "num_cpus": workers}
            where |= {"address": "local", "include_dashboard": False}
        else:
            where = {"address": address}
        with _own_signals():
            try:
                _check_answers(address or "")
                ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **where)
            except (OSError, ValueError, RuntimeError) as error:
                raise _unreachable("Ray", address, error) from error
        undone.callback(ray.shutdown)
        cpus = int(ray.cluster_resources().get("CPU", workers))
        given_up = (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError)
        yield Engine(_Ray(ray), _AHEAD * max(cpus, workers), given_up)


def _check_answers(address: str) -> None:
    """Raise `OSError` where nobody listens at ``HOST:PORT``; Ray would try for minutes, and tell."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE):
            pass


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep what a signal to end does here; Ray puts its own in place."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


class _Ray(Executor):
    """Ray's tasks as futures."""

    def __init__(self, ray: Any) -> None:  # noqa: ANN401 - no stubs
        self._task = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(_call)

    def submit(
        self, function: Callable[P, Answer], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[Answer]:
        """See `Executor.submit`."""
        future: Future[Answer] = self._task.remote(function, *args, **kwargs).future()
        return future


def _call(function: Callable[P, Answer], /, *args: P.args, **kwargs: P.kwargs) -> Answer:
    return function(*args, **kwargs)
