"""A Keras model bound to the tensors of its checkpoint: everything that its config says of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import cached_property
from typing import TYPE_CHECKING

from ckptclamp.checkpoints.dtypes import Kind
from ckptclamp.checkpoints.tensor import KerasLayout, KerasModel, Role, Tensor
from ckptclamp.models.keras.config import variable_dtype
from ckptclamp.models.keras.declarations import Declaration, find_declarations
from ckptclamp.models.keras.layers.others import STATISTICS
from ckptclamp.models.keras.layouts import Bindings, Bound, RepeatedLayers
from ckptclamp.models.keras.layouts.v3 import LISTS, V3Groups, bind_v3, join
from ckptclamp.models.keras.quantisation import find_dequantised
from ckptclamp.models.keras.tree import Layer, read_model

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ckptclamp.models.keras.layers import Variable
    from ckptclamp.spec.model import CustomLayer

Tied = tuple[str, str]
"""The full names of two tensors; when the file is loaded, the second one counts."""


class BoundModel:
    """The layers of a config and where each of their variables is stored; found once, when asked.

    A file without a config has no layers, and its tensors only the names that the file gives them.

    `custom_layers` says what a user's classes are like, by name.

    Attributes:
        layers: every layer of the config, each before those inside it.
        bindings: where the variables of each layer are stored, or why that cannot be told.

    Raises:
        RefusedError: the config nests layers deeper than 64 levels.
    """

    def __init__(
        self,
        model: KerasModel,
        tensors: Mapping[str, Tensor],
        custom_layers: Mapping[str, CustomLayer] | None = None,
    ) -> None:
        self.model = model
        self.tensors = tensors
        self.custom_layers = custom_layers or {}
        self.legacy = model.layout is KerasLayout.LEGACY
        root = None
        if model.config is not None:
            root = read_model(model.config, custom_layers, legacy=self.legacy)
        self.layers: tuple[Layer, ...] = () if root is None else tuple(root.walk())
        self.repeats = RepeatedLayers(self.layers)
        self.bindings: Bindings = {}
        if root is not None and self.legacy:
            from ckptclamp.models.keras.layouts.legacy import bind_legacy

            self.bindings = bind_legacy(model, root, tensors)
        elif root is not None:
            self.bindings = bind_v3(root, self.groups, self.repeats, tensors)

    @cached_property
    def groups(self) -> V3Groups:
        """The groups of the v3 layout."""
        return V3Groups(self.model, self.tensors)

    def stored(self, layer: Layer) -> Iterable[tuple[Variable, tuple[str, ...]]]:
        """The variables of `layer` with the tensors that hold them; nothing if these are unknown."""
        binding = self.bindings[layer.key]
        if not isinstance(binding, Bound):
            return ()
        return zip(layer.variables, binding.tensors, strict=True)

    @cached_property
    def mirrors(self) -> dict[int, Layer]:
        """Each wrapper that holds its layer's first variable as its own too, by that layer's key."""
        wrappers = (w for w in self.layers if w.children and any(v.mirror for v in w.variables))
        return {wrapper.children[0].key: wrapper for wrapper in wrappers}

    @cached_property
    def labels(self) -> dict[str, str]:
        """A friendly name (``dense/kernel``) for each tensor that has one, by its full name.

        The config names variables (``outer/dense/kernel``). Where it does not reach, the file's own
        names of layers are used: ``dense/vars/0`` in the v3 layout, ``dense/kernel`` in the legacy
        one. Layers of one name in one list share their labels: a pattern means them all.
        """
        labels = {
            name: layer.label(variable)
            for layer in reversed(self.layers)
            for variable, names in self.stored(layer)
            for name in names
        }
        for name, label in self._names_of_file():
            labels.setdefault(name, label)
        return labels

    @cached_property
    def distinct_labels(self) -> dict[str, str]:
        """Those of the labels that one tensor alone has, so that they tell which one is meant."""
        uses = Counter(self.labels.values())
        return {name: label for name, label in self.labels.items() if uses[label] == 1}

    @cached_property
    def declarations(self) -> tuple[Declaration, ...]:
        """One declaration for each ``*_constraint`` of the config that is not null."""
        return tuple(find_declarations(self))

    @cached_property
    def variable_dtypes(self) -> dict[str, str]:
        """The dtype that the config gives to the variable in each tensor, where it says one."""
        return {
            name: dtype
            for layer in self.layers
            if (dtype := variable_dtype(layer.config.values.get("dtype"))) is not None
            for _, names in self.stored(layer)
            for name in names
        }

    @cached_property
    def dequantised(self) -> dict[str, Tensor]:
        """What each quantised tensor that a layer holds stands for, by the tensor's full name."""
        return find_dequantised(self)

    @cached_property
    def tied(self) -> tuple[Tied, ...]:
        """Every pair of tensors that are certainly copies of one variable.

        A legacy file holds a layer once for each nested model that uses it; a wrapper may hold a
        copy of its layer's first variable. Two layers of one name and settings may also be two, so
        more is asked for: an identity in the config, as tf_keras writes it, or the name of a
        variable that names another place.
        """
        # A wrapper is loaded before the layer in it.
        pairs = [p for w in self.mirrors.values() for p in self._paired(w, w.children[0])]
        if self.legacy:
            pairs += self._repeated()
        return tuple(dict.fromkeys((one, other) for one, other in pairs if one != other))

    @cached_property
    def unnamed(self) -> dict[str, str]:
        """Weights that the config gives no name, with the layers they lie in (``outer/mine``).

        Integers are no weights that anybody means by a name, and a file without a config names
        nothing.
        """
        if not self.layers or self.legacy:
            return {}
        places: dict[str, Layer] = {}
        named: set[str] = set()
        for layer in self.layers:
            binding = self.bindings[layer.key]
            if isinstance(binding, Bound) and binding.group is not None:
                places.setdefault(binding.group, layer)
                named.update(name for names in binding.tensors for name in names)
        found: dict[str, str] = {}
        for path, numbered in self.groups.variables.items():
            # What follows the known variables of one of Keras' own layers belongs to these.
            if named.isdisjoint(numbered.values()) and not _is_statistics(places.get(path)):
                within = self._layers_around(path, places)
                weights = (n for n in numbered.values() if _is_weight(self.tensors[n]))
                found.update((name, within) for name in weights)
        return found

    def _layers_around(self, path: str, places: Mapping[str, Layer]) -> str:
        """The config's names as far as it reaches, then those of the file."""
        parts = path.split("/")
        reach = len(parts)
        while reach and join(*parts[:reach]) not in places:
            reach -= 1
        known = places[join(*parts[:reach])].path if reach else ()
        rest = (
            self.groups.names.get(join(*parts[: index + 1])) or parts[index]
            for index in range(reach, len(parts))
            if parts[index] not in LISTS
        )
        return "/".join((*known, *rest))

    def _names_of_file(self) -> Iterator[tuple[str, str]]:
        if self.legacy:
            for name, layer, weight in self.listed_weights():
                if name in self.tensors and self.tensors[name].role is not Role.OPTIMIZER:
                    yield name, f"{layer}/{weight.rpartition('/')[2].partition(':')[0]}"
            return
        groups = self.groups
        for path, numbered in groups.variables.items():
            if groups.names.get(path) is not None:
                parts = path.split("/")
                around = (groups.names.get(join(*parts[: i + 1])) for i in range(len(parts)))
                named = "/".join(name for name in around if name is not None)
                yield from ((tensor, f"{named}/vars/{n}") for n, tensor in numbered.items())

    def listed_weights(self) -> Iterator[tuple[str, str, str]]:
        """Full name, top-level layer and name within it of each weight that a legacy file lists."""
        for layer, weights in self.model.weight_names.items():
            for weight in weights:
                yield (
                    "/".join(filter(None, (self.model.weights_root, layer, weight))),
                    layer,
                    weight,
                )

    def _repeated(self) -> Iterator[Tied]:
        """Layers are loaded in the order of the config."""
        within = {name: weight for name, _, weight in self.listed_weights()}
        copies: dict[int, list[Layer]] = defaultdict(list)
        for layer in self.layers:
            first = self.repeats.first(layer)
            if first is not None:
                copies[first.key] = copies[first.key] or [first]
                copies[first.key].append(layer)
        for *earlier, last in copies.values():
            known = _is_one([*earlier[1:], last])
            for layer in earlier:
                for pair in self._paired(layer, last):
                    names = {within.get(name) for name in pair}
                    if known or _made_elsewhere(names, layer, last):
                        yield pair

    def _paired(self, earlier: Layer, last: Layer) -> Iterator[Tied]:
        """The tensors of each variable that two layers share, which are the first ones of both."""
        shared = sum(variable.mirror for variable in earlier.variables) or len(earlier.variables)
        both = zip(list(self.stored(earlier))[:shared], self.stored(last), strict=False)
        for (_, ones), (_, others) in both:
            yield from zip(ones, others, strict=False)


def _is_weight(tensor: Tensor) -> bool:
    integers = tensor.dtype is not None and tensor.dtype.kind is not Kind.FLOAT
    return tensor.role is Role.WEIGHT and not integers


def _is_statistics(layer: Layer | None) -> bool:
    return layer is not None and layer.builtin and layer.class_name in STATISTICS


def _is_one(repeated: Sequence[Layer]) -> bool:
    """Whether the config says that these are the layer that they repeat: they carry its identity."""
    identities = {layer.identity for layer in repeated}
    return len(identities) == 1 and None not in identities


def _made_elsewhere(names: set[str | None], *layers: Layer) -> bool:
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
