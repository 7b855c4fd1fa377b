"""Friendly names for tensors: ``dense/kernel`` for ``layers/dense_3/vars/0``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ckptclamp.checkpoints.dtypes import Kind
from ckptclamp.checkpoints.tensor import KerasLayout, Role
from ckptclamp.models.keras.binding import Bindings, Bound
from ckptclamp.models.keras.mapping import bind
from ckptclamp.models.keras.other_layers import STATISTICS
from ckptclamp.models.keras.v3 import LISTS, V3Groups, join

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptclamp.checkpoints.tensor import KerasModel, Tensor
    from ckptclamp.models.keras.layers import Variable
    from ckptclamp.models.keras.tree import Layer


def variable_label(layer: Layer, variable: Variable) -> str:
    """The names of the layers in the config, and the variable's own."""
    return "/".join((*layer.path, variable.name))


def variable_labels(model: KerasModel, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """A friendly name for each tensor that has one, by the tensor's full name.

    The config names variables (``outer/dense/kernel``). Without it, or where it does not reach, the
    file's own names of layers are used: ``dense/vars/0`` in the v3 layout, ``dense/kernel`` in the
    legacy one. Layers of one name in one list share their labels: a pattern means them all.

    Raises:
        RefusedError: the config nests layers deeper than 64 levels.
    """
    return labels_of_bound(model, tensors, *bind(model, tensors))


def labels_of_bound(
    model: KerasModel, tensors: Mapping[str, Tensor], root: Layer | None, bindings: Bindings
) -> dict[str, str]:
    """The same, where what `bind` answers is at hand."""
    labels = dict(_from_config(root, bindings))
    of_file = _from_weight_names if model.layout is KerasLayout.LEGACY else _from_group_names
    for name, label in of_file(model, tensors):
        labels.setdefault(name, label)
    return labels


def distinct_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Those of `labels` that one tensor alone has, so that they tell which one is meant."""
    uses = Counter(labels.values())
    return {name: label for name, label in labels.items() if uses[label] == 1}


def _from_config(root: Layer | None, bindings: Bindings) -> Iterator[tuple[str, str]]:
    for layer in reversed(() if root is None else tuple(root.walk())):
        binding = bindings[layer.key]
        if isinstance(binding, Bound):
            for variable, names in zip(layer.variables, binding.tensors, strict=True):
                for name in names:
                    yield name, variable_label(layer, variable)


def _from_group_names(
    model: KerasModel, tensors: Mapping[str, Tensor]
) -> Iterator[tuple[str, str]]:
    groups = V3Groups(model, tensors)
    for path, numbered in groups.variables.items():
        parts = path.split("/")
        around = (groups.names.get(join(*parts[: i + 1])) for i in range(len(parts)))
        names = [name for name in around if name is not None]
        if groups.names.get(path) is not None:
            for number, tensor in numbered.items():
                yield tensor, "/".join((*names, "vars", str(number)))


def _from_weight_names(
    model: KerasModel, tensors: Mapping[str, Tensor]
) -> Iterator[tuple[str, str]]:
    for layer, weights in model.weight_names.items():
        for weight in weights:
            name = "/".join(filter(None, (model.weights_root, layer, weight)))
            if name in tensors and tensors[name].role is not Role.OPTIMIZER:
                yield name, f"{layer}/{weight.rpartition('/')[2].partition(':')[0]}"


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
