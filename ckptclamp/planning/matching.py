"""Which tensors the patterns of rules govern."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptclamp.checkpoints.description import Role
from ckptclamp.planning.names import names_of
from ckptclamp.spec.patterns import literal_head

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ckptclamp.checkpoints.description import Tensor
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
