"""Names in few columns: what they share is shortened, what tells them apart is not.

The names of one model begin alike, and differ in a number or in a word somewhere in the middle. So a
beginning and an end that all of them share go first; then words lose their ends, each in the same way
wherever it stands and never so far that it could be another word. ``…`` stands where, or before what,
something is missing. Names that differ stay different.

Names that differ in numbers alone can be told as one (`fold`): ``model.layers.{0…49}.mlp.weight``.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import TypeVar

_TOKEN = re.compile(r"[^\W\d_]+|\d+|.", re.DOTALL)
"""A word of letters, a number, or one sign."""

_CUT = "…"
_BEFORE = 3
"""Characters shown before the first one that differs."""


def cell_width(text: str) -> int:
    """Columns of a terminal that `text` takes: wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )


def elide(text: str, width: int) -> str:
    """Cut the middle out of `text` so that it takes at most `width` columns; more of its end is kept."""
    if cell_width(text) <= width:
        return text
    head = _fitting(text, (width - 1) * 2 // 5)
    tail = _fitting(text[::-1], width - 1 - cell_width(head))[::-1]
    return f"{head}{_CUT}{tail}"


def _fitting(text: str, width: int) -> str:
    """As much of the beginning of `text` as `width` columns hold."""
    end = 0
    while end < len(text) and cell_width(text[: end + 1]) <= width:
        end += 1
    return text[:end]


def shortened(names: Iterable[str], width: int) -> dict[str, str]:
    """Return each name with what is shown of it in `width` columns; no two show the same.

    Names that cannot be told apart in so few columns take more.
    """
    whole = list(dict.fromkeys(names))
    if all(cell_width(name) <= width for name in whole):
        return {name: name for name in whole}
    shorter = _without_what_is_shared(whole, width) if len(whole) > 1 else {}
    shorter |= {name: name for name in whole if cell_width(name) <= width}
    shown = {name: elide(shorter.get(name, name), width) for name in whole}
    for alike in _alike(shown):
        shown |= _around_the_difference({name: shorter[name] for name in alike}, width)
    for better in (shorter, {name: name for name in whole}):
        while still := _alike(shown):
            if all(shown[name] == better[name] for alike in still for name in alike):
                break
            shown |= {name: better[name] for alike in still for name in alike}
    return shown


def _around_the_difference(names: Mapping[str, str], width: int) -> dict[str, str]:
    first, *others = names.values()
    start = max(0, min(_common(first, other) for other in others) - _BEFORE)
    return {
        name: _CUT + _fitting(form[start:], width - 2 * len(_CUT)) + _CUT
        for name, form in names.items()
    }


def _without_what_is_shared(names: Sequence[str], width: int) -> dict[str, str]:
    tokens = {name: _TOKEN.findall(name) for name in names}
    for cut in (_head_cut, _tail_cut):
        if (excess := _widest(tokens.values()) - width) > 0:
            tokens = cut(tokens, excess)
    words = sorted({t for parts in tokens.values() for t in parts if t[0].isalpha()})
    neighbours = _shared_beginnings(words)
    return {name: _abbreviated(parts, neighbours, width) for name, parts in tokens.items()}


def _head_cut(tokens: Mapping[str, list[str]], excess: int) -> dict[str, list[str]]:
    """Without as much of what all names begin with as saves `excess` columns, or without all of it."""
    some, shared = next(iter(tokens.values())), _shared(list(tokens.values()))
    sizes = list(accumulate(map(cell_width, some[:shared])))
    if not sizes or sizes[-1] <= len(_CUT):
        return dict(tokens)
    enough = (i for i, size in enumerate(sizes, start=1) if size >= excess + len(_CUT))
    cut = next(enough, shared)
    return {name: [_CUT, *parts[cut:]] for name, parts in tokens.items()}


def _tail_cut(tokens: Mapping[str, list[str]], excess: int) -> dict[str, list[str]]:
    backwards = _head_cut({name: parts[::-1] for name, parts in tokens.items()}, excess)
    return {name: parts[::-1] for name, parts in backwards.items()}


def _shared(sequences: Sequence[list[str]]) -> int:
    """How many items all `sequences` begin with, leaving at least one of each."""
    first, last = min(sequences), max(sequences)
    most = min(map(len, sequences)) - 1
    return next((i for i in range(most) if first[i] != last[i]), max(most, 0))


def _shared_beginnings(words: Sequence[str]) -> dict[str, int]:
    """How many letters each of the sorted `words` shares with the one that is most like it."""
    shared = [_common(a, b) for a, b in pairwise(words)]
    return {w: max(a, b) for w, a, b in zip(words, [0, *shared], [*shared, 0], strict=True)}


def _common(one: str, other: str) -> int:
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _abbreviated(tokens: list[str], beginnings: Mapping[str, int], width: int) -> str:
    """A name whose words have as many letters as fit, but more than any other word begins with."""
    shown = "".join(tokens)
    if cell_width(shown) <= width:
        return shown
    mark = "" if tokens[0] == _CUT else _CUT
    for letters in range(max(map(len, tokens)), 0, -1):
        cut = [t[: max(letters, beginnings[t] + 1)] if t in beginnings else t for t in tokens]
        shown = "".join([mark * (cut != tokens), *cut])
        if cell_width(shown) <= width:
            break
    return shown


def _widest(names: Iterable[Sequence[str]]) -> int:
    return max(cell_width("".join(parts)) for parts in names)


def _alike(shown: Mapping[str, str]) -> list[list[str]]:
    """The groups of several names that show the same."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name, form in shown.items():
        groups[form].append(name)
    return [group for group in groups.values() if len(group) > 1]


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
