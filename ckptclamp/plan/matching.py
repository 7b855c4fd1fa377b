"""Which tensors the patterns of rules govern."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from ckptclamp.checkpoints.tensor import Role
from ckptclamp.errors import UsageError
from ckptclamp.spec.patterns import TensorPatterns, literal_head

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ckptclamp.checkpoints.checkpoint import Checkpoint
    from ckptclamp.checkpoints.tensor import Tensor
    from ckptclamp.spec.patterns import TensorPatterns


def governed(
    patterns: TensorPatterns, tensors: Iterable[Tensor], labels: Mapping[str, str]
) -> list[list[Tensor]]:
    """The tensors of each rule of `patterns`, in the order of the checkpoint.

    Rules govern weights. An optimizer's slots are governed only by a pattern that begins with the
    literal name of their group (``optimizer/**``), and other state, such as that of a random
    generator, only by its full name: neither is what a rule about ``**`` means.
    """
    rules = patterns.rules
    found: list[list[Tensor]] = [[] for _ in rules]
    for tensor in tensors:
        names = names_of(tensor, labels.get(tensor.name))
        for index in sorted(patterns.matching(names)):
            if tensor.role is Role.WEIGHT or _names_it(rules[index], tensor.role, names):
                found[index].append(tensor)
    return found


def _names_it(patterns: Sequence[str], role: Role, names: Sequence[str]) -> bool:
    """Whether some pattern names a tensor that is no weight on purpose."""
    if role is Role.STATE:
        return not set(patterns).isdisjoint(names)
    groups = tuple(name.partition("/")[0] + "/" for name in names)
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")]
    return any(literal_head(pattern).startswith(groups) for pattern in wanted)


def labels_of(checkpoint: Checkpoint) -> Mapping[str, str]:
    """The friendlier names that Keras gives weights, by the full name."""
    if checkpoint.keras is None:
        return {}
    from ckptclamp.models.keras import variable_labels

    return variable_labels(checkpoint.keras, checkpoint.tensors)


def names_of(tensor: Tensor, label: str | None) -> tuple[str, ...]:
    """Every name of one tensor; `label` is its own of `labels_of`, if it has one."""
    own = (tensor.name, *tensor.aliases)
    return own if label is None or label in own else (*own, label)


def all_names(checkpoint: Checkpoint) -> Mapping[str, tuple[str, ...]]:
    """Every name of every tensor, by the full name."""
    labels = labels_of(checkpoint)
    return {name: names_of(tensor, labels.get(name)) for name, tensor in checkpoint.tensors.items()}


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
