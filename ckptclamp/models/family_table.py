"""The table of families: how the parts of a quantised, packed or factored weight are called.

An ending that begins with ``_`` or ``.`` follows the weight's own name (``l.weight`` and
``l.weight_scale``); any other is a name within the weight's module (``l.qweight`` of ``l.weight``).
The empty ending is the weight's own name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ckptclamp.checkpoints.dtypes import CODE_DTYPES, DTYPES, Kind


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


Dtypes = frozenset[str]
FLOAT8: Final[Dtypes] = frozenset(n for n in CODE_DTYPES if n.startswith("float8"))
INTEGERS: Final[Dtypes] = frozenset(n for n, d in DTYPES.items() if d.kind is Kind.INTEGER)
_BYTES: Final[Dtypes] = frozenset({"int8", "uint8"})
_PACKED: Final[Dtypes] = frozenset({"int16", "int32", "int64", "uint8", "int8", "uint32"})
_FLOATS: Final[Dtypes] = frozenset({"float64", "float32", "float16", "bfloat16"})
ANY: Final[Dtypes] = frozenset()
"""Whatever dtype: the names and the dtypes of the other parts say enough."""


@dataclass(frozen=True, slots=True)
class Family:
    """One way of storing a weight in several tensors.

    `parts` maps endings to roles and dtypes. It takes the parts that are `needed` to be told; a
    name with one of the endings `telltale` can be nothing else, so it shows a family that is
    incomplete. With `of_weight` the last segment of the weight's own name must hold ``weight``.
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
            "_scale": (PartRole.SCALES, ANY),
            "_zero_point": (PartRole.ZERO_POINTS, ANY),
            "_g_idx": (PartRole.INDEX, INTEGERS),
        },
        needed=("", "_scale"),
    )


FAMILIES: Final[tuple[Family, ...]] = (
    Family(
        "NVFP4",
        {
            "": (PartRole.CODES, frozenset({"uint8"}) | FLOAT8),
            "_scale": (PartRole.SCALES, ANY),
            "_scale_2": (PartRole.SCALES, ANY),
        },
        needed=("", "_scale", "_scale_2"),
        telltale=("weight_scale_2",),
    ),
    Family(
        "block-scaled float8",
        {"": (PartRole.CODES, FLOAT8), "_scale_inv": (PartRole.SCALES, ANY)},
        needed=("", "_scale_inv"),
        telltale=("weight_scale_inv",),
    ),
    Family(
        "packed (compressed-tensors)",
        {
            "_packed": (PartRole.CODES, _PACKED),
            "_scale": (PartRole.SCALES, ANY),
            "_global_scale": (PartRole.SCALES, ANY),
            "_zero_point": (PartRole.ZERO_POINTS, ANY),
            "_shape": (PartRole.SHAPE, INTEGERS),
            "_g_idx": (PartRole.INDEX, INTEGERS),
        },
        needed=("_packed", "_scale"),
        telltale=("weight_packed",),
    ),
    _scaled("scaled float8", FLOAT8),
    _scaled("scaled int8", frozenset({"int8"})),
    _scaled("scaled, packed", frozenset({"uint8", "int32"})),
    Family(
        "scaled float8",
        {"weight": (PartRole.CODES, FLOAT8), "scale_weight": (PartRole.SCALES, _FLOATS)},
        needed=("weight", "scale_weight"),
    ),
    Family(
        "GPTQ or AWQ",
        {
            "qweight": (PartRole.CODES, INTEGERS),
            "qzeros": (PartRole.ZERO_POINTS, INTEGERS),
            "scales": (PartRole.SCALES, ANY),
            "g_idx": (PartRole.INDEX, INTEGERS),
        },
        needed=("qweight", "scales"),
        telltale=("qweight", "qzeros"),
    ),
    Family(
        "bitsandbytes int8",
        {
            "weight": (PartRole.CODES, frozenset({"int8"})),
            "SCB": (PartRole.SCALES, ANY),
            "weight_format": (PartRole.STATE, INTEGERS),
        },
        needed=("weight", "SCB"),
        telltale=("SCB",),
    ),
    Family(
        "bitsandbytes 4-bit",
        {
            "": (PartRole.CODES, ANY),
            ".absmax": (PartRole.SCALES, ANY),
            ".quant_map": (PartRole.TABLE, ANY),
            ".nested_absmax": (PartRole.SCALES, ANY),
            ".nested_quant_map": (PartRole.TABLE, ANY),
            ".quant_state.bitsandbytes__nf4": (PartRole.STATE, ANY),
            ".quant_state.bitsandbytes__fp4": (PartRole.STATE, ANY),
        },
        needed=("", ".absmax"),
        telltale=(
            "weight.absmax",
            ".quant_state.bitsandbytes__nf4",
            ".quant_state.bitsandbytes__fp4",
        ),
    ),
    Family(
        "MXFP4",
        {
            "_blocks": (PartRole.CODES, _BYTES),
            "_scales": (PartRole.SCALES, _BYTES | {"float8_e8m0fnu"}),
        },
        needed=("_blocks", "_scales"),
    ),
    Family(
        "sparse, compressed",
        {
            "compressed": (PartRole.VALUES, ANY),
            "bitmask": (PartRole.MASK, _BYTES),
            "shape": (PartRole.SHAPE, INTEGERS),
            "row_offsets": (PartRole.INDEX, INTEGERS),
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
        {
            "_orig": (PartRole.ORIGINAL, _FLOATS),
            "_u": (PartRole.VECTORS, _FLOATS),
            "_v": (PartRole.VECTORS, _FLOATS),
        },
        needed=("_orig", "_u"),
        of_weight=True,
    ),
    Family(
        "pruned",
        {"_orig": (PartRole.ORIGINAL, ANY), "_mask": (PartRole.MASK, ANY)},
        needed=("_orig", "_mask"),
        of_weight=True,
    ),
)

COMPANIONS: Final[Mapping[str, PartRole]] = {
    "input_scale": PartRole.ACTIVATION,
    "scale_input": PartRole.ACTIVATION,
    "input_global_scale": PartRole.ACTIVATION,
    "input_zero_point": PartRole.ACTIVATION,
    "output_scale": PartRole.ACTIVATION,
    "comfy_quant": PartRole.STATE,
}
"""Names in a module that are parts only where the module's weight is stored in codes."""
