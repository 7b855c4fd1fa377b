"""What a checkpoint holds and declares, without judging it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.auditing.audit import as_spec, digests_of, opened, summarise
from ckptclamp.auditing.notices import opening_notices
from ckptclamp.auditing.options import AuditOptions, Running
from ckptclamp.auditing.results import CheckpointSummary
from ckptclamp.checkpoints.checkpoint import Checkpoint
from ckptclamp.checkpoints.dtypes import Kind
from ckptclamp.checkpoints.tensor import (
    Chunked,
    Computed,
    Constant,
    Contiguous,
    NotComputed,
    Tensor,
    Unreadable,
    View,
)
from ckptclamp.constraints.base import Statistic
from ckptclamp.constraints.sets.whole import MatrixConstraint, WholeUnitConstraint
from ckptclamp.engine.histogram import Histogram, UnitHistogram
from ckptclamp.engine.measure import measure
from ckptclamp.engine.measure.requests import Batch, Failed, Request
from ckptclamp.engine.project import matrices, stored, whole, whole_units
from ckptclamp.errors import ExitCode, Notice
from ckptclamp.frozen import frozen
from ckptclamp.models.producers import producer_of
from ckptclamp.plan import Assignment, Plan
from ckptclamp.plan.build import build_plan
from ckptclamp.plan.parts import part_to_change
from ckptclamp.plan.tensors import audited_tensors, is_effective, keras_model, parts_of
from ckptclamp.plan.units import default_axes, has_axes, unit_words
from ckptclamp.spec.model import Spec, Units

if TYPE_CHECKING:
    from ckptclamp.models.keras.declarations import Declaration


@frozen
class NormStatistics:
    """The norms of one tensor's units: how many, and their smallest, mean and largest finite one.

    `failure` says why the tensor could not be measured; the numbers are then ``None``.
    """

    unit_words: str
    units: int = 0
    nonfinite: int = 0
    minimum: float | None = None
    mean: float | None = None
    maximum: float | None = None
    histogram: Histogram | None = None
    failure: str | None = None


@frozen
class TensorSummary:
    """One tensor: `place` says where its bytes lie, in words."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    role: str
    place: str
    label: str | None = None
    aliases: tuple[str, ...] = ()
    norms: NormStatistics | None = None


@frozen
class Inspection:
    """Everything that `ckptclamp inspect` shows."""

    checkpoint: CheckpointSummary
    tensors: tuple[TensorSummary, ...]
    declarations: tuple[Declaration, ...]
    metadata: tuple[tuple[str, str], ...]
    notices: tuple[Notice, ...]

    def __repr__(self) -> str:
        declared = len(self.declarations)
        return (
            f"<Inspection {self.checkpoint.path!r}: {len(self.tensors):,} tensors, "
            f"{declared:,} declared constraints>"
        )


def inspect(
    path: str | Path,
    *,
    norms: bool = False,
    units: Units | None = None,
    options: AuditOptions | None = None,
) -> Inspection:
    """Describe the checkpoint at `path`; with `norms`, measure the units of every numeric tensor.

    The norms of a quantised Keras layer are those of the weight that its integers stand for; parts
    of weights that other formats hold as codes or factors have none.

    `units` says which axes a unit spans. Unstated, it is the unit of a declared constraint; else
    what makes one output: an index of the last axis in Keras' files, of the first in others (as
    PyTorch lays weights out).

        >>> import ckptclamp
        >>> inspection = ckptclamp.inspect("model.safetensors", norms=True)
        >>> [(tensor.name, tensor.shape, tensor.norms.units) for tensor in inspection.tensors]
        [('dense.bias', (3,), 1), ('dense.kernel', (4, 3), 3)]

    Raises:
        UnreadableError: the checkpoint cannot be opened, or changed while it was read.
    """
    options = options or AuditOptions()
    with (
        opened(path, options) as checkpoint,
        digests_of(checkpoint, options.hash, options.jobs) as digests,
    ):
        bound = keras_model(checkpoint)
        labels = {} if bound is None else bound.labels
        tensors = list(checkpoint.tensors.values())
        judged = audited_tensors(checkpoint) if norms else {}
        parts = parts_of(checkpoint) if norms else {}
        tensors += [t for name, t in judged.items() if name not in checkpoint.tensors]
        measurable = [t for t in judged.values() if is_effective(t) or t.name not in parts]
        measured = {name: NormStatistics("", failure=part.reason) for name, part in parts.items()}
        measured |= {
            tensor.name: NormStatistics("", failure=tensor.storage.reason)
            for tensor in judged.values()
            if isinstance(tensor.storage, NotComputed)
        }
        measured |= _norms(checkpoint, measurable, units, options)
        inspection = Inspection(
            checkpoint=summarise(checkpoint, digests.result()),
            tensors=tuple(
                _summary(checkpoint, tensor, labels.get(tensor.name), measured.get(tensor.name))
                for tensor in tensors
            ),
            declarations=() if bound is None else bound.declarations,
            metadata=tuple(checkpoint.metadata.items()),
            notices=opening_notices(checkpoint),
        )
        checkpoint.verify_unchanged()
    return inspection


def _summary(
    checkpoint: Checkpoint, tensor: Tensor, label: str | None, norms: NormStatistics | None
) -> TensorSummary:
    return TensorSummary(
        name=tensor.name,
        shape=tensor.shape,
        dtype=str(tensor.dtype) if tensor.dtype else tensor.dtype_name,
        nbytes=0 if is_effective(tensor) else tensor.nbytes,
        role=tensor.role.value,
        place=_place(checkpoint, tensor),
        label=label,
        aliases=tensor.aliases,
        norms=norms,
    )


def _place(checkpoint: Checkpoint, tensor: Tensor) -> str:
    """Where the bytes lie: ``model.h5 at byte 4096``, ``12 chunks, deflate``."""
    storage = tensor.whole.storage
    if isinstance(storage, Unreadable):
        return f"unreadable: {storage.reason}"
    if isinstance(storage, Computed):
        return f"computed from {', '.join(part.name for part in storage.parts)}"
    assert not isinstance(storage, View)
    name = checkpoint.sources[storage.source].path.name
    match storage:
        case Contiguous():
            return f"{name} at byte {storage.offset:,}"
        case Chunked():
            filters = "".join(f", {name}" for name in storage.filters)
            return f"{name} in {len(storage.chunks):,} chunks{filters}"
        case Constant():
            return f"{name}, never written (fill value)"


def _norms(
    checkpoint: Checkpoint, tensors: Sequence[Tensor], units: Units | None, running: Running
) -> dict[str, NormStatistics]:
    """Measure the units of every tensor that has numbers, in one pass."""
    measurable = [
        tensor
        for tensor in tensors
        if tensor.dtype is not None
        and tensor.dtype.kind in (Kind.FLOAT, Kind.INTEGER)
        and tensor.size
        and not isinstance(tensor.storage, Unreadable)
    ]
    producer = producer_of(checkpoint)
    stated = units is not None and units.stated
    declared = {} if stated or checkpoint.keras is None else _declared_axes(checkpoint)
    requests = [
        Request(
            tensor,
            declared.get(tensor.name)
            or default_axes(len(tensor.shape), units, layout=producer.laid(tensor).layout),
            frozenset({Statistic.NORM}),
        )
        for tensor in measurable
    ]
    sums = [_NormSum(request) for request in requests]
    for item in measure(checkpoint, requests, memory=running.memory, jobs=running.jobs):
        sums[item.request].add(item)
    return {r.tensor.name: total.result() for r, total in zip(requests, sums, strict=True)}


def _declared_axes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """The axes of units that the model's own constraints are about, so that an audit's are shown."""
    assignments = build_plan(checkpoint, None).assignments
    return {a.tensor.name: a.axes for a in reversed(assignments) if has_axes(a.constraint)}


class _NormSum:
    """Adds up the norms of one tensor's units."""

    def __init__(self, request: Request) -> None:
        self._words = unit_words(request.tensor.shape, request.axes)
        self._histogram = UnitHistogram()
        self._units = self._nonfinite = 0
        self._sum = np.longdouble(0)  # of norms that may each be as large as a float64 can be
        self._minimum, self._maximum = math.inf, -math.inf
        self._failure: str | None = None

    def add(self, item: object) -> None:
        if isinstance(item, Failed):
            self._failure = item.reason
        if not isinstance(item, Batch):
            return
        finite = item.statistics[Statistic.NORM][item.statistics.nonfinite == 0]
        self._units += len(item.statistics)
        self._nonfinite += len(item.statistics) - len(finite)
        if len(finite):
            self._histogram.add(finite)
            self._sum += finite.sum(dtype=np.longdouble)
            self._minimum = min(self._minimum, float(finite.min()))
            self._maximum = max(self._maximum, float(finite.max()))

    def result(self) -> NormStatistics:
        finite = self._units - self._nonfinite
        measured = NormStatistics(self._words, self._units, self._nonfinite, failure=self._failure)
        if not finite or self._failure:
            return measured
        return replace(
            measured,
            minimum=self._minimum,
            mean=float(self._sum / finite),
            maximum=self._maximum,
            histogram=self._histogram.result(),
        )


@frozen
class AtOnce:
    """What must be in memory at once: how many bytes for an audit (0 if blocks do), and an apply."""

    what: str
    audit: int
    apply: int


@frozen
class Explanation:
    """The plan for a checkpoint, and the tensors that no rule governs.

    `at_once` says of each assignment what it needs at once; ``None`` where blocks do. `layout` says
    whose layout of weights the checkpoint has, and what tells that.
    """

    checkpoint: CheckpointSummary
    plan: Plan
    ungoverned: tuple[str, ...]
    at_once: tuple[AtOnce | None, ...]
    layout: str = ""

    def __repr__(self) -> str:
        pairs = len(self.plan.assignments)
        return f"<Explanation {self.checkpoint.path!r}: {pairs:,} pairs to judge>"

    @property
    def exit_code(self) -> ExitCode:
        """What an audit could at best return: 3 or 4 where it could not pass."""
        if self.plan.not_evaluated:
            return ExitCode.INCOMPLETE
        if self.plan.unmatched or not self.plan.assignments:
            return ExitCode.NOTHING_EVALUATED
        return ExitCode.OK


def explain(
    path: str | Path,
    spec: Spec | Mapping[str, Any] | str | Path | None = None,
    options: AuditOptions | None = None,
) -> Explanation:
    """Plan an audit of the checkpoint at `path` and return the plan.

        >>> import ckptclamp
        >>> explanation = ckptclamp.explain("model.safetensors", "constraints.yaml")
        >>> explanation.plan.assignments[0].unit_words
        'one of 3 columns (last axis): 4 weights'
        >>> explanation.ungoverned
        ('dense.bias',)

    Raises:
        UnreadableError: the checkpoint cannot be opened.
        UsageError: the spec asks for what makes no sense for this checkpoint.
    """
    options = options or AuditOptions()
    rules = as_spec(spec, options.allow_import)
    with opened(path, options, rules) as checkpoint:
        plan = build_plan(
            checkpoint,
            rules,
            allow_import=options.allow_import,
            caller=options.leeway,
        )
        governed = {assignment.tensor.whole.name for assignment in plan.assignments}
        governed |= {entry.tensor.name for entry in plan.not_evaluated if entry.tensor}
        governed |= {n for n, part in parts_of(checkpoint).items() if part.weight in governed}
        return Explanation(
            checkpoint=summarise(checkpoint, digests={}),
            plan=plan,
            ungoverned=tuple(name for name in checkpoint.tensors if name not in governed),
            at_once=tuple(map(_at_once, plan.assignments)),
            layout=producer_of(checkpoint).words,
        )


def _at_once(assignment: Assignment) -> AtOnce | None:
    constraint, tensor, axes = assignment.constraint, assignment.tensor, assignment.axes
    if isinstance(constraint, WholeUnitConstraint):
        assert tensor.dtype is not None
        size = whole_units.needed_bytes(constraint, tensor.shape, axes, tensor.dtype.itemsize)
        return AtOnce("a whole unit", 0 if constraint.streaming else size, size)
    if isinstance(constraint, MatrixConstraint):
        audit, apply = (
            matrices.needed_bytes(constraint, tensor.shape, axes, projecting=projecting)
            for projecting in (False, True)
        )
        return AtOnce("a Gram matrix", audit, apply) if audit else None
    if assignment.base is not None or isinstance(tensor.whole.storage, Computed):
        changing = part_to_change(tensor, constraint, axes)
        rescaled = changing is not None and changing.rescaling is not None
        if constraint.elementwise or (assignment.base is None and (changing is None or rescaled)):
            return None
        return AtOnce("a whole unit", 0, stored.needed_bytes(tensor.shape, axes))
    if not constraint.streaming:
        size = whole.needed_bytes(tensor)
        return AtOnce("the whole tensor", size, size)
    return None
