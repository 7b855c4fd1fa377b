"""Which tensors are parts of a weight that the model computes with, and of which family.

A stored tensor is often not the weight: float8 codes have scales, 4-bit codes are packed in
integers, a direction has its length apart. Families are told by names, dtypes and, for codes whose
scales have no known name, by what the config says.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ckptclamp.checkpoints.dtypes import CODE_DTYPES
from ckptclamp.errors import printable
from ckptclamp.models.family_table import ANY, COMPANIONS, FAMILIES, FLOAT8, Family, PartRole

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptclamp.checkpoints.tensor import Tensor

_ENDINGS: Final = tuple({ending for family in FAMILIES for ending in family.parts if ending})
_COMPANION_ENDINGS: Final = tuple(COMPANIONS)

_LOW_RANK: Final = re.compile(
    r"(?:^|[./])(?:lora_(?:A|B|down|mid|up|embedding_A|embedding_B|magnitude_vector)"
    r"|(?:hada|lokr)_[wt][12](?:_[ab])?)(?=[./]|$)"
    r"|[._]lora\.(?:down|up)(?=\.)"
)
"""The first segment of a name that only an adapter's parts have."""

_PARAMETRISED: Final = re.compile(r"(?:^|\.)parametrizations\.([^.]+)\.")


@dataclass(frozen=True, slots=True)
class Part:
    """What one stored tensor is: its `role` in a `family`, and the `weight` that it belongs to.

    `lacks` says in words what is missing of the family, if something is.
    """

    family: str
    role: PartRole
    weight: str
    lacks: str = ""

    @property
    def reason(self) -> str:
        """Why the stored numbers are not judged as a weight."""
        without = f" without {self.lacks}" if self.lacks else ""
        return (
            f"it holds the {self.role} of {self.family} {printable(self.weight)}{without}; "
            f"what the model computes with is not computed yet"
        )


def find_parts(tensors: Mapping[str, Tensor], quantisation: object = None) -> dict[str, Part]:
    """Return what each tensor is that is a part of a weight, by the tensor's name.

    Args:
        tensors: every tensor of a checkpoint, by name.
        quantisation: what the model's config says of its quantisation; ``None`` if nothing.
    """
    parts: dict[str, Part] = {}
    for found in (
        _parametrised(tensors),
        _low_rank(tensors),
        _of_table(tensors),
    ):
        for name, part in found:
            parts.setdefault(name, part)
    parts |= dict(_companions(tensors, parts))
    if any(p.role is PartRole.CODES and _dtype(tensors[n]) in FLOAT8 for n, p in parts.items()):
        lacks = "the scale that other float8 weights have"
        parts |= _others(tensors, parts, FLOAT8, "float8", lacks)
    if quantisation is not None:
        parts |= _others(tensors, parts, CODE_DTYPES, _method(quantisation))
    return parts


def _dtype(tensor: Tensor) -> str:
    return tensor.dtype_name if tensor.dtype is None else tensor.dtype.name


def _of_table(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Part]]:
    """The parts that the table knows; complete families come first, in the order of the table."""
    groups: dict[tuple[int, str], dict[str, str]] = defaultdict(dict)
    for name, tensor in tensors.items():
        if name.endswith(_ENDINGS):
            for index, ending in _candidates(name, _dtype(tensor)):
                groups[index, name[: len(name) - len(ending)]][ending] = name
    for (index, stem), members in groups.items():
        own = FAMILIES[index].parts.get("")
        if own is not None and stem in tensors and _fits(_dtype(tensors[stem]), own[1]):
            members[""] = stem
    ranked = sorted(groups, key=lambda key: (bool(_missing(key[0], groups[key])), key[0]))
    for key in ranked:
        yield from _members(*key, groups[key])


def _candidates(name: str, dtype: str) -> Iterator[tuple[int, str]]:
    for index, family in enumerate(FAMILIES):
        for ending, (_, dtypes) in family.parts.items():
            if ending and name.endswith(ending) and _fits(dtype, dtypes):
                stem = name[: -len(ending)]
                if _is_stem(stem, ending, family):
                    yield index, ending


def _fits(dtype: str, dtypes: frozenset[str]) -> bool:
    return dtypes is ANY or dtype in dtypes


def _is_stem(stem: str, ending: str, family: Family) -> bool:
    """Whether `stem` is what must come before `ending`: a weight's name, or a module."""
    if ending[0] not in "._":
        return not stem or stem[-1] in "./"
    return bool(stem) and (not family.of_weight or "weight" in re.split("[./]", stem)[-1])


def _missing(index: int, members: Mapping[str, str]) -> list[str]:
    return [ending for ending in FAMILIES[index].needed if ending not in members]


def _members(index: int, stem: str, members: Mapping[str, str]) -> Iterator[tuple[str, Part]]:
    family = FAMILIES[index]
    missing = _missing(index, members)
    if missing and not any(_can_only_be(name, family) for name in members.values()):
        return
    lacks = f"its {family.parts[missing[0]][0]}" if missing else ""
    for ending, name in members.items():
        yield name, Part(family.name, family.parts[ending][0], _weight(stem), lacks)


def _can_only_be(name: str, family: Family) -> bool:
    for ending in family.telltale:
        before = name[: -len(ending)][-1:] if name.endswith(ending) else None
        if before is not None and (before in ("", ".", "/") or ending.startswith(".")):
            return True
    return False


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
        if name not in parts and name.endswith(_COMPANION_ENDINGS):
            ending = next(e for e in _COMPANION_ENDINGS if name.endswith(e))
            codes = quantised.get(f"{name[: -len(ending)]}weight")
            if codes is not None:
                yield name, Part(codes.family, COMPANIONS[ending], codes.weight)


def _parametrised(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Part]]:
    """Parts of ``torch.nn.utils.parametrize``, all by name: originals, and their buffers."""
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    for name in tensors:
        if (match := _PARAMETRISED.search(name)) is not None:
            module = f"{name[: match.start()]}." if match.start() else ""
            groups[module + match[1]][name[match.end() :]] = name
    for weight, members in groups.items():
        if any(rest.startswith("original") for rest in members):
            family, roles = _parametrisation(members)
            for rest, name in members.items():
                role = PartRole.ORIGINAL if rest.startswith("original") else PartRole.STATE
                yield name, Part(family, roles.get(rest, role), weight)


def _parametrisation(members: Mapping[str, str]) -> tuple[str, Mapping[str, PartRole]]:
    if "0._u" in members:
        return "spectrally normalised", {"0._u": PartRole.VECTORS, "0._v": PartRole.VECTORS}
    if members.keys() == {"original0", "original1"}:
        return "weight-normalised", {
            "original0": PartRole.NORMS,
            "original1": PartRole.DIRECTIONS,
        }
    return "parametrised", {}


def _low_rank(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Part]]:
    """Factors of low-rank adapters, by name, and the base weights that they are added to."""
    modules = set()
    for name in tensors:
        if (match := _LOW_RANK.search(name)) is not None:
            module = name[: match.start()]
            modules.add(module)
            norms = "lora_magnitude_vector" in match[0]
            role = PartRole.NORMS if norms else PartRole.FACTOR
            yield name, Part("low-rank adapted (LoRA)", role, _within(module, "weight"))
    for module in modules:
        for last, role in _ADAPTED.items():
            if (name := _within(module, last)) in tensors:
                yield name, Part("low-rank adapted (LoRA)", role, _within(module, "weight"))


_ADAPTED: Final = {
    "weight": PartRole.BASE,
    "base_layer.weight": PartRole.BASE,
    "alpha": PartRole.SCALING,
    "dora_scale": PartRole.NORMS,
}
"""What a module with low-rank factors holds besides them."""


def _within(module: str, last: str) -> str:
    return f"{module}.{last}" if module else last


def _others(
    tensors: Mapping[str, Tensor],
    parts: Mapping[str, Part],
    dtypes: frozenset[str],
    family: str,
    lacks: str = "",
) -> dict[str, Part]:
    """Every tensor of these dtypes that is no part yet, as codes of `family`."""
    return {
        name: Part(family, PartRole.CODES, name, lacks)
        for name, tensor in tensors.items()
        if name not in parts and _dtype(tensor) in dtypes
    }


def _method(quantisation: object) -> str:
    method = quantisation.get("quant_method") if isinstance(quantisation, dict) else None
    named = printable(method) if isinstance(method, str) else "quantised"
    return f"{named} (by config.json)"
