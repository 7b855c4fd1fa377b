"""Checkpoints of nothing but a description: planning reads no weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ckptclamp.checkpoints.checkpoint import Checkpoint
from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.checkpoints.tensor import Constant, KerasLayout, KerasModel, Role, Tensor
from ckptclamp.models.keras.tree import to_snake_case


class Described(Checkpoint):
    """A checkpoint whose tensors are known, and whose weights nobody may ask for."""

    path = Path("described")
    format = "described"
    sources = ()

    def __init__(self, tensors, keras=None):
        self.tensors = {tensor.name: tensor for tensor in tensors}
        self.keras = keras

    def read(self, tensor, box, buffer=None):
        raise AssertionError("planning read a weight")

    def copy_to(self, target):
        raise AssertionError("planning wrote a copy")


def tensor(name, *shape, dtype="float32", role=Role.WEIGHT, aliases=(), storage=None):
    """A described tensor."""
    return Tensor(
        name=name,
        shape=shape,
        dtype=DTYPES.get(dtype),
        storage=storage or Constant(0, b"\0"),
        aliases=aliases,
        role=role,
        dtype_name=dtype,
    )


def keras_model(*layers):
    """A Keras 3 Sequential model of (class, name, config, shapes of its variables), and its tensors."""
    entries: list[dict[str, Any]] = []
    tensors: list[Tensor] = []
    groups: dict[str, str | None] = {}
    for class_name, name, settings, shapes in layers:
        entries.append(
            {
                "class_name": class_name,
                "module": "keras.layers",
                "registered_name": None,
                "config": {"name": name, **settings},
            }
        )
        group = _free_group(f"layers/{to_snake_case(class_name)}", groups)
        groups[group] = name
        tensors += [tensor(f"{group}/vars/{index}", *shape) for index, shape in enumerate(shapes)]
    config = {
        "class_name": "Sequential",
        "module": "keras",
        "config": {"name": "m", "layers": entries},
    }
    return Described(
        tensors,
        KerasModel(layout=KerasLayout.V3, version="3.11.0", config=config, group_names=groups),
    )


def _free_group(group, taken):
    """Keras counts the layers of a class: ``dense``, ``dense_1``."""
    used = sum(name == group or name.startswith(f"{group}_") for name in taken)
    return f"{group}_{used}" if used else group


def max_norm(value, axis=0):
    """MaxNorm as Keras 3 writes it."""
    return {
        "module": "keras.constraints",
        "class_name": "MaxNorm",
        "config": {"max_value": value, "axis": axis},
        "registered_name": None,
    }


def dense(constraint, shape=(8, 4), argument="kernel_constraint"):
    """A model of one Dense layer with a constraint."""
    return keras_model(
        ("Dense", "dense", {"units": shape[-1], argument: constraint}, [shape, shape[-1:]])
    )
