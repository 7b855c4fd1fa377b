"""The parts of one weight, and what the model's config says of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.checkpoints.tensor import Tensor
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptclamp.checkpoints.tensor import Computed, Read, Unreadable

SMALL: Final = 1 << 16
"""The most bytes of a tensor (a shape, a state) that is read to know what a weight is."""


class NotComputedError(Exception):
    """Why a weight cannot be computed, as the end of a sentence."""


class NeedsBaseError(NotComputedError):
    """What is stored is an update of a weight that is in another checkpoint."""


@frozen
class Members:
    """The stored tensors of one `weight` by their endings in the family's table.

    `stated` is what the config beside the checkpoint says of quantisation; empty if nothing. `adapter`
    is the config of an adapter beside it, if there is one, or why it cannot be read.
    """

    weight: str
    tensors: Mapping[str, Tensor]
    stated: Mapping[str, Any]
    read: Read
    adapter: Mapping[str, Any] | Unreadable | None = None

    def get(self, *endings: str) -> Tensor | None:
        """The one of these parts, which are names of the same, that is there.

        Raises:
            NotComputedError: there are several.
        """
        found = [self.tensors[e] for e in dict.fromkeys(endings) if e in self.tensors]
        if len(found) > 1:
            raise NotComputedError(f"the file holds {found[0].name} and {found[1].name} for it")
        return found[0] if found else None

    def need(self, *endings: str) -> Tensor:
        """The one of these parts that is there.

        Raises:
            NotComputedError: none is, or several are.
        """
        found = self.get(*endings)
        if found is None:
            raise NotComputedError(f"the file holds no {endings[0].lstrip('._')} for it")
        return found

    def only(self, *endings: str) -> None:
        """Refuse parts besides these, whose meaning is not known here.

        Raises:
            NotComputedError: there is one.
        """
        others = [t.name for e, t in self.tensors.items() if e not in endings]
        if others:
            raise NotComputedError(f"what {others[0]} does to it is not known here")

    def small(self, tensor: Tensor) -> Any:  # noqa: ANN401 - an array of any dtype
        """Read all of a tensor that is known to be small.

        Raises:
            NotComputedError: it is not.
            UnreadableError: it cannot be read.
        """
        if tensor.nbytes > SMALL:
            raise NotComputedError(f"{tensor.name} takes {tensor.nbytes:,} bytes, too many for it")
        return self.read(tensor, tuple((0, extent) for extent in tensor.shape))

    def computed(self, shape: tuple[int, ...], storage: Computed, roundoff: float) -> Tensor:
        """The effective tensor; `roundoff` is what rounding to its parts moves a weight by at most.

        It is relative to the largest weight that shares a scale, as for Keras' integers. Codes that
        are coarser than 4-bit integers are forgiven no more than these: a norm moves less.
        """
        return Tensor(
            name=self.weight,
            shape=shape,
            dtype=replace(DTYPES["float64"], unit_roundoff=min(roundoff, half_step(4))),
            storage=storage,
            dtype_name="float64",
        )

    def stated_integers(self, *keys: str) -> set[int]:
        """Every positive integer that the config states under one of `keys`, at any depth."""
        return {n for n in _integers(self.stated, frozenset(keys), 0) if n > 0}


def half_step(bits: int) -> float:
    """Half a step of `bits`-bit integers, relative to the largest weight that shares their scale."""
    return 1 / max(2, (1 << bits) - 2)


def dtype_name(tensor: Tensor) -> str:
    """The storage dtype of `tensor` by NumPy's name, or by the file's where it is not known."""
    return tensor.dtype_name if tensor.dtype is None else tensor.dtype.name


def extents(shape: tuple[int, ...]) -> str:
    """``64 x 128``."""
    return " x ".join(map(str, shape)) or "()"


def _integers(value: object, keys: frozenset[str], depth: int) -> Iterator[int]:
    """The integers under `keys`; only as deep as such configs go."""
    if not isinstance(value, dict) or depth > 6:
        return
    for key, inner in value.items():
        if key in keys:
            yield from (n for n in (inner if isinstance(inner, list) else [inner]) if _is_int(n))
        yield from _integers(inner, keys, depth + 1)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
