"""A stored tensor as something to index: what is asked for is read, and nothing else."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.errors import UnreadableError
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from ckptclamp.checkpoints.checkpoint import Checkpoint, TensorReader
    from ckptclamp.checkpoints.tensor import Tensor

_MOST_NAMES = 2000
"""How many names are compared with one that is not there."""


@frozen
class StoredArray:
    """One tensor of an open checkpoint, in its storage dtype; NumPy takes it for an array.

    Indexing with integers, slices and ``...`` reads the smallest box that holds what is asked for,
    and gives a NumPy array of one's own. What is stored is what is given: of a quantised weight its
    codes.

        >>> import ckptclamp
        >>> with ckptclamp.open_checkpoint("model.safetensors") as checkpoint:
        ...     kernel = checkpoint["dense.kernel"]
        ...     kernel.shape, kernel[0, :2], kernel[:].sum()
        ((4, 3), array([3., 3.], dtype=float32), np.float32(36.0))
    """

    reader: TensorReader
    tensor: Tensor

    @property
    def name(self) -> str:
        """The tensor's full name."""
        return self.tensor.name

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents of its axes."""
        return self.tensor.shape

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many elements it has."""
        return self.tensor.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its storage dtype, in the file's byte order.

        Raises:
            UnreadableError: NumPy has no dtype for it.
        """
        stored = self.tensor.dtype
        if stored is None or stored.bits % 8:
            what = stored or self.tensor.dtype_name or "an unknown dtype"
            raise UnreadableError(f"holds {what}, of which NumPy has no array", tensor=self.name)
        return stored.numpy

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a scalar has no length")
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 - an array, or an element of one
        """Return the elements at `index`.

        Raises:
            IndexError: `index` leads out of the tensor, or is more than integers, slices and ``...``.
            UnreadableError: the weights cannot be read.
        """
        _ = self.dtype
        axes = [_taken(i, n) for i, n in zip(_complete(index, self.shape), self.shape, strict=True)]
        box = tuple(bounds for bounds, _ in axes)
        return self.reader.read(self.tensor, box)[tuple(within for _, within in axes)]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Return all of it as a NumPy array."""
        if copy is False:
            raise ValueError("a stored tensor has no array that could be shared")
        whole = np.asarray(self[...])
        return whole if dtype is None else whole.astype(dtype)

    def __repr__(self) -> str:
        dtype = self.tensor.dtype or self.tensor.dtype_name
        return f"<StoredArray {self.name!r}: shape {self.shape}, {dtype}>"


def stored_array(checkpoint: Checkpoint, name: str) -> StoredArray:
    """Return the tensor of `checkpoint` that is called `name`, or known by that alias.

    Raises:
        KeyError: there is none.
    """
    tensors = checkpoint.tensors
    found = tensors.get(name) or next((t for t in tensors.values() if name in t.aliases), None)
    if found is not None:
        return StoredArray(checkpoint, found)
    import difflib

    close = difflib.get_close_matches(str(name), list(tensors)[:_MOST_NAMES], n=1)
    meant = f"; did you mean {close[0]!r}?" if close else ""
    raise KeyError(f"{checkpoint.path} has no tensor {name!r}{meant}")


def _complete(index: Any, shape: tuple[int, ...]) -> list[Any]:  # noqa: ANN401 - a user's
    """One integer or slice for each axis."""
    parts = list(index) if isinstance(index, tuple) else [index]
    at = [i for i, part in enumerate(parts) if part is Ellipsis]
    missing = len(shape) - (len(parts) - len(at))
    if len(at) > 1 or missing < 0:
        raise IndexError(f"{index!r} is no index of a tensor of {len(shape)} axes")
    rest = [slice(None)] * missing
    return [*parts[: at[0]], *rest, *parts[at[0] + 1 :]] if at else [*parts, *rest]


def _taken(part: Any, extent: int) -> tuple[tuple[int, int], int | slice]:  # noqa: ANN401
    """The bounds of what is read along an axis, and where in that is what was asked for."""
    if isinstance(part, slice):
        indices = range(*part.indices(extent))
        if not indices:
            return (0, 0), slice(None)
        low, high = min(indices[0], indices[-1]), max(indices[0], indices[-1]) + 1
        return (low, high), slice(None, None, indices.step)
    if isinstance(part, (bool, np.bool_)):
        raise IndexError("a mask needs the whole array: numpy.asarray(tensor)[mask]")
    try:
        at = operator.index(part)
    except TypeError:
        raise IndexError(
            f"{part!r} is no integer, slice or ...; numpy.asarray(tensor) takes other indices"
        ) from None
    if not -extent <= at < extent:
        raise IndexError(f"index {at} is out of bounds for an axis of {extent}")
    at %= extent
    return (at, at + 1), 0
