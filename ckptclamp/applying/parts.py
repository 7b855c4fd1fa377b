"""What weights are stored in: which of it was written, and what a report tells of that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptclamp.checkpoints.tensor import Computed, Role
from ckptclamp.errors import Notice, printable
from ckptclamp.plan.parts import part_to_change

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from ckptclamp.auditing.results import TensorChange
    from ckptclamp.checkpoints.checkpoint import Checkpoint
    from ckptclamp.checkpoints.tensor import Tensor
    from ckptclamp.plan import Assignment, Plan

_SHOWN = 5


def with_parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """`tensor`, and all that it is computed from if it is not stored as it is."""
    storage = tensor.storage
    if not isinstance(storage, Computed):
        return (tensor,)
    return (tensor, *(inner for part in storage.parts for inner in with_parts(part)))


def turns(assignments: Sequence[Assignment]) -> list[list[Assignment]]:
    """Group the `assignments` of which one may change what another is about, in their order.

    Those are all that have a stored tensor in common: rules of a tensor and of its views, of a weight
    in parts and of what is stored of it.
    """
    groups: dict[int, tuple[set[str], list[int]]] = {}
    group_of: dict[str, int] = {}
    for place, assignment in enumerate(assignments):
        names = {part.name for part in with_parts(assignment.tensor.whole)}
        met = sorted({group_of[name] for name in names if name in group_of})
        joined = [groups.pop(number) for number in met]
        members = sorted(n for _, some in joined for n in some)
        names = names.union(*(others for others, _ in joined))
        groups[place] = (names, [*members, place])
        group_of |= dict.fromkeys(names, place)
    ordered = sorted(members for _, members in groups.values())
    return [[assignments[n] for n in members] for members in ordered]


def changed_parts(plan: Plan, changed: AbstractSet[str]) -> Iterator[tuple[Tensor, Tensor]]:
    """Each computed weight among those of which something `changed`, and the part that was written."""
    yield from {
        (a.tensor.name, change.part.name): (a.tensor, change.part)
        for a in plan.assignments
        if a.tensor.name in changed
        and (change := part_to_change(a.tensor, a.constraint, a.axes)) is not None
    }.values()


def affected(plan: Plan, changed: AbstractSet[str]) -> set[str]:
    """The tensors that differ from before: those with `changed` bytes, and those computed of them."""
    tensors = [assignment.tensor for assignment in plan.assignments]
    wholes = {tensor.name: tensor.whole.name for tensor in tensors}
    stored = {wholes.get(name, name) for name in changed}
    stored |= {part.name for _, part in changed_parts(plan, changed)}
    return {
        tensor.name
        for tensor in tensors
        if any(part.name in stored for part in with_parts(tensor.whole))
    }


def part_notices(plan: Plan, changes: Sequence[TensorChange]) -> tuple[Notice, ...]:
    """Tell which part of a weight that is computed from parts was written."""
    pairs = list(changed_parts(plan, {change.tensor for change in changes}))
    if not pairs:
        return ()
    shown = ", ".join(
        f"{printable(part.name)} of {printable(weight.name)}" for weight, part in pairs[:_SHOWN]
    )
    rest = f" and {len(pairs) - _SHOWN:,} more" if len(pairs) > _SHOWN else ""
    return (
        Notice(
            "changed-parts",
            f"of weights that are computed from parts, one part each was written: {shown}{rest}",
            informational=True,
        ),
    )


def optimizer_notice(checkpoint: Checkpoint, changes: Sequence[TensorChange]) -> tuple[Notice, ...]:
    """The moments of an optimizer belong to the weights as they were."""
    has_state = any(t.role is Role.OPTIMIZER for t in checkpoint.tensors.values())
    if not (has_state and changes):
        return ()
    return (
        Notice(
            "optimizer-state",
            "the optimizer state in the copy belongs to the weights as they were",
            hint="reset the optimizer before training goes on",
            informational=True,
        ),
    )
