"""The outcome of looking for one layer's variables in a checkpoint: exact, or a reason why not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ckptclamp.errors import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptclamp.checkpoints.tensor import Tensor
    from ckptclamp.models.keras.layers import Variable
    from ckptclamp.models.keras.tree import Layer

NAME_IT: Final = "write a rule that names the tensor"


@dataclass(frozen=True, slots=True)
class Bound:
    """Where each variable of a layer is stored, in the order of `Layer.variables`.

    A variable has several tensors where the file keeps copies of it, and none where this layout
    does not store it. `group` is the group of the v3 layout that is the layer's.
    """

    tensors: tuple[tuple[str, ...], ...]
    group: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Unbound:
    """Why a layer's variables cannot be told apart in this file, and what would help."""

    reason: str
    hint: str = NAME_IT


Binding = Bound | Unbound
Bindings = dict[int, Binding]
"""By `Layer.key`."""


def unbound_below(layer: Layer, why: Unbound) -> Bindings:
    """The same reason for a layer and everything inside it."""
    return {inner.key: why for inner in layer.walk()}


def is_quantised(tensor: Tensor) -> bool:
    """Whether a tensor holds no fractions, so that no float variable can lie in it as it was."""
    return tensor.dtype is not None and tensor.dtype.unit_roundoff == 0.0


def agrees(variable: Variable, shape: tuple[int, ...]) -> bool:
    """Whether the config implies this shape for `variable`, as far as it tells."""
    expected = variable.shape
    return expected is None or (
        len(expected) == len(shape)
        and all(e in (None, n) for e, n in zip(expected, shape, strict=True))
    )


def disagreement(variable: Variable, tensor: Tensor) -> str | None:
    """What contradicts that `tensor` holds `variable`, if anything does.

    A quantised tensor may be packed, so that its shape says nothing.
    """
    if agrees(variable, tensor.shape) or is_quantised(tensor):
        return None
    sizes = ", ".join("?" if size is None else str(size) for size in variable.shape or ())
    return (
        f"the config implies the shape ({sizes}) for {variable.name}, "
        f"but {printable(tensor.name)} has {tensor.shape}"
    )


def contradiction(
    layer: Layer, places: Mapping[int, str], tensors: Mapping[str, Tensor]
) -> str | None:
    """The first disagreement between a layer's variables and the tensors found for them."""
    for index, name in places.items():
        problem = disagreement(layer.variables[index], tensors[name])
        if problem is not None:
            return problem
    return None
