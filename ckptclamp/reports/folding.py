"""Names that differ in numbers alone, told as one: ``model.layers.{0…49}.mlp.weight``.

A model repeats its blocks; three hundred lines that say the same of each hide the one that differs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

_NUMBER = re.compile(r"(?<![^\W_])\d+(?![^\W_])")
"""A number that is a word of its own: ``layers.12.attn``, ``dense_3``, never ``conv2d``."""

_LISTED = 4
"""Numbers that are listed one by one where they do not follow each other."""

Item = TypeVar("Item")


def template(text: str) -> str:
    """`text` with its numbers left open: what texts have in common that are told as one."""
    return _NUMBER.sub("#", text)


def grouped(items: Iterable[Item], key: Callable[[Item], Hashable]) -> list[list[Item]]:
    """The items of the same key together, in the order in which keys appear."""
    groups: dict[Hashable, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def merged(texts: Sequence[str]) -> str:
    """One text for several of the same template: where their numbers differ, all of these."""
    first = texts[0]
    if all(text == first for text in texts):
        return first
    columns = zip(*(_NUMBER.findall(text) for text in texts), strict=True)
    numbers = iter([_numbers(column) for column in columns])
    return _NUMBER.sub(lambda _: next(numbers), first)


def _numbers(column: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(column))
    if len(distinct) == 1:
        return distinct[0]
    ordered = sorted(distinct, key=lambda number: (int(number), number))
    low, high = ordered[0], ordered[-1]
    plain = all(number == str(int(number)) for number in ordered)  # 1 and 001 are no neighbours
    if plain and len(ordered) > 2 and int(high) - int(low) + 1 == len(ordered):
        return f"{{{low}…{high}}}"
    if len(ordered) <= _LISTED:
        return f"{{{', '.join(ordered)}}}"
    return f"{{{len(ordered):,} of {low}…{high}}}"
