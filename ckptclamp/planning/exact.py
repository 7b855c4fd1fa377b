"""Patterns that mean exactly some tensors of one checkpoint, for a spec that is written for it.

A name by itself may mean more: a tensor matches by each of its names, and by each of these without
``model_weights/`` and ``:0``. So what is proposed is matched as a rule would be, and what a rule
would catch besides is excluded.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from ckptclamp.errors import UsageError
from ckptclamp.planning.matching import governed
from ckptclamp.planning.names import names_of
from ckptclamp.spec.patterns import TensorPatterns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptclamp.checkpoints.description import Tensor

Patterns = tuple[str, ...]

_SPECIAL = re.compile(r"[*?\[\]]|^!|^re:")


def exact_pattern(name: str) -> str:
    """The pattern in which no sign of `name` has a meaning of its own."""
    return f"re:{re.escape(name)}" if _SPECIAL.search(name) else name


class ExactPatterns:
    """Finds patterns for the tensors of one checkpoint; `labels` are as `labels_of` says."""

    def __init__(self, tensors: Sequence[Tensor], labels: Mapping[str, str]) -> None:
        self._tensors = tensors
        self._labels = labels
        self._owners = Counter(n for t in tensors for n in names_of(t, labels.get(t.name)))

    def friendly(self, name: str) -> str:
        """The label of the tensor with this full name if nothing else is called so, else `name`."""
        label = self._labels.get(name)
        return label if label is not None and self._owners[label] == 1 else name

    def of(
        self, groups: Sequence[Sequence[str]], short: Sequence[Patterns]
    ) -> list[Patterns | None]:
        """Return patterns for each group of tensors (by full names); ``None`` where none is exact.

        `short` are those that would be nicest, one proposal for each group, or an empty one. What
        full names alone would match besides is excluded at last.
        """
        found: list[Patterns | None] = [None] * len(groups)
        self._accept(groups, short, found)
        friendly = [tuple(exact_pattern(self.friendly(name)) for name in g) for g in groups]
        self._accept(groups, friendly, found)
        full = [tuple(map(exact_pattern, group)) for group in groups]
        others = self._accept(groups, full, found)
        without = [
            (*f, *(f"!{exact_pattern(n)}" for n in o)) for f, o in zip(full, others, strict=True)
        ]
        self._accept(groups, without, found)
        return found

    def _accept(
        self,
        groups: Sequence[Sequence[str]],
        proposed: Sequence[Patterns],
        found: list[Patterns | None],
    ) -> list[list[str]]:
        """Put what is exact into `found`, unless something stands there; return what else matched."""
        usable = [patterns if _understood(patterns) else _NOTHING for patterns in proposed]
        others = []
        matched = governed(TensorPatterns(usable), self._tensors, self._labels)
        for i, (group, tensors) in enumerate(zip(groups, matched, strict=True)):
            names = {tensor.name for tensor in tensors}
            others.append(sorted(names.difference(group)))
            if found[i] is None and names == set(group):
                found[i] = proposed[i]
        return others


_NOTHING = ("re:[^\\s\\S]",)
"""A pattern that no name matches."""


def _understood(patterns: Patterns) -> bool:
    """Whether a spec could hold `patterns`: a name may be empty, or longer than a pattern may be."""
    try:
        TensorPatterns([patterns])
    except UsageError:
        return False
    return True
