"""Integers of a few bits that are packed into words: GPTQ, AWQ, and compressed-tensors.

Sources: the packing of GPTQModel and AutoGPTQ (codes along the inputs, zero points along the outputs;
the format ``gptq`` stores zero points less 1), ``WQLinear_GEMM`` of AutoAWQ (both along the outputs,
in an order of their own), and ``unpack_from_int32`` of compressed-tensors (signed integers as
unsigned ones, the smallest as 0).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ckptclamp.models.effective.members import (
    Members,
    NotComputedError,
    dtype_name,
    extents,
    half_step,
)
from ckptclamp.models.effective.quantised.grouped import Grouped
from ckptclamp.models.effective.quantised.scaled import (
    OF_ACTIVATIONS,
    groups_of,
    misfit,
    plain,
    span,
    spread,
)
from ckptclamp.models.effective.quantised.shared import Shared
from ckptclamp.models.effective.quantised.stated import (
    check_complete,
    check_groups,
    check_layout,
    stated_bits,
)
from ckptclamp.models.effective.quantised.words import OneMore, Packed, packed_words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptclamp.checkpoints.tensor import Tensor

_GPTQ_BITS: Final = (2, 3, 4, 8)
_ONE_MORE: Final[Mapping[str, bool]] = {"gptq": True, "gptq_v2": False}
"""The formats of GPTQ that are known, and whether their zero points are stored less 1."""

_AWQ_ORDER: Final = (0, 4, 1, 5, 2, 6, 3, 7)
"""The place in its word of each of eight outputs."""

_MOST_BITS: Final = 8


def gptq_or_awq(members: Members) -> Tensor:
    """Return the weight of codes packed by GPTQ or by AWQ, outputs first as PyTorch has it.

    Raises:
        NotComputedError: the shapes fit neither, or the config does not tell how zero points are
            stored.
    """
    members.only("qweight", "qzeros", "scales", "g_idx")
    codes, zeros = members.need("qweight"), members.need("qzeros")
    scales = members.need("scales")
    for tensor in (codes, zeros):
        if dtype_name(tensor) != "int32":
            raise NotComputedError(f"{tensor.name} is {dtype_name(tensor)}, not int32")
    if not len(codes.shape) == len(zeros.shape) == len(scales.shape) == 2:
        raise NotComputedError("its codes, zero points and scales are no matrices")
    groups, outputs = scales.shape
    if codes.shape[1] == outputs and zeros.shape[0] == groups:
        return _gptq(members, codes, zeros, scales)
    if codes.shape[1] * 8 == outputs and zeros.shape == (groups, codes.shape[1]):
        return _awq(members, codes, zeros, scales)
    raise NotComputedError(misfit(codes, (groups, outputs)))


def _gptq(members: Members, codes: Tensor, zeros: Tensor, scales: Tensor) -> Tensor:
    one_more = _is_one_more(members)
    groups, outputs = scales.shape
    index = members.get("g_idx")
    bits = _gptq_bits(members, codes, zeros, outputs, index)
    shape = (codes.shape[0] * 32 // bits, outputs)
    check_groups(members, shape[0], groups)
    packed = OneMore if one_more else Packed
    shared = _by_groups(members, shape, scales, indexed=index is not None)
    zero = Shared(packed(zeros, bits, outputs, 1), shared.blocks, shared.axes)
    storage = Grouped(
        words=f"{bits}-bit GPTQ codes {codes.name}, zero points {zeros.name} and scales {scales.name}"
        f"{span(shared, shape, swapped=True) if index is None else ', by group in ' + index.name}",
        codes=Packed(codes, bits, shape[0], 0),
        scales=(shared,),
        zero=zero,
        groups=None if index is None else groups_of(index, shape, shared, 0),
        transposed=True,
    )
    return members.computed(shape[::-1], storage, half_step(bits))


def _gptq_bits(
    members: Members, codes: Tensor, zeros: Tensor, outputs: int, index: Tensor | None
) -> int:
    """The one number of bits with which codes, zero points and the index fit each other."""
    fit = [
        bits
        for bits in _GPTQ_BITS
        if packed_words(outputs, bits) == zeros.shape[1]
        and codes.shape[0] * 32 % bits == 0
        and (index is None or index.shape == (codes.shape[0] * 32 // bits,))
        and bits in (stated_bits(members) or _GPTQ_BITS)
    ]
    if len(fit) != 1:
        raise NotComputedError(
            f"{codes.name} of shape {extents(codes.shape)} and {zeros.name} of shape "
            f"{extents(zeros.shape)} do not tell of how many bits its {outputs} outputs are"
        )
    return fit[0]


def _is_one_more(members: Members) -> bool:
    """Whether zero points are stored less 1.

    Raises:
        NotComputedError: the config does not say, or says what is not known here.
    """
    stated = members.stated
    if stated.get("quant_method") != "gptq":
        raise NotComputedError("no config.json beside it says which format of GPTQ it has")
    said = [stated[key] for key in ("checkpoint_format", "format") if stated.get(key) is not None]
    formats = {_ONE_MORE.get(value) if isinstance(value, str) else None for value in said}
    if not said:
        return True
    if len(formats) != 1 or None in formats:
        raise NotComputedError("the format that config.json states is not known here")
    return formats == {True}


def _by_groups(
    members: Members, shape: tuple[int, int], scales: Tensor, *, indexed: bool
) -> Shared:
    """Scales by groups of inputs and by outputs, of a matrix of inputs and outputs."""
    if indexed:
        return Shared(plain(scales), (1, 1), (0, 1))
    return spread(members, shape, plain(scales))


def _awq(members: Members, codes: Tensor, zeros: Tensor, scales: Tensor) -> Tensor:
    if members.stated.get("version", "gemm") not in ("gemm", "GEMM"):
        raise NotComputedError("the version of AWQ that config.json states is not known here")
    if "g_idx" in members.tensors or members.stated.get("quant_method", "awq") != "awq":
        raise NotComputedError("its shapes are those of AWQ, and something else speaks against it")
    if 4 not in (stated_bits(members) or {4}):
        raise NotComputedError("its shapes are those of 4 bits, and the config states others")
    shape = (codes.shape[0], scales.shape[1])
    shared = spread(members, shape, plain(scales))
    check_groups(members, shape[0], scales.shape[0])
    storage = Grouped(
        words=f"4-bit AWQ codes {codes.name}, zero points {zeros.name} and scales {scales.name}"
        f"{span(shared, shape, swapped=True)}",
        codes=Packed(codes, 4, shape[1], 1, order=_AWQ_ORDER),
        scales=(shared,),
        zero=Shared(Packed(zeros, 4, shape[1], 1, order=_AWQ_ORDER), shared.blocks, shared.axes),
        transposed=True,
    )
    return members.computed(shape[::-1], storage, half_step(4))


def compressed_integers(members: Members) -> Tensor:
    """Return the weight of integers that compressed-tensors packed into int32.

    Raises:
        NotComputedError: the shapes do not fit, or tell no number of bits.
    """
    members.only("_packed", "_scale", "_zero_point", "_shape", "_g_idx", *OF_ACTIVATIONS)
    codes, scale = members.need("_packed"), members.need("_scale")
    if dtype_name(codes) != "int32":
        raise NotComputedError(f"{codes.name} is {dtype_name(codes)}, not int32")
    shape = _whole_shape(members, codes)
    bits = _bits(members, codes, shape)
    offset = -(1 << (bits - 1))
    shared = spread(members, shape, plain(scale))
    zero, index = members.get("_zero_point"), members.get("_g_idx")
    check_layout(members, shape, shared.numbers)
    check_complete(members, zeros=zero is not None, index=index is not None)
    storage = Grouped(
        words=f"{bits}-bit codes {codes.name}{'' if zero is None else f', zero points {zero.name}'} and "
        f"scales {scale.name}{span(shared, shape) if index is None else f', by group in {index.name}'}",
        codes=Packed(codes, bits, shape[-1], len(shape) - 1, offset),
        scales=(shared,),
        zero=None if zero is None else _zero(members, zero, shape, bits),
        groups=None if index is None else groups_of(index, shape, shared),
    )
    return members.computed(shape, storage, half_step(bits))


def _whole_shape(members: Members, codes: Tensor) -> tuple[int, ...]:
    """The weight's shape, which a tensor beside its codes holds."""
    shape = tuple(int(n) for n in members.small(members.need("_shape")).reshape(-1))
    if len(shape) != len(codes.shape) or len(shape) < 2 or shape[:-1] != codes.shape[:-1]:
        raise NotComputedError(misfit(codes, shape))
    return shape


def _bits(members: Members, codes: Tensor, shape: tuple[int, ...]) -> int:
    """The one number of bits with which the codes fill their words.

    Before integers of 3, 5, 6 and 7 bits were packed without gaps, each word held whole ones; where
    both come to as many words, nothing tells which.
    """
    stated = {bits for bits in stated_bits(members) if bits <= _MOST_BITS}
    fit = [
        bits
        for bits in (stated or {4, _MOST_BITS})
        if packed_words(shape[-1], bits) == codes.shape[-1]
        and (32 % bits == 0 or -(-shape[-1] // (32 // bits)) != codes.shape[-1])
    ]
    if len(fit) != 1 or shape[-1] <= 0:
        raise NotComputedError(
            f"{codes.name} of shape {extents(codes.shape)} does not tell with how many bits it "
            f"holds {extents(shape)} integers"
        )
    return fit[0]


def _zero(members: Members, zero: Tensor, shape: tuple[int, ...], bits: int) -> Shared:
    """Zero points, packed along the outputs, or stored one by one."""
    if dtype_name(zero) != "int32":
        return spread(members, shape, plain(zero))
    axis = len(shape) - 2
    if len(zero.shape) != len(shape) or zero.shape[axis] != packed_words(shape[axis], bits):
        raise NotComputedError(misfit(zero, shape))
    return spread(members, shape, Packed(zero, bits, shape[axis], axis, -(1 << (bits - 1))))
