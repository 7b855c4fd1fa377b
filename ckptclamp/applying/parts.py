"""Which parts of weights that are computed from parts were written, and how a report tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptclamp.errors import Notice, printable
from ckptclamp.plan.parts import part_to_change

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from ckptclamp.auditing.results import TensorChange
    from ckptclamp.checkpoints.tensor import Tensor
    from ckptclamp.plan import Plan

_SHOWN = 5


def changed_parts(plan: Plan, changed: AbstractSet[str]) -> Iterator[tuple[Tensor, Tensor]]:
    """Each computed weight among those of which something `changed`, and the part that was written."""
    yield from {
        (a.tensor.name, change.part.name): (a.tensor, change.part)
        for a in plan.assignments
        if a.tensor.name in changed
        and (change := part_to_change(a.tensor, a.constraint, a.axes)) is not None
    }.values()


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
