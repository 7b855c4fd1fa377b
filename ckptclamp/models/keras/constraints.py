"""How every generation of Keras writes a constraint down, read as plain data.

Keras 1 writes ``{"name": "MaxNorm", "m": 2}``, Keras 2 ``{"class_name": "MaxNorm", "config": {...}}``
or a bare string, and Keras 2.13 and later add ``module`` and ``registered_name``. Only these last two
tell a built-in constraint from a user's class of the same name. Nothing is imported or called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Final, Literal

from ckptclamp.errors import printable
from ckptclamp.frozen import frozen

Axis = tuple[int, ...] | Literal["whole"]
"""The axes that a norm is taken over; ``whole`` for ``axis=None``, one norm for the whole tensor."""


@frozen
class ParsedConstraint:
    """A serialised constraint: a built-in one, a named one of the user's, or one that stays opaque.

    `builtin` is ``MaxNorm``, ``MinMaxNorm``, ``UnitNorm``, ``NonNeg``, ``RadialConstraint`` or
    ``Constraint`` (the base class, which constrains nothing). Its `config` holds Keras 3's argument
    names with the defaults filled in, without the axis, which is in `axis` (``None`` for
    constraints that have none). `custom` is the name of anything else, as Keras registered it, and
    `config` then stands as it was written. `opaque` is the reason why the constraint cannot be
    known at all, or its settings make no sense.
    """

    builtin: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    axis: Axis | None = None
    custom: str | None = None
    opaque: str | None = None


_DEFAULTS: Final[dict[str, dict[str, Any]]] = {
    "MaxNorm": {"max_value": 2, "axis": 0},
    "MinMaxNorm": {"min_value": 0.0, "max_value": 1.0, "rate": 1.0, "axis": 0},
    "UnitNorm": {"axis": 0},
    "NonNeg": {},
    "RadialConstraint": {},
    "Constraint": {},
}

_STRINGS: Final[dict[str, str]] = {
    **{name: name for name in _DEFAULTS},
    "max_norm": "MaxNorm",
    "maxnorm": "MaxNorm",
    "min_max_norm": "MinMaxNorm",
    "unit_norm": "UnitNorm",
    "unitnorm": "UnitNorm",
    "non_neg": "NonNeg",
    "nonneg": "NonNeg",
    "radial_constraint": "RadialConstraint",
    "constraint": "Constraint",
}
"""What `keras.constraints.get` takes as a string, in Keras 1, 2 and 3."""

_KERAS_1_ARGUMENTS: Final[dict[str, str]] = {
    "m": "max_value",
    "low": "min_value",
    "high": "max_value",
}

_BUILTIN_MODULES: Final = ("keras.constraints", "keras.src.constraints", "tf_keras.constraints",
                           "tf_keras.src.constraints", "tensorflow.keras.constraints",
                           "tensorflow.python.keras.constraints")  # fmt: skip


def parse_constraint(serialised: object) -> ParsedConstraint:
    """Read one serialised constraint of any generation; never raises.

    `serialised` is the value of a ``*_constraint`` argument in a config: a mapping or a string.
    """
    if isinstance(serialised, str):
        return _from_string(serialised)
    if not isinstance(serialised, Mapping):
        return ParsedConstraint(opaque=f"a {type(serialised).__name__} is no serialised constraint")
    if "class_name" in serialised:
        return _from_class(serialised)
    if isinstance(serialised.get("name"), str):
        settings = {key: value for key, value in serialised.items() if key != "name"}
        return _named(serialised["name"], settings)
    return ParsedConstraint(opaque="the mapping has no class_name")


def names_a_builtin(text: str) -> bool:
    """Whether Keras takes `text` for one of its own constraints."""
    return text in _STRINGS


def is_serialised_constraint(value: object) -> bool:
    """Whether `value` is a constraint by its form alone, wherever it stands.

    A module of Keras' constraints says so, and so does the name of a built-in one as the class: a
    user's class of that name is one, too, unless its config is a layer's. A string, or Keras 1's
    ``name``, could be anything.
    """
    if not isinstance(value, Mapping):
        return False
    name, config = value.get("class_name"), value.get("config")
    if _is_of_keras(value.get("module")):
        return True
    is_layer = isinstance(config, Mapping) and "trainable" in config
    return isinstance(name, str) and not is_layer and names_a_builtin(name.rpartition(">")[2])


def _is_of_keras(module: object) -> bool:
    return isinstance(module, str) and any(
        module == known or module.startswith(known + ".") for known in _BUILTIN_MODULES
    )


def _from_string(text: str) -> ParsedConstraint:
    if text in _STRINGS:
        return _builtin(_STRINGS[text], {})
    if text == "<lambda>":
        return ParsedConstraint(opaque="it is a lambda, whose code is not in the file")
    return ParsedConstraint(custom=text)


def _from_class(serialised: Mapping[str, Any]) -> ParsedConstraint:
    name, settings = serialised["class_name"], serialised.get("config")
    if not isinstance(name, str):
        return ParsedConstraint(opaque="its class_name is not a string")
    if name == "__lambda__":
        return ParsedConstraint(opaque="it is a lambda: code, which is never run")
    if name == "function":
        if isinstance(settings, str):
            return ParsedConstraint(custom=settings)
        return ParsedConstraint(opaque="it is a function without a name")
    if not isinstance(settings, (Mapping, type(None))):
        return ParsedConstraint(opaque=f"the config of {printable(name)} is not a mapping")
    return _of_class(serialised, name, settings or {})


def _of_class(
    serialised: Mapping[str, Any], name: str, settings: Mapping[str, Any]
) -> ParsedConstraint:
    """A built-in constraint where nothing says that the class is a user's."""
    registered = serialised.get("registered_name")
    if registered in (None, name):
        if "module" not in serialised:
            return _named(name, settings)
        if _is_of_keras(serialised["module"]) and name in _DEFAULTS:
            return _builtin(name, settings)
    custom = registered if isinstance(registered, str) else name
    return ParsedConstraint(custom=custom, config=settings)


def _named(name: str, settings: Mapping[str, Any]) -> ParsedConstraint:
    """Read the form that has a class name and nothing that says whose class it is."""
    if name in _STRINGS:
        return _builtin(_STRINGS[name], settings)
    return ParsedConstraint(custom=name, config=settings)


def _builtin(name: str, settings: Mapping[str, Any]) -> ParsedConstraint:
    arguments = dict(_DEFAULTS[name])
    for key, value in settings.items():
        known = key if key in arguments else _KERAS_1_ARGUMENTS.get(key, key)
        if known not in arguments:
            return ParsedConstraint(opaque=f"{name} has no setting {printable(key)!r}")
        arguments[known] = value
    axis = None
    if "axis" in arguments:
        axis = _axis(arguments.pop("axis"))
        if axis is None:
            return ParsedConstraint(
                opaque=f"{name}: axis is not an integer, a list of them or null"
            )
    for key, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return ParsedConstraint(opaque=f"{name}: {key} is not a number")
    return ParsedConstraint(builtin=name, config=arguments, axis=axis)


def _axis(value: object) -> Axis | None:
    """The axes as written (negative ones stay negative); ``None`` where they make no sense."""
    if value is None:
        return "whole"
    axes = value if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(axis, int) and not isinstance(axis, bool) for axis in axes):
        return None
    return tuple(axes)
