"""Executors by name: which there are, and what starts them."""

from __future__ import annotations

from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext

from ckptclamp.checkpoints.source import default_jobs
from ckptclamp.engine.elsewhere import Engine
from ckptclamp.errors import UsageError

NAMES = ("threads", "processes", "dask", "ray")


def check_name(name: str) -> str:
    """Return `name` if an engine may be called so.

    Raises:
        UsageError: none is.
    """
    kind, separator, address = name.partition(":")
    takes_address = kind in ("dask", "ray")
    if kind not in NAMES or (separator and not (takes_address and address)):
        raise UsageError(
            f"there is no executor {name!r}",
            hint="known: threads, processes, dask, dask:tcp://HOST:PORT, ray, ray:ADDRESS",
        )
    return name


def engine(executor: Executor | str, jobs: int | None) -> AbstractContextManager[Engine]:
    """The engine that `executor` names, which ends with the block, or that it is, which goes on.

    `jobs` is how many workers are started here, or items an executor is given at once.

    Raises:
        UsageError: there is none of this name, or what it needs is not installed.
        CkptclampError: it does not answer.
    """
    workers = jobs or default_jobs()
    if isinstance(executor, Executor):
        return nullcontext(Engine(executor, 2 * workers))
    kind, _, address = check_name(executor).partition(":")
    if kind == "processes":
        from ckptclamp.engine.elsewhere.processes import processes

        return processes(workers)
    from ckptclamp.engine.elsewhere import clusters

    start = clusters.dask if kind == "dask" else clusters.ray
    return start(address or None, workers)
