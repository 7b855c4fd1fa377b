"""4-bit floats (E2M1) with a scale for each small group: MXFP4, NVFP4, and compressed-tensors' of both.

Sources: ``convert_moe_packed_tensors`` of transformers (blocks of 32, exponents as scales), the NVFP4
export of ModelOpt (groups of 16, float8 scales times a scale for the tensor), and ``unpack_fp4_from_uint8``
of compressed-tensors, whose scale for the tensor divides. The first of two codes is in the lower half
of a byte in all of them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from ckptclamp.models.effective.members import Members, NotComputedError, dtype_name
from ckptclamp.models.effective.numbers import Exponents, Nibbles, Plain
from ckptclamp.models.effective.quantised.grouped import Grouped
from ckptclamp.models.effective.quantised.packed import compressed_integers
from ckptclamp.models.effective.quantised.scaled import OF_ACTIVATIONS, misfit
from ckptclamp.models.effective.quantised.shared import Shared

if TYPE_CHECKING:
    from ckptclamp.checkpoints.tensor import Tensor
    from ckptclamp.models.effective.numbers import Numbers

HALF_STEP: Final = 1 / 6
"""Half of the largest step (from 4 to 6), relative to the largest weight of a group."""

_MX, _NV = 32, 16
"""Weights that share a scale."""

_BYTES: Final = ("uint8", "int8")


def mxfp4(members: Members) -> Tensor:
    """Return the weight of blocks of 32; that of stacked experts has inputs before outputs.

    transformers swaps the last two axes of experts when it loads them: the parameter of the model
    has the shape that is returned.

    Raises:
        NotComputedError: the shapes do not fit.
    """
    members.only("_blocks", "_scales")
    return _blocks(members.need("_blocks"), members.need("_scales"), members, swapped=True)


def mxfp4_of_openai(members: Members) -> Tensor:
    """Return the same where experts have outputs before inputs, as OpenAI's own code has them.

    Raises:
        NotComputedError: the shapes do not fit.
    """
    members.only(".blocks", ".scales")
    return _blocks(members.need(".blocks"), members.need(".scales"), members, swapped=False)


def _blocks(blocks: Tensor, scales: Tensor, members: Members, *, swapped: bool) -> Tensor:
    if blocks.shape[-1:] != (_MX // 2,) or scales.shape != blocks.shape[:-1]:
        raise NotComputedError(misfit(scales, blocks.shape))
    if len(blocks.shape) not in (3, 4) or dtype_name(blocks) not in _BYTES:
        raise NotComputedError(f"{blocks.name} holds no blocks of rows")
    codes = Nibbles(blocks, joined=True)
    shape, rank = codes.shape, len(codes.shape)
    storage = Grouped(
        words=f"MXFP4 blocks {blocks.name} and exponents {scales.name}",
        codes=codes,
        scales=(_grouped(Exponents(scales), shape, _MX),),
        transposed=swapped and rank == 3,
    )
    whole = (shape[0], shape[2], shape[1]) if swapped and rank == 3 else shape
    return members.computed(whole, storage, HALF_STEP)


def nvfp4(members: Members) -> Tensor:
    """Return the weight of groups of 16: code · scale · the scale of the tensor.

    Raises:
        NotComputedError: the shapes or dtypes do not fit, or ComfyUI laid the scales out.
    """
    members.only("", "_scale", "_scale_2", "comfy_quant", *OF_ACTIVATIONS)
    codes, scale, second = members.need(""), members.need("_scale"), members.need("_scale_2")
    if "comfy_quant" in members.tensors:
        raise NotComputedError("how ComfyUI lays out several scales of a weight is not known here")
    if dtype_name(codes) != "uint8" or not codes.shape:
        raise NotComputedError(f"{codes.name} is {dtype_name(codes)}, not uint8")
    numbers = Nibbles(codes)
    storage = Grouped(
        words=f"NVFP4 codes {codes.name} and scales {scale.name}, {second.name}",
        codes=numbers,
        scales=(
            _grouped(_floats(scale), numbers.shape, _NV),
            _for_all(second, numbers.shape),
        ),
    )
    return members.computed(numbers.shape, storage, HALF_STEP)


def compressed(members: Members) -> Tensor:
    """Return the weight that compressed-tensors packed: integers in int32, or 4-bit floats in bytes.

    Raises:
        NotComputedError: the shapes or dtypes do not fit.
    """
    codes, scale = members.need("_packed"), members.need("_scale")
    if dtype_name(codes) != "uint8":
        return compressed_integers(members)
    members.only("_packed", "_scale", "_global_scale", *OF_ACTIVATIONS)
    numbers, divisor = Nibbles(codes), members.get("_global_scale")
    if (divisor is None) != (dtype_name(scale) in ("uint8", "float8_e8m0fnu")):
        raise NotComputedError("its scales are neither those of NVFP4 nor those of MXFP4")
    if divisor is None:
        shared = _grouped(Exponents(scale), numbers.shape, _MX)
    else:
        shared = _grouped(_floats(scale), numbers.shape, _NV)
    storage = Grouped(
        words=f"{'MXFP4' if divisor is None else 'NVFP4'} codes {codes.name} and scales "
        + ", ".join(t.name for t in (scale, divisor) if t is not None),
        codes=numbers,
        scales=(shared,),
        divisors=() if divisor is None else (_for_all(divisor, numbers.shape),),
    )
    return members.computed(numbers.shape, storage, HALF_STEP)


def _grouped(scales: Numbers, shape: tuple[int, ...], size: int) -> Shared:
    """One scale for `size` weights along the last axis, no more and no fewer."""
    if scales.shape != (*shape[:-1], shape[-1] // size) or shape[-1] % size:
        raise NotComputedError(misfit(scales.tensor, shape))
    if isinstance(scales, Exponents) and dtype_name(scales.tensor) not in (
        "uint8",
        "float8_e8m0fnu",
    ):
        raise NotComputedError(f"{scales.tensor.name} is {dtype_name(scales.tensor)}, no exponents")
    return Shared(scales, (*(1 for _ in shape[:-1]), size), tuple(range(len(shape))))


def _for_all(scale: Tensor, shape: tuple[int, ...]) -> Shared:
    if math.prod(scale.shape) != 1:
        raise NotComputedError(misfit(scale, shape))
    return Shared(_floats(scale), shape, ())


def _floats(scale: Tensor) -> Plain:
    if scale.dtype is None or not scale.dtype.unit_roundoff:
        raise NotComputedError(f"{scale.name} is {dtype_name(scale)}")
    return Plain(scale)
