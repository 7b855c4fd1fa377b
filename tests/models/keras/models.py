"""Small Keras models as plain data: a config, and the tensors that a file of it would have."""

from __future__ import annotations

from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.checkpoints.tensor import Contiguous, KerasLayout, KerasModel, Tensor


def max_norm(bound=2):
    return {
        "module": "keras.constraints",
        "class_name": "MaxNorm",
        "config": {"max_value": bound, "axis": 0},
        "registered_name": None,
    }


def layer(class_name, name, module="keras.layers", registered_name=None, **config):
    """A serialised layer as Keras 3 writes it."""
    return {
        "module": module,
        "class_name": class_name,
        "config": {"name": name, "trainable": True, **config},
        "registered_name": registered_name,
    }


def dense(name="dense", units=3, **config):
    return layer("Dense", name, **{"units": units, "use_bias": True, **config})


def sequential(*layers, name="sequential", **config):
    return {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": name, "trainable": True, "layers": list(layers), **config},
        "registered_name": None,
    }


def tensors(shapes, dtype="float32"):
    """Tensors by name; their bytes are nowhere, for nothing here reads them."""
    return {
        name: Tensor(name, shape, DTYPES[dtype], Contiguous(0, 0)) for name, shape in shapes.items()
    }


def v3(config, shapes, names=None, root=""):
    """A v3 model whose groups are those of its tensors, with `names` for some of them."""
    groups = {
        name.rpartition("/")[0].removesuffix("vars").removesuffix("/"): None for name in shapes
    }
    model = KerasModel(
        KerasLayout.V3, config=config, weights_root=root, group_names={**groups, **(names or {})}
    )
    return model, tensors(shapes)


def legacy(config, weights, version=None):
    """A legacy whole-model file; `weights` maps layers to the names and shapes of their weights."""
    shapes = {
        f"model_weights/{name}/{weight}": shape
        for name, rows in weights.items()
        for weight, shape in rows.items()
    }
    model = KerasModel(
        KerasLayout.LEGACY,
        version=version,
        config=config,
        weights_root="model_weights",
        layer_names=tuple(weights),
        weight_names={name: tuple(rows) for name, rows in weights.items()},
    )
    return model, tensors(shapes)
