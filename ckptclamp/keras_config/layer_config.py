"""Settings of one layer, read from a config that may hold anything.

A setting of the wrong type reads as unknown (``None``): a shape with an unknown size in it is checked
as far as it is known, so nothing wrong is ever claimed of a file because its config is odd.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Shape = tuple[int | None, ...]
"""A shape in which ``None`` is a size that the config does not tell."""


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


def times(*factors: int | None) -> int | None:
    """The product of sizes; unknown if one of them is."""
    product = 1
    for factor in factors:
        if factor is None:
            return None
        product *= factor
    return product


@dataclass(frozen=True, slots=True)
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
