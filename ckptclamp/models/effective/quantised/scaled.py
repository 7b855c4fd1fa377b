"""float8 and int8 codes with scales for the tensor, for rows, for groups or for blocks.

Sources: ``Fp8Dequantize`` of transformers (``weight_scale_inv``), ``dequantize`` of
compressed-tensors (``weight_scale``, ``weight_zero_point``), ComfyUI's ``scale_weight``,
``weight_dequant`` of DeepSeek's inference code (``scale``), and ``int8_vectorwise_dequant`` of
bitsandbytes (``SCB``). In all of them the weight is the code, less its zero point, times its scale,
whatever the scale is called.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ckptclamp.checkpoints.dtypes import DTYPES, Kind
from ckptclamp.models.effective.members import (
    Members,
    NotComputedError,
    dtype_name,
    extents,
    half_step,
)
from ckptclamp.models.effective.numbers import Exponents, Plain
from ckptclamp.models.effective.quantised.grouped import Grouped
from ckptclamp.models.effective.quantised.shared import Groups, Shared
from ckptclamp.models.effective.quantised.stated import check_complete, check_layout

if TYPE_CHECKING:
    from ckptclamp.checkpoints.tensor import Tensor
    from ckptclamp.models.effective.numbers import Numbers

Shape = tuple[int, ...]

OF_ACTIVATIONS = (
    "input_scale", "scale_input", "input_global_scale", "input_zero_point", "output_scale",
)  # fmt: skip
"""Parts that say how activations are quantised, which does not change the weight."""

_SCALES = ("_scale_inv", "_scale", "scale_weight", "scale")
_BLOCK = 128
_SMALLEST = 8
"""Fewer weights than these share no scale: what looks like it are scales along another axis."""


def scaled(members: Members) -> Tensor:
    """Return the weight of codes, one number each, with scales.

    Raises:
        NotComputedError: the shapes or dtypes of the parts do not fit.
    """
    codes, scale = members.need("", "weight"), members.need(*_SCALES)
    known = ("", "weight", *_SCALES, "_zero_point", "_g_idx", "comfy_quant", *OF_ACTIVATIONS)
    members.only(*known)
    if "comfy_quant" in members.tensors and scale.size != 1:
        raise NotComputedError("how ComfyUI lays out several scales of a weight is not known here")
    numbers = _scales(members, codes, scale)
    shared = spread(members, codes.shape, numbers)
    zero, groups = members.get("_zero_point"), members.get("_g_idx")
    if not (isinstance(numbers, Exponents) and numbers.packed):
        check_layout(members, codes.shape, numbers)
    check_complete(members, zeros=zero is not None, index=groups is not None)
    storage = Grouped(
        words=f"{codes.dtype} codes {codes.name} and scales {scale.name}{span(shared, codes.shape)}",
        codes=Plain(codes),
        scales=(shared,),
        zero=None if zero is None else spread(members, codes.shape, plain(zero)),
        groups=None if groups is None else groups_of(groups, codes.shape, shared),
    )
    return members.computed(codes.shape, storage, _roundoff(codes))


def vectorwise(members: Members) -> Tensor:
    """Return the weight of bitsandbytes' int8: code · SCB / 127, one scale for each row.

    Raises:
        NotComputedError: the shapes do not fit, or the codes are in the order of some processor.
    """
    codes, scale, order = members.need("weight"), members.need("SCB"), members.get("weight_format")
    members.only("weight", "SCB", "weight_format")
    if order is not None and (order.size != 1 or int(members.small(order).reshape(-1)[0]) != 0):
        raise NotComputedError("its codes are in an order that only some processors have")
    if len(codes.shape) != 2 or scale.shape != codes.shape[:1]:
        raise NotComputedError(misfit(scale, codes.shape))
    storage = Grouped(
        words=f"int8 codes {codes.name} and scales {scale.name}, one for each row",
        codes=Plain(codes),
        scales=(spread(members, codes.shape, plain(scale)),),
        constant=127.0,
    )
    return members.computed(codes.shape, storage, _roundoff(codes))


def plain(tensor: Tensor) -> Plain:
    """Numbers that are stored as they are.

    Raises:
        NotComputedError: they are no real numbers.
    """
    if tensor.dtype is None or tensor.dtype.kind not in (Kind.FLOAT, Kind.INTEGER):
        raise NotComputedError(f"{tensor.name} is {dtype_name(tensor)}")
    return Plain(tensor)


def _scales(members: Members, codes: Tensor, scale: Tensor) -> Numbers:
    """The scales as their dtype says: floats, exponents, or four exponents to an int32."""
    if scale.dtype is not None and scale.dtype.kind is Kind.FLOAT:
        return Plain(scale)
    if dtype_name(scale) == "uint8":
        return Exponents(scale)
    if dtype_name(scale) == "int32" and codes.shape and len(scale.shape) == len(codes.shape):
        blocks = -(-codes.shape[-1] // _BLOCK)
        if scale.shape[-1] == -(-blocks // 4) and _BLOCK in (_stated(members) or {_BLOCK}):
            return Exponents(scale, packed=True, length=blocks)
    raise NotComputedError(
        f"its scales {scale.name} are {dtype_name(scale)} {extents(scale.shape)}"
    )


def spread(members: Members, shape: Shape, numbers: Numbers) -> Shared:
    """Say which weights of an array of `shape` share each of `numbers`.

    One for all, one for each index of the first axes, or a grid of blocks of one size.

    Raises:
        NotComputedError: the shapes do not fit, or do not tell the size of a block.
    """
    grid, rank = numbers.shape, len(shape)
    if math.prod(grid) == 1:
        return Shared(numbers, shape, ())
    if len(grid) < rank and grid == shape[: len(grid)]:
        return Shared(numbers, (1,) * rank, tuple(range(len(grid))))
    if len(grid) != rank:
        raise NotComputedError(misfit(numbers.tensor, shape))
    stated = _stated(members)
    blocks = tuple(_block(n, k, stated) for n, k in zip(shape, grid, strict=True))
    if None in blocks:
        raise NotComputedError(misfit(numbers.tensor, shape))
    return Shared(numbers, tuple(b for b in blocks if b is not None), tuple(range(rank)))


def _stated(members: Members) -> set[int]:
    return members.stated_integers("weight_block_size", "group_size", "block_structure")


def _block(extent: int, count: int, stated: set[int]) -> int | None:
    """How many of `extent` indices share one of `count` numbers, the last perhaps fewer.

    Blocks are powers of two, of which at most one fits. Where it leaves a rest though an even split
    exists, libraries differ; only the config then tells. ``None`` where nothing fits.
    """
    if count in (1, extent):
        return extent // count
    if not 0 < count < extent:
        return None
    even = extent // count if extent % count == 0 else None
    power = next((2**i for i in range(1, 31) if -(-extent // 2**i) == count), None)
    fit = {size for size in (even, power) if size is not None}
    said = fit & stated or {size for size in fit if size >= _SMALLEST and len(fit) == 1}
    return said.pop() if len(said) == 1 else None


def groups_of(tensor: Tensor, shape: Shape, shared: Shared, axis: int | None = None) -> Groups:
    """The groups of the indices along `axis`, by default the last.

    Raises:
        NotComputedError: there is not one for each index.
    """
    axis = len(shape) - 1 if axis is None else axis
    whole = tensor.dtype is not None and tensor.dtype.kind is Kind.INTEGER
    if axis not in shared.axes or not whole or tensor.shape != (shape[axis],):
        raise NotComputedError(misfit(tensor, shape))
    return Groups(tensor, axis)


def span(shared: Shared, shape: Shape, *, swapped: bool = False) -> str:
    """``, one for 128 x 128 weights``; nothing where one number serves all."""
    if not shared.axes:
        return ""
    spans = tuple(
        shared.blocks[axis] if axis in shared.axes else extent for axis, extent in enumerate(shape)
    )
    return f", one for {extents(spans[::-1] if swapped else spans)} weights"


def misfit(tensor: Tensor, shape: Shape) -> str:
    """Say that a part is not of the shape that the weight calls for."""
    return f"{tensor.name} of shape {extents(tensor.shape)} does not fit its shape {extents(shape)}"


def _roundoff(codes: Tensor) -> float:
    if codes.dtype is None:
        return 0.0
    return codes.dtype.unit_roundoff or half_step(DTYPES[codes.dtype.name].bits)
