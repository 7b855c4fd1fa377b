"""The options of an audit, in groups: a function takes the group that it uses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptclamp.checkpoints.source import (
    DEFAULT_EXPANSION_LIMIT,
    DEFAULT_HEADER_LIMIT,
    DEFAULT_UNPACKED_LIMIT,
    Limits,
)
from ckptclamp.frozen import frozen_with_dict
from ckptclamp.spec.model import Leeway

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ckptclamp.auditing.verdicts import OnUnit
    from ckptclamp.constraints.tolerance import History
    from ckptclamp.engine.executors import Progress
    from ckptclamp.spec.model import ZeroUnits

MEBIBYTE = 1 << 20


@frozen_with_dict
class Running:
    """How to measure.

    `memory` is the budget in bytes; `jobs` the number of threads that measure, and of those that
    hash (``None``: one a core). `executor` measures instead: a pool of threads of this process; or any
    other executor, or the name of one (``"processes"``, ``"dask"``, ``"dask:tcp://…"``, ``"ray"``,
    ``"ray:…"``), whose workers open the files themselves, and have `memory` each.
    """

    memory: int = 256 * MEBIBYTE
    jobs: int | None = None
    executor: Executor | str | None = None
    progress: Progress | None = None


@frozen_with_dict
class Judging:
    """What changes the answer.

    `tolerance` (a number, or ``"trained"`` or ``"cast"``), `epsilon` and `zero_units`
    (``"violation"`` or ``"allow"``) override every rule's.

    Raises:
        UsageError: one of these makes no sense, where `leeway` is asked for.
    """

    tolerance: float | History | None = None
    epsilon: float | None = None
    zero_units: ZeroUnits | None = None
    strict: bool = False
    allow_import: frozenset[str] = frozenset()

    @property
    def leeway(self) -> Leeway:
        """What is forgiven, whatever the rules say of it."""
        return Leeway(self.tolerance, self.epsilon, self.zero_units)


@frozen_with_dict
class Reporting:
    """What the report holds.

    `worst` is how many violating units are kept for each result; `on_unit` is called with all.
    `hash` adds sha256 digests; ``None`` means only where the checkpoint is small enough not to
    notice. `config_source` says where the model config came from.
    """

    worst: int = 10
    histogram: bool = False
    hash: bool | None = None
    on_unit: OnUnit | None = None
    config_source: str | None = None


@frozen_with_dict
class Opening:
    """How to open a checkpoint.

    `require_isolation` refuses to open anything where a layer of the HDF5 parser's sandbox is
    missing. `header_limit` bounds the header of a safetensors file, in bytes; `expansion_limit` and
    `unpacked_limit` how many times its stored bytes, and how many bytes, what is compressed may
    unpack to (see `Limits`). `leave_cache` reads without filling the system's page cache, where the
    system can. `config` stands in for the model config of a weights-only Keras file. `base` is the
    checkpoint to whose weights an adapter is added.
    """

    follow_symlinks: bool = False
    require_isolation: bool = False
    header_limit: int = DEFAULT_HEADER_LIMIT
    expansion_limit: int = DEFAULT_EXPANSION_LIMIT
    unpacked_limit: int = DEFAULT_UNPACKED_LIMIT
    leave_cache: bool = False
    config: Mapping[str, Any] | None = None
    base: Path | None = None

    @property
    def limits(self) -> Limits:
        """The three limits as those who read files take them."""
        return Limits(self.header_limit, self.expansion_limit, self.unpacked_limit)


@frozen_with_dict
class AuditOptions(Opening, Reporting, Judging, Running):
    """How to audit. `Judging`, `config` and `base` change the answer."""
