"""Effective tensors: for each weight that is stored in parts, the tensor that a model computes with."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from ckptclamp.checkpoints.tensor import NotComputed, Tensor, Unreadable
from ckptclamp.errors import Reason, UnreadableError, printable
from ckptclamp.models.effective.lora import low_rank
from ckptclamp.models.effective.members import Members, NeedsBaseError, NotComputedError
from ckptclamp.models.effective.quantised.blockwise import four_bits
from ckptclamp.models.effective.quantised.floats4 import compressed, mxfp4, mxfp4_of_openai, nvfp4
from ckptclamp.models.effective.quantised.packed import gptq_or_awq
from ckptclamp.models.effective.quantised.scaled import scaled, vectorwise
from ckptclamp.models.effective.reparametrised import pruned, spectral_norm, weight_norm
from ckptclamp.models.parts import LORA

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from ckptclamp.checkpoints.tensor import Read
    from ckptclamp.models.parts import Part

BUILDERS: Final[Mapping[str, Callable[[Members], Tensor]]] = {
    "block-scaled float8": scaled,
    "scaled float8": scaled,
    "scaled int8": scaled,
    "bitsandbytes int8": vectorwise,
    "weight-normalised": weight_norm,
    "spectrally normalised": spectral_norm,
    "pruned": pruned,
    "GPTQ or AWQ": gptq_or_awq,
    "packed (compressed-tensors)": compressed,
    "NVFP4": nvfp4,
    "MXFP4": mxfp4,
    "MXFP4 (OpenAI)": mxfp4_of_openai,
    "bitsandbytes 4-bit": four_bits,
    LORA: low_rank,
}
"""How the weights of each family are computed; those of the others are not."""


def find_effective(
    tensors: Mapping[str, Tensor],
    parts: Mapping[str, Part],
    read: Read,
    *,
    stated: Mapping[str, Any] | None = None,
    adapter: Mapping[str, Any] | Unreadable | None = None,
    unlisted: AbstractSet[str] = frozenset(),
) -> dict[str, Tensor]:
    """Return the weight that each group of `parts` stands for, by the weight's name.

    Where it cannot be computed its storage is `NotComputed`, with the reason.

    Args:
        tensors: every stored tensor, by name.
        parts: what `find_parts` says of them.
        read: reads a small part, such as one that holds a shape.
        stated: what the config beside the checkpoint says of quantisation.
        adapter: the config of an adapter beside it, or why it cannot be read.
        unlisted: the tensors that the index of a sharded set leaves out.
    """
    groups: dict[str, list[tuple[str, Part]]] = defaultdict(list)
    for name, part in parts.items():
        groups[part.weight].append((name, part))
    found = {}
    for weight, members in groups.items():
        plain = weight in tensors and weight not in parts
        own = [(name, part) for name, part in members if part.family != LORA]
        adapted = [(name, part) for name, part in members if part.family == LORA]
        try:
            _check_listed([name for name, _ in members], unlisted)
            inner: dict[str, Tensor] = {}
            for some in filter(None, (own, adapted)):
                endings = _checked(weight, some, tensors, plain=plain) | inner
                built = Members(weight, endings, stated or {}, read, adapter)
                found[weight] = _built(some[0][1].family, built)
                # An adapter is added to what its base is computed to be.
                inner = {"weight": found[weight]}
        except (NotComputedError, UnreadableError) as error:
            why = error.message if isinstance(error, UnreadableError) else str(error)
            alone = isinstance(error, NeedsBaseError)
            reason = Reason("parts-of-an-update" if alone else "not-computed", why)
            found[weight] = _not_computed(weight, members[0][1].family, reason)
    return found


def _check_listed(names: Sequence[str], unlisted: AbstractSet[str]) -> None:
    """Refuse a weight of which the index lists some parts only: who goes by it loads another one."""
    outside = [name for name in names if name in unlisted]
    if outside and len(outside) < len(names):
        raise NotComputedError(f"the index of the shards does not list {printable(outside[0])}")


def _checked(
    weight: str, members: list[tuple[str, Part]], tensors: Mapping[str, Tensor], *, plain: bool
) -> dict[str, Tensor]:
    """The parts by their endings, if they are those of one weight of one family."""
    families = {part.family for _, part in members}
    if len(families) > 1:
        raise NotComputedError(f"its parts are those of {' and of '.join(sorted(families))}")
    if plain:
        raise NotComputedError(f"the file holds {printable(weight)} as a weight of its own, too")
    lacks = next((part.lacks for _, part in members if part.lacks), None)
    if lacks is not None:
        raise NotComputedError(f"the file lacks {lacks}")
    endings = {part.ending: tensors[name] for name, part in members}
    if len(endings) < len(members):
        raise NotComputedError("it has several parts of one kind")
    for tensor in endings.values():
        if isinstance(tensor.storage, Unreadable):
            raise NotComputedError(f"{printable(tensor.name)}: {tensor.storage.reason}")
        if not tensor.size:
            raise NotComputedError(f"{printable(tensor.name)} is empty")
    return endings


def _built(family: str, members: Members) -> Tensor:
    if family not in BUILDERS:
        raise NotComputedError(f"how to compute {printable(family)} weights is not known here")
    if members.stated.get("transform_config"):
        raise NotComputedError(
            "the config states transforms, by which inputs or outputs are turned"
        )
    return BUILDERS[family](members)


def _not_computed(weight: str, family: str, why: Reason) -> Tensor:
    reason = f"it is {printable(family)}, and what the model computes with is not computed: {why}"
    return Tensor(weight, (), None, NotComputed(Reason(why.code, reason)))
