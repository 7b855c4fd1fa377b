"""Layers to tensors in the v3 layout: by class and position, checked against everything known."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ckptclamp.checkpoints.tensor import KerasModel, Role, Tensor
from ckptclamp.errors import printable
from ckptclamp.frozen import frozen
from ckptclamp.models.keras.layouts import (
    Binding,
    Bindings,
    Bound,
    RepeatedLayers,
    Unbound,
    disagreement,
    hint_for,
    unbound_below,
)
from ckptclamp.models.keras.quantisation import ends_as_float8, is_quantised
from ckptclamp.models.keras.tree import Layer

LISTS: Final = ("layers", "_layer_checkpoint_dependencies")
"""What the list of a model's layers is called: Keras 3 and TF 2.15, and TF 2.12 to 2.14."""

_NUMBER: Final = re.compile("[0-9]{1,9}")


def bind_v3(
    root: Layer, groups: V3Groups, repeats: RepeatedLayers, tensors: Mapping[str, Tensor]
) -> Bindings:
    """Where the variables of every layer of the config are stored, or why that cannot be told."""
    if groups.ambiguous:
        return unbound_below(root, Unbound("two groups of the file differ only in their slashes"))
    mapper = _Mapper(groups, repeats, tensors)
    mapper.bind(root, "", named=False)
    return mapper.bindings


class _Mapper:
    """One walk over the config and the groups, together."""

    def __init__(
        self, groups: V3Groups, repeats: RepeatedLayers, tensors: Mapping[str, Tensor]
    ) -> None:
        self.groups = groups
        self.repeats = repeats
        self.tensors = tensors
        self.bindings: Bindings = {}

    def bind(self, layer: Layer, path: str, *, named: bool = True) -> None:
        """Bind a layer to the group at `path`; `named` where the group should carry its name."""
        written = self.groups.names.get(path)
        if named and written is not None and written != layer.name:
            self._refuse(
                layer,
                f"the file says that {printable(path)} belongs to the layer {printable(written)!r}",
                self.groups.hint,
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
        if place is None and not layer.known:
            place = self.groups.called(path, inner.name)
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
        found = _segments(self.groups, listing, layer.elements, self.repeats)
        for element in layer.elements:
            self._bind_element(element, listing, found)

    def _bind_element(self, element: Layer, listing: str, found: dict[int, str | None]) -> None:
        if element.key not in found:
            self._refuse(
                element,
                f"the groups called {element.segment} in {printable(listing)} are not those "
                "that the config's layers of this class would have",
                self.groups.hint,
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
            number = used.get(group, 0) if variable.number is None else variable.number
            used[group] = number + 1
            stored = self.groups.variables.get(group, {})
            if number not in stored:
                return Unbound(
                    f"the file holds {len(stored)} variables in {printable(group)}, and "
                    f"{variable.name} should be number {number}"
                )
            places[index] = stored[number]
        problem = self._surplus(layer, used, places) or self._contradiction(layer, places)
        if problem is not None:
            return Unbound(problem)
        return Bound(
            tuple((places[i],) if i in places else () for i in range(len(layer.variables))),
            group=path,
        )

    def _contradiction(self, layer: Layer, places: dict[int, str]) -> str | None:
        """The first disagreement between a layer's variables and the tensors found for them."""
        variables = layer.variables
        found = (disagreement(variables[i], self.tensors[name]) for i, name in places.items())
        return next((problem for problem in found if problem is not None), None)

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


class V3Groups:
    """Groups by their path with forward slashes; TF on Windows wrote some with backslashes.

    Attributes:
        names: each group that owns variables or is said to, with its ``name`` attribute.
        variables: the tensors in each group's ``vars``, by number.
        ambiguous: whether two groups or tensors differ only in the slashes of their paths.
        hint: what would help where they are not those of the config.
    """

    def __init__(self, model: KerasModel, tensors: Mapping[str, Tensor]) -> None:
        self.hint = hint_for(model)
        self._root = f"{model.weights_root}/" if model.weights_root else ""
        self.names: dict[str, str | None] = {}
        self.variables: dict[str, dict[int, str]] = defaultdict(dict)
        self._inside: dict[str, list[str]] = defaultdict(list)
        self.ambiguous = False
        self._filled: set[str] = set()
        for path, name in model.group_names.items():
            self._add_group(self._relative(path), name)
        for tensor in tensors.values():
            if tensor.role is not Role.OPTIMIZER:
                for name in (tensor.name, *tensor.aliases):
                    self._add_tensor(name, tensor.name)

    def _relative(self, path: str) -> str:
        return path.removeprefix(self._root).replace("\\", "/").strip("/")

    def _add_group(self, path: str, name: str | None) -> None:
        if self.names.get(path) is not None and name not in (None, self.names[path]):
            self.ambiguous = True
        if path not in self.names:
            parent, _, segment = path.rpartition("/")
            self._inside[parent].append(segment)
        self.names[path] = name if name is not None else self.names.get(path)

    def _add_tensor(self, path: str, name: str) -> None:
        group, _, number = self._relative(path).rpartition("/")
        if _NUMBER.fullmatch(number) is None or group.rpartition("/")[2] != "vars":
            return
        owner = group.removesuffix("vars").removesuffix("/")
        if owner not in self.names:
            self._add_group(owner, None)
        if int(number) in self.variables[owner]:
            self.ambiguous = True
        self.variables[owner][int(number)] = name
        while owner not in self._filled:
            self._filled.add(owner)
            owner = owner.rpartition("/")[0]

    def inside(self, path: str) -> list[str]:
        """The names of the groups directly in `path` that own a ``vars`` group."""
        return self._inside.get(path, [])

    def list_of(self, path: str, container: str) -> str | None:
        """The group that holds the elements of a container; ``None`` if none or several do."""
        choices = LISTS if container == "layers" else (container,)
        found = [choice for choice in choices if self.inside(join(path, choice))]
        return join(path, found[0]) if len(found) == 1 else None

    def attribute(self, path: str, choices: tuple[str, ...]) -> str | None:
        """The one of several attributes that is there as a group; ``None`` if none or several are."""
        if not choices:
            return path
        found = [choice for choice in choices if join(path, choice) in self.names]
        return join(path, found[0]) if len(found) == 1 else None

    def called(self, path: str, name: str | None) -> str | None:
        """The one group in `path`, or in a list there, that is said to be the layer `name`'s."""
        lists = [join(path, choice) for choice in ("", *LISTS)]
        found = [join(group, segment) for group in lists for segment in self.inside(group)]
        named = [group for group in found if name is not None and self.names.get(group) == name]
        return named[0] if len(named) == 1 else None

    def holds_anything(self, path: str) -> bool:
        """Whether a variable is stored in the group or anywhere below it."""
        return path in self._filled


def join(*parts: str) -> str:
    """A group's path from its parts, of which some may be empty."""
    return "/".join(part for part in parts if part)


Segments = tuple[str | None, ...]
"""One group name for each element; ``None`` for an element that was saved elsewhere."""


def _segments(
    groups: V3Groups, listing: str, elements: Sequence[Layer], repeats: RepeatedLayers
) -> dict[int, str | None]:
    """The group of each element in `listing`, by `Layer.key`, where it can be told."""
    there: dict[str, set[str]] = defaultdict(set)
    for segment in groups.inside(listing):
        there[_stem(segment)].add(segment)
        there[segment].add(segment)
    by_class: dict[str, list[Layer]] = defaultdict(list)
    for element in elements:
        by_class[element.segment].append(element)
    found: dict[int, str | None] = {}
    for segment, layers in by_class.items():
        present = {name for name in there[segment] if name == segment or _stem(name) == segment}
        answer = _Class(groups, listing, segment, layers, present, repeats).agreed()
        if answer is not None:
            found.update(zip((layer.key for layer in layers), answer, strict=True))
    return found


def _stem(segment: str) -> str:
    """``dense`` of ``dense_12``; the segment itself where it ends in no counter."""
    stem, _, number = segment.rpartition("_")
    return stem if stem and number.isdecimal() else segment


@frozen
class _Class:
    """The elements of one class in one list, and the groups there that bear its name."""

    groups: V3Groups
    listing: str
    segment: str
    layers: Sequence[Layer]
    present: set[str]
    repeats: RepeatedLayers

    def agreed(self) -> Segments | None:
        """The one assignment that the rules for this kind of list allow, if it is exactly one."""
        answers = {self.every_element_counts(), self.saved_elements_do_not_count()}
        if self.listing.rpartition("/")[2] == LISTS[1]:
            answers.add(self.layers_with_weights_count_twice())
        answers.discard(None)
        return answers.pop() if len(answers) == 1 else None

    def saved_before(self, layer: Layer) -> bool:
        """Whether it may be one that was saved earlier, under another path."""
        return self.repeats.first(layer) is not None

    def name(self, number: int) -> str:
        return f"{self.segment}_{number}" if number else self.segment

    def every_element_counts(self) -> Segments | None:
        """Keras 3: an element saved elsewhere leaves a hole in the numbers."""
        return self.advancing(lambda _: 1)

    def layers_with_weights_count_twice(self) -> Segments | None:
        """TF 2.12 and 2.13: the list is a mapping that holds a layer with weights under two keys."""
        return self.advancing(
            lambda name: 2 if self.groups.holds_anything(join(self.listing, name)) else 1,
            elsewhere=2,
        )

    def advancing(self, step: Callable[[str], int], elsewhere: int = 1) -> Segments | None:
        """Count on by `step` after each element, by `elsewhere` after one that has no group here."""
        names: list[str | None] = []
        number = 0
        for layer in self.layers:
            name = self.name(number)
            if name in self.present:
                names.append(name)
                number += step(name)
            elif self.saved_before(layer):
                names.append(None)
                number += elsewhere
            else:
                return None
        return tuple(names) if self.present == set(names) - {None} else None

    def saved_elements_do_not_count(self) -> Segments | None:
        """TF 2.14, 2.15 and tf_keras: an element saved elsewhere is passed over."""
        if self.present != {self.name(number) for number in range(len(self.present))}:
            return None
        missing = len(self.layers) - len(self.present)
        elsewhere = (
            {layer.key for layer in self.layers if self.saved_before(layer)} if missing else set()
        )
        if missing != len(elsewhere):
            return None
        numbers = iter(range(len(self.present)))
        return tuple(
            None if layer.key in elsewhere else self.name(next(numbers)) for layer in self.layers
        )
