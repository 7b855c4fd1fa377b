"""Friendly names for tensors: ``dense/kernel`` for ``layers/dense_3/vars/0``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptclamp.keras_config.layer_table import Variable
    from ckptclamp.keras_config.model_tree import Layer


def variable_label(layer: Layer, variable: Variable) -> str:
    """The names of the layers in the config, and the variable's own."""
    return "/".join((*layer.path, variable.name))
