"""The base checkpoint that another was made from: seen as one with its adapter, or compared with."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.checkpoints.tensor import Computed, Contiguous, Tensor, View
from ckptclamp.errors import Notice, Reason, RefusedError, UsageError, printable
from ckptclamp.models.adapters import is_otherwise_adapted
from ckptclamp.models.parts import OF_PEFT, PartRole
from ckptclamp.plan import Assignment, Entry, NotEvaluated
from ckptclamp.plan.tensors import audited_tensors, parts_of, why_no_weight, why_not_audited
from ckptclamp.spec.model import Storage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import Checkpoint
    from ckptclamp.checkpoints.tensor import Box, Read
    from ckptclamp.constraints.base import Constraint
    from ckptclamp.spec.model import Rule, Spec

_HINT = "--base PATH names it, or `base: PATH` in the spec"


def compares(constraint: Constraint) -> bool:
    """Whether `constraint` is about a base checkpoint."""
    if constraint.streaming:
        return False
    from ckptclamp.constraints.sets.distance import Distance

    return isinstance(constraint, Distance)


def wide_distances(rules: Iterable[Rule]) -> Iterator[Notice]:
    """Warn of distances that let weights be any others: who writes 5 may mean 5 %."""
    from ckptclamp.constraints.sets.distance import Distance

    for rule in rules:
        bound = rule.constraint
        if isinstance(bound, Distance) and bound.relative and bound.max_value >= 1:
            yield Notice(
                "wide-distance",
                f"rule {rule.id} lets a unit lie {bound.max_value * 100:.6g} % of the base's norm away "
                "from the base, so that nothing of it need be left",
                hint=f"if {bound.max_value:.6g} % was meant: --max-distance {bound.max_value:.6g}%, or "
                f"`max_value: {bound.max_value / 100:.6g}`",
            )


def refuse_idle_base(checkpoint: Checkpoint, spec: Spec) -> None:
    """Refuse a base that nothing is added to and nothing compared with.

    Raises:
        UsageError: that is so.
    """
    if not checkpoint.merged and not any(compares(rule.constraint) for rule in spec.rules):
        raise UsageError(
            "it is no adapter, and no rule is about its distance to a base",
            path=checkpoint.path,
            hint="leave the base out, or add a rule with constraint: Distance",
        )


def compared(entry: Entry, rule: Rule, checkpoint: Checkpoint) -> Entry:
    """Return `entry` with the tensor of the base that it is compared with, if its constraint does that.

    Raises:
        UsageError: there is no base checkpoint.
    """
    if not isinstance(entry, Assignment) or not compares(entry.constraint):
        return entry
    if checkpoint.base is None:
        raise UsageError(
            f"{entry.constraint} is about a base checkpoint, and none is given", hint=_HINT
        )
    found = _counterpart(entry.tensor.whole, rule, checkpoint.base)
    if isinstance(found, Reason):
        return NotEvaluated(
            subject=entry.tensor.name,
            rule=entry.rule,
            constraint=str(entry.constraint),
            origin=entry.origin,
            reason=found,
            location=entry.location,
            tensor=entry.tensor,
            severity=entry.severity,
        )
    base = elsewhere(found, checkpoint.base)
    storage = entry.tensor.storage
    if isinstance(storage, View):
        base = replace(base, shape=entry.tensor.shape, storage=replace(storage, whole=base))
    why = f"{entry.why}; compared with {checkpoint.base.path}"
    return replace(entry, base=base, why=why)


def _counterpart(tensor: Tensor, rule: Rule, base: Checkpoint) -> Tensor | Reason:
    """The tensor of `base` that is called as `tensor` is, or why there is none to compare with."""
    raw = rule.storage is Storage.RAW
    found = (base.tensors if raw else audited_tensors(base)).get(tensor.name)
    if found is None:
        lacking = f"the base {printable(str(base.path))} holds no tensor of this name"
        return Reason("not-in-the-base", lacking)
    if found.shape != tensor.shape and found.dtype is not None:
        here, there = ("x".join(map(str, one.shape)) or "()" for one in (tensor, found))
        differs = f"its shape is {here}, and {there} in the base {printable(str(base.path))}"
        return Reason("not-in-the-base", differs)
    part = parts_of(base).get(found.name)
    why = None if raw else why_no_weight(found, part, rule.constraint)
    reason = why or why_not_audited(found, rule.constraint)
    if reason is None:
        return found
    return Reason(reason.code, f"in the base {printable(str(base.path))}, {reason}")


SAFETENSORS = "safetensors"


def add_base(checkpoint: Checkpoint, base: Checkpoint) -> None:
    """Give `checkpoint` the files and tensors of `base` as well; it then owns these files.

    What an adapter of peft holds besides updates (heads, embeddings, biases that were trained whole) takes
    the place, and the name, of what the base holds.

    Raises:
        UsageError: one of them is no safetensors checkpoint.
        RefusedError: both hold a tensor of one name, or the adapter does something else to the base.
    """
    for one in (checkpoint, base):
        if not one.format.startswith(SAFETENSORS):
            raise UsageError("an adapter and its base are safetensors files", path=one.path)
    instead = _instead(checkpoint, base)
    replaced = {tensor.name for tensor in instead.values()}
    of_base = {name: part.weight for name, part in parts_of(base).items()}
    twice = sorted(checkpoint.tensors.keys() & base.tensors.keys())
    if twice:
        raise RefusedError(
            f"its base {base.path} holds a tensor of this name, too",
            path=checkpoint.path,
            tensor=twice[0],
        )
    first = len(checkpoint.sources)
    added = {
        name: _from(tensor, first)
        for name, tensor in base.tensors.items()
        if replaced.isdisjoint((name, of_base.get(name)))
    }
    for source in base.files:
        if source not in base.sources:
            source.close()
    checkpoint.sources += base.sources
    updates = {name: t for name, t in checkpoint.tensors.items() if name not in instead}
    checkpoint.tensors = {**added, **{t.name: t for t in instead.values()}, **updates}
    checkpoint.unlisted += base.unlisted
    checkpoint.quantisation = checkpoint.quantisation or base.quantisation
    if checkpoint.config() is None:
        config = base.config()
        checkpoint.config = lambda: config
    checkpoint.configs = {**base.configs, **checkpoint.configs}
    checkpoint.base, checkpoint.merged = base, True


_WHOLE = re.compile(r"(?:^|\.)(base_layer|modules_to_save(?:\.default)?)\.(?=[^.]+$)")
"""What peft puts before the last name of a tensor that was trained, or saved, whole."""


def _instead(checkpoint: Checkpoint, base: Checkpoint) -> dict[str, Tensor]:
    """What an adapter holds that is no update, by its name there, each under its name in the model.

    Raises:
        RefusedError: one changes a weight of the base in a way that is not known here.
    """
    parts, weights = parts_of(checkpoint), audited_tensors(base)
    found: dict[str, Tensor] = {}
    for name, tensor in checkpoint.tensors.items():
        part = parts.get(name)
        if part is not None and is_otherwise_adapted(part):
            raise RefusedError(
                f"how {printable(part.family)} changes its base {base.path} is not known here",
                path=checkpoint.path,
                tensor=name,
            )
        if part is not None and part.role is not PartRole.BASE:
            continue
        inner = name.removeprefix(OF_PEFT)
        inner = _WHOLE.sub(lambda match: "." if match[0][0] == "." else "", inner)
        if inner not in weights and (changed := _changed(inner, weights)) is not None:
            raise RefusedError(
                f"what it does to {printable(changed)} of its base {base.path} is not known here",
                path=checkpoint.path,
                tensor=name,
            )
        if inner != name:
            found[name] = replace(tensor, name=inner, aliases=(*tensor.aliases, name))
    names = [tensor.name for tensor in found.values()]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RefusedError("it holds this weight twice", path=checkpoint.path, tensor=twice)
    return found


def _changed(name: str, weights: Mapping[str, Tensor]) -> str | None:
    """The weight of a module that `name`, which is none of the model's, lies in; a bias may be new."""
    module, _, last = name.rpartition(".")
    if last == "bias":
        module = module.rpartition(".")[0]
    while module:
        if (weight := f"{module}.weight") in weights:
            return weight
        module = module.rpartition(".")[0]
    return None


def compare_with(checkpoint: Checkpoint, base: Checkpoint) -> None:
    """Give `checkpoint` a `base` that it was made from; its files are then closed together."""
    checkpoint.base = base
    checkpoint.companions += (*base.files, *base.sources)


def _from(tensor: Tensor, first: int) -> Tensor:
    """The same tensor where the sources of its checkpoint are counted from `first`."""
    if not isinstance(tensor.storage, Contiguous):
        return tensor
    return replace(tensor, storage=replace(tensor.storage, source=tensor.storage.source + first))


@dataclass(frozen=True, slots=True, eq=False)
class Elsewhere(Computed):
    """Weights of another checkpoint in float64, whoever is asked for them."""

    tensor: Tensor
    read: Read

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """See `Computed.parts`."""
        return (self.tensor,)

    @property
    def stored_as(self) -> str:
        """See `Computed.stored_as`."""
        return f"{self.tensor.dtype_name} weights of another checkpoint"

    def compute(self, read: Read, tensor: Tensor, box: Box, out: NDArray[Any]) -> None:
        """See `Computed.compute`; `read` reads the wrong checkpoint."""
        del read, tensor
        out[...] = self.read(self.tensor, box)


def elsewhere(tensor: Tensor, checkpoint: Checkpoint) -> Tensor:
    """Return `tensor` of `checkpoint` as one that any other checkpoint reads, in float64."""
    storage = Elsewhere(tensor, checkpoint.read)
    return replace(tensor, dtype=DTYPES["float64"], dtype_name="float64", storage=storage)
