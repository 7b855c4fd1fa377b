"""Which tensors are parts of a weight that the model computes with, and of which family.

A stored tensor is often not the weight: float8 codes have scales, 4-bit codes are packed in
integers, a direction has its length apart. Families are told by names, dtypes and, for codes whose
scales have no known name, by what the config says.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import TYPE_CHECKING, Final

from ckptclamp.checkpoints.dtypes import CODE_DTYPES, DTYPES, Kind
from ckptclamp.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptclamp.checkpoints.tensor import Tensor


class PartRole(StrEnum):
    """What a part is to the weight, as messages say it."""

    CODES = "codes"
    SCALES = "scales"
    ZERO_POINTS = "zero points"
    INDEX = "index"
    SHAPE = "shape"
    TABLE = "table of values"
    STATE = "quantisation state"
    ACTIVATION = "activation scale"
    MASK = "mask"
    VALUES = "values that are not zero"
    NORMS = "norms"
    DIRECTIONS = "directions"
    ORIGINAL = "original"
    VECTORS = "singular vectors"
    FACTOR = "factor"
    BASE = "base weight"
    SCALING = "scaling"


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
    for name, part in chain(_parametrised(tensors), _low_rank(tensors), _of_table(tensors)):
        parts.setdefault(name, part)
    parts |= dict(_companions(tensors, parts))
    if any(p.role is PartRole.CODES and _dtype(tensors[n]) in _FLOAT8 for n, p in parts.items()):
        lacks = "the scale that other float8 weights have"
        others = _others(tensors, parts, _FLOAT8)
        parts |= {name: Part("float8", PartRole.CODES, name, lacks) for name in others}
    if quantisation is not None:
        family, others = _method(quantisation), _others(tensors, parts, CODE_DTYPES)
        parts |= {name: Part(family, PartRole.CODES, name) for name in others}
    return parts


Dtypes = frozenset[str]
_FLOAT8: Final[Dtypes] = frozenset(n for n in CODE_DTYPES if n.startswith("float8"))
_INTEGERS: Final[Dtypes] = frozenset(n for n, d in DTYPES.items() if d.kind is Kind.INTEGER)
_INT8: Final[Dtypes] = frozenset({"int8"})
_BYTES: Final[Dtypes] = frozenset({"int8", "uint8"})
_BLOCK_SCALES: Final[Dtypes] = _BYTES | {"float8_e8m0fnu"}
_PACKED: Final[Dtypes] = frozenset({"int16", "int32", "int64", "uint8", "int8", "uint32"})
_FLOATS: Final[Dtypes] = frozenset({"float64", "float32", "float16", "bfloat16"})
_ANY: Final[Dtypes] = frozenset()
"""Whatever dtype: the names and the dtypes of the other parts say enough."""

_SCALES: Final = (PartRole.SCALES, _ANY)
_INDEX: Final = (PartRole.INDEX, _INTEGERS)
_FORMAT: Final = (PartRole.STATE, _INTEGERS)
_VECTORS: Final = (PartRole.VECTORS, _FLOATS)
_QUANT_STATES: Final = (".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4")


@dataclass(frozen=True, slots=True)
class Family:
    """One way of storing a weight in several tensors.

    `parts` maps endings to roles and dtypes. An ending that begins with ``_`` or ``.`` follows the
    weight's own name (``l.weight`` and ``l.weight_scale``), the empty one is that name, and any
    other is a name within the weight's module (``l.qweight`` of ``l.weight``). It takes the parts
    that are `needed` to be told; a name with one of the endings `telltale` can be nothing else, so
    it shows a family that is incomplete. With `of_weight` the last segment of the weight's own name
    must hold ``weight``.
    """

    name: str
    parts: Mapping[str, tuple[PartRole, Dtypes]]
    needed: tuple[str, ...]
    telltale: tuple[str, ...] = ()
    of_weight: bool = False


def _scaled(name: str, codes: Dtypes) -> Family:
    return Family(
        name,
        {
            "": (PartRole.CODES, codes),
            "_scale": _SCALES,
            "_zero_point": (PartRole.ZERO_POINTS, _ANY),
            "_g_idx": _INDEX,
        },
        needed=("", "_scale"),
    )


FAMILIES: Final[tuple[Family, ...]] = (
    Family(
        "NVFP4",
        {"": (PartRole.CODES, _FLOAT8 | {"uint8"}), "_scale": _SCALES, "_scale_2": _SCALES},
        needed=("", "_scale", "_scale_2"),
        telltale=("weight_scale_2",),
    ),
    Family(
        "block-scaled float8",
        {"": (PartRole.CODES, _FLOAT8), "_scale_inv": _SCALES},
        needed=("", "_scale_inv"),
        telltale=("weight_scale_inv",),
    ),
    Family(
        "packed (compressed-tensors)",
        {
            "_packed": (PartRole.CODES, _PACKED),
            "_scale": _SCALES,
            "_global_scale": _SCALES,
            "_zero_point": (PartRole.ZERO_POINTS, _ANY),
            "_shape": (PartRole.SHAPE, _INTEGERS),
            "_g_idx": _INDEX,
        },
        needed=("_packed", "_scale"),
        telltale=("weight_packed",),
    ),
    _scaled("scaled float8", _FLOAT8),
    _scaled("scaled int8", _INT8),
    _scaled("scaled, packed", frozenset({"uint8", "int32"})),
    Family(
        "scaled float8",
        {"weight": (PartRole.CODES, _FLOAT8), "scale_weight": (PartRole.SCALES, _FLOATS)},
        needed=("weight", "scale_weight"),
    ),
    Family(
        "GPTQ or AWQ",
        {
            "qweight": (PartRole.CODES, _INTEGERS),
            "qzeros": (PartRole.ZERO_POINTS, _INTEGERS),
            "scales": _SCALES,
            "g_idx": _INDEX,
        },
        needed=("qweight", "scales"),
        telltale=("qweight", "qzeros"),
    ),
    Family(
        "bitsandbytes int8",
        {"weight": (PartRole.CODES, _INT8), "SCB": _SCALES, "weight_format": _FORMAT},
        needed=("weight", "SCB"),
        telltale=("SCB",),
    ),
    Family(
        "bitsandbytes 4-bit",
        {
            "": (PartRole.CODES, _ANY),
            ".absmax": _SCALES,
            ".quant_map": (PartRole.TABLE, _ANY),
            ".nested_absmax": _SCALES,
            ".nested_quant_map": (PartRole.TABLE, _ANY),
            **dict.fromkeys(_QUANT_STATES, (PartRole.STATE, _ANY)),
        },
        needed=("", ".absmax"),
        telltale=("weight.absmax", *_QUANT_STATES),
    ),
    Family(
        "MXFP4",
        {"_blocks": (PartRole.CODES, _BYTES), "_scales": (PartRole.SCALES, _BLOCK_SCALES)},
        needed=("_blocks", "_scales"),
    ),
    Family(
        "sparse, compressed",
        {
            "compressed": (PartRole.VALUES, _ANY),
            "bitmask": (PartRole.MASK, _BYTES),
            "shape": (PartRole.SHAPE, _INTEGERS),
            "row_offsets": _INDEX,
        },
        needed=("compressed", "bitmask"),
    ),
    Family(
        "weight-normalised",
        {"_g": (PartRole.NORMS, _FLOATS), "_v": (PartRole.DIRECTIONS, _FLOATS)},
        needed=("_g", "_v"),
        of_weight=True,
    ),
    Family(
        "spectrally normalised",
        {"_orig": (PartRole.ORIGINAL, _FLOATS), "_u": _VECTORS, "_v": _VECTORS},
        needed=("_orig", "_u"),
        of_weight=True,
    ),
    Family(
        "pruned",
        {"_orig": (PartRole.ORIGINAL, _ANY), "_mask": (PartRole.MASK, _ANY)},
        needed=("_orig", "_mask"),
        of_weight=True,
    ),
)

_OF_ACTIVATIONS: Final = (
    "input_scale", "scale_input", "input_global_scale", "input_zero_point", "output_scale",
)  # fmt: skip
_COMPANIONS: Final[Mapping[str, PartRole]] = {
    **dict.fromkeys(_OF_ACTIVATIONS, PartRole.ACTIVATION),
    "comfy_quant": PartRole.STATE,
}
"""Names in a module that are parts only where the module's weight is stored in codes."""

_ENDINGS: Final = tuple({ending for family in FAMILIES for ending in family.parts if ending})

_LOW_RANK: Final = re.compile(
    r"(?:^|[./])(?:lora_(?:A|B|down|mid|up|embedding_A|embedding_B|magnitude_vector)"
    r"|(?:hada|lokr)_[wt][12](?:_[ab])?)(?=[./]|$)"
    r"|[._]lora\.(?:down|up)(?=\.)"
)
"""The first segment of a name that only an adapter's parts have."""

_PARAMETRISED: Final = re.compile(r"(?:^|\.)parametrizations\.([^.]+)\.")

_ADAPTED: Final = {
    "weight": PartRole.BASE,
    "base_layer.weight": PartRole.BASE,
    "alpha": PartRole.SCALING,
    "dora_scale": PartRole.NORMS,
}
"""What a module with low-rank factors holds besides them."""


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
    for key in sorted(groups, key=lambda key: (bool(_missing(key[0], groups[key])), key[0])):
        yield from _members(*key, groups[key])


def _candidates(name: str, dtype: str) -> Iterator[tuple[int, str]]:
    for index, family in enumerate(FAMILIES):
        for ending, (_, dtypes) in family.parts.items():
            fits = ending and name.endswith(ending) and _fits(dtype, dtypes)
            if fits and _is_stem(name[: -len(ending)], ending, family):
                yield index, ending


def _fits(dtype: str, dtypes: Dtypes) -> bool:
    return dtypes is _ANY or dtype in dtypes


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
    found = (ending for ending in family.telltale if name.endswith(ending))
    return any(end[0] == "." or name[: -len(end)][-1:] in ("", ".", "/") for end in found)


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
            codes = quantised.get(f"{name[: -len(ending)]}weight")
            if codes is not None:
                yield name, Part(codes.family, _COMPANIONS[ending], codes.weight)


def _parametrised(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Part]]:
    """Parts of ``torch.nn.utils.parametrize``, all by name: originals, and their buffers."""
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    for name in tensors:
        if (match := _PARAMETRISED.search(name)) is not None:
            groups[_module(name, match) + match[1]][name[match.end() :]] = name
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
        return "weight-normalised", {"original0": PartRole.NORMS, "original1": PartRole.DIRECTIONS}
    return "parametrised", {}


def _low_rank(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Part]]:
    """Factors of low-rank adapters, by name, and the base weights that they are added to."""
    modules = set()
    for name in tensors:
        if (match := _LOW_RANK.search(name)) is not None:
            module = _module(name, match)
            modules.add(module)
            norms = "lora_magnitude_vector" in match[0]
            role = PartRole.NORMS if norms else PartRole.FACTOR
            yield name, Part("low-rank adapted (LoRA)", role, f"{module}weight")
    for module in modules:
        for last, role in _ADAPTED.items():
            if (name := f"{module}{last}") in tensors:
                yield name, Part("low-rank adapted (LoRA)", role, f"{module}weight")


def _module(name: str, match: re.Match[str]) -> str:
    """What comes before the match, with a dot if there is anything."""
    return f"{name[: match.start()]}." if match.start() else ""


def _others(tensors: Mapping[str, Tensor], parts: Mapping[str, Part], dtypes: Dtypes) -> list[str]:
    """Every tensor of these dtypes that is no part yet."""
    return [n for n, tensor in tensors.items() if n not in parts and _dtype(tensor) in dtypes]


def _method(quantisation: object) -> str:
    method = quantisation.get("quant_method") if isinstance(quantisation, dict) else None
    named = printable(method) if isinstance(method, str) else "quantised"
    return f"{named} (by config.json)"
