"""What each generation of Keras says of a layer: where its variables are stored, or why that cannot be told.

A layer that repeats an earlier one, of the same class, name and settings, may be that layer.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any, Final

from ckptclamp.errors import printable
from ckptclamp.frozen import frozen
from ckptclamp.models.keras.quantisation import is_quantised

if TYPE_CHECKING:
    from ckptclamp.checkpoints.tensor import KerasModel, Tensor
    from ckptclamp.models.keras.layers import Variable
    from ckptclamp.models.keras.tree import Layer

NAME_IT: Final = "write a rule that names the tensor"
_SAME_SAVE: Final = "give the config that was saved with these weights"


def hint_for(model: KerasModel) -> str:
    """What would help where config and file disagree; a file's own config is no other one."""
    return _SAME_SAVE if model.config_given else NAME_IT


@frozen
class Bound:
    """Where each variable of a layer is stored, in the order of `Layer.variables`.

    A variable has several tensors where the file keeps copies of it, and none where this layout
    does not store it. `group` is the group of the v3 layout that is the layer's. `renamed` says that
    the file calls the weights of the layers otherwise, so that their order alone decided.
    """

    tensors: tuple[tuple[str, ...], ...]
    group: str | None = field(default=None, compare=False)
    renamed: bool = field(default=False, compare=False)


@frozen
class Unbound:
    """Why a layer's variables cannot be told apart in this file, and what would help."""

    reason: str
    hint: str = NAME_IT


Binding = Bound | Unbound
Bindings = dict[int, Binding]
"""By `Layer.key`."""


def unbound_below(layer: Layer, why: Unbound) -> Bindings:
    """The same reason for a layer and everything inside it."""
    return {inner.key: why for inner in layer.walk()}


def disagreement(variable: Variable, tensor: Tensor) -> str | None:
    """What contradicts that `tensor` holds `variable`, if anything does.

    A quantised tensor may be packed, so that its shape says nothing.
    """
    if variable.agrees(tensor.shape) or is_quantised(tensor):
        return None
    sizes = ", ".join("?" if size is None else str(size) for size in variable.shape or ())
    return (
        f"the config implies the shape ({sizes}) for {variable.name}, "
        f"but {printable(tensor.name)} has {tensor.shape}"
    )


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
