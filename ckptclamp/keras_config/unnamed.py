"""Weights of which nothing tells what they are called within their layer.

The v3 layout numbers the weights of a layer. Which number is the kernel is known from the layer's
class, and so not where the class is a user's, or where config and file do not fit together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptclamp.checkpoints.description import KerasLayout, Role
from ckptclamp.checkpoints.dtypes import Kind
from ckptclamp.keras_config.binding import Bound
from ckptclamp.keras_config.mapping import bind
from ckptclamp.keras_config.v3_groups import LISTS, V3Groups, join
from ckptclamp.keras_config.weightless import STATISTICS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptclamp.checkpoints.description import KerasModel, Tensor
    from ckptclamp.keras_config.model_tree import Layer


def unnamed_weights(model: KerasModel, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """By full name each such weight, and the names of the layers that it lies in (``outer/mine``).

    Integers are no weights that anybody means by a name, and a file without a config names nothing.

    Raises:
        RefusedError: the config nests layers deeper than 64 levels.
    """
    root, bindings = bind(model, tensors)
    if root is None or model.layout is KerasLayout.LEGACY:
        return {}
    groups = V3Groups(model, tensors)
    places: dict[str, Layer] = {}
    named: set[str] = set()
    for layer in root.walk():
        binding = bindings[layer.key]
        if isinstance(binding, Bound) and binding.group is not None:
            places.setdefault(binding.group, layer)
            named.update(name for names in binding.tensors for name in names)
    found: dict[str, str] = {}
    for path, numbered in groups.variables.items():
        # What follows the known variables of one of Keras' own layers belongs to these.
        if named.isdisjoint(numbered.values()) and not _is_statistics(places, path):
            within = _layers_around(groups, places, path)
            found.update((name, within) for name in numbered.values() if _is_weight(tensors[name]))
    return found


def _is_weight(tensor: Tensor) -> bool:
    integers = tensor.dtype is not None and tensor.dtype.kind is not Kind.FLOAT
    return tensor.role is Role.WEIGHT and not integers


def _is_statistics(places: Mapping[str, Layer], path: str) -> bool:
    layer = places.get(path)
    return layer is not None and layer.builtin and layer.class_name in STATISTICS


def _layers_around(groups: V3Groups, places: Mapping[str, Layer], path: str) -> str:
    """The config's names as far as it reaches, then those of the file."""
    parts = path.split("/")
    reach = len(parts)
    while reach and join(*parts[:reach]) not in places:
        reach -= 1
    known = places[join(*parts[:reach])].path if reach else ()
    rest = (
        groups.names.get(join(*parts[: index + 1])) or parts[index]
        for index in range(reach, len(parts))
        if parts[index] not in LISTS
    )
    return "/".join((*known, *rest))
