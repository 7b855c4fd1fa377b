"""What a projection changes where the weight that is judged is computed from stored parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptclamp.checkpoints.tensor import Computed, Tensor, View
from ckptclamp.errors import Notice
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from ckptclamp.constraints.base import Constraint
    from ckptclamp.models.effective.weights import Rescaling


NOT_WITH_ITS_BASE = "an adapter is not projected together with its base"
"""Why nothing of what both make is ever changed."""


@frozen
class PartToChange:
    """The stored `part` that takes a projection; `rescaling` where a factor for each unit goes into it."""

    part: Tensor
    rescaling: Rescaling | None = None

    @property
    def words(self) -> str:
        """What a projection does, as a reader of `explain` wants to know it."""
        if self.rescaling is not None:
            does = "divides" if self.rescaling.divides else "multiplies"
            return f"a projection {does} {self.part.name} alone"
        return f"a projection rounds anew what {self.part.name} holds, and leaves its other parts"


def part_to_change(
    tensor: Tensor, constraint: Constraint, axes: tuple[int, ...]
) -> PartToChange | None:
    """Return what a projection of a computed `tensor` onto `constraint` changes, if anything can be.

    A norm is brought to its bound by a factor. Where one part has numbers for each unit alone, that part
    takes it, and the direction stays as it is. Otherwise each weight becomes the nearest that its
    codes can say.
    """
    storage = tensor.whole.storage
    if not isinstance(storage, Computed):
        return None
    from ckptclamp.constraints.sets.norms import NormConstraint
    from ckptclamp.constraints.sets.whole import MatrixConstraint, WholeTensorConstraint
    from ckptclamp.models.effective.weights import Effective

    if not isinstance(storage, Effective):
        return None
    if isinstance(constraint, NormConstraint) and not isinstance(tensor.storage, View):
        rescaling = storage.rescaling(axes)
        if rescaling is not None:
            return PartToChange(rescaling.part, rescaling)
    whole = isinstance(constraint, MatrixConstraint | WholeTensorConstraint)
    recoded = storage.recoded
    return None if whole or recoded is None else PartToChange(recoded)


def why_not_projected(tensor: Tensor, constraint: Constraint, axes: tuple[int, ...]) -> str | None:
    """Say why the weights of `tensor` can be judged but not changed; ``None`` if they can be."""
    storage = tensor.whole.storage
    if isinstance(storage, Computed) and part_to_change(tensor, constraint, axes) is None:
        return storage.unprojected
    return None


def quantised_notice(tensor: Tensor) -> tuple[Notice, ...]:
    """Tell that what is judged is not what is stored."""
    storage = tensor.whole.storage
    if not isinstance(storage, Computed):
        return ()
    return (
        Notice(
            "dequantised",
            f"it is judged as the weights that its {storage.stored_as} stand for",
            tensor=tensor.name,
            informational=True,
        ),
    )
