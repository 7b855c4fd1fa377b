"""Tensors that hold one variable twice: when the file is loaded, the last one counts.

A legacy file holds a layer once for each nested model that uses it; a wrapper may keep a copy of its
layer's first variable. Two layers of one name and settings may also be two, so more is asked for: an
identity in the config, as tf_keras writes it, or the name of a variable that names another place.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ckptclamp.checkpoints.tensor import KerasLayout
from ckptclamp.models.keras.binding import Bindings, Bound
from ckptclamp.models.keras.mapping import bind
from ckptclamp.models.keras.tree import RepeatedLayers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ckptclamp.checkpoints.tensor import KerasModel, Tensor
    from ckptclamp.models.keras.tree import Layer

Twins = tuple[str, str]
"""The full names of two tensors; when the file is loaded, the second one counts."""


def twin_tensors(model: KerasModel, tensors: Mapping[str, Tensor]) -> tuple[Twins, ...]:
    """Every pair of tensors that are certainly copies of one variable.

    Raises:
        RefusedError: the config nests layers deeper than 64 levels.
    """
    root, bindings = bind(model, tensors)
    if root is None:
        return ()
    pairs = [*_mirrors(root, bindings), *_repeats(model, root, bindings)]
    return tuple(dict.fromkeys((one, other) for one, other in pairs if one != other))


def _mirrors(root: Layer, bindings: Bindings) -> Iterator[Twins]:
    """A wrapper is loaded before the layer in it."""
    for layer in root.walk():
        if layer.children and any(variable.mirror for variable in layer.variables):
            yield from _paired(bindings, layer, layer.children[0])


def _repeats(model: KerasModel, root: Layer, bindings: Bindings) -> Iterator[Twins]:
    """Layers are loaded in the order of the config."""
    if model.layout is not KerasLayout.LEGACY:
        return
    repeats, groups = RepeatedLayers(root.walk()), _groups(model)
    copies: dict[int, list[Layer]] = defaultdict(list)
    for layer in root.walk():
        first = repeats.first(layer)
        if first is not None:
            copies[first.key] = copies[first.key] or [first]
            copies[first.key].append(layer)
    for layers in copies.values():
        known = _is_one(layers)
        for earlier in layers[:-1]:
            for pair in _paired(bindings, earlier, layers[-1]):
                names = {groups.get(name) for name in pair}
                if known or _named_elsewhere(names, earlier, layers[-1]):
                    yield pair


def _paired(bindings: Bindings, earlier: Layer, last: Layer) -> Iterator[Twins]:
    """The tensors of each variable that two layers share, which are the first ones of both."""
    one, other = bindings[earlier.key], bindings[last.key]
    if isinstance(one, Bound) and isinstance(other, Bound):
        shared = sum(variable.mirror for variable in earlier.variables) or len(earlier.variables)
        for ones, others in zip(one.tensors[:shared], other.tensors, strict=False):
            yield from zip(ones, others, strict=False)


def _is_one(layers: Sequence[Layer]) -> bool:
    """Whether the config says that these are one object: all but the first carry its identity."""
    identities = {layer.identity for layer in layers[1:]}
    return len(identities) == 1 and None not in identities


def _groups(model: KerasModel) -> dict[str, str]:
    """The name within its top-level layer, by a weight's full name."""
    return {
        "/".join(filter(None, (model.weights_root, layer, weight))): weight
        for layer, weights in model.weight_names.items()
        for weight in weights
    }


def _named_elsewhere(names: set[str | None], *layers: Layer) -> bool:
    """Whether weights of one name say that they were made around one of these layers only.

    Keras 3 names a variable by where it was made. Two layers may both be called ``own`` and make an
    ``own/kernel`` each; but what lies in ``one`` and begins with the name of the top-level layer
    ``two`` can only have been made there.
    """
    name = next(iter(names))
    if len(names) != 1 or name is None:
        return False
    made_in = name.partition("/")[0]
    around = [made_in in layer.path for layer in layers]
    return sorted(around) == [False, True] and layers[around.index(True)].path[0] == made_in
