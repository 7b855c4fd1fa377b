"""In which order a legacy file lists the weights of one top-level layer.

Keras writes the trainable weights first, then the others, by the flags at the time of saving. How a
nested layer's flags enter differs between generations only where a model is frozen and something in
it is not. Source: the `trainable_weights` and `non_trainable_weights` of Keras 3 and of tf_keras.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptclamp.keras_config.repeats import RepeatedLayers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptclamp.keras_config.layer_table import Variable
    from ckptclamp.keras_config.model_tree import Layer


@dataclass(frozen=True, slots=True)
class Slot:
    """One weight that is to be expected: the variable `index` of `layer`."""

    layer: Layer
    index: int

    @property
    def variable(self) -> Variable:
        """The variable itself."""
        return self.layer.variables[self.index]


def keras_3_order(top: Layer) -> list[Slot]:
    """By each variable's own flag; all in order of creation where the top-level layer is frozen."""
    slots = _creation_order(top)
    if not top.trainable:
        return slots
    return sorted(slots, key=lambda s: not (s.variable.trainable and s.layer.trainable))


def keras_3_order_of_late_sublayers(top: Layer) -> list[Slot]:
    """The same, where a layer was frozen before it made the sublayers that the config does not list.

    Some releases leave the variables of such sublayers trainable.
    """
    slots = _creation_order(top)
    if not top.trainable:
        return slots
    return sorted(
        slots,
        key=lambda s: not (s.variable.trainable and (s.layer.trainable or "/" in s.variable.name)),
    )


def _creation_order(layer: Layer) -> list[Slot]:
    slots = _own(layer)
    for inner in layer.children:
        slots += _creation_order(inner)
    return slots


def _own(layer: Layer) -> list[Slot]:
    return [Slot(layer, index) for index in range(len(layer.variables))]


def keras_2_order(top: Layer) -> list[Slot]:
    """By gathering the trainable and the other weights of each layer from those inside it."""
    moving, still = _split(top, unsaid=True)
    return moving + still


def keras_2_order_of_frozen_models(top: Layer) -> list[Slot]:
    """The same, where a model whose config does not say so was frozen if a layer in it is.

    Sequential models never wrote their own flag.
    """
    moving, still = _split(top, unsaid=False)
    return moving + still


def _split(layer: Layer, unsaid: bool) -> tuple[list[Slot], list[Slot]]:
    own = _own(layer)
    moving = [slot for slot in own if slot.variable.trainable]
    still = [slot for slot in own if not slot.variable.trainable]
    inner = [_split(child, unsaid) for child in layer.children]
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


def without_mirrors(slots: Sequence[Slot]) -> list[Slot]:
    """Leave out a wrapped layer's variable where the wrapper holds it too, and so comes first."""
    mirrored = {slot.layer.children[0] for slot in slots if slot.variable.mirror}
    return [slot for slot in slots if not (slot.index == 0 and slot.layer in mirrored)]


def without_repeats(slots: Sequence[Slot]) -> list[Slot]:
    """Leave out the variables of a layer that may be one that came before."""
    repeats = RepeatedLayers(dict.fromkeys(slot.layer for slot in slots))
    return [slot for slot in slots if repeats.first(slot.layer) is None]
