"""Weights of PyTorch that are a length times a direction, or are divided by their largest singular value.

Sources: ``torch._weight_norm`` (g · v / ‖v‖, the norm over every axis along which g has one number),
``torch.nn.utils.spectral_norm`` and ``parametrizations.spectral_norm`` in evaluation mode
(W / (uᵀ W v), W as a matrix whose rows are the axis that u belongs to).
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ckptclamp.checkpoints.dtypes import Kind
from ckptclamp.checkpoints.tensor import Computed
from ckptclamp.errors import Reason, UnreadableError
from ckptclamp.frozen import frozen
from ckptclamp.models.effective.members import Members, NotComputedError, extents
from ckptclamp.models.effective.numbers import Plain, cut, places
from ckptclamp.models.effective.weights import PIECE, Effective, Rescaling, is_fine

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.tensor import Box, Read, Tensor
    from ckptclamp.models.effective.levels import Wanted

_MOST: Final = 1 << 20
"""The most numbers that are kept of one tensor: norms, or the elements of a vector."""

_TINY: Final = 1e-280
"""Below it a sum of squares has lost digits."""

_SURE, _NOT = 0.98, 0.9
"""How parallel W v and u are along the axis that u belongs to, at least, and along others at most."""


class _Once:
    """What is computed by the first who asks for it, while the others wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: NDArray[np.float64] | None = None

    def get(self, make: Callable[[], NDArray[np.float64]]) -> NDArray[np.float64]:
        """What `make` returned, or returns now."""
        with self._lock:
            if self._found is None:
                self._found = make()
            return self._found


class _Recent:
    """What took a pass over a tensor, kept for the few weights that are at work at once.

    A weight of parts may be a part itself, so that what is computed asks for more; nothing is locked
    then but what is computed, which never asks for itself.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept: dict[tuple[Effective, Read], _Once] = {}

    def get(
        self, owner: Effective, read: Read, make: Callable[[], NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        """What `make` returned for `owner` by what `read` reads, or returns now."""
        with self._lock:
            once = self._kept.pop((owner, read), None) or _Once()
            while len(self._kept) >= self._most:
                del self._kept[next(iter(self._kept))]
            self._kept[owner, read] = once
        return once.get(make)

    def forget(self) -> None:
        """Keep nothing: what was read has been overwritten."""
        with self._lock:
            self._kept.clear()


_RECENT: Final = _Recent(8)


def forget_norms() -> None:
    """Compute norms and singular values anew, because parts of weights were overwritten."""
    _RECENT.forget()


@dataclass(frozen=True, slots=True, eq=False)
class WeightNorm(Effective):
    """g · v / ‖v‖, the norm over `axes`.

    g has the rank of v, or only the axes that are kept, or is one number for all.
    """

    words: str
    lengths: Tensor
    directions: Tensor
    axes: tuple[int, ...]

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """See `Computed.parts`."""
        inner = self.directions.storage
        directions = inner.parts if isinstance(inner, Computed) else (self.directions,)
        return (*directions, self.lengths)

    @property
    def unprojected(self) -> str:
        """See `Computed.unprojected`."""
        return (
            f"in its parts only {self.lengths.name} is ever changed, which has no number for these units "
            "alone, or none for their single weights"
        )

    def rescaling(self, axes: tuple[int, ...]) -> Rescaling | None:
        """See `Effective.rescaling`: g, where no number of it belongs to two units."""
        rank, held = len(self.directions.shape), len(self.lengths.shape)
        kept = [axis for axis in range(rank) if axis not in axes]
        if any(axis in self.axes for axis in kept) or not is_fine(self.lengths):
            return None
        own = [axis for axis in range(rank) if held == rank or axis not in self.axes]
        if not kept:
            return Rescaling(self.lengths, (None,) * held)
        return Rescaling(self.lengths, tuple(axis if axis in kept else None for axis in own))

    def piece(self, read: Read, box: Box) -> NDArray[np.float64]:
        """See `Effective.piece`."""
        norms = _RECENT.get(self, read, lambda: self._norms(read))[self._kept(box)]
        where = [(0, 1) if axis in self.axes else span for axis, span in enumerate(box)]
        if len(self.axes) == len(box):
            where = [(0, 1)] * len(self.lengths.shape)
        elif len(self.lengths.shape) < len(box):
            where = [span for axis, span in enumerate(box) if axis not in self.axes]
        stored = tuple(where)
        lengths = Plain(self.lengths).read(read, stored).reshape(norms.shape)
        return Plain(self.directions).read(read, box) * (lengths / norms)

    def _kept(self, box: Box) -> tuple[slice, ...]:
        """Where the norms of a box lie among all."""
        return tuple(
            slice(0, 1) if axis in self.axes else slice(*span) for axis, span in enumerate(box)
        )

    def _norms(self, read: Read) -> NDArray[np.float64]:
        shape = self.directions.shape
        squares = np.zeros([1 if axis in self.axes else n for axis, n in enumerate(shape)])
        for part in cut(tuple((0, n) for n in shape), PIECE):
            block = Plain(self.directions).read(read, part)
            squares[self._kept(part)] += np.square(block).sum(axis=self.axes, keepdims=True)
        if np.isinf(squares).any() or ((squares > 0) & (squares < _TINY)).any():
            raise UnreadableError(
                Reason("not-computed", f"the norms of {self.directions.name} are beyond float64")
            )
        return np.sqrt(squares)


def weight_norm(members: Members) -> Tensor:
    """Return g · v / ‖v‖; where g has extent 1 the norm is over that axis.

    Raises:
        NotComputedError: the shapes do not fit.
    """
    lengths, directions = members.need("_g", "original0"), members.need("_v", "original1")
    members.only("_g", "_v", "original0", "original1")
    check_floats(lengths, directions)
    shape = directions.shape
    if lengths.size == 1 and len(lengths.shape) <= len(shape):
        axes = tuple(range(len(shape)))
    else:
        axes = tuple(axis for axis, extent in enumerate(lengths.shape) if extent == 1)
        kept = tuple(1 if axis in axes else extent for axis, extent in enumerate(shape))
        if len(lengths.shape) != len(shape) or lengths.shape != kept:
            raise NotComputedError(
                f"{lengths.name} of shape {extents(lengths.shape)} is no norm of it"
            )
    if lengths.size > _MOST:
        raise NotComputedError(f"it has {lengths.size:,} norms, at most {_MOST:,} are kept")
    storage = WeightNorm(
        words=f"directions {directions.name} and norms {lengths.name}",
        lengths=lengths,
        directions=directions,
        axes=axes,
    )
    return members.computed(shape, storage, roundoff(lengths, directions))


@dataclass(frozen=True, slots=True, eq=False)
class SpectralNorm(Effective):
    """W / (uᵀ W v), W as a matrix whose rows are an axis of `original` that fits u.

    A layer of as many inputs as outputs may have it along either of `axes`: there W v shows which.
    """

    words: str
    original: Tensor
    left: Tensor
    right: Tensor
    axes: tuple[int, ...]

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """See `Computed.parts`."""
        return (self.original, self.left, self.right)

    @property
    def unprojected(self) -> str:
        """See `Computed.unprojected`."""
        return (
            f"{self.original.name} is divided by the singular value that {self.left.name} and "
            f"{self.right.name} give of it, so that changing a part of it changes all of it"
        )

    def piece(self, read: Read, box: Box) -> NDArray[np.float64]:
        """See `Effective.piece`."""
        sigma = _RECENT.get(self, read, lambda: np.array(self._sigma(read)))
        return Plain(self.original).read(read, box) / sigma

    def _sigma(self, read: Read) -> float:
        left = Plain(self.left).read(read, ((0, self.left.size),))
        right = Plain(self.right).read(read, ((0, self.right.size),))
        products = {axis: self._product(read, right, axis) for axis in self.axes}
        axis = self.axes[0] if len(self.axes) == 1 else _told(products, left, self.original)
        sigma = float(left @ products[axis])
        if not math.isfinite(sigma):
            raise UnreadableError(
                Reason(
                    "not-computed", f"{self.left.name} and {self.right.name} give no finite norm"
                )
            )
        return sigma

    def _product(self, read: Read, right: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        """W v, W with `axis` first and the others flattened in their order."""
        shape = self.original.shape
        others = right.reshape([n for i, n in enumerate(shape) if i != axis])
        spread = np.expand_dims(others, axis)
        out = np.zeros(shape[axis])
        whole = tuple((0, n) for n in shape)
        for part in cut(whole, PIECE):
            block = Plain(self.original).read(read, part)
            where = tuple(
                slice(None) if i == axis else s for i, s in enumerate(places(whole, part))
            )
            rest = tuple(i for i in range(len(shape)) if i != axis)
            out[slice(*part[axis])] += (block * spread[where]).sum(axis=rest)
        return out


def _told(products: dict[int, NDArray[np.float64]], left: NDArray[np.float64], of: Tensor) -> int:
    """The axis that u belongs to.

    Raises:
        UnreadableError: u and W v do not tell.
    """
    parallel = {
        axis: abs(left @ product) / (np.linalg.norm(left) * np.linalg.norm(product))
        for axis, product in products.items()
    }
    sure = [axis for axis, how in parallel.items() if how > _SURE]
    if len(sure) != 1 or any(how > _NOT for axis, how in parallel.items() if axis != sure[0]):
        raise UnreadableError(
            Reason("not-computed", f"nothing tells along which axis {of.name} is normalised")
        )
    return sure[0]


def spectral_norm(members: Members) -> Tensor:
    """Return W / σ with the σ that the stored vectors u and v give, as in evaluation mode.

    Raises:
        NotComputedError: the shapes do not fit, or the file holds no v.
    """
    original = members.need("_orig", "original")
    left, right = members.need("_u", "0._u"), members.need("_v", "0._v")
    members.only("_orig", "_u", "_v", "original", "0._u", "0._v")
    check_floats(original, left, right)
    shape, size = original.shape, math.prod(original.shape)
    axes = tuple(axis for axis, extent in enumerate(shape) if (extent,) == left.shape)
    if len(shape) < 2 or not axes or right.shape != (size // left.size,):
        raise NotComputedError(f"its singular vectors do not fit its shape {extents(shape)}")
    if max(left.size, right.size) > _MOST:
        raise NotComputedError(f"its singular vectors have over {_MOST:,} elements")
    storage = SpectralNorm(
        words=f"original {original.name} and singular vectors {left.name}, {right.name}",
        original=original,
        left=left,
        right=right,
        axes=axes[:1] if len(shape) == 2 else axes[:2],
    )
    return members.computed(shape, storage, roundoff(original))


@frozen
class Masked(Effective):
    """original · mask, as ``torch.nn.utils.prune`` computes it before each call."""

    words: str
    original: Tensor
    mask: Tensor

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """See `Computed.parts`."""
        return (self.original, self.mask)

    def piece(self, read: Read, box: Box) -> NDArray[np.float64]:
        """See `Effective.piece`."""
        return Plain(self.original).read(read, box) * Plain(self.mask).read(read, box)

    @property
    def recoded(self) -> Tensor | None:
        """See `Effective.recoded`: the original, where its mask leaves something of it."""
        return self.original if is_fine(self.original) else None

    def recode(self, read: Read, box: Box, wanted: Wanted) -> tuple[Box, NDArray[Any]]:
        """See `Effective.recode`."""
        with np.errstate(all="ignore"):
            unmasked = wanted.numbers / Plain(self.mask).read(read, box)
        return Plain(self.original).encode(read, box, wanted.instead(unmasked))


def pruned(members: Members) -> Tensor:
    """Return the original with what its mask leaves of it.

    Raises:
        NotComputedError: the shapes do not fit.
    """
    original, mask = members.need("_orig"), members.need("_mask")
    members.only("_orig", "_mask")
    check_floats(original)
    if mask.shape != original.shape or mask.dtype is None or mask.dtype.kind is Kind.COMPLEX:
        raise NotComputedError(f"{mask.name} is no mask of shape {extents(original.shape)}")
    storage = Masked(f"original {original.name} and mask {mask.name}", original, mask)
    return members.computed(original.shape, storage, roundoff(original))


def check_floats(*tensors: Tensor) -> None:
    """Refuse parts that are no floats."""
    for tensor in tensors:
        if tensor.dtype is None or tensor.dtype.kind is not Kind.FLOAT:
            raise NotComputedError(f"{tensor.name} is {tensor.dtype or tensor.dtype_name}")


def roundoff(*tensors: Tensor) -> float:
    """The largest unit roundoff of the parts."""
    return max(tensor.dtype.unit_roundoff for tensor in tensors if tensor.dtype is not None)
