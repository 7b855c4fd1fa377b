"""Layers to tensors in the legacy layout: by the order in which a file lists the weights of a layer.

Keras writes the trainable weights first, then the others, by the flags at the time of saving. How a
nested layer's flags enter differs between generations only where a model is frozen and something in
it is not. Source: the `trainable_weights` and `non_trainable_weights` of Keras 3 and of tf_keras.

Keras loads by order and asks no name. Names decide between orders, and contradict a config that came
from elsewhere; the file's own config and the one order that fits need no names.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Final

from ckptclamp.checkpoints.tensor import KerasModel, Role, Tensor
from ckptclamp.errors import printable
from ckptclamp.frozen import frozen
from ckptclamp.models.keras.layouts import (
    Bindings,
    Bound,
    RepeatedLayers,
    Unbound,
    disagreement,
    hint_for,
    unbound_below,
)
from ckptclamp.models.keras.quantisation import FLOAT8_HISTORY, is_quantised
from ckptclamp.models.keras.tree import Layer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ckptclamp.models.keras.layers import Variable


Assignment = dict[tuple[int, int], str]
"""Tensor names by (`Layer.key`, index of the variable)."""

_MOST_OF_ONE_NAME: Final = 1000
"""Weights that may name one layer; more are not compared one by one."""

_ON_THE_MODEL: Final = "top_level_model_weights"
"""The group of variables that the model itself holds, which no layer of it is called."""


def bind_legacy(model: KerasModel, root: Layer, tensors: Mapping[str, Tensor]) -> Bindings:
    """Where the variables of every layer of the config are stored, or why that cannot be told."""
    if root.container != "layers":
        return unbound_below(root, Unbound("the config lists no layers"))
    by_path = _by_path(tensors)
    bindings: Bindings = {root.key: Bound(tuple(() for _ in root.variables))}
    repeated = Counter(element.name for element in root.elements)
    by_order = _groups_by_order(model, root)
    for element in root.elements:
        name = by_order.get(element.key, element.name)
        if name is None or (repeated[name] > 1 and element.key not in by_order):
            why = Unbound(f"the config has no name of its own for this {element.class_name}")
            bindings.update(unbound_below(element, why))
        else:
            bindings.update(_bind_group(model, element, name, by_path))
    return bindings


def _groups_by_order(model: KerasModel, root: Layer) -> Mapping[int, str]:
    """The groups of the top-level layers by `Layer.key`, where names do not tell and order does.

    As when Keras loads, each layer with weights has the next group that holds some. No name may
    contradict that, and no layer may be of unknown weights.
    """
    having = [element for element in root.elements if _may_have_weights(element)]
    filled = [n for n in model.layer_names if model.weight_names.get(n) and n != _ON_THE_MODEL]
    known = {name: filled.index(name) for name in filled}
    names = Counter(element.name for element in having)
    told = {e.key: known[e.name] for e in having if names[e.name] == 1 and e.name in known}
    if model.config_given or len(told) == len(having) or len(having) != len(filled):
        return {}
    if any(layer.open_ended for element in having for layer in element.walk()):
        return {}
    if any(told.get(e.key, index) != index for index, e in enumerate(having)):
        return {}
    return {element.key: name for element, name in zip(having, filled, strict=True)}


def _may_have_weights(element: Layer) -> bool:
    return any(layer.variables or layer.open_ended for layer in element.walk())


@frozen
class _Slot:
    """One weight that is to be expected: the variable `index` of `layer`."""

    layer: Layer
    index: int

    @property
    def variable(self) -> Variable:
        """The variable itself."""
        return self.layer.variables[self.index]


def _orders(top: Layer, keras_3: bool | None) -> Iterator[list[_Slot]]:
    """Each order in which some release lists the weights of a top-level layer; ``None``: of any Keras."""
    if keras_3 is not False:
        yield _by_flag(top)
        yield _by_flag(top, late=True)
    if keras_3 is not True:
        for unsaid in (True, False):
            moving, still = _gathered(top, unsaid)
            yield moving + still


def _slots(top: Layer) -> list[_Slot]:
    """Every weight that is to be expected, in order of creation."""
    return [_Slot(layer, index) for layer in top.walk() for index in range(len(layer.variables))]


def _by_flag(top: Layer, late: bool = False) -> list[_Slot]:
    """Keras 3: by each variable's own flag; as created where the top-level layer is frozen.

    Some releases leave the variables trainable that a frozen layer made `late`, in sublayers that
    the config does not list.
    """
    if not top.trainable:
        return _slots(top)

    def is_still(slot: _Slot) -> bool:
        free = slot.layer.trainable or (late and "/" in slot.variable.name)
        return not (slot.variable.trainable and free)

    return sorted(_slots(top), key=is_still)


def _gathered(layer: Layer, unsaid: bool) -> tuple[list[_Slot], list[_Slot]]:
    """Keras 2: the trainable weights and the others, gathered from those inside each layer.

    Sequential models never wrote their own flag: what is `unsaid` means trainable, or else that a
    model was frozen if a layer in it is.
    """
    own = [_Slot(layer, index) for index in range(len(layer.variables))]
    moving = [slot for slot in own if slot.variable.trainable]
    still = [slot for slot in own if not slot.variable.trainable]
    inner = [_gathered(child, unsaid) for child in layer.children]
    if layer.container == "layers":
        moving += [slot for part, _ in inner for slot in part]
        still += [slot for _, part in inner for slot in part]
        return (moving, still) if _moves(layer, unsaid) else ([], moving + still)
    if layer.trainable:
        for part, rest in inner:
            moving += part
            still += rest
        return moving, still
    return [], own + [slot for part, rest in inner for slot in (*part, *rest)]


def _moves(model: Layer, unsaid: bool) -> bool:
    if unsaid or "trainable" in model.config.values:
        return model.trainable
    return all(inner.trainable for inner in model.walk())


def _without_mirrors(slots: Sequence[_Slot]) -> list[_Slot]:
    """Leave out a wrapped layer's variable where the wrapper holds it too, and so comes first."""
    mirrored = {slot.layer.children[0] for slot in slots if slot.variable.mirror}
    return [slot for slot in slots if not (slot.index == 0 and slot.layer in mirrored)]


def _without_repeats(slots: Sequence[_Slot]) -> list[_Slot]:
    """Leave out the variables of a layer that may be one that came before."""
    repeats = RepeatedLayers(dict.fromkeys(slot.layer for slot in slots))
    return [slot for slot in slots if repeats.first(slot.layer) is None]


def _by_path(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by every path at which they lie, their own name before other links to them."""
    weights = [tensor for tensor in tensors.values() if tensor.role is not Role.OPTIMIZER]
    by_path = {alias: tensor for tensor in weights for alias in tensor.aliases}
    by_path.update((tensor.name, tensor) for tensor in weights)
    return by_path


def _bind_group(
    model: KerasModel, top: Layer, name: str, by_path: Mapping[str, Tensor]
) -> Bindings:
    weights = model.weight_names.get(name)
    if weights is None:
        reason = f"the file has no weights for the layer {printable(name)!r}"
        return unbound_below(top, Unbound(reason, hint_for(model)))
    prefix = f"{model.weights_root}/{name}" if model.weights_root else name
    found = [by_path.get(f"{prefix}/{weight}") for weight in weights]
    stored = [tensor for tensor in found if tensor is not None]
    if len(stored) != len(found):
        return unbound_below(top, Unbound(f"weights of {printable(name)!r} are not in the file"))
    group = _Group(top, weights, stored)
    answer = group.by_order(model) if group.has_order else Unbound("")
    if group.open_ended and isinstance(answer, Unbound):
        answer = group.by_name()
    if isinstance(answer, Unbound):
        return unbound_below(top, answer)
    return _bindings(top, answer, renamed=group.renamed)


def _is_keras_3(model: KerasModel) -> bool | None:
    """Whether Keras 3 wrote the file; ``None`` where it does not say."""
    return None if model.version is None else model.version.startswith("3.")


def _bindings(top: Layer, answer: Assignment, *, renamed: bool) -> Bindings:
    bindings: Bindings = {}
    for layer in top.walk():
        places = [answer.get((layer.key, i)) for i in range(len(layer.variables))]
        if None in places:
            bindings[layer.key] = Unbound(
                "the file's names do not tell which of its weights are this layer's"
            )
        else:
            stored = tuple((place,) for place in places if place is not None)
            bindings[layer.key] = Bound(stored, renamed=renamed)
    return bindings


class _Group:
    """The weights of one top-level layer, as they are named and as the config expects them."""

    def __init__(self, top: Layer, weights: Sequence[str], stored: Sequence[Tensor]) -> None:
        self.top = top
        self.stored = stored
        self.parts = [_components(weight) for weight in weights]
        quantised = any(is_quantised(tensor) for tensor in stored) or any(
            parts[-1] == FLOAT8_HISTORY for parts in self.parts
        )
        self.open_ended = quantised or any(layer.open_ended for layer in top.walk())
        self.renamed = False

    @property
    def has_order(self) -> bool:
        """Whether number and kinds can tell where every weight belongs, though some layer is unknown.

        If the known layers' weights are all that there are, the others have none. That is no proof
        where a known layer may be counted once or twice, or where an unknown one holds several.
        """
        if not self.open_ended:
            return True
        slots = _slots(self.top)
        unknown = [layer for layer in self.top.walk() if layer.open_ended]
        return (
            len(_without_repeats(slots)) == len(slots)
            and all(len(layer.children) < 2 or layer.container for layer in unknown)
            and not any(layer.told for layer in unknown)
        )

    def by_order(self, model: KerasModel) -> Assignment | Unbound:
        """Assign by position, by the one order that shapes and kinds agree with.

        Where several do, the config came from elsewhere, or a user's class has layers inside, which
        it may keep in another order, names must agree too.
        """
        named: list[Assignment] = []
        renamed: list[Assignment] = []
        problem = ""
        for order in _orders(self.top, _is_keras_3(model)):
            complete = _without_mirrors(order)
            for slots in (complete, _without_repeats(complete)):
                refusal = self._refusal(slots)
                against = None if refusal else self._order_against_names(slots)
                problem = problem or refusal or against or ""
                answers = named if against is None else renamed
                if refusal is None and (answer := self._assignment(slots)) not in answers:
                    answers.append(answer)
        unsure = any(layer.custom and layer.children for layer in self.top.walk())
        answers = named or ([] if model.config_given or unsure else renamed)
        self.renamed = not named and len(answers) == 1
        if len(answers) > 1:
            return Unbound("the file's weights can be told apart in more than one way")
        return answers[0] if answers else Unbound(problem, hint_for(model))

    def _refusal(self, slots: Sequence[_Slot]) -> str | None:
        """Why the weights cannot be these variables, in this order."""
        name = printable(self.top.name or "")
        if len(slots) != len(self.stored):
            return (
                f"the file lists {len(self.stored)} weights for {name!r}, and with these "
                f"settings it has {len(slots)}"
            )
        for slot, parts, tensor in zip(slots, self.parts, self.stored, strict=True):
            if not _is_called(slot, parts):
                return (
                    f"{printable(tensor.name)} stands where the config has "
                    f"{slot.variable.name} of {'/'.join(map(printable, slot.layer.path))}"
                )
            problem = disagreement(slot.variable, tensor)
            if problem is not None:
                return problem
        return None

    def _order_against_names(self, slots: Sequence[_Slot]) -> str | None:
        """Where every weight names exactly one of the layers, it must be this one or around it."""
        layers = {slot.layer.name for slot in slots if slot.layer.name is not None}
        mentioned = [layers.intersection(parts[:-1]) for parts in self.parts]
        if not all(len(names) == 1 for names in mentioned):
            return None
        for slot, names, tensor in zip(slots, mentioned, self.stored, strict=True):
            if names.isdisjoint(slot.layer.path) and not slot.variable.mirror:
                return (
                    f"by order {printable(tensor.name)} belongs to "
                    f"{printable(slot.layer.name or '')!r}, by name it does not"
                )
        return None

    def _assignment(self, slots: Sequence[_Slot]) -> Assignment:
        """The tensors by variable, also of the variables that the file does not repeat."""
        answer = {
            (slot.layer.key, slot.index): tensor.name
            for slot, tensor in zip(slots, self.stored, strict=True)
        }
        kept = (slot.layer for slot in slots)
        repeats = RepeatedLayers(dict.fromkeys((*kept, *self.top.walk())))
        for layer in self.top.walk():
            earlier = repeats.first(layer)
            for index, variable in enumerate(layer.variables):
                name = answer.get((layer.key, index))
                if name is None and earlier is not None:
                    answer[layer.key, index] = answer[earlier.key, index]
                elif name is not None and variable.mirror:
                    answer[layer.children[0].key, 0] = name
        return answer

    def by_name(self) -> Assignment:
        """Assign by name alone, for groups in which some layer holds what is not known here.

        Each variable must find exactly one weight that names its layer and itself, has its shape,
        and is found by no other variable.
        """
        naming: dict[str, list[int]] = defaultdict(list)
        for number, parts in enumerate(self.parts):
            for part in set(parts[:-1]):
                naming[part].append(number)
        answer: Assignment = {}
        for slot in _slots(self.top):
            numbers: Sequence[int] = naming[slot.layer.name or ""]
            if slot.layer is self.top:
                numbers = range(len(self.parts))
            elif len(numbers) > _MOST_OF_ONE_NAME:
                continue
            fitting = [self.stored[number].name for number in numbers if self._fits(slot, number)]
            if len(fitting) == 1:
                answer[slot.layer.key, slot.index] = fitting[0]
        claims = Counter(answer.values())
        return {key: name for key, name in answer.items() if claims[name] == 1}

    def _fits(self, slot: _Slot, number: int) -> bool:
        """Whether a weight is called as the variable is, in its sublayer, and has its shape."""
        parts = self.parts[number]
        within = slot.variable.name.split("/")[:-1]
        return (
            _is_called(slot, parts)
            and (not within or within == list(parts[-1 - len(within) : -1]))
            and disagreement(slot.variable, self.stored[number]) is None
        )


def _components(weight: str) -> tuple[str, ...]:
    """The parts of a weight's name, without TF's ``:0``."""
    return tuple(re.sub(r":\d+$", "", weight).split("/"))


def _is_called(slot: _Slot, parts: Sequence[str]) -> bool:
    """Whether the last part names the variable.

    Keras 1 puts the layer's name before it (``dense_1_W``), and TF a number after it.
    """
    last = parts[-1]
    if last in slot.variable.names or re.sub(r"_\d+$", "", last) in slot.variable.names:
        return True
    return any(
        last == f"{slot.layer.name}_{name}" or (len(name) == 1 and last.endswith(f"_{name}"))
        for name in slot.variable.names
    )
