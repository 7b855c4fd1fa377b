"""What one value of a spec may be: strict scalars, each refused in a sentence and known to editors."""

from __future__ import annotations

import datetime
import math
import re
import sys
from typing import Annotated, Any, cast

from pydantic import Field, PlainValidator, ValidationInfo, WithJsonSchema
from pydantic_core import PydanticCustomError

from ckptclamp.constraints.registry import BUILTIN
from ckptclamp.constraints.tolerance import History
from ckptclamp.errors import UsageError
from ckptclamp.spec.layout import SIZE, NamedAxes, Size, parse_units
from ckptclamp.spec.model import CustomLayer, axes_in
from ckptclamp.spec.patterns import PatternChecker

REFERENCE = r"-?(?:\d+(?:\.\d+)?\*)?\$\w+"
"""An argument of a declared constraint's config: with a sign and one factor at most."""

AUTO = "auto"
_TOLERANCES = (AUTO, *History)
_TOLERANCE_WORDS = f"{', '.join(_TOLERANCES[:-1])} or {_TOLERANCES[-1]}"

_NUMBER = {"type": "number"}
_SHARE = {"type": "number", "minimum": 0, "exclusiveMaximum": 1}
_PATTERNS = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1},
    ]
}
_AXES = {
    "anyOf": [
        {"type": "integer"},
        {"type": "array", "items": {"type": "integer"}, "minItems": 1, "uniqueItems": True},
    ]
}


def refusal(message: str, hint: str | None = None) -> PydanticCustomError:
    """What a validator raises: a sentence, and advice."""
    return PydanticCustomError("spec", "{message}", {"message": message, "hint": hint})


def shown(value: object) -> str:
    """A value as a message shows it, never long."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        return "a number that no float64 holds"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _strings(value: object) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not values:
        given = "an empty list" if value == [] else shown(value)
        raise refusal(f"expected a pattern or a list of them, not {given}")
    for item in values:
        if not isinstance(item, str) or not item:
            raise refusal(f"expected a pattern, not {shown(item)}", "quote it if it is a name")
    return tuple(values)


def _patterns(value: object, info: ValidationInfo) -> tuple[str, ...]:
    patterns = _strings(value)
    try:
        cast("PatternChecker", info.context).check(patterns)
    except UsageError as error:
        raise refusal(error.message, error.hint) from error
    return patterns


def _axes(value: object) -> tuple[int, ...]:
    axes = axes_in(value)
    if axes is None:
        raise refusal(f"expected an axis such as 0, or a list of them, not {shown(value)}")
    if len(set(axes)) < len(axes):
        raise refusal("one axis is there twice")
    return axes


def _axes_or_all(value: object) -> tuple[int, ...] | None:
    return None if value is None else _axes(value)


def _number(value: object) -> int | float:
    is_nan = isinstance(value, float) and math.isnan(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or is_nan:
        raise refusal(f"expected a number, not {shown(value)}")
    return value


def _number_or_reference(value: object) -> int | float | str:
    if isinstance(value, str):
        if not re.fullmatch(REFERENCE, value):
            hint = "an argument of the model's own config is written $name, -$name or 2*$name"
            raise refusal(f"expected a number, not {shown(value)}", hint)
        return value
    return _number(value)


def _tolerance(value: object) -> float | History | None:
    if isinstance(value, str) and value in _TOLERANCES:
        return None if value == AUTO else History(value)
    hint = "a tolerance is relative: 0.01 is one percent"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refusal(f"expected a number, {_TOLERANCE_WORDS}, not {shown(value)}", hint)
    if not 0 <= value < 1:
        raise refusal(f"a tolerance of {shown(value)} makes no sense", hint)
    return float(value)


def _named_axes(value: object) -> NamedAxes:
    if not isinstance(value, str):
        raise refusal(f"expected axes by name, not {shown(value)}", "such as (head dim) in -> head")
    try:
        return parse_units(value)
    except UsageError as error:
        raise refusal(error.message, error.hint) from error


def _size(value: object) -> Size:
    if isinstance(value, str) and re.fullmatch(SIZE, value):
        return value
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        hint = "a number of the model's config.json is written $name"
        raise refusal(f"expected how many there are, not {shown(value)}", hint)
    return value


def _epsilon(value: object) -> float:
    hint = "it is what keras.config.set_epsilon was given: 1e-7 if it was not called"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refusal(f"expected a number, not {shown(value)}", hint)
    if not 0 <= value < 1:
        raise refusal(f"an epsilon of {shown(value)} makes no sense", hint)
    return float(value)


_UNCONSTRAINED = "unconstrained"


def _custom_layer(value: object) -> CustomLayer | None:
    """``None`` is a class whose code sets no constraint."""
    if value == _UNCONSTRAINED:
        return None
    if not isinstance(value, dict) or not value:
        hint = "or a mapping: like: Conv2D, or kernel_constraint: kernel"
        raise refusal(f"expected {_UNCONSTRAINED}, not {shown(value)}", hint)
    if "like" not in value:
        return CustomLayer(weights={key: _names(key, names) for key, names in value.items()})
    if len(value) > 1:
        raise refusal("a class that is like another has that one's weights", "leave out the others")
    return CustomLayer(like=_layer_class(value["like"]))


def _names(key: object, value: object) -> tuple[str, ...]:
    if not isinstance(key, str) or not key:
        raise refusal(f"expected an argument such as kernel_constraint, not {shown(key)}")
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not names or not all(map(_is_name, names)):
        hint = "such as kernel; or vars/0 where a file has no names"
        raise refusal(f"{key}: expected the name of a weight, not {shown(value)}", hint)
    return tuple(names)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _layer_class(value: object) -> str:
    from ckptclamp.models.keras.other_packages import layer_names

    if not isinstance(value, str) or value not in layer_names():
        import difflib

        close = difflib.get_close_matches(str(value), sorted(layer_names()), n=1)
        hint = f"did you mean {close[0]}?" if close else "such as Dense, Conv2D or LSTM"
        raise refusal(f"expected a class of layers that is known here, not {shown(value)}", hint)
    return value


def _date(value: object) -> datetime.date:
    if type(value) is datetime.date:
        return value
    try:
        return datetime.date.fromisoformat(value if isinstance(value, str) else "")
    except ValueError as error:
        raise refusal(f"expected a date such as 2030-12-31, not {shown(value)}") from error


def _version(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value != 1:
        raise refusal(f"{shown(value)} is not known here", "write version: 1")
    return value


def optional(description: str) -> Any:  # noqa: ANN401 - a field's default, of any type
    """A field that may be left out, but is never null."""
    return Field(default_factory=lambda: None, description=description)


Patterns = Annotated[tuple[str, ...], PlainValidator(_patterns), WithJsonSchema(_PATTERNS)]
Axes = Annotated[tuple[int, ...], PlainValidator(_axes), WithJsonSchema(_AXES)]
AxesOrAll = Annotated[
    tuple[int, ...] | None,
    PlainValidator(_axes_or_all),
    WithJsonSchema({"anyOf": [*_AXES["anyOf"], {"type": "null"}]}),
]
Number = Annotated[float, PlainValidator(_number), WithJsonSchema(_NUMBER)]
NumberOrReference = Annotated[
    float | str,
    PlainValidator(_number_or_reference),
    WithJsonSchema({"anyOf": [_NUMBER, {"type": "string", "pattern": f"^{REFERENCE}$"}]}),
]
Tolerance = Annotated[
    float | History | None,
    PlainValidator(_tolerance),
    WithJsonSchema({"anyOf": [{"enum": list(_TOLERANCES)}, _SHARE]}),
]
UnitsByName = Annotated[
    NamedAxes, PlainValidator(_named_axes), WithJsonSchema({"type": "string", "pattern": "->"})
]
SIZE_SCHEMA = {
    "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": f"^{SIZE}$"}]
}
Extent = Annotated[int | str, PlainValidator(_size), WithJsonSchema(SIZE_SCHEMA)]
Epsilon = Annotated[float, PlainValidator(_epsilon), WithJsonSchema(_SHARE)]
Date = Annotated[
    datetime.date, PlainValidator(_date), WithJsonSchema({"type": "string", "format": "date"})
]
Version = Annotated[int, PlainValidator(_version), WithJsonSchema({"const": 1})]
LayerMeaning = Annotated[
    CustomLayer | None,
    PlainValidator(_custom_layer),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": _UNCONSTRAINED},
                {
                    "type": "object",
                    "properties": {"like": {"type": "string", "minLength": 1}},
                    "required": ["like"],
                    "additionalProperties": False,
                },
                {
                    "type": "object",
                    "propertyNames": {"not": {"const": "like"}, "minLength": 1},
                    "additionalProperties": _PATTERNS,
                    "minProperties": 1,
                },
            ]
        }
    ),
]
Name = Annotated[str, Field(min_length=1)]
ConstraintName = Annotated[
    Name, WithJsonSchema({"anyOf": [{"enum": list(BUILTIN)}, {"type": "string", "minLength": 1}]})
]
