"""Which way round the producer of a file lays weights out: outputs along the last axis, or the first.

A Keras or Flax kernel has the shape (inputs, outputs), a PyTorch weight (outputs, inputs), and nothing
in either says which it is. What says so, in this order: that the file is Keras' own; the ``format`` of a
safetensors header, which `save_pretrained` of transformers and mlx-lm write; the class that a config.json
names; the names of the tensors, since a ``kernel`` is Keras' or Flax' and a ``weight`` PyTorch's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from ckptclamp.checkpoints.checkpoint import Checkpoint
    from ckptclamp.checkpoints.tensor import Tensor


class Layout(Enum):
    """Along which axis the outputs of a layer lie."""

    LAST = "last"
    """Keras, TensorFlow, Flax."""
    FIRST = "first"
    """PyTorch, MLX."""
    UNKNOWN = "unknown"


@frozen
class Laid:
    """The layout of a tensor, and in words whose it is and what says so."""

    layout: Layout
    why: str

    @property
    def doubt(self) -> str:
        """A sentence that says so where the layout is not known, or nothing."""
        if self.layout is not Layout.UNKNOWN:
            return ""
        return " Nothing says whose layout this is; it is taken for PyTorch's, outputs first."


_FORMATS = {
    "pt": Laid(Layout.FIRST, "PyTorch's, by the format in its header"),
    "mlx": Laid(Layout.FIRST, "MLX', by the format in its header"),
    "flax": Laid(Layout.LAST, "Flax', by the format in its header"),
    "jax": Laid(Layout.LAST, "JAX', by the format in its header"),
    "tf": Laid(Layout.LAST, "TensorFlow's, by the format in its header"),
    "keras": Laid(Layout.LAST, "Keras', by the format in its header"),
}
"""Of ``__metadata__``. NumPy's (``np``) and Paddle's (``pd``) are written for layers of either way round."""

_KERAS = Laid(Layout.LAST, "Keras'")
_BY_CLASS = Laid(Layout.LAST, "Flax' or TensorFlow's, by the class in its config.json")
_KERNELS = Laid(Layout.LAST, "Keras' or Flax', by the names of its tensors")
_WEIGHTS = Laid(Layout.FIRST, "PyTorch's, by the names of its tensors")
_UNKNOWN = Laid(Layout.UNKNOWN, "not known")

_EMBEDDING = Laid(Layout.FIRST, "that of an embedding, a vector for each row")

_KERNEL = re.compile(r"(?:^|_)kernel(?::0|_\d+)?$")
_ROWS = re.compile(r"(?:^|_)embeddings?(?::0)?$")
_WEIGHT = re.compile(r"(?:^|_)weight(?:_[a-z]+(?:_[a-z0-9]+)*)?$")
_CLASS = re.compile(r"(?:Flax|TF)[A-Z]")

_NEUTRAL = frozenset({"np", "pd"})
"""Producers that call a weight of either layout ``weight``."""


class Producer:
    """What is known of the layout of the tensors in `checkpoint`."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        format_ = checkpoint.metadata.get("format", "")
        self._all = _KERAS if checkpoint.keras is not None else _FORMATS.get(format_)
        self._neutral = format_ in _NEUTRAL
        if self._all is None and _is_other(checkpoint.config()):
            self._all = _BY_CLASS
        self._told = {
            told
            for name in checkpoint.tensors
            if (told := _told(name, neutral=self._neutral)) is not None
        }
        self._rest = next(iter(self._told)) if len(self._told) == 1 else None

    def laid(self, tensor: Tensor | str) -> Laid:
        """How `tensor`, or one of that name, is laid out."""
        name = tensor if isinstance(tensor, str) else tensor.whole.name
        if self._all is not _KERAS and _is_embedding(_last(name)):
            return _EMBEDDING
        return self._all or _told(name, neutral=self._neutral) or self._rest or _UNKNOWN

    @property
    def words(self) -> str:
        """Whose layout it is, and what says so."""
        if self._all is not None:
            return self._all.why
        return " and ".join(sorted(laid.why for laid in self._told)) or _UNKNOWN.why


_KNOWN: WeakKeyDictionary[Checkpoint, Producer] = WeakKeyDictionary()


def producer_of(checkpoint: Checkpoint) -> Producer:
    """Return what is known, found out once for each open checkpoint."""
    if checkpoint not in _KNOWN:
        _KNOWN[checkpoint] = Producer(checkpoint)
    return _KNOWN[checkpoint]


def _told(name: str, *, neutral: bool) -> Laid | None:
    """What a name says by itself."""
    laid = _told_by(_last(name))
    return None if neutral and laid is _WEIGHTS else laid


def _last(name: str) -> str:
    """The last segment of a name, which alone tells; few of those differ."""
    return name[max(name.rfind("/"), name.rfind(".")) + 1 :]


@lru_cache(maxsize=1024)
def _told_by(segment: str) -> Laid | None:
    if _KERNEL.search(segment):
        return _KERNELS
    return _WEIGHTS if _WEIGHT.search(segment) else None


@lru_cache(maxsize=1024)
def _is_embedding(segment: str) -> bool:
    return _ROWS.search(segment) is not None


def _is_other(config: object) -> bool:
    """Whether a config.json names a class of transformers or diffusers for Flax or TensorFlow."""
    if not isinstance(config, Mapping):
        return False
    named = config.get("architectures")
    names = [*(named if isinstance(named, list) else ()), config.get("_class_name")]
    return any(isinstance(name, str) and _CLASS.match(name) for name in names)
