"""Layers to tensors in the v3 layout: by class and position, checked against everything known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptclamp.keras_config.binding import (
    Binding,
    Bindings,
    Bound,
    Unbound,
    contradiction,
    is_quantised,
    unbound_below,
)
from ckptclamp.keras_config.quantisation import ends_as_float8
from ckptclamp.keras_config.repeats import RepeatedLayers
from ckptclamp.keras_config.v3_counters import segments
from ckptclamp.keras_config.v3_groups import V3Groups, join
from ckptclamp.printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptclamp.checkpoints.description import KerasModel, Tensor
    from ckptclamp.keras_config.model_tree import Layer


def bind_v3(model: KerasModel, root: Layer, tensors: Mapping[str, Tensor]) -> Bindings:
    """Where the variables of every layer of the config are stored, or why that cannot be told."""
    groups = V3Groups(model, tensors)
    if groups.ambiguous:
        return unbound_below(root, Unbound("two groups of the file differ only in their slashes"))
    mapper = _Mapper(root, groups, tensors)
    mapper.bind(root, "", named=False)
    return mapper.bindings


class _Mapper:
    """One walk over the config and the groups, together."""

    def __init__(self, root: Layer, groups: V3Groups, tensors: Mapping[str, Tensor]) -> None:
        self.groups = groups
        self.tensors = tensors
        self.bindings: Bindings = {}
        self.repeats = RepeatedLayers(root.walk())

    def bind(self, layer: Layer, path: str, *, named: bool = True) -> None:
        """Bind a layer to the group at `path`; `named` where the group should carry its name."""
        written = self.groups.names.get(path)
        if named and written is not None and written != layer.name:
            self._refuse(
                layer,
                f"the file says that {printable(path)} belongs to the layer {printable(written)!r}",
                "give the config that was saved with these weights",
            )
            return
        self.bindings[layer.key] = self._own_variables(layer, path)
        for choices, inner in layer.sublayers:
            self._bind_sublayer(layer, inner, path, choices)
        if layer.container is not None:
            self._bind_elements(layer, path)

    def _refuse(self, layer: Layer, reason: str, hint: str | None = None) -> None:
        why = Unbound(reason) if hint is None else Unbound(reason, hint)
        self.bindings.update(unbound_below(layer, why))

    def _bind_sublayer(
        self, layer: Layer, inner: Layer, path: str, choices: tuple[str, ...]
    ) -> None:
        place = self.groups.attribute(path, choices)
        if place is None:
            self._refuse(inner, f"the file has no group {printable(join(path, choices[0]))}")
            return
        # Bidirectional renames what it wraps, and before Keras 3 only after the config was made.
        self.bind(inner, place, named=layer.class_name != "Bidirectional")

    def _bind_elements(self, layer: Layer, path: str) -> None:
        assert layer.container is not None
        listing = self.groups.list_of(path, layer.container)
        if listing is None:
            for element in layer.elements:
                self._refuse(element, f"the file has no list of layers in {printable(path or '/')}")
            return
        found = segments(
            self.groups, listing, layer.elements, lambda e: self.repeats.first(e) is not None
        )
        for element in layer.elements:
            self._bind_element(element, listing, found)

    def _bind_element(self, element: Layer, listing: str, found: dict[int, str | None]) -> None:
        if element.key not in found:
            self._refuse(
                element,
                f"the groups called {element.segment} in {printable(listing)} are not those "
                "that the config's layers of this class would have",
                "give the config that was saved with these weights",
            )
            return
        segment = found[element.key]
        if segment is not None:
            self.bind(element, join(listing, segment))
            return
        earlier = self.repeats.first(element)
        assert earlier is not None
        for inner, original in zip(element.walk(), earlier.walk(), strict=True):
            self.bindings[inner.key] = self.bindings[original.key]

    def _own_variables(self, layer: Layer, path: str) -> Binding:
        """The tensors of a layer's variables, by their numbers in one or several ``vars`` groups."""
        places: dict[int, str] = {}
        used: dict[str, int] = {}
        for index, variable in enumerate(layer.variables):
            if variable.legacy_only:
                continue
            group = self.groups.attribute(path, variable.place)
            if group is None:
                return Unbound(f"the file has no group {printable(join(path, variable.place[0]))}")
            number = used.get(group, 0)
            used[group] = number + 1
            stored = self.groups.variables.get(group, {})
            if number not in stored:
                return Unbound(
                    f"the file holds {len(stored)} variables in {printable(group)}, and "
                    f"{variable.name} should be number {number}"
                )
            places[index] = stored[number]
        problem = self._surplus(layer, used, places) or contradiction(layer, places, self.tensors)
        if problem is not None:
            return Unbound(problem)
        return Bound(
            tuple((places[i],) if i in places else () for i in range(len(layer.variables))),
            group=path,
        )

    def _surplus(self, layer: Layer, used: dict[str, int], places: dict[int, str]) -> str | None:
        """What is stored beyond the variables that the class is known to have."""
        if layer.open_ended or any(is_quantised(self.tensors[name]) for name in places.values()):
            return None
        for group, count in used.items():
            stored = self.groups.variables[group]
            shapes = [self.tensors[stored[number]].shape for number in sorted(stored)]
            if len(stored) != count and not ends_as_float8(shapes, count):
                return (
                    f"the file holds {len(stored)} variables in {printable(group)}, and a "
                    f"{printable(layer.class_name)} with these settings has {count}"
                )
        return None
