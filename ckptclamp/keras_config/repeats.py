"""Layers of a config that may be one and the same object, used in several places.

Keras writes such a layer's settings at each place; it does not say reliably that it is one object.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from ckptclamp.keras_config.model_tree import Layer

_IDENTITY: Final = "shared_object_id"


class RepeatedLayers:
    """Some layers in the order in which Keras visits them, to be asked which repeat earlier ones."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        self._by_name: dict[tuple[str, str | None], list[Layer]] = defaultdict(list)
        for layer in layers:
            self._by_name[layer.class_name, layer.name].append(layer)

    def first(self, layer: Layer) -> Layer | None:
        """The first layer before it with the same class, name and settings, if any."""
        for other in self._by_name[layer.class_name, layer.name]:
            if other is layer:
                return None
            if same(other.config.values, layer.config.values):
                return other
        return None


def same(one: object, other: object) -> bool:
    """Whether two pieces of config say the same, whatever identities were written into them."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = (one.keys() | other.keys()) - {_IDENTITY}
        return all(key in one and key in other and same(one[key], other[key]) for key in keys)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other
