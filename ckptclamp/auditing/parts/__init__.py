"""A plan in parts of about as many bytes each, of which any can be judged by itself.

A tensor is never cut: all that is asked of it belongs to one part, so that it is read once and a part
answers with whole results. Parts follow each other in the order of the plan, as tensors do in files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self

from ckptclamp.errors import UsageError
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from ckptclamp.checkpoints.tensor import Tensor
    from ckptclamp.plan import Assignment, Plan

MOST = 100_000
"""Into so many parts a plan may be cut; whoever merges them opens a file for each."""


@frozen
class Share:
    """One part of so many: ``3/16`` is the third of sixteen."""

    number: int
    of: int

    @classmethod
    def named(cls, text: str) -> Self:
        """The part that ``3/16`` names.

        Raises:
            UsageError: `text` is something else, or there is no such part.
        """
        number, _, of = text.partition("/")
        if not (number.isascii() and number.isdigit() and of.isascii() and of.isdigit()):
            raise UsageError(f"{text!r} names no part", hint="write 3/16 for the third of sixteen")
        share = cls(int(number), int(of))
        if not 1 <= share.number <= share.of <= MOST:
            raise UsageError(
                f"there is no part {text}",
                hint=f"parts are 1/16 to 16/16; there are at most {MOST:,}",
            )
        return share

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


@frozen
class Portion:
    """What one part of a plan is about: places in its assignments, and in its tied pairs.

    `nbytes` are those of the weights that the assignments are about, `total` those of the whole plan.
    """

    assignments: tuple[int, ...]
    tied: tuple[int, ...]
    nbytes: int
    total: int


def portion_of(plan: Plan, share: Share) -> Portion:
    """The part of `plan` that `share` names; the same wherever and whenever it is asked for."""
    homes: dict[str, int] = {}
    chosen: list[int] = []
    nbytes = total = 0
    for group, number in cut(plan.assignments, share.of):
        tensor = plan.assignments[group[0]].tensor.whole
        homes[tensor.name] = number
        total += tensor.nbytes
        if number == share.number:
            chosen += group
            nbytes += tensor.nbytes
    tied = tuple(
        place
        for place, (one, other) in enumerate(plan.tied)
        if homes.get(one.name, homes.get(other.name, 1)) == share.number
    )
    return Portion(tuple(sorted(chosen)), tied, nbytes, total)


def cut(
    assignments: Sequence[Assignment],
    parts: int,
    weight: Callable[[Tensor], int] = lambda tensor: tensor.nbytes,
) -> list[tuple[list[int], int]]:
    """The places of the assignments about each stored tensor, and the number of its part, from 1.

    A tensor belongs to the part in which the middle of its `weight` falls, where all weights are laid
    end to end and cut into `parts` of one length.
    """
    groups: dict[str, list[int]] = {}
    for place, assignment in enumerate(assignments):
        groups.setdefault(assignment.tensor.whole.name, []).append(place)
    weights = [weight(assignments[group[0]].tensor.whole) for group in groups.values()]
    total = sum(weights) or 1
    numbered, before = [], 0
    for group, mine in zip(groups.values(), weights, strict=True):
        middle = (2 * before + mine) * parts // (2 * total)
        numbered.append((group, min(middle, parts - 1) + 1))
        before += mine
    return numbered
