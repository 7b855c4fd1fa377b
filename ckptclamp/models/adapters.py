"""Which tensors are parts of an adapter, and the base weights that they are added to."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ckptclamp.errors import printable
from ckptclamp.models.parts import LORA, OF_PEFT, Part, PartRole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ckptclamp.checkpoints.tensor import Tensor

_LOW_RANK: Final = re.compile(
    r"(?:^|[./])(?:lora_(?:A|B|down|mid|up|embedding_A|embedding_B|magnitude_vector)"
    r"|(?:hada|lokr)_[wt][12](?:_[ab])?)(?=[./]|$)"
    r"|[._]lora\.(?:down|up)(?=\.)"
    r"|(?:^|[./])(?:ia3_l|b?oft_[rRs]|vera_lambda_[bd]|(?:fourierft|waveft)_spectrum|hra_u"
    r"|vblora_logits_[AB]|randlora_(?:lambda|gamma)|c3a_kernel|road_(?:theta|alpha)"
    r"|(?:bone|miss)_block|shira_weight)(?=[./]|$)"
)
"""The first segment of a name that only an adapter's parts have: factors, and what others of peft learn."""

_ONLY_OF_PEFT: Final = re.compile(
    r"(?:^|\.)(?:lora_E|hada_t[12]|lokr_t2|oft_embedding_R|vblora_vector_bank|p?vera_(?:lambda_[bd]|[AB])"
    r"|randlora_[AB]|beft_bias|deft_[PR]|delora_(?:A|B|lambda|w_norm)|glora_[A-E]|psoft_R"
    r"|frod_(?:V|s_indices|lambda_l|lambda_s_values)|(?:gralora|hira)_(?:embedding_)?[AB](?:_general)?"
    r"|lily_(?:A|B|router)|osf_svd_params|peanut_(?:A|B|encoders|decoders)|poly_(?:lora_[AB]|router)"
    r"|supertuning_(?:values|indices|lora_[AB])|tinylora_[ABPv]|unilora_theta_d|adamss_[AB])(?=\.|$)"
)
"""The same in names that begin as peft's do."""

_AS_THEY_ARE: Final = frozenset({
    "LORA", "LN_TUNING", "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT",
    "CARTRIDGE", "ADAPTION_PROMPT", "XLORA",
})  # fmt: skip
"""Kinds of adapters of which whatever has no name of above is a weight of its own."""

_OF_ADAPTERS: Final = (
    "lora", "hada_", "lokr_", "ia3_", "oft_", "vera_", "ft_spectrum", "hra_", "c3a_", "road_", "_block",
    "shira_",
)  # fmt: skip
"""One of these is in each; most names have none, which is found out sooner."""

DELTA: Final = "delta_weight"
"""What an update is called in its module."""

_WRAPPED: Final = "base_layer.weight"
"""What peft calls the weight that an adapter is added to, in a module with one."""

_OTHERWISE: Final = " of peft"
_PEFT: Final = OF_PEFT.partition(".")[0] + "."

_ADAPTED: Final = {
    "weight": PartRole.BASE,
    _WRAPPED: PartRole.BASE,
    "alpha": PartRole.SCALING,
    "dora_scale": PartRole.NORMS,
}
"""What a module with low-rank factors holds besides them."""


def low_rank_parts(
    tensors: Mapping[str, Tensor], own: Mapping[str, Part]
) -> Iterator[tuple[str, Part]]:
    """Factors of low-rank adapters, by name, and the base weights that they are added to.

    A base weight may be held in parts of its `own`, by which it is then computed. Without a base weight
    they stand for an update, which has a name of its own: a rule that means the weight must not be met
    by what is added to it.
    """
    held = {part.weight for part in own.values()}
    modules: dict[str, list[str]] = defaultdict(list)
    for name in tensors:
        if (match := _of_adapter(name)) is not None:
            modules[module_of(name, match)].append(name)
    for module, factors in modules.items():
        others = {last: f"{module}{last}" for last in _ADAPTED if f"{module}{last}" in tensors}
        alone = not any(_ADAPTED[last] is PartRole.BASE for last in others)
        weight = f"{module}{DELTA if alone else 'weight'}"
        for stem in dict.fromkeys((module, module.removeprefix(OF_PEFT))):
            plain = f"{stem}weight"
            if not held.isdisjoint((plain, f"{stem}{_WRAPPED}")):
                weight = plain
                others = {
                    last: name
                    for last, name in others.items()
                    if _ADAPTED[last] is not PartRole.BASE or name not in own
                }
            elif alone and module.startswith(OF_PEFT) and plain in tensors:
                others["weight"] = weight = plain
        for name in factors:
            rest = name[len(module) :]
            norms = "lora_magnitude_vector" in rest
            role = PartRole.NORMS if norms else PartRole.FACTOR
            yield name, Part(LORA, role, weight, "", rest)
        for last, name in others.items():
            yield name, Part(LORA, _ADAPTED[last], weight, "", last)


def _of_adapter(name: str) -> re.Match[str] | None:
    """Where the segment of `name` is that only an adapter's part has, if there is one."""
    if any(word in name for word in _OF_ADAPTERS) and (found := _LOW_RANK.search(name)) is not None:
        return found
    return _ONLY_OF_PEFT.search(name) if name.startswith(_PEFT) else None


def otherwise_adapted(
    tensors: Mapping[str, Tensor], parts: Mapping[str, Part], adapter: object
) -> Iterator[tuple[str, Part]]:
    """What an adapter holds of a kind whose names are not known here, as its config tells."""
    kind = adapter.get("peft_type") if isinstance(adapter, dict) else None
    if not isinstance(kind, str) or kind in _AS_THEY_ARE:
        return
    for name in tensors:
        if name.startswith(_PEFT) and name not in parts:
            yield name, Part(f"{printable(kind)}{_OTHERWISE}", PartRole.FACTOR, name)


def is_adapter(names: Iterable[str]) -> bool:
    """Whether these are the names of the tensors of an adapter that peft saved."""
    return any(name.startswith(_PEFT) for name in names)


def is_otherwise_adapted(part: Part) -> bool:
    """Whether `part` is one of `otherwise_adapted`."""
    return part.family.endswith(_OTHERWISE)


def wrapped(parts: Mapping[str, Part]) -> Iterator[tuple[str, Part]]:
    """The parts of base weights inside a module with an adapter, as parts of that module's weight."""
    adapted = {part.weight for part in parts.values() if part.family == LORA}
    for name, part in parts.items():
        weight = f"{part.weight.removesuffix(_WRAPPED)}weight"
        if part.weight.endswith(_WRAPPED) and weight in adapted and part.family != LORA:
            yield name, replace(part, weight=weight)


def module_of(name: str, match: re.Match[str]) -> str:
    """What comes before the match, with a dot if there is anything."""
    return f"{name[: match.start()]}." if match.start() else ""
