"""A Keras model config: the file that it is read from, and its settings as untrusted values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Final

from ckptclamp.checkpoints.documents import parse_strict
from ckptclamp.checkpoints.source import Source
from ckptclamp.errors import UsageError
from ckptclamp.frozen import frozen

Shape = tuple[int | None, ...]
"""A shape in which ``None`` is a size that the config does not tell."""

_LARGEST, _DEEPEST = 64 << 20, 200
_HEAD = 4096
"""Bytes in which a JSON document has begun, whatever white space comes before it."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_model_config(path: Path) -> Mapping[str, Any]:
    """Return the config in `path`: what ``model.to_json()`` gives, or inside a Keras checkpoint.

    ``json.dump(model.to_json(), file)`` writes that text as a JSON string; it is read as well.

    Raises:
        UnreadableError: the file cannot be read, or is neither JSON nor a checkpoint.
        UsageError: it holds no model config.
    """
    source = Source.open(path)
    try:
        config = _from_json(source) if _starts_as_json(source) else _from_checkpoint(path)
    finally:
        source.close()
    if not isinstance(config, dict) or not isinstance(config.get("config"), (dict, list)):
        raise UsageError(
            "holds no model config", path=path, hint="give what model.to_json() returns"
        )
    return config


def _starts_as_json(source: Source) -> bool:
    head = source.read_at(0, min(_HEAD, source.size))
    return head.removeprefix(_BYTE_ORDER_MARK).lstrip(b" \t\r\n").startswith((b"{", b'"'))


def _from_json(source: Source) -> object:
    if source.size > _LARGEST:
        raise UsageError(f"is over {_LARGEST >> 20} MiB, too large for a config", path=source.path)
    document = _parsed(source.read_at(0, source.size).removeprefix(_BYTE_ORDER_MARK), source.path)
    return _parsed(document.encode(), source.path) if isinstance(document, str) else document


def _parsed(data: bytes, path: Path) -> object:
    return parse_strict(
        data,
        max_depth=_DEEPEST,
        max_bytes=_LARGEST,
        what="model config",
        allow_infinity=True,
        path=path,
    )


def _from_checkpoint(path: Path) -> object:
    from ckptclamp.checkpoints.opening import open_checkpoint

    with open_checkpoint(path) as checkpoint:
        return checkpoint.keras.config if checkpoint.keras else None


_KEPT: Final = {
    **{name: name for name in ("float16", "bfloat16", "float32", "float64")},
    "mixed_float16": "float32",
    "mixed_bfloat16": "float32",
}
"""Keras' policies by name, and the dtype of a variable under each."""


def as_mapping(value: object) -> Mapping[str, Any]:
    """`value` if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def as_integer(value: object) -> int | None:
    """`value` if it is an integer (and not a boolean), else ``None``."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def as_shape(value: object) -> Shape | None:
    """A list of sizes as a tuple; ``None`` if `value` is not a list of integers and nulls."""
    if not isinstance(value, (list, tuple)):
        return None
    if any(size is not None and as_integer(size) is None for size in value):
        return None
    return tuple(value)


def variable_dtype(policy: object) -> str | None:
    """The dtype in which a layer with this ``dtype`` keeps its weights; ``None`` if it does not say.

    A mixed policy computes in a narrow dtype, and keeps float32.
    """
    name = policy if isinstance(policy, str) else _policy_name(as_mapping(policy))
    if not isinstance(name, str) or name not in _KEPT:
        return None
    return _KEPT[name]


def _policy_name(policy: Mapping[str, Any]) -> object:
    return as_mapping(policy.get("config")).get("name")


def times(*factors: int | None) -> int | None:
    """The product of sizes; unknown if one of them is."""
    known = [factor for factor in factors if factor is not None]
    return math.prod(known) if len(known) == len(factors) else None


@frozen
class LayerConfig:
    """A layer's ``config``, and the shapes (batch axis included) that it was built with, by name."""

    values: Mapping[str, Any]
    built: Mapping[str, Any] = field(default_factory=dict)

    def integer(self, *keys: str) -> int | None:
        """The first of `keys` that holds an integer; generations have named settings differently."""
        return next(
            (n for key in keys if (n := as_integer(self.values.get(key))) is not None), None
        )

    def flag(self, key: str, default: bool = True) -> bool:
        """A setting that is on or off."""
        value = self.values.get(key)
        return default if value is None else bool(value)

    def sizes(self, key: str, rank: int) -> Shape:
        """A setting with one size per spatial axis, also where it is written as one number."""
        value = self.values.get(key)
        if (number := as_integer(value)) is not None:
            return (number,) * rank
        shape = as_shape(value)
        return shape if shape is not None and len(shape) == rank else (None,) * rank

    @property
    def input_shape(self) -> Shape | None:
        """The shape of the one input, if it is known."""
        return as_shape(self.built.get("input_shape"))

    @property
    def features(self) -> int | None:
        """The size of the last input axis."""
        return self.input_shape[-1] if self.input_shape else None

    @property
    def channels(self) -> int | None:
        """The size of the channel axis of the input."""
        if self.values.get("data_format") == "channels_first":
            return self.input_shape[1] if self.input_shape and len(self.input_shape) > 1 else None
        return self.features
