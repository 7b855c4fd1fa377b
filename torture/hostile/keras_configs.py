"""Model configs that try to run code, or say of a constraint what makes no sense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.checkpoints.keras_files import METADATA, pack, weights
from torture.hostile.case import NOTHING, PASSED, REFUSED, VIOLATED, Make, cases

KERNEL = np.full((2, 2), 0.9, np.float32)


def layer(constraint: Any, **config: Any) -> dict[str, Any]:
    """A Dense layer that declares `constraint` of its kernel."""
    defaults = {"name": "dense", "units": 2, "use_bias": False}
    config = {**defaults, "kernel_constraint": constraint, **config}
    return {"module": "keras.layers", "class_name": "Dense", "config": config}


def model(*layers: Any, **config: Any) -> dict[str, Any]:
    """A Sequential model of these layers."""
    config = {"name": "sequential", "layers": list(layers), **config}
    return {"module": "keras", "class_name": "Sequential", "config": config}


def archive(config: Any, arrays: Any = KERNEL) -> Make:
    """A ``.keras`` file with this config and one Dense kernel."""

    def make(directory: Path) -> Path:
        contents = {
            "metadata.json": METADATA,
            "config.json": config if isinstance(config, bytes) else json.dumps(config).encode(),
            "model.weights.h5": weights({"dense": arrays}),
        }
        return pack(directory / "model.keras", contents)

    return make


def declared(class_name: Any, **values: Any) -> Make:
    """A Dense layer with this constraint of ``keras.constraints``."""
    serialised = {"module": "keras.constraints", "class_name": class_name, "config": values}
    return archive(model(layer(serialised)))


def legacy(config: Any, **attributes: Any) -> Make:
    """An ``.h5`` file with this ``model_config``, and one layer."""

    def make(directory: Path) -> Path:
        path = directory / "model.h5"
        with h5py.File(path, "w") as file:
            file.attrs["model_config"] = config if isinstance(config, str) else json.dumps(config)
            group = file.create_group("model_weights")
            group.attrs["layer_names"] = attributes.get("layer_names", ["dense"])
            group["dense/dense/kernel:0"] = KERNEL
            group["dense"].attrs["weight_names"] = attributes.get(
                "weight_names", ["dense/kernel:0"]
            )
        return path

    return make


def nested(depth: int) -> Any:
    """Models inside models."""
    inner = model(layer({"class_name": "MaxNorm", "config": {"max_value": 1, "axis": 0}}))
    for _ in range(depth):
        inner = model(inner)
    return inner


def code(module: str, name: str, **config: Any) -> Make:
    """A constraint that is a Python object of any module."""
    evil = {"module": module, "class_name": name, "config": config, "registered_name": name}
    return archive(model(layer(evil)))


LAMBDA = {
    "class_name": "Lambda",
    "config": {
        "name": "l",
        "function": {"class_name": "__lambda__", "config": {"code": "4wEAAAA="}},
    },
}
MAX_NORM = {"class_name": "MaxNorm", "config": {"max_value": 1, "axis": 0}}
NAN, INF = float("nan"), float("inf")

CASES = cases(
    "config",
    (
        ("sound", declared("MaxNorm", max_value=1, axis=0), VIOLATED, "MaxNorm"),
        ("runs a command", code("os", "system", command="touch executed"), REFUSED, "system"),
        ("evaluates", code("builtins", "eval", source="1"), REFUSED, "eval"),
        ("imports a module", code("torture.hostile.evil", "Evil"), REFUSED, "Evil"),
        (
            "named as ours",
            code("ckptclamp.constraints.sets.norms", "MaxNorm", max_value=1, axis=0),
            REFUSED,
            "",
        ),
        ("lambda layer", archive(model(LAMBDA, layer(MAX_NORM))), VIOLATED, ""),
        ("maximum not a number", declared("MaxNorm", max_value=NAN, axis=0), REFUSED, ""),
        ("maximum infinite", declared("MaxNorm", max_value=INF, axis=0), PASSED, ""),
        ("maximum negative", declared("MaxNorm", max_value=-1, axis=0), REFUSED, "-1"),
        ("maximum a string", declared("MaxNorm", max_value="2", axis=0), REFUSED, ""),
        ("maximum a boolean", declared("MaxNorm", max_value=True, axis=0), REFUSED, ""),
        ("maximum a list", declared("MaxNorm", max_value=[2], axis=0), REFUSED, ""),
        ("maximum of 4000 digits", declared("MaxNorm", max_value=10**4000, axis=0), REFUSED, ""),
        ("maximum missing", declared("MaxNorm", axis=0), PASSED, ""),
        (
            "unknown parameter",
            declared("MaxNorm", max_value=2, axis=0, epsilon=9),
            REFUSED,
            "epsilon",
        ),
        ("axis out of range", declared("MaxNorm", max_value=2, axis=7), REFUSED, "7"),
        ("axis a string", declared("MaxNorm", max_value=2, axis="0"), REFUSED, ""),
        ("axis a float", declared("MaxNorm", max_value=2, axis=0.5), REFUSED, ""),
        ("axis twice", declared("MaxNorm", max_value=2, axis=[0, 0]), REFUSED, ""),
        ("axis of a million", declared("MaxNorm", max_value=2, axis=[0] * 100_000), REFUSED, ""),
        (
            "rate of 2",
            declared("MinMaxNorm", min_value=0, max_value=1, rate=2, axis=0),
            REFUSED,
            "rate",
        ),
        (
            "minimum over maximum",
            declared("MinMaxNorm", min_value=3, max_value=1, axis=0),
            REFUSED,
            "",
        ),
        ("unknown class", declared("MaxNorn", max_value=1), REFUSED, "MaxNorn"),
        ("class with escape codes", declared("\x1b[2J"), REFUSED, "\x1b[2J"),
        ("class is a number", declared(7), REFUSED, ""),
        ("class is a list", declared(["MaxNorm"]), REFUSED, ""),
        ("constraint is a number", archive(model(layer(7))), REFUSED, ""),
        ("constraint is a list", archive(model(layer([MAX_NORM]))), REFUSED, ""),
        ("constraint is true", archive(model(layer(True))), REFUSED, ""),
        ("constraint is empty", archive(model(layer({}))), REFUSED, ""),
        (
            "layers are a number",
            archive({"class_name": "Sequential", "config": {"layers": 7}}),
            NOTHING,
            "",
        ),
        ("layer is a number", archive(model(7, layer(MAX_NORM))), VIOLATED, ""),
        ("config is a string", archive({"class_name": "Sequential", "config": "x"}), NOTHING, ""),
        ("names are numbers", archive(model(layer(MAX_NORM, name=7))), REFUSED, ""),
        (
            "layer without weights",
            archive(model(layer(MAX_NORM), layer(MAX_NORM, name="b"))),
            REFUSED,
            "",
        ),
        (
            "weight of another shape",
            archive(model(layer(MAX_NORM)), np.ones(3, np.float32)),
            REFUSED,
            "",
        ),
        ("models in models", archive(nested(60)), REFUSED, ""),
        ("kernel not a number", archive(model(layer(MAX_NORM)), KERNEL * NAN), VIOLATED, "kernel"),
        ("nothing declared", archive(model(layer(None))), NOTHING, ""),
        ("legacy sound", legacy(model(layer(MAX_NORM))), VIOLATED, "MaxNorm"),
        ("legacy no JSON", legacy("{"), REFUSED, "JSON"),
        ("legacy twice", legacy('{"class_name":"a","class_name":"b"}'), REFUSED, "twice"),
        ("legacy deep", legacy("[" * 5000 + "]" * 5000), REFUSED, "deep"),
        ("legacy a list", legacy("[]"), REFUSED, ""),
        ("legacy lambda", legacy(model(LAMBDA, layer(MAX_NORM))), VIOLATED, ""),
        (
            "legacy layer unlisted",
            legacy(model(layer(MAX_NORM)), layer_names=["other"]),
            REFUSED,
            "",
        ),
        (
            "legacy layer twice",
            legacy(model(layer(MAX_NORM)), layer_names=["dense", "dense"]),
            VIOLATED,
            "",
        ),
        (
            "legacy names are numbers",
            legacy(model(layer(MAX_NORM)), layer_names=[1, 2]),
            REFUSED,
            "",
        ),
        (
            "legacy weight is missing",
            legacy(model(layer(MAX_NORM)), weight_names=["gone"]),
            REFUSED,
            "",
        ),
        (
            "legacy weight above",
            legacy(model(layer(MAX_NORM)), weight_names=["../../w"]),
            REFUSED,
            "",
        ),
        (
            "legacy weight unnamed",
            legacy(model(layer(MAX_NORM)), weight_names=np.array([], "S1")),
            REFUSED,
            "",
        ),
    ),
    spec=None,
)
