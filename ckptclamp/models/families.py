"""Which tensors are parts of a weight that the model computes with, and of which family.

A stored tensor is often not the weight: float8 codes have scales, 4-bit codes are packed in
integers, a direction has its length apart. Families are told by names, dtypes and, for codes whose
scales have no known name, by what the config says.
"""

from __future__ import annotations

import re
from collections import defaultdict
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Final

from ckptclamp.checkpoints.dtypes import CODE_DTYPES
from ckptclamp.errors import printable
from ckptclamp.models.adapters import low_rank_parts, module_of, otherwise_adapted, wrapped
from ckptclamp.models.parts import (
    ANY,
    FAMILIES,
    FLOAT8,
    INT8,
    Dtypes,
    Family,
    Part,
    PartRole,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ckptclamp.checkpoints.tensor import Tensor


def find_parts(
    tensors: Mapping[str, Tensor], quantisation: object = None, adapter: object = None
) -> dict[str, Part]:
    """Return what each tensor is that is a part of a weight, by the tensor's name.

    Args:
        tensors: every tensor of a checkpoint, by name.
        quantisation: what the model's config says of its quantisation; ``None`` if nothing.
        adapter: the config of an adapter; ``None`` if it is none.
    """
    own: dict[str, Part] = {}
    parametrised, table = list(_parametrised(tensors)), list(_of_table(tensors))
    for name, part in chain(parametrised, table):
        own.setdefault(name, part)
    parts: dict[str, Part] = {}
    for name, part in chain(parametrised, low_rank_parts(tensors, own), table):
        parts.setdefault(name, part)
    parts |= dict(_companions(tensors, parts))
    parts |= dict(_otherwise_scaled(tensors, parts))
    parts |= dict(wrapped(parts))
    parts |= dict(otherwise_adapted(tensors, parts, adapter))
    for family, dtypes in (("float8", FLOAT8), ("int8", INT8)):
        if any(p.role is PartRole.CODES and _dtype(tensors[n]) in dtypes for n, p in parts.items()):
            lacks = f"the scale that other {family} weights have"
            others = _others(tensors, parts, dtypes)
            parts |= {name: Part(family, PartRole.CODES, name, lacks) for name in others}
    if quantisation is not None:
        parts |= dict(_of_method(tensors, parts, _method(quantisation)))
    return parts


_OF_ACTIVATIONS: Final = (
    "input_scale", "scale_input", "input_global_scale", "input_zero_point", "output_scale",
)  # fmt: skip
_COMPANIONS: Final[Mapping[str, PartRole]] = {
    **dict.fromkeys(_OF_ACTIVATIONS, PartRole.ACTIVATION),
    "comfy_quant": PartRole.STATE,
    "scale_weight": PartRole.SCALES,
}
"""Names in a module that are parts only where the module's weight is stored in codes."""

_FURTHER: Final = re.compile("scale|scaling|smooth|hadamard", re.IGNORECASE)
"""What may change the weight of a module in codes besides its scales, such as ModelOpt's
``pre_quant_scale``, by which inputs are multiplied."""

_OF_CACHES: Final = re.compile("input|output|act|scale_input|[kqvp]_|kv_|prob", re.IGNORECASE)
"""How names begin of what scales activations or a cache of keys and values."""

_MARKER: Final = "scaled_fp8"
"""An almost empty float8 tensor with which ComfyUI marks a file whose weights have scales."""

_BY_ENDING: Final[Mapping[str, list[tuple[int, tuple[PartRole, Dtypes]]]]] = {
    ending: [
        (i, family.parts[ending]) for i, family in enumerate(FAMILIES) if ending in family.parts
    ]
    for ending in {ending for family in FAMILIES for ending in family.parts if ending}
}
_LENGTHS: Final = sorted({len(ending) for ending in _BY_ENDING})

_WEIGHT_SCALE: Final = re.compile(r"(?:^|[./])weight_scale$")
"""What scales of a weight alone are called."""

_SCALE: Final = re.compile("scale|scaling|amax|_extra_state$", re.IGNORECASE)
"""What names of scales hold, whoever wrote them; Transformer Engine keeps them in the last."""

_PARAMETRISED: Final = re.compile(r"(?:^|\.)parametrizations\.([^.]+)\.")


def _dtype(tensor: Tensor) -> str:
    return tensor.dtype_name if tensor.dtype is None else tensor.dtype.name


def _of_table(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Part]]:
    """The parts that the table knows; complete families come first, in the order of the table."""
    groups: dict[tuple[int, str], dict[str, str]] = defaultdict(dict)
    for name, tensor in tensors.items():
        dtype = _dtype(tensor)
        if not name.endswith(_endings_of(dtype)):
            continue
        for index, ending in _candidates(name, dtype):
            groups[index, name[: len(name) - len(ending)]][ending] = name
    for (index, stem), members in groups.items():
        own = FAMILIES[index].parts.get("")
        if own is not None and stem in tensors and _fits(_dtype(tensors[stem]), own[1]):
            members[""] = stem
    missing = {key: _missing(key[0], members) for key, members in groups.items()}
    complete = {index for (index, _), lacking in missing.items() if not lacking}
    for key in sorted(groups, key=lambda key: (bool(missing[key]), key[0])):
        others = key[0] in complete
        held = next((key[1] + end for end in ("", "weight") if key[1] + end in tensors), None)
        if not missing[key] or _shows(
            FAMILIES[key[0]],
            groups[key],
            others=others,
            orphans=held is None,
            whole=held is not None and _dtype(tensors[held]) not in CODE_DTYPES,
        ):
            yield from _members(*key, groups[key], missing[key])


@lru_cache(maxsize=64)
def _endings_of(dtype: str) -> tuple[str, ...]:
    """How the names of parts may end that have this dtype."""
    return tuple(
        ending
        for ending, members in _BY_ENDING.items()
        if any(_fits(dtype, dtypes) for _, (_, dtypes) in members)
    )


def _candidates(name: str, dtype: str) -> Iterator[tuple[int, str]]:
    for length in _LENGTHS:
        if length > len(name):
            return
        for index, (_, dtypes) in _BY_ENDING.get(ending := name[-length:], ()):
            stem = name[: len(name) - length]
            if _fits(dtype, dtypes) and _is_stem(stem, ending, FAMILIES[index]):
                yield index, ending


def _fits(dtype: str, dtypes: Dtypes) -> bool:
    return dtypes is ANY or dtype in dtypes


def _is_stem(stem: str, ending: str, family: Family) -> bool:
    """Whether `stem` is what must come before `ending`: a weight's name, or a module."""
    if ending[0] not in "._:":
        return not stem or stem[-1] in "./"
    return bool(stem) and (not family.of_weight or "weight" in re.split("[./]", stem)[-1])


def _missing(index: int, members: Mapping[str, str]) -> list[str]:
    return [ending for ending in FAMILIES[index].needed if ending not in members]


def _shows(
    family: Family, members: Mapping[str, str], *, others: bool, orphans: bool, whole: bool
) -> bool:
    """Whether some parts of a family show one that is incomplete; `others` are there, and complete.

    `orphans` are parts of a weight of which the file holds nothing by that name. Where it is `whole`
    that is no codes.
    """
    if any(_can_only_be(name, family) for name in members.values()):
        return True
    roles = {family.parts[ending][0] for ending in members if ending}
    if PartRole.ORIGINAL in roles and len(members) > 1:
        return True
    if PartRole.SCALES in roles and (orphans or (whole and others)):
        if any(map(_WEIGHT_SCALE.search, members.values())) and not family.telltale:
            return True
        named = len(members) > 1 or any("weight" in name for name in members.values())
        if others and named:
            return True
    return others and (family.of_weight or PartRole.CODES in roles)


def _members(
    index: int, stem: str, members: Mapping[str, str], missing: Sequence[str]
) -> Iterator[tuple[str, Part]]:
    family = FAMILIES[index]
    lacks = f"its {family.parts[missing[0]][0]}" if missing else ""
    for ending, name in members.items():
        yield name, Part(family.name, family.parts[ending][0], _weight(stem), lacks, ending)


def _can_only_be(name: str, family: Family) -> bool:
    found = (ending for ending in family.telltale if name.endswith(ending))
    return any(end[0] in ".:" or name[: -len(end)][-1:] in ("", ".", "/") for end in found)


def _weight(stem: str) -> str:
    """The name of the effective weight: `stem` itself, or the ``weight`` of the module `stem`."""
    if stem and stem[-1] not in "./":
        return stem
    inner = stem[:-1]
    return inner if re.split("[./]", inner)[-1] == "weight" else f"{stem}weight"


def _companions(
    tensors: Mapping[str, Tensor], parts: Mapping[str, Part]
) -> Iterator[tuple[str, Part]]:
    """What belongs to a weight in codes without being needed for it: scales of activations."""
    quantised = {part.weight: part for part in parts.values() if part.role is PartRole.CODES}
    for name in tensors:
        ending = next((ending for ending in _COMPANIONS if name.endswith(ending)), None)
        if ending is not None and name not in parts:
            weight = f"{name[: -len(ending)]}weight"
            codes = quantised.get(weight)
            if codes is None and weight in tensors and _dtype(tensors[weight]) in FLOAT8 | INT8:
                # What scales the input of a layer in codes shows that these had a scale, too.
                codes = Part("scaled codes", PartRole.CODES, weight, "its scales")
                yield weight, codes
            if codes is not None:
                yield name, Part(codes.family, _COMPANIONS[ending], codes.weight, "", ending)
        elif quantised and ending is None and name not in parts:
            module, last = _in_module(name)
            further = _FURTHER.search(last) is not None and _OF_CACHES.match(last) is None
            if further and (codes := quantised.get(f"{module}weight")) is not None:
                yield name, Part(codes.family, PartRole.STATE, codes.weight, "", last)


def _in_module(name: str) -> tuple[str, str]:
    """What comes before the last segment, to the dot or slash, and the last segment."""
    start = 1 + max(name.rfind("."), name.rfind("/"))
    return name[:start], name[start:]


def _otherwise_scaled(
    tensors: Mapping[str, Tensor], parts: Mapping[str, Part]
) -> Iterator[tuple[str, Part]]:
    """Codes beside something that is called a scale, but not as any family that is known calls it."""
    codes = set(_others(tensors, parts, CODE_DTYPES))
    if not codes:
        return
    told = set()
    for name in tensors:
        if name in parts or _SCALE.search(name) is None:
            continue
        weight = next((stem for stem in _scaled_by(name) if stem in codes), None)
        if weight is None:
            continue
        yield name, Part("scaled codes", PartRole.SCALES, weight, "", name)
        if weight not in told:
            told.add(weight)
            lacks = f"scales that are known here ({printable(name)} may be some)"
            yield weight, Part("scaled codes", PartRole.CODES, weight, lacks)


def _scaled_by(name: str) -> Iterator[str]:
    """What a scale of this name may belong to: a weight that it begins with, or that of its module."""
    if "." not in name:
        yield "weight"
    for match in re.finditer("[._:]", name):
        stem, rest = name[: match.start()], name[match.end() - 1 :]
        if _SCALE.search(rest) is None:
            return
        if "." not in rest[1:] or rest.startswith(".weight"):
            yield f"{stem}.weight"
        yield stem


def _parametrised(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Part]]:
    """Parts of ``torch.nn.utils.parametrize``, all by name: originals, and their buffers."""
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    for name in tensors:
        if "parametrizations" not in name:
            continue
        if (match := _PARAMETRISED.search(name)) is not None:
            groups[module_of(name, match) + match[1]][name[match.end() :]] = name
    for weight, members in groups.items():
        family, roles = _parametrisation(members)
        for rest, name in members.items():
            role = PartRole.ORIGINAL if rest.startswith("original") else PartRole.STATE
            yield name, Part(family, roles.get(rest, role), weight, "", rest)


def _parametrisation(members: Mapping[str, str]) -> tuple[str, Mapping[str, PartRole]]:
    if "0._u" in members:
        return "spectrally normalised", {"0._u": PartRole.VECTORS, "0._v": PartRole.VECTORS}
    if members.keys() == {"original0", "original1"}:
        return "weight-normalised", {"original0": PartRole.NORMS, "original1": PartRole.DIRECTIONS}
    return "parametrised", {}


def _others(tensors: Mapping[str, Tensor], parts: Mapping[str, Part], dtypes: Dtypes) -> list[str]:
    """Every tensor of these dtypes that is no part yet."""
    return [
        name
        for name, tensor in tensors.items()
        if name not in parts and _dtype(tensor) in dtypes and not name.endswith(_MARKER)
    ]


def _of_method(
    tensors: Mapping[str, Tensor], parts: Mapping[str, Part], method: str
) -> Iterator[tuple[str, Part]]:
    """Codes of which only the config says that they are some.

    Where no family is known they stand for the weights of their modules, whatever they are called there.
    """
    known = any(part.role is PartRole.CODES for part in parts.values())
    for name in _others(tensors, parts, CODE_DTYPES):
        module, last = _in_module(name)
        named = known or "weight" in last or not module or f"{module}weight" in tensors
        yield name, Part(method, PartRole.CODES, name if named else f"{module}weight", "", last)


def _method(quantisation: object) -> str:
    stated = quantisation if isinstance(quantisation, dict) else {}
    method = stated.get("quant_method", stated.get("quant_algo"))
    named = printable(method) if isinstance(method, str) else "quantised"
    return f"{named} (by the config beside it)"
