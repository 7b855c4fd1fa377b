"""What quantisation does to a layer's variables.

After ``model.quantize`` the config still declares the kernel's constraint, but Keras has dropped it:
the kernel holds integers with scales beside it, or was replaced. `dequantisation` finds the weight
that they stand for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from ckptclamp.models.keras.config import as_integer, as_mapping
from ckptclamp.models.keras.layers import Variable

_BIAS_FIRST: Final = ("gptq", "awq")
"""Modes that replace the kernel, and so store it after the bias."""

_AFTER_SCALES: Final = ("reverse_embeddings",)
"""Variables without a constraint, which are stored after the scales of the one before them."""

FLOAT8_HISTORY: Final = "kernel_amax_history"
"""A variable that every layer in float8 has, and no other."""

_LIVE: Final = ("float8",)
"""Modes that keep the kernel in float32, with its constraint."""


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


def ends_as_float8(shapes: Sequence[tuple[int, ...]], own: int) -> bool:
    """Whether what follows a layer's `own` variables are the three scales and histories of float8.

    An attention layer's config does not tell the mode of the layers inside it.
    """
    ranks = [len(shape) for shape in shapes[own:]]
    return ranks == [0, 1, 0, 1, 0, 1] and len(set(shapes[own + 1 :: 2])) == 1


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
    changed: list[Variable] = []
    for variable in variables:
        if variable.name in ("kernel", "embeddings"):
            changed.append(replace(variable, trainable=False))
        else:
            changed.append(variable)
    kernel = variables[0].name
    matrices = [Variable(f"lora_{kernel}_{side}", legacy_only=True) for side in "ab"]
    return (*changed, *matrices)
