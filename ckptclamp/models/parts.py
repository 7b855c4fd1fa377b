"""The families of weights that are stored in parts: what each part is called, and what it is."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from ckptclamp.checkpoints.dtypes import CODE_DTYPES, DTYPES, Kind
from ckptclamp.errors import Reason, printable
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping


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


@frozen
class Part:
    """What one stored tensor is: its `role` in a `family`, and the `weight` that it belongs to.

    `lacks` says in words what is missing of the family, if something is. `ending` is what the part
    is called in the table of families.
    """

    family: str
    role: PartRole
    weight: str
    lacks: str = ""
    ending: str = ""

    @property
    def reason(self) -> Reason:
        """Why the stored numbers are not judged as a weight."""
        without = f" without {self.lacks}" if self.lacks else ""
        return Reason(
            "part-of-a-weight",
            f"it holds the {self.role} of {self.family} {printable(self.weight)}{without}, "
            f"and is no weight itself",
        )


LORA: Final = "low-rank adapted (LoRA)"
"""A family that may be added to a weight of another."""

OF_PEFT: Final = "base_model.model."
"""What peft puts before the names of the model that it adapts."""

Dtypes = frozenset[str]
FLOAT8: Final[Dtypes] = frozenset(n for n in CODE_DTYPES if n.startswith("float8"))
_INTEGERS: Final[Dtypes] = frozenset(n for n, d in DTYPES.items() if d.kind is Kind.INTEGER)
INT8: Final[Dtypes] = frozenset({"int8"})
_BYTES: Final[Dtypes] = frozenset({"int8", "uint8"})
_BLOCK_SCALES: Final[Dtypes] = _BYTES | {"float8_e8m0fnu"}
_PACKED: Final[Dtypes] = frozenset({"int16", "int32", "int64", "uint8", "int8", "uint32"})
_FLOATS: Final[Dtypes] = frozenset({"float64", "float32", "float16", "bfloat16"})
ANY: Final[Dtypes] = frozenset()
"""Whatever dtype: the names and the dtypes of the other parts say enough."""

_SCALES: Final = (PartRole.SCALES, ANY)
_INDEX: Final = (PartRole.INDEX, _INTEGERS)
_FORMAT: Final = (PartRole.STATE, _INTEGERS)
_VECTORS: Final = (PartRole.VECTORS, ANY)
_OF_HQQ: Final = (
    "nbits", "group_size", "axis", "packing", "channel_wise", "compute_dtype", "encoded_state_dict",
    "optimize", "quant_scale", "quant_zero", "round_zero", "stores_quant_config",
    "unpack_view_dtype", "view_as_float", "offload_meta",
)  # fmt: skip
_OF_BITSANDBYTES: Final = (".quant_map", ".nested_absmax", ".nested_quant_map")
_QUANT_STATES: Final = (".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4")


@frozen
class Family:
    """One way of storing a weight in several tensors.

    `parts` maps endings to roles and dtypes. An ending that begins with ``_``, ``.`` or ``:`` follows the
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
            "_zero_point": (PartRole.ZERO_POINTS, ANY),
            "_g_idx": _INDEX,
        },
        needed=("", "_scale"),
    )


FAMILIES: Final[tuple[Family, ...]] = (
    Family(
        "NVFP4",
        {"": (PartRole.CODES, FLOAT8 | {"uint8"}), "_scale": _SCALES, "_scale_2": _SCALES},
        needed=("", "_scale", "_scale_2"),
        telltale=("weight_scale_2",),
    ),
    Family(
        "block-scaled float8",
        {"": (PartRole.CODES, FLOAT8), "_scale_inv": _SCALES},
        needed=("", "_scale_inv"),
        telltale=("weight_scale_inv",),
    ),
    Family(
        "packed (compressed-tensors)",
        {
            "_packed": (PartRole.CODES, _PACKED),
            "_scale": _SCALES,
            "_global_scale": _SCALES,
            "_zero_point": (PartRole.ZERO_POINTS, ANY),
            "_shape": (PartRole.SHAPE, _INTEGERS),
            "_g_idx": _INDEX,
        },
        needed=("_packed", "_scale"),
        telltale=("weight_packed",),
    ),
    _scaled("scaled float8", FLOAT8),
    _scaled("scaled int8", INT8),
    _scaled("scaled, packed", frozenset({"uint8", "int32"})),
    Family(
        "scaled float8",
        {"weight": (PartRole.CODES, FLOAT8), "scale_weight": (PartRole.SCALES, _FLOATS)},
        needed=("weight", "scale_weight"),
    ),
    Family(
        "scaled float8",
        {
            "weight": (PartRole.CODES, FLOAT8),
            "scale": (PartRole.SCALES, _FLOATS | {"float8_e8m0fnu"}),
        },
        needed=("weight", "scale"),
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
        "MLX",
        {
            "weight": (PartRole.CODES, frozenset({"uint32"})),
            "scales": (PartRole.SCALES, _FLOATS),
            "biases": (PartRole.ZERO_POINTS, _FLOATS),
        },
        needed=("weight", "scales", "biases"),
    ),
    Family(
        "bitsandbytes int8",
        {"weight": (PartRole.CODES, INT8), "SCB": _SCALES, "weight_format": _FORMAT},
        needed=("weight", "SCB"),
        telltale=("SCB", "weight_format"),
    ),
    Family(
        "bitsandbytes 4-bit",
        {
            "": (PartRole.CODES, ANY),
            ".absmax": _SCALES,
            ".quant_map": (PartRole.TABLE, ANY),
            ".nested_absmax": _SCALES,
            ".nested_quant_map": (PartRole.TABLE, ANY),
            **dict.fromkeys(_QUANT_STATES, (PartRole.STATE, ANY)),
        },
        needed=("", ".absmax"),
        telltale=("weight.absmax", *_OF_BITSANDBYTES, *_QUANT_STATES),
    ),
    Family(
        "MXFP4",
        {"_blocks": (PartRole.CODES, _BYTES), "_scales": (PartRole.SCALES, _BLOCK_SCALES)},
        needed=("_blocks", "_scales"),
        telltale=tuple(
            f"{name}_{end}"
            for name in ("gate_up_proj", "down_proj")
            for end in ("blocks", "scales")
        ),
    ),
    Family(
        "MXFP4 (OpenAI)",
        {".blocks": (PartRole.CODES, _BYTES), ".scales": (PartRole.SCALES, _BLOCK_SCALES)},
        needed=(".blocks", ".scales"),
    ),
    Family(
        "sparse, compressed",
        {
            "compressed": (PartRole.VALUES, ANY),
            "bitmask": (PartRole.MASK, _BYTES),
            "shape": (PartRole.SHAPE, _INTEGERS),
            "row_offsets": _INDEX,
        },
        needed=("compressed", "bitmask"),
    ),
    Family(
        "weight-normalised",
        {"_g": (PartRole.NORMS, ANY), "_v": (PartRole.DIRECTIONS, ANY)},
        needed=("_g", "_v"),
        of_weight=True,
    ),
    Family(
        "spectrally normalised",
        {"_orig": (PartRole.ORIGINAL, ANY), "_u": _VECTORS, "_v": _VECTORS},
        needed=("_orig", "_u"),
        of_weight=True,
    ),
    Family(
        "pruned",
        {"_orig": (PartRole.ORIGINAL, ANY), "_mask": (PartRole.MASK, ANY)},
        needed=("_orig", "_mask"),
        of_weight=True,
    ),
    Family(
        "HQQ",
        {
            "W_q": (PartRole.CODES, ANY),
            "scale": _SCALES,
            "zero": (PartRole.ZERO_POINTS, ANY),
            "shape": (PartRole.SHAPE, ANY),
            **dict.fromkeys(_OF_HQQ, (PartRole.STATE, ANY)),
        },
        needed=("W_q", "scale"),
        telltale=("W_q",),
    ),
    Family(
        "AQLM",
        {
            "codes": (PartRole.CODES, _INTEGERS),
            "codebooks": (PartRole.TABLE, ANY),
            "scales": _SCALES,
        },
        needed=("codes", "codebooks"),
        telltale=("codebooks",),
    ),
    Family(
        "EXL2",
        {
            "q_weight": (PartRole.CODES, _INTEGERS),
            "q_scale": _SCALES,
            "q_scale_max": _SCALES,
            **dict.fromkeys(("q_groups", "q_invperm", "q_perm", "q_group_map"), _INDEX),
        },
        needed=("q_weight", "q_scale"),
        telltale=("q_weight", "q_scale_max"),
    ),
    Family(
        "EXL3",
        {
            "trellis": (PartRole.CODES, _INTEGERS),
            **dict.fromkeys(("suh", "svh", "su", "sv", "mcg", "mul1"), (PartRole.STATE, ANY)),
        },
        needed=("trellis", "svh"),
        telltale=("trellis",),
    ),
    Family(
        "quanto",
        {
            "._data": (PartRole.CODES, ANY),
            "._data._data": (PartRole.CODES, ANY),
            "._scale": _SCALES,
            "._shift": (PartRole.ZERO_POINTS, ANY),
            "._zeropoint": (PartRole.ZERO_POINTS, ANY),
        },
        needed=("._data", "._scale"),
        telltale=("._data", "._data._data"),
    ),
    Family(
        "torchao",
        {
            "_weight_qdata": (PartRole.CODES, ANY),
            "_weight_scale": _SCALES,
            "_weight_zero_point": (PartRole.ZERO_POINTS, ANY),
        },
        needed=("_weight_qdata", "_weight_scale"),
        telltale=("_weight_qdata",),
    ),
    Family(
        "torchao",
        {
            ":qdata": (PartRole.CODES, ANY),
            ":scale": _SCALES,
            ":zero_point": (PartRole.ZERO_POINTS, ANY),
        },
        needed=(":qdata", ":scale"),
        telltale=(":qdata",),
    ),
)
