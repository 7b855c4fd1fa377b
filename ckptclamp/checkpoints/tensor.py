"""What a checkpoint is made of, as plain frozen data: which tensors, and where their bytes lie.

A format module describes a file in these words and holds no weights; `checkpoint` then fetches weights
from the places that are named here. Nothing in this module opens a file.
"""

from __future__ import annotations

import itertools
import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from ckptclamp.checkpoints.dtypes import StorageDType
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from numpy.typing import NDArray


Box = tuple[tuple[int, int], ...]
"""A rectangular part of a tensor: for each axis (start, stop)."""

Extent = tuple[int, int]
"""Bytes of a file: the first, and the one after the last."""

Read = Callable[["Tensor", Box], "NDArray[Any]"]
"""Returns a box of a stored tensor."""


@frozen
class Contiguous:
    """A tensor's bytes in C order, one extent of one source.

    `source` is an index into the checkpoint's sources, `offset` counts bytes from its start.
    """

    source: int
    offset: int


@frozen
class Chunk:
    """One stored chunk: its first element's coordinates, its bytes, and the filters that were left out.

    Bit k of `filter_mask` says that filter k was not applied to this chunk.
    """

    start: tuple[int, ...]
    offset: int
    stored: int
    filter_mask: int = 0


@frozen
class Chunked:
    """A tensor in chunks of `chunk_shape`, each put through `filters` in order when it was written.

    Filters are named ``shuffle``, ``deflate``, ``fletcher32`` or ``lzf``. A chunk that is not listed
    was never written: all its elements are `fill` (one element's bytes). `by_start` finds a chunk
    by its first element's coordinates.
    """

    source: int
    chunk_shape: tuple[int, ...]
    filters: tuple[str, ...]
    chunks: tuple[Chunk, ...]
    fill: bytes
    deflate_level: int | None = None
    by_start: Mapping[tuple[int, ...], Chunk] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_start", {chunk.start: chunk for chunk in self.chunks})

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle chunks as a byte or two each: there may be many thousands."""
        stated = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        columns = len(self.chunk_shape) + 3
        return _unpacked, (_packed(stated.pop("chunks"), columns), columns, stated)


def _packed(chunks: Sequence[Chunk], columns: int) -> bytes:
    """The numbers of `chunks` as they differ from those before, and like bytes beside each other."""
    import numpy as np

    rows = [(*chunk.start, chunk.filter_mask, chunk.stored, chunk.offset) for chunk in chunks]
    table = np.array(rows, np.int64).reshape(-1, columns)
    table[:, -1] -= table[:, -2].cumsum() - table[:, -2]  # most follow the one before
    table[1:] -= table[:-1].copy()
    return zlib.compress(table.view(np.uint8).T.tobytes())


def _unpacked(packed: bytes, columns: int, stated: Mapping[str, Any]) -> Chunked:
    import numpy as np

    planes = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(8 * columns, -1)
    table = np.ascontiguousarray(planes.T).view(np.int64).cumsum(axis=0)
    table[:, -1] += table[:, -2].cumsum() - table[:, -2]
    chunks = (Chunk(tuple(at), offset, size, mask) for *at, mask, size, offset in table.tolist())
    return Chunked(chunks=tuple(chunks), **stated)


@frozen
class Constant:
    """A tensor whose bytes were never written: every element is `fill` (one element's bytes)."""

    source: int
    fill: bytes


@frozen
class Unreadable:
    """A tensor that can be named but not read, and why; a `Reason` where its bytes are not to blame."""

    reason: str


@frozen
class NotComputed(Unreadable):
    """A weight that is stored in parts from which it cannot be computed here, and why."""


class Computed(ABC):
    """A weight that is not stored as it is, and computed from stored tensors where it is read."""

    __slots__ = ()

    @property
    @abstractmethod
    def parts(self) -> tuple[Tensor, ...]:
        """The stored tensors that it is computed from, first the one that holds its elements."""

    @property
    @abstractmethod
    def stored_as(self) -> str:
        """What is stored, in words that complete "the weights that its ... stand for"."""

    @property
    def unprojected(self) -> str:
        """Why a projection leaves it as it is."""
        return "it is quantised, and its integers and scales are not projected"

    @property
    def swapped(self) -> bool:
        """Whether its elements are stored with the last two axes the other way round; default: no."""
        return False

    @abstractmethod
    def compute(self, read: Read, tensor: Tensor, box: Box, out: NDArray[Any]) -> None:
        """Compute `box` of `tensor`, whose storage this is, into `out`; `read` reads its parts.

        Raises:
            UnreadableError: a part cannot be read, or makes no sense.
        """


@frozen
class View:
    """A part of another tensor, `whole`, and its axes seen as several: the same bytes, other names.

    `start` is where the part begins along each axis of `whole`. `factors` are, for each of these
    axes, the extents that it is seen as, the first one outermost; the shape of the view is all of
    them in order.
    """

    whole: Tensor
    start: tuple[int, ...]
    factors: tuple[tuple[int, ...], ...]

    def pieces(self, box: Box) -> Iterator[tuple[Box, tuple[slice, ...]]]:
        """Yield the boxes of `whole` that hold `box` of the view, and where in `box` each lies."""
        per_axis, at = [], 0
        for start, factors in zip(self.start, self.factors, strict=True):
            per_axis.append(list(_runs_along(start, factors, box[at : at + len(factors)])))
            at += len(factors)
        for pieces in itertools.product(*per_axis):
            yield (
                tuple(extent for extent, _ in pieces),
                tuple(piece for _, within in pieces for piece in within),
            )


def _runs_along(
    start: int, factors: tuple[int, ...], box: Box
) -> Iterator[tuple[Extent, tuple[slice, ...]]]:
    """The runs of one axis, seen as `factors`, that `box` is made of, and where in `box` they lie."""
    inner = len(factors) - 1
    while inner > 0 and box[inner] == (0, factors[inner]):
        inner -= 1
    step = math.prod(factors[inner + 1 :])
    first, last = box[inner]
    rest = tuple(slice(0, extent) for extent in box_shape(box[inner:]))
    for index in itertools.product(*(range(a, b) for a, b in box[:inner])):
        outer = 0
        for i, extent in zip(index, factors, strict=False):
            outer = outer * extent + i
        base = start + outer * factors[inner] * step
        within = tuple(slice(i - a, i - a + 1) for i, (a, _) in zip(index, box, strict=False))
        yield (base + first * step, base + last * step), (*within, *rest)


Storage = Contiguous | Chunked | Constant | Unreadable | Computed | View


class Role(StrEnum):
    """What a tensor is to the model. Only weights can be governed by a declared constraint."""

    WEIGHT = "weight"
    OPTIMIZER = "optimizer"
    STATE = "state"


@frozen
class Tensor:
    """A named n-d array in a checkpoint.

    `name` is the format's own full name: the safetensors key, or the path of the HDF5 dataset
    without a leading slash. `aliases` are other names by which a user may know it (other hard
    links to the same bytes, Keras' own variable path); globs match any of them.
    """

    name: str
    shape: tuple[int, ...]
    dtype: StorageDType | None
    storage: Storage
    aliases: tuple[str, ...] = ()
    role: Role = Role.WEIGHT
    dtype_name: str = ""

    @property
    def size(self) -> int:
        """How many elements, as an exact Python integer."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes the elements take, decoded."""
        return 0 if self.dtype is None else (self.size * self.dtype.bits + 7) // 8

    @property
    def whole(self) -> Tensor:
        """The tensor that the checkpoint lists: of a view the one it is a view of."""
        return self.storage.whole if isinstance(self.storage, View) else self

    @property
    def extents(self) -> list[Extent]:
        """Where in its source the tensor's bytes lie; nowhere if it is not stored."""
        match self.storage:
            case Contiguous(offset=offset) if self.nbytes:
                return [(offset, offset + self.nbytes)]
            case Chunked(chunks=chunks):
                return [(chunk.offset, chunk.offset + chunk.stored) for chunk in chunks]
            case _:
                return []


@frozen
class Producer:
    """Who wrote a checkpoint, as far as it says: ``Producer("keras", "3.15.1", "jax")``."""

    framework: str
    version: str | None = None
    backend: str | None = None

    def __str__(self) -> str:
        backend = f" ({self.backend})" if self.backend else ""
        return " ".join(filter(None, (self.framework, self.version))) + backend


class KerasLayout(StrEnum):
    """How Keras named the datasets."""

    LEGACY = "legacy"
    """By layer name and `weight_names`: whole-model and weights-only ``.h5`` of any generation."""
    V3 = "v3"
    """By class and position, ``layers/dense/vars/0``: ``.keras``, ``.weights.h5`` and shards."""


@frozen
class KerasModel:
    """What a Keras file says of the model beside its weights; nothing in it is ever instantiated.

    `config` is the parsed model config (``None`` in weights-only files). `weights_root` is the
    group that holds the layers (``model_weights`` or empty). Legacy layout: `layer_names` and, for
    each layer, `weight_names` in the order of the file's attributes. V3 layout: `group_names` maps
    each group that owns a ``vars`` group (its path without ``/vars``) to its ``name`` attribute,
    ``None`` where it has none. `config_given` says that the config came from elsewhere.
    """

    layout: KerasLayout
    version: str | None = None
    backend: str | None = None
    config: Mapping[str, Any] | None = None
    weights_root: str = ""
    layer_names: tuple[str, ...] = ()
    weight_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    group_names: Mapping[str, str | None] = field(default_factory=dict)
    config_given: bool = False


@frozen
class Runs:
    """`count` runs of `length` bytes, the first at `offset`, each `stride` bytes after the last."""

    offset: int
    length: int
    count: int
    stride: int


def box_shape(box: Box) -> tuple[int, ...]:
    """Return the shape of an array that holds `box`."""
    return tuple(stop - start for start, stop in box)


def check_box(shape: tuple[int, ...], box: Box) -> None:
    """Raise `ValueError` unless `box` lies inside an array of `shape`."""
    if len(box) != len(shape) or not all(
        0 <= start <= stop <= extent for (start, stop), extent in zip(box, shape, strict=True)
    ):
        raise ValueError(f"{box} is no box of an array of shape {shape}")


def one_run(shape: tuple[int, ...], box: Box, itemsize: int) -> tuple[int, int] | None:
    """Return the offset and the length of `box` in bytes if it is one run of a C-ordered array.

    ``None`` where it is several runs, or lies outside an array of `shape`. It is what `plan_runs`
    says, at a small part of the cost: most blocks of most tensors are one run.
    """
    if len(box) != len(shape):
        return None
    offset, count = 0, 1
    for (start, stop), extent in zip(box, shape, strict=True):
        length = stop - start
        if not 0 <= start < stop <= extent or (count > 1 and length != extent):
            return None
        offset = offset * extent + start
        count *= length
    return offset * itemsize, count * itemsize


def plan_runs(shape: tuple[int, ...], box: Box, itemsize: int) -> Iterator[Runs]:
    """Yield where the bytes of `box` lie in a C-ordered array of `shape`, in the box's own order.

    Offsets are in bytes from the start of the array. A box that is one extent gives one run.
    """
    check_box(shape, box)
    if any(start == stop for start, stop in box):
        return
    strides = [itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    origin = sum(start * stride for (start, _), stride in zip(box, strides, strict=True))
    extents = box_shape(box)
    # Axes that are read whole join the axis before them: first into runs, then into their count.
    inner = _join_whole(shape, extents, len(shape))
    length = math.prod(extents[inner:]) * itemsize
    middle = _join_whole(shape, extents, inner)
    count = math.prod(extents[middle:inner])
    stride = strides[inner - 1] if inner else length
    for index in itertools.product(*(range(extent) for extent in extents[:middle])):
        shift = sum(i * step for i, step in zip(index, strides, strict=False))
        yield Runs(origin + shift, length, count, stride)


def _join_whole(shape: tuple[int, ...], extents: tuple[int, ...], end: int) -> int:
    """Return the first axis of a group that ends before `end` and is whole but for that axis."""
    axis = max(end - 1, 0)
    while axis > 0 and extents[axis] == shape[axis]:
        axis -= 1
    return axis


@frozen
class ChunkPart:
    """The part of a box that one chunk holds: where it lies in the chunk, and where in the box."""

    start: tuple[int, ...]
    in_chunk: tuple[slice, ...]
    in_box: tuple[slice, ...]


def plan_chunks(box: Box, chunk_shape: tuple[int, ...]) -> Iterator[ChunkPart]:
    """Yield the part of `box` that each chunk of a regular grid holds; `start` names the chunk."""
    grid = (
        range(start // extent * extent, stop, extent) if start < stop else range(0)
        for (start, stop), extent in zip(box, chunk_shape, strict=True)
    )
    for corner in itertools.product(*grid):
        bounds = [
            (max(start, at), min(stop, at + extent), at, start)
            for (start, stop), at, extent in zip(box, corner, chunk_shape, strict=True)
        ]
        yield ChunkPart(
            corner,
            tuple(slice(low - at, high - at) for low, high, at, _ in bounds),
            tuple(slice(low - start, high - start) for low, high, _, start in bounds),
        )
