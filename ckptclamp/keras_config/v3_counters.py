"""Which group of a v3 weights file belongs to which element of a list of layers.

Groups are called by class and a counter: ``dense``, ``dense_1``. What advances the counter differs
between generations, and so does what becomes of a layer that was already saved elsewhere. Each rule
is applied to the groups that are really there; it must use all of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptclamp.keras_config.v3_groups import LISTS, join

if TYPE_CHECKING:
    from ckptclamp.keras_config.model_tree import Layer
    from ckptclamp.keras_config.v3_groups import V3Groups

Segments = tuple[str | None, ...]
"""One group name for each element; ``None`` for an element that was saved elsewhere."""

SavedBefore = Callable[["Layer"], bool]
"""Tells whether a layer may be one that was saved earlier, under another path."""


def segments(
    groups: V3Groups, listing: str, elements: Sequence[Layer], saved_before: SavedBefore
) -> dict[int, str | None]:
    """The group of each element, by `Layer.key`; elements of which it cannot be told are left out.

    `listing` is the path of the group that holds the elements' groups.
    """
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
        answer = _Class(groups, listing, segment, layers, present, saved_before).agreed()
        if answer is not None:
            found.update(zip((layer.key for layer in layers), answer, strict=True))
    return found


def _stem(segment: str) -> str:
    """``dense`` of ``dense_12``; the segment itself where it ends in no counter."""
    stem, _, number = segment.rpartition("_")
    return stem if stem and number.isdecimal() else segment


@dataclass(frozen=True, slots=True)
class _Class:
    """The elements of one class in one list, and the groups there that bear its name."""

    groups: V3Groups
    listing: str
    segment: str
    layers: Sequence[Layer]
    present: set[str]
    saved_before: SavedBefore

    def agreed(self) -> Segments | None:
        """The one assignment that the rules for this kind of list allow, if it is exactly one."""
        answers = {self.every_element_counts(), self.saved_elements_do_not_count()}
        if self.listing.rpartition("/")[2] == LISTS[1]:
            answers.add(self.layers_with_weights_count_twice())
        answers.discard(None)
        return answers.pop() if len(answers) == 1 else None

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
