"""What a checkpoint is made of, as plain frozen data: which tensors, and where their bytes lie.

A format module describes a file in these words and holds no weights; `reading` then fetches weights
from the places that are named here. Nothing in this module opens a file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from ckptclamp.checkpoints.dtypes import StorageDType

Box = tuple[tuple[int, int], ...]
"""A rectangular part of a tensor: for each axis (start, stop)."""


@dataclass(frozen=True, slots=True)
class Contiguous:
    """A tensor's bytes in C order, one extent of one source.

    `source` is an index into the checkpoint's sources, `offset` counts bytes from its start.
    """

    source: int
    offset: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """One stored chunk: its first element's coordinates, its bytes, and the filters that were left out.

    Bit k of `filter_mask` says that filter k was not applied to this chunk.
    """

    start: tuple[int, ...]
    offset: int
    stored: int
    filter_mask: int = 0


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Constant:
    """A tensor whose bytes were never written: every element is `fill` (one element's bytes)."""

    source: int
    fill: bytes


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A tensor that can be named but not read, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Dequantised:
    """A weight that is stored as small integers with scales, and computed where it is read.

    The weight's elements, in C order, fill a `matrix` of (rows, columns). `values` holds their
    integers q: of the weight's own shape, or two to a byte along the axis `packed` of the matrix, the
    even one in the low half. Each index along the axis `kept` of the matrix has a scale of its own,
    in C order of `scale`, and the weight is q / scale. Where there are `groups` the other axis of the
    matrix is cut up too: its index i belongs to group ``groups[i]``, `scale` and `zero` are matrices
    of one row (or column) for each group, and the weight is (q - zero) · scale.
    """

    values: Tensor
    scale: Tensor
    matrix: tuple[int, int]
    kept: Literal[0, 1]
    packed: Literal[0, 1] | None = None
    zero: Tensor | None = None
    groups: Tensor | None = None

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """The tensors of the file that the weight is computed from."""
        every = (self.values, self.scale, self.zero, self.groups)
        return tuple(tensor for tensor in every if tensor is not None)


Storage = Contiguous | Chunked | Constant | Unreadable | Dequantised


class Role(StrEnum):
    """What a tensor is to the model. Only weights can be governed by a declared constraint."""

    WEIGHT = "weight"
    OPTIMIZER = "optimizer"
    STATE = "state"


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class KerasModel:
    """What a Keras file says of the model beside its weights; nothing in it is ever instantiated.

    `config` is the parsed model config (``None`` in weights-only files). `weights_root` is the
    group that holds the layers (``model_weights`` or empty). Legacy layout: `layer_names` and, for
    each layer, `weight_names` in the order of the file's attributes. V3 layout: `group_names` maps
    each group that owns a ``vars`` group (its path without ``/vars``) to its ``name`` attribute,
    ``None`` where it has none.
    """

    layout: KerasLayout
    version: str | None = None
    backend: str | None = None
    config: Mapping[str, Any] | None = None
    weights_root: str = ""
    layer_names: tuple[str, ...] = ()
    weight_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    group_names: Mapping[str, str | None] = field(default_factory=dict)
