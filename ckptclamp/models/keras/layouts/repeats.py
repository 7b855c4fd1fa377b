"""Layers of a config that may be one layer: of the same class, name and settings as an earlier one."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ckptclamp.models.keras.tree import Layer

_IDENTITY: Final = "shared_object_id"


class RepeatedLayers:
    """Some layers in the order in which Keras visits them, to be asked which repeat earlier ones."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        self._by_name: dict[tuple[str, str | None], list[Layer]] = defaultdict(list)
        for layer in layers:
            self._by_name[layer.class_name, layer.name].append(layer)
        self._firsts: dict[tuple[str, str | None], dict[int, Layer]] = {}

    def first(self, layer: Layer) -> Layer | None:
        """The first layer before it with the same class, name and settings, if any."""
        name = (layer.class_name, layer.name)
        if len(self._by_name[name]) < 2:
            return None
        if name not in self._firsts:
            self._firsts[name] = _first_of_each(self._by_name[name])
        first = self._firsts[name].get(layer.key)
        return None if first is layer else first


def _first_of_each(layers: Iterable[Layer]) -> dict[int, Layer]:
    """For each layer, by its key, the first one that has the same settings."""
    first: dict[str, Layer] = {}
    return {layer.key: first.setdefault(_settings(layer.config.values), layer) for layer in layers}


def _settings(config: Mapping[str, Any]) -> str:
    """What a config says, whatever identities were written into it."""
    return json.dumps(_without_identities(config), sort_keys=True)


def _without_identities(value: Any) -> Any:  # noqa: ANN401 - JSON is any of its types
    if isinstance(value, Mapping):
        return {key: _without_identities(v) for key, v in value.items() if key != _IDENTITY}
    if isinstance(value, list):
        return [_without_identities(item) for item in value]
    return value
