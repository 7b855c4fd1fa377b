"""Axes by name: what a rule's `units` and a spec's `split` say of a tensor's shape, not yet of a size.

``(head dim) in -> head`` is einops' notation: on the left one name for each axis, or several in
parentheses for an axis that holds them one in the other, the first one outermost; on the right the
names of the axes that are kept. Everything else is the unit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING

from ckptclamp.errors import UsageError, printable
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from ckptclamp.spec.model import Location

Size = int | str
"""An extent, or ``$name`` of a number in the model's config."""

SIZE = r"\$\w+(?:\.\w+)*"
"""A number of the model's config; dots lead into its parts: ``$text_config.num_attention_heads``."""

_TOKEN = re.compile(r"\s*(->|[()]|[A-Za-z_]\w*|\S)")
_EXAMPLE = "such as (head dim) in -> head"
_MOST = 32
"""More names than NumPy has axes would be no layout of a weight."""


@frozen
class NamedAxes:
    """A rule's `units`: `axes` are the names within each axis, `kept` those of units in their order.

    `sizes` are what the rule states beside it.
    """

    text: str
    axes: tuple[tuple[str, ...], ...]
    kept: tuple[str, ...]
    sizes: Mapping[str, Size] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name on the left, in order."""
        return tuple(name for axis in self.axes for name in axis)


@frozen
class Split:
    """One axis of the tensors that match, cut into parts with names; `sizes` follow one another."""

    tensors: tuple[str, ...]
    axis: int
    sizes: tuple[Size, ...]
    names: tuple[str, ...]
    location: Location | None = None


def parse_units(text: str) -> NamedAxes:
    """Parse ``(head dim) in -> head``.

    Raises:
        UsageError: it is not of that form.
    """
    tokens = _TOKEN.findall(text)
    if tokens.count("->") != 1:
        raise UsageError("needs one `->`", hint=_EXAMPLE)
    arrow = tokens.index("->")
    axes = _grouped(tokens[:arrow])
    kept = tuple(tokens[arrow + 1 :])
    names = [name for axis in axes for name in axis]
    for side, given in (("left", names), ("right", kept)):
        twice = next((name for name in given if given.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f"names {printable(twice)} twice on the {side}")
    unknown = next((name for name in kept if name not in names), None)
    if unknown is not None:
        raise UsageError(f"keeps {printable(unknown)}, which is no axis on the left")
    if len(names) > _MOST:
        raise UsageError(f"names {len(names)} axes; at most {_MOST} are understood")
    if names and len(kept) == len(names):
        raise UsageError(
            "keeps every axis, so that each weight would be a unit",
            hint="Clip bounds each weight by itself",
        )
    return NamedAxes(text, axes, tuple(name for name in names if name in kept))


def _grouped(tokens: list[str]) -> tuple[tuple[str, ...], ...]:
    """One tuple of names for each axis."""
    axes: list[tuple[str, ...]] = []
    group: list[str] | None = None
    for word in tokens:
        if word == "(" and group is None:
            group = []
        elif word == ")" and group:
            axes.append(tuple(group))
            group = None
        elif not word.isidentifier():
            raise UsageError(f"{printable(word)!r} has no place there", hint=_EXAMPLE)
        elif group is None:
            axes.append((word,))
        else:
            group.append(word)
    if group is not None:
        raise UsageError("a parenthesis is not closed")
    if not axes:
        raise UsageError("names no axis on the left")
    return tuple(axes)
