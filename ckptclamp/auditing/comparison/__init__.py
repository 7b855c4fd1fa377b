"""Two checkpoints compared: what came, went or changed its shape, and how far weights moved.

Of every tensor that both have, each unit is measured in both: the drift of its norm,
``|‖new‖ − ‖old‖| / ‖old‖``, and the distance of its weights, ``‖new − old‖ / ‖old‖``. The distance
is never smaller than the drift; a unit that was turned has the one and not the other. Both are read
box by box in float64, so memory is bounded whatever the size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ckptclamp.auditing.audit import opened
from ckptclamp.auditing.comparison.drift import TensorDrift, measure_drift
from ckptclamp.auditing.comparison.renames import Renames
from ckptclamp.auditing.options import Opening
from ckptclamp.checkpoints.checkpoint import Checkpoint
from ckptclamp.checkpoints.dtypes import Kind
from ckptclamp.checkpoints.tensor import NotComputed, Role, Tensor, Unreadable
from ckptclamp.errors import ExitCode
from ckptclamp.frozen import frozen
from ckptclamp.models.producers import producer_of
from ckptclamp.plan.tensors import audited_tensors, is_effective, keras_model, parts_of
from ckptclamp.plan.units import default_axes
from ckptclamp.spec.model import Units


@frozen
class Reshaped:
    """A tensor whose shape is another one now, so that its units have no counterparts."""

    tensor: str
    old: tuple[int, ...]
    new: tuple[int, ...]


@frozen
class NotCompared:
    """A tensor that both have and that cannot be compared, and why."""

    tensor: str
    reason: str


@frozen
class Comparison:
    """Everything that `ckptclamp diff` shows.

    `left_out` counts tensors that are no weights (an optimizer's, a random generator's). The gates
    are fractions: 0.05 is five percent.
    """

    old: str
    new: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    reshaped: tuple[Reshaped, ...] = ()
    not_compared: tuple[NotCompared, ...] = ()
    drifts: tuple[TensorDrift, ...] = ()
    left_out: int = 0
    max_drift: float | None = None
    max_distance: float | None = None

    def __repr__(self) -> str:
        return (
            f"<Comparison {self.old!r} {self.new!r}: {len(self.drifts):,} tensors compared, "
            f"{len(self.added):,} added, {len(self.removed):,} removed; exit {int(self.exit_code)}>"
        )

    @property
    def exit_code(self) -> ExitCode:
        """0, unless a gate was set and does not hold, or something could not be compared.

        Under a gate a tensor that was added, removed or reshaped fails too: it has no drift that
        could be small.
        """
        if self.not_compared:
            return ExitCode.INCOMPLETE
        if not self.drifts:
            return ExitCode.NOTHING_EVALUATED
        gated = self.max_drift is not None or self.max_distance is not None
        unmatched = self.added or self.removed or self.reshaped
        if gated and (unmatched or any(self.fails(drift) for drift in self.drifts)):
            return ExitCode.VIOLATIONS
        return ExitCode.OK

    def fails(self, drift: TensorDrift) -> bool:
        """Whether `drift` exceeds a gate; what is not finite exceeds every gate."""
        gates = ((self.max_drift, drift.norm_drift), (self.max_distance, drift.distance))
        set_gates = [(limit, value) for limit, value in gates if limit is not None]
        broken = bool(set_gates) and drift.nonfinite > 0
        return broken or any(not value <= limit for limit, value in set_gates)


def compare_checkpoints(
    old: str | Path,
    new: str | Path,
    *,
    renames: Sequence[str] = (),
    units: Units | None = None,
    max_drift: float | None = None,
    max_distance: float | None = None,
    opening: Opening | None = None,
    jobs: int | None = None,
) -> Comparison:
    """Compare the weights of two checkpoints, of any two formats.

    Tensors belong together by name, after `renames` (``old=>new``, each ``*`` standing for any
    text), and what is left over by its label (``dense/kernel``) where that is unique. `units` says
    which axes a unit spans, as `inspection.inspect` takes it.

    Raises:
        UnreadableError: a checkpoint cannot be opened, or changed while it was read.
        UsageError: a rename cannot be understood, renames nothing, or makes two names one.
    """
    opening = opening or Opening()
    with opened(old, opening) as before, opened(new, opening) as after:
        gated = max_drift is not None or max_distance is not None
        matching = _match(before, after, Renames(renames, "the old checkpoint"), gated=gated)
        reshaped, not_compared, comparable = _sort(matching.pairs)
        producer = producer_of(after)
        drifts = [
            measure_drift(
                (before, one),
                (after, other),
                default_axes(len(one.shape), units, layout=producer.laid(other).layout),
                jobs=jobs,
            )
            for one, other in comparable
        ]
        before.verify_unchanged()
        after.verify_unchanged()
    failed = [NotCompared(d.tensor, d.failure) for d in drifts if d.failure is not None]
    return Comparison(
        old=str(old),
        new=str(new),
        added=matching.added,
        removed=matching.removed,
        reshaped=tuple(reshaped),
        not_compared=(*not_compared, *failed),
        drifts=tuple(drift for drift in drifts if drift.failure is None),
        left_out=matching.left_out,
        max_drift=max_drift,
        max_distance=max_distance,
    )


@frozen
class _Matching:
    """Which tensors of two checkpoints belong together, and which have no counterpart."""

    pairs: list[tuple[Tensor, Tensor]]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    left_out: int


def _match(before: Checkpoint, after: Checkpoint, renames: Renames, *, gated: bool) -> _Matching:
    old = _weights(before, gated=gated)
    new = _weights(after, gated=gated)
    names = renames(old)
    partners = {name: other for name, other in names.items() if other in new}
    left = [name for name in old if name not in partners]
    free = new.keys() - set(partners.values())
    labels = _labels(after, free)
    partners |= {n: labels[label] for label, n in _labels(before, left).items() if label in labels}
    taken = set(partners.values())
    everything = (*before.tensors.values(), *after.tensors.values())
    return _Matching(
        pairs=[(old[name], new[partners[name]]) for name in old if name in partners],
        added=tuple(name for name in new if name not in taken),
        removed=tuple(name for name in old if name not in partners),
        left_out=sum(tensor.role is not Role.WEIGHT for tensor in everything),
    )


def _weights(checkpoint: Checkpoint, *, gated: bool) -> dict[str, Tensor]:
    """The weights as the model computes with them.

    Where that cannot be computed, its parts are compared as they are stored; that is enough to look at,
    and to a gate such a weight is one that cannot be compared.
    """
    parts, audited = parts_of(checkpoint), audited_tensors(checkpoint)
    unknown = {n for n, tensor in audited.items() if isinstance(tensor.storage, NotComputed)}
    found = {
        name: tensor
        for name, tensor in audited.items()
        if tensor.role is Role.WEIGHT
        and name not in unknown
        and (is_effective(tensor) or name not in parts)
    }
    if gated:
        return found | {name: audited[name] for name in unknown}
    stored = checkpoint.tensors.items()
    return found | {n: t for n, t in stored if n in parts and parts[n].weight in unknown}


def _labels(checkpoint: Checkpoint, names: Iterable[str]) -> dict[str, str]:
    """Labels of `names` that one tensor alone has, and the name."""
    bound = keras_model(checkpoint)
    if bound is None:
        return {}
    wanted = set(names)
    return {label: name for name, label in bound.distinct_labels.items() if name in wanted}


def _sort(
    pairs: Iterable[tuple[Tensor, Tensor]],
) -> tuple[list[Reshaped], list[NotCompared], list[tuple[Tensor, Tensor]]]:
    """Tell pairs that can be measured from those that cannot."""
    reshaped, not_compared, comparable = [], [], []
    for old, new in pairs:
        reason = _no_numbers(old) or _no_numbers(new)
        if any(isinstance(one.storage, NotComputed) for one in (old, new)):
            not_compared.append(NotCompared(new.name, reason or ""))
        elif old.shape != new.shape:
            reshaped.append(Reshaped(new.name, old.shape, new.shape))
        elif reason is not None:
            not_compared.append(NotCompared(new.name, reason))
        else:
            comparable.append((old, new))
    return reshaped, not_compared, comparable


def _no_numbers(tensor: Tensor) -> str | None:
    if isinstance(tensor.storage, Unreadable):
        return str(tensor.storage.reason)
    if tensor.dtype is None or tensor.dtype.kind is Kind.COMPLEX:
        return f"{tensor.dtype or tensor.dtype_name} holds no real numbers"
    return None
