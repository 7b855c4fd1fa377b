"""What quantisation does to a layer: its variables, and the weights that integers stand for.

After ``model.quantize`` the config still declares the kernel's constraint, but Keras has dropped it:
the kernel holds integers with scales beside it, or was replaced. How Keras 3 stores ``int8`` and
``int4`` kernels is told by the layer's class and checked against every shape. What does not fit, and
every other mode, stays unreadable with the reason.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal

from ckptclamp.checkpoints.dtypes import DTYPES, Kind
from ckptclamp.checkpoints.tensor import KerasLayout, Tensor, Unreadable
from ckptclamp.errors import Reason
from ckptclamp.models.keras.config import as_integer, as_mapping
from ckptclamp.models.keras.dequantised import Dequantised
from ckptclamp.models.keras.layers import Variable, einsum_equation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptclamp.models.keras.model import BoundModel
    from ckptclamp.models.keras.tree import Layer

Shape = tuple[int, ...]

_BIAS_FIRST: Final = ("gptq", "awq")
"""Modes that replace the kernel, and so store it after the bias."""

_AFTER_SCALES: Final = ("reverse_embeddings",)
"""Variables without a constraint, which are stored after the scales of the one before them."""

FLOAT8_HISTORY: Final = "kernel_amax_history"
"""A variable that every layer in float8 has, and no other."""

_LIVE: Final = ("float8",)
"""Modes that keep the kernel in float32, with its constraint."""

_HALF_A_STEP: Final = {"int8": 1 / 254, "int4": 1 / 14}
"""By how much rounding to integers moves a weight, relative to the largest that shares its scale."""

_ATTENTION: Final = {"attention_output/kernel": (0, 1)}
"""The axes that a scale spans, where they are not the first one only."""


class _NotUnderstoodError(Exception):
    """Why the weights cannot be computed."""


def quantised_variables(
    values: Mapping[str, Any], variables: tuple[Variable, ...]
) -> tuple[tuple[Variable, ...], bool]:
    """The variables of a layer with the settings `values`, and whether further ones follow them."""
    mode = _mode(values.get("dtype"))
    if mode is None:
        return _with_lora(values, variables), False
    if mode in _LIVE:
        return variables, True
    if mode in _BIAS_FIRST:
        variables = tuple(sorted(variables, key=lambda variable: variable.name != "bias"))
    return tuple(
        variable
        if variable.name.endswith("bias")
        else replace(variable, quantised=mode, trainable=False)
        for variable in variables
        if variable.name not in _AFTER_SCALES
    ), True


def is_quantised(tensor: Tensor) -> bool:
    """Whether a tensor holds no fractions, so that no float variable can lie in it as it was."""
    return tensor.dtype is not None and tensor.dtype.unit_roundoff == 0.0


def ends_as_float8(shapes: Sequence[tuple[int, ...]], own: int) -> bool:
    """Whether what follows a layer's `own` variables are the three scales and histories of float8.

    An attention layer's config does not tell the mode of the layers inside it.
    """
    ranks = [len(shape) for shape in shapes[own:]]
    return ranks == [0, 1, 0, 1, 0, 1] and len(set(shapes[own + 1 :: 2])) == 1


def find_dequantised(bound: BoundModel) -> dict[str, Tensor]:
    """What each quantised tensor that a layer holds stands for, by the tensor's full name.

    The result keeps the name; its shape and dtype are those of the weight. Where the weight cannot
    be computed its storage is `Unreadable`, with the reason.
    """
    tensors = bound.tensors
    found: dict[str, Tensor] = {}
    for layer in bound.layers:
        for variable, names in bound.stored(layer):
            for name in names:
                if _concerns(variable, tensors[name]):
                    companions = _companions(bound.model.layout, layer, variable, name, tensors)
                    found.setdefault(name, _weight(layer, variable, tensors[name], companions))
    return found


def _mode(dtype: object) -> str | None:
    """``int8`` from a policy object, or from the string of older files (``int8_from_float32``)."""
    policy = as_mapping(dtype)
    mode = as_mapping(policy.get("config")).get("mode")
    if isinstance(mode, str):
        return mode.partition("/")[0]
    if isinstance(dtype, str) and "_from_" in dtype:
        return dtype.partition("_from_")[0].partition("/")[0]
    return None


def _with_lora(values: Mapping[str, Any], variables: tuple[Variable, ...]) -> tuple[Variable, ...]:
    """LoRA freezes the kernel; only the legacy layout stores the two matrices beside it."""
    if not as_integer(values.get("lora_rank")):
        return variables
    changed = (
        replace(v, trainable=False) if v.name in ("kernel", "embeddings") else v for v in variables
    )
    kernel = variables[0].name
    matrices = [Variable(f"lora_{kernel}_{side}", legacy_only=True) for side in "ab"]
    return (*changed, *matrices)


def _concerns(variable: Variable, tensor: Tensor) -> bool:
    if variable.quantised is not None:
        return True
    return variable.argument is not None and is_quantised(tensor)


def _companions(
    layout: KerasLayout, layer: Layer, variable: Variable, name: str, tensors: Mapping[str, Tensor]
) -> list[Tensor]:
    """The tensors that follow a layer's own: scales, then zero points and groups if there are any."""
    group, _, last = name.rpartition("/")
    if layout is KerasLayout.LEGACY:
        own = last.partition(":")[0]
        names = [f"{own}_scale", f"{own}_zero", "g_idx"]
    else:
        own_count = sum(other.place == variable.place for other in layer.variables)
        names = [str(own_count + number) for number in range(3)]
    found = (tensors.get(f"{group}/{name}") for name in names)
    return [tensor for tensor in itertools.takewhile(bool, found) if tensor is not None]


def _weight(
    layer: Layer, variable: Variable, tensor: Tensor, companions: Sequence[Tensor]
) -> Tensor:
    mode = variable.quantised or _guessed(variable, tensor)
    try:
        shape, storage = _understood(mode, layer, variable, tensor, companions)
    except _NotUnderstoodError as why:
        reason = f"it is quantised to {mode}, and its weights cannot be computed: {why}"
        return replace(tensor, storage=Unreadable(Reason("not-computed", reason)))
    dtype = replace(DTYPES["float32"], unit_roundoff=_HALF_A_STEP[mode])
    return replace(tensor, shape=shape, dtype=dtype, storage=storage)


def _guessed(variable: Variable, tensor: Tensor) -> str:
    """The mode of a layer whose config does not tell, as an attention layer's does not."""
    if tensor.dtype is None or tensor.dtype.name != "int8":
        return str(tensor.dtype)
    return "int8" if variable.agrees(tensor.shape) else "int4"


def _understood(
    mode: str, layer: Layer, variable: Variable, tensor: Tensor, companions: Sequence[Tensor]
) -> tuple[Shape, Dequantised]:
    if mode not in _HALF_A_STEP:
        raise _NotUnderstoodError(f"how {mode} kernels are stored is not known here")
    if tensor.dtype is None or tensor.dtype.name != "int8":
        raise _NotUnderstoodError(f"the file holds {tensor.dtype}")
    if not companions:
        raise _NotUnderstoodError("the file holds no scales for it")
    shape = tensor.shape if mode == "int8" else _whole_shape(variable, tensor, companions[0])
    if not variable.agrees(shape):
        raise _NotUnderstoodError(f"it has shape {shape}, and the config implies {variable.shape}")
    matrix, kept = _matrix(mode, layer, variable, shape)
    storage = Dequantised(
        values=tensor,
        scale=companions[0],
        matrix=matrix,
        kept=kept,
        packed=_packed(tensor, matrix) if mode == "int4" else None,
        rank=len(shape),
    )
    spanned = _spanned(mode, layer, variable, shape)
    if mode == "int4" and len(companions[0].shape) == 2:
        storage = _grouped(storage, companions)
        along = _scaled_axes(shape, spanned, kept, companions[0].shape[kept : kept + 1])
        if along is not None:
            storage = replace(storage, scaled=(None, *along) if kept else (*along, None))
    elif companions[0].size == matrix[kept]:
        storage = replace(storage, scaled=_scaled_axes(shape, spanned, kept, companions[0].shape))
    else:
        raise _NotUnderstoodError(f"it has {companions[0].size} scales, not {matrix[kept]}")
    if companions[0].dtype is None or companions[0].dtype.kind is not Kind.FLOAT:
        raise _NotUnderstoodError(f"its scales are {companions[0].dtype}")
    return shape, storage


def _scaled_axes(
    shape: Shape, spanned: tuple[int, ...], kept: int, scales: Shape
) -> tuple[int | None, ...] | None:
    """The axis of a weight that each axis of its scales runs along, ``None`` for one of extent 1.

    Nothing where scales of several axes lie in one, or where the axes that a scale spans are not those
    on their side of the matrix: its other side, `kept`, is then made of all of them.
    """
    axes = tuple(axis for axis in range(len(shape)) if axis not in spanned)
    if ((*spanned, *axes) if kept else (*axes, *spanned)) != tuple(range(len(shape))):
        return None
    left, found = list(axes), list[int | None]()
    for extent in scales:
        along = left[0] if left and extent == shape[left[0]] else None
        if along is None and extent > 1:
            return None
        found.append(along)
        left = left if along is None else left[1:]
    return None if left else tuple(found)


def _whole_shape(variable: Variable, tensor: Tensor, scale: Tensor) -> Shape:
    """The shape of a packed kernel; where the config leaves one size open, its bytes tell it."""
    shape = variable.shape or ()
    known = [size for size in shape if size is not None]
    if not shape or len(known) < len(shape) - 1:
        raise _NotUnderstoodError("the config does not tell its shape")
    if len(known) == len(shape):
        return tuple(known)
    columns = scale.shape[-1] if scale.shape else 0
    size, rest = math.prod(tensor.shape[:1]) * columns, math.prod(known)
    if columns < 2 or tensor.shape[1:] != (-(-columns // 2),) or rest == 0 or size % rest:
        raise _NotUnderstoodError("the config does not tell its shape")
    return tuple(size // rest if extent is None else extent for extent in shape)


def _matrix(
    mode: str, layer: Layer, variable: Variable, shape: Shape
) -> tuple[tuple[int, int], Literal[0, 1]]:
    """The matrix that the weight's elements form, and its axis along which scales differ."""
    spanned = _spanned(mode, layer, variable, shape)
    rows = math.prod(shape[axis] for axis in spanned)
    columns = math.prod(shape) // max(rows, 1)
    if variable.name == "embeddings":
        return (columns, rows), 0
    leading = spanned == tuple(range(len(spanned)))
    if mode == "int8" and not leading:
        if spanned != tuple(range(len(shape)))[-len(spanned) :]:
            raise _NotUnderstoodError("its scales span axes that do not lie together")
        return (columns, rows), 0
    return (rows, columns), 1


def _spanned(mode: str, layer: Layer, variable: Variable, shape: Shape) -> Shape:
    """The axes that one scale spans: those that the layer contracts."""
    if variable.name == "embeddings":
        return (1,)
    if "/" in variable.name:
        return _ATTENTION.get(variable.name, (0,))
    if variable.name != "kernel" or layer.class_name not in ("Dense", "EinsumDense"):
        raise _NotUnderstoodError(f"Keras quantises no {layer.class_name}")
    if layer.class_name == "Dense":
        return (0,)
    equation = einsum_equation(layer.config)
    if equation is None or len(equation["kernel"]) != len(shape):
        raise _NotUnderstoodError("its equation cannot be read")
    kernel, output = equation["kernel"], equation["output"]
    kept = [label for label in output if label in kernel]
    if mode == "int8" and kept != [label for label in kernel if label in output]:
        raise _NotUnderstoodError("its scales are in another order than its weights")
    return tuple(axis for axis, label in enumerate(kernel) if label not in output)


def _packed(tensor: Tensor, matrix: tuple[int, int]) -> Literal[0, 1]:
    """The axis along which two integers share a byte: the last one, the first before Keras 3.15."""
    rows, columns = matrix
    if tensor.shape == (rows, -(-columns // 2)):
        return 1
    if tensor.shape == (-(-rows // 2), columns):
        return 0
    raise _NotUnderstoodError(f"shape {tensor.shape} is no packed matrix of shape {matrix}")


def _grouped(storage: Dequantised, companions: Sequence[Tensor]) -> Dequantised:
    """Scales for blocks of the contracted axis, with zero points."""
    if len(companions) < 3:
        raise _NotUnderstoodError("the file holds no zero points and groups for its scales")
    scale, zero, groups = companions
    kept, length = storage.matrix[storage.kept], storage.matrix[1 - storage.kept]
    if scale.shape[storage.kept] != kept or zero.shape != scale.shape or groups.shape != (length,):
        raise _NotUnderstoodError("its scales, zero points and groups do not fit its shape")
    if zero.dtype is None or zero.dtype.name != "int8":
        raise _NotUnderstoodError(f"its zero points are {zero.dtype}")
    if groups.dtype is None or groups.dtype.kind not in (Kind.FLOAT, Kind.INTEGER):
        raise _NotUnderstoodError(f"its groups are {groups.dtype}")
    return replace(storage, zero=zero, groups=groups)
