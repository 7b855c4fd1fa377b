"""What one value of a spec may be: strict scalars, each refused in a sentence and known to editors."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable
from typing import Any

from ckptclamp.constraints.registry import BUILTIN
from ckptclamp.constraints.tolerance import History
from ckptclamp.errors import UsageError, printable
from ckptclamp.spec.forms import Checked, MapOf, Schema, shown
from ckptclamp.spec.model import CustomLayer, NamedAxes, Size, axes_in
from ckptclamp.spec.patterns import PatternChecker

REFERENCE = r"-?(?:\d+(?:\.\d+)?\*)?\$\w+"
"""An argument of a declared constraint's config: with a sign and one factor at most."""

SIZE = r"\$\w+(?:\.\w+)*"
"""A number of the model's config; dots lead into its parts: ``$text_config.num_attention_heads``."""

_TOKEN = re.compile(r"\s*(->|[()]|[A-Za-z_]\w*|\S)")
_EXAMPLE = "such as (head dim) in -> head"
_MOST_NAMES = 32
"""More than NumPy has axes would be no layout of a weight."""

_AUTO = "auto"
_TOLERANCES = (_AUTO, *History)
_TOLERANCE_WORDS = f"{', '.join(_TOLERANCES[:-1])} or {_TOLERANCES[-1]}"
_UNCONSTRAINED = "unconstrained"

_WORD: Schema = {"type": "string", "minLength": 1}
_NUMBER: Schema = {"type": "number"}
_SHARE: Schema = {"type": "number", "minimum": 0, "exclusiveMaximum": 1}
_WORDS: Schema = {"anyOf": [_WORD, {"type": "array", "items": _WORD, "minItems": 1}]}
_AXES: Schema = {
    "anyOf": [
        {"type": "integer"},
        {"type": "array", "items": {"type": "integer"}, "minItems": 1, "uniqueItems": True},
    ]
}


class _Patterns(Checked[tuple[str, ...]]):
    """One pattern or several, which are checked with all others of their spec."""

    def checked(self, value: object, patterns: PatternChecker) -> tuple[str, ...]:
        found = self.check(value)
        patterns.check(found)
        return found


def _strings(value: object) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not values:
        given = "an empty list" if value == [] else shown(value)
        raise UsageError(f"expected a pattern or a list of them, not {given}")
    for item in values:
        if not isinstance(item, str) or not item:
            hint = "quote it if it is a name"
            raise UsageError(f"expected a pattern, not {shown(item)}", hint=hint)
    return tuple(values)


def _text(pattern: str) -> Callable[[object], str]:
    """The check of text that `pattern` matches; what it does not match is empty, or no name."""

    def check(value: object) -> str:
        if not isinstance(value, str):
            raise UsageError(f"expected text, not {shown(value)}")
        if not re.fullmatch(pattern, value, re.DOTALL):
            raise UsageError(f"{shown(value)} is no name" if value.strip() else "is empty")
        return value

    return check


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"expected true or false, not {shown(value)}")
    return value


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"expected an integer, not {shown(value)}")
    return value


def _axes(value: object) -> tuple[int, ...]:
    axes = axes_in(value)
    if axes is None:
        other = " (all of them are `axis: null`)" if value == "all" else ""
        raise UsageError(
            f"expected an axis such as 0, or a list of them, not {shown(value)}{other}"
        )
    if len(set(axes)) < len(axes):
        raise UsageError("one axis is there twice")
    return axes


def _number(value: object, hint: str | None = None) -> float:
    is_nan = isinstance(value, float) and math.isnan(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or is_nan:
        raise UsageError(f"expected a number, not {shown(value)}", hint=hint)
    return value


def _number_or_reference(value: object) -> float | str:
    if isinstance(value, str) and re.fullmatch(REFERENCE, value):
        return value
    hint = "an argument of the model's own config is written $name, -$name or 2*$name"
    return _number(value, hint if isinstance(value, str) else None)


def _tolerance(value: object) -> float | History | None:
    if isinstance(value, str) and value in _TOLERANCES:
        return None if value == _AUTO else History(value)
    hint = "a tolerance is relative: 0.01 is one percent"
    return _share(value, f"a number, {_TOLERANCE_WORDS}", "a tolerance", hint)


def _epsilon(value: object) -> float:
    hint = "it is what keras.config.set_epsilon was given: 1e-7 if it was not called"
    return _share(value, "a number", "an epsilon", hint)


def _share(value: object, expected: str, what: str, hint: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"expected {expected}, not {shown(value)}", hint=hint)
    if not 0 <= value < 1:
        raise UsageError(f"{what} of {shown(value)} makes no sense", hint=hint)
    return float(value)


def _named_axes(value: object) -> NamedAxes:
    if not isinstance(value, str):
        raise UsageError(f"expected axes by name, not {shown(value)}", hint=_EXAMPLE)
    return parse_units(value)


def parse_units(text: str) -> NamedAxes:
    """Parse ``(head dim) in -> head``, einops' notation.

    On the left one name for each axis, or several in parentheses for an axis that holds them one in the
    other, the first one outermost; on the right the axes that are kept. Everything else is the unit.

    Raises:
        UsageError: it is not of that form.
    """
    tokens = _TOKEN.findall(text)
    if tokens.count("->") != 1:
        raise UsageError("needs one `->`", hint=_EXAMPLE)
    arrow = tokens.index("->")
    axes = _grouped(tokens[:arrow])
    kept = tuple(tokens[arrow + 1 :])
    names = [name for axis in axes for name in axis]
    for side, given in (("left", names), ("right", kept)):
        twice = next((name for name in given if given.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f"names {printable(twice)} twice on the {side}")
    unknown = next((name for name in kept if name not in names), None)
    if unknown is not None:
        raise UsageError(f"keeps {printable(unknown)}, which is no axis on the left")
    if len(names) > _MOST_NAMES:
        raise UsageError(f"names {len(names)} axes; at most {_MOST_NAMES} are understood")
    if names and len(kept) == len(names):
        raise UsageError(
            "keeps every axis, so that each weight would be a unit",
            hint="Clip bounds each weight by itself",
        )
    return NamedAxes(text, axes, tuple(name for name in names if name in kept))


def _grouped(tokens: list[str]) -> tuple[tuple[str, ...], ...]:
    """One tuple of names for each axis."""
    axes: list[tuple[str, ...]] = []
    group: list[str] | None = None
    for word in tokens:
        if word == "(" and group is None:
            group = []
        elif word == ")" and group:
            axes.append(tuple(group))
            group = None
        elif not word.isidentifier():
            raise UsageError(f"{printable(word)!r} has no place there", hint=_EXAMPLE)
        elif group is None:
            axes.append((word,))
        else:
            group.append(word)
    if group is not None:
        raise UsageError("a parenthesis is not closed")
    if not axes:
        raise UsageError("names no axis on the left")
    return tuple(axes)


def _extent(value: object) -> Size:
    if isinstance(value, str) and re.fullmatch(SIZE, value):
        return value
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        hint = "a number of the model's config.json is written $name"
        raise UsageError(f"expected how many there are, not {shown(value)}", hint=hint)
    return value


def _custom_layer(value: object) -> CustomLayer | None:
    """``None`` is a class whose code sets no constraint."""
    if value == _UNCONSTRAINED:
        return None
    if not isinstance(value, dict) or not value:
        hint = "or a mapping: like: Conv2D, or kernel_constraint: kernel"
        raise UsageError(f"expected {_UNCONSTRAINED}, not {shown(value)}", hint=hint)
    if "like" not in value:
        return CustomLayer(weights={key: _names(key, names) for key, names in value.items()})
    if len(value) > 1:
        raise UsageError(
            "a class that is like another has that one's weights", hint="leave out the others"
        )
    return CustomLayer(like=_layer_class(value["like"]))


def _names(key: object, value: object) -> tuple[str, ...]:
    if not isinstance(key, str) or not key:
        raise UsageError(f"expected an argument such as kernel_constraint, not {shown(key)}")
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not names or not all(map(_is_name, names)):
        hint = "such as kernel; or vars/0 where a file has no names"
        raise UsageError(f"{key}: expected the name of a weight, not {shown(value)}", hint=hint)
    return tuple(names)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _layer_class(value: object) -> str:
    from ckptclamp.models.keras.layers.packages import layer_names

    if not isinstance(value, str) or value not in layer_names():
        import difflib

        close = difflib.get_close_matches(str(value), sorted(layer_names()), n=1)
        hint = f"did you mean {close[0]}?" if close else "such as Dense, Conv2D or LSTM"
        raise UsageError(
            f"expected a class of layers that is known here, not {shown(value)}", hint=hint
        )
    return value


def _date(value: object) -> datetime.date:
    if type(value) is datetime.date:
        return value
    try:
        return datetime.date.fromisoformat(value if isinstance(value, str) else "")
    except ValueError as error:
        raise UsageError(f"expected a date such as 2030-12-31, not {shown(value)}") from error


def _version(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value != 1:
        raise UsageError(f"{shown(value)} is not known here", hint="write version: 1")
    return value


PATTERNS = _Patterns(_strings, _WORDS)
TEXT = Checked(_text(".*"), {"type": "string"})
NAME = Checked(_text(".+"), _WORD)
PATH = Checked(_text(r"[^\0]+"), _WORD)
SENTENCE = Checked(_text(r".*\S.*"), {**_WORD, "pattern": r"\S"})
PART = Checked(_text(r"\w[\w-]*"), {"type": "string", "pattern": r"^\w[\w-]*$"})
"""What stands behind the name of a tensor."""
CONSTRAINT_NAME = Checked(_text(".+"), {"anyOf": [{"enum": list(BUILTIN)}, _WORD]})
BOOLEAN = Checked(_boolean, {"type": "boolean"})
INTEGER = Checked(_integer, {"type": "integer"})
NUMBER = Checked(_number, _NUMBER)
NUMBER_OR_REFERENCE = Checked(
    _number_or_reference, {"anyOf": [_NUMBER, {"type": "string", "pattern": f"^{REFERENCE}$"}]}
)
TOLERANCE = Checked(_tolerance, {"anyOf": [{"enum": list(_TOLERANCES)}, _SHARE]})
EPSILON = Checked(_epsilon, _SHARE)
AXES = Checked(_axes, _AXES)
NAMED_AXES = Checked(_named_axes, {"type": "string", "pattern": "->"})
EXTENT = Checked(
    _extent,
    {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": f"^{SIZE}$"}]},
)
DATE = Checked(_date, {"type": "string", "format": "date"})
VERSION = Checked(_version, {"const": 1})
CONFIG: MapOf[Any] = MapOf(Checked(lambda value: value, {}))
CUSTOM_LAYER = Checked(
    _custom_layer,
    {
        "anyOf": [
            {"const": _UNCONSTRAINED},
            {
                "type": "object",
                "properties": {"like": _WORD},
                "required": ["like"],
                "additionalProperties": False,
            },
            {
                "type": "object",
                "propertyNames": {"not": {"const": "like"}, "minLength": 1},
                "additionalProperties": _WORDS,
                "minProperties": 1,
            },
        ]
    },
)
