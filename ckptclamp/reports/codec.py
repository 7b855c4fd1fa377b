"""Frozen dataclasses ⇄ JSON values, led by the types that the dataclasses state.

Strict both ways: what is read must have every field that has no default and no field that is
unknown, each of the stated type. Floats that JSON lacks are the strings ``NaN``, ``Infinity`` and
``-Infinity``. Lone surrogates, which are no Unicode text, are written as ``\\u{…}``.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
from typing import Any

Encode = Callable[[Any], Any]
Decode = Callable[[Any, str], Any]
"""Called with a JSON value and where it stands (``$.results[3].units``)."""

_NAMED_FLOATS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class MisfitError(ValueError):
    """A JSON value that does not fit the type; the message begins with its place."""


@dataclasses.dataclass(frozen=True, slots=True)
class Codec:
    """How values of one type are written and read."""

    encode: Encode
    decode: Decode


@cache
def codec(kind: Any) -> Codec:  # noqa: ANN401 - a type, or what typing makes of one
    """Return the codec of `kind`: a dataclass, an enumeration, a scalar, or a tuple, mapping or
    optional of these.
    """
    if dataclasses.is_dataclass(kind):
        return _dataclass_codec(typing.cast("type", kind))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return Codec(lambda value: value.value, _enum_decoder(kind))
    return _SCALARS[kind] if kind in _SCALARS else _composite_codec(kind)


def _composite_codec(kind: Any) -> Codec:  # noqa: ANN401 - what typing makes of a type
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        (inner,) = (argument for argument in arguments if argument is not types.NoneType)
        return _optional_codec(codec(inner))
    if origin is tuple and arguments[-1] is Ellipsis:
        return _array_codec(codec(arguments[0]))
    if origin is tuple:
        return _record_codec([codec(argument) for argument in arguments])
    if origin is Mapping:
        return _mapping_codec(codec(arguments[1]))
    raise TypeError(f"no codec for {kind!r}")


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        return "".join(f"\\u{{{ord(c):x}}}" if "\ud800" <= c <= "\udfff" else c for c in value)
    return str(value)


def _float(value: float) -> float | str:
    value = float(value)
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _read_float(value: Any, place: str) -> float:  # noqa: ANN401 - JSON is any of its types
    if isinstance(value, str) and value in _NAMED_FLOATS:
        return _NAMED_FLOATS[value]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise MisfitError(f"{place} must be a number")
    try:
        return float(value)
    except OverflowError:
        raise MisfitError(f"{place} must be a number that a float can hold") from None


def _reader(kind: type, words: str) -> Decode:
    def decode(value: Any, place: str) -> Any:  # noqa: ANN401 - JSON is any of its types
        if type(value) is not kind:
            raise MisfitError(f"{place} must be {words}")
        return value

    return decode


_SCALARS: dict[Any, Codec] = {
    str: Codec(_text, _reader(str, "a string")),
    int: Codec(operator.index, _reader(int, "an integer")),
    bool: Codec(bool, _reader(bool, "true or false")),
    float: Codec(_float, _read_float),
}


def _enum_decoder(kind: type[Enum]) -> Decode:
    members = {member.value: member for member in kind}

    def decode(value: Any, place: str) -> Enum:  # noqa: ANN401 - JSON is any of its types
        if not isinstance(value, (str, int)) or value not in members:
            raise MisfitError(f"{place} must be one of {', '.join(map(str, members))}")
        return members[value]

    return decode


def _optional_codec(inner: Codec) -> Codec:
    return Codec(
        lambda value: None if value is None else inner.encode(value),
        lambda value, place: None if value is None else inner.decode(value, place),
    )


def _array_codec(inner: Codec) -> Codec:
    def decode(value: Any, place: str) -> tuple[Any, ...]:  # noqa: ANN401 - JSON is any of its types
        if not isinstance(value, list):
            raise MisfitError(f"{place} must be an array")
        return tuple(inner.decode(item, f"{place}[{i}]") for i, item in enumerate(value))

    return Codec(lambda value: [inner.encode(item) for item in value], decode)


def _record_codec(inners: list[Codec]) -> Codec:
    def decode(value: Any, place: str) -> tuple[Any, ...]:  # noqa: ANN401 - JSON is any of its types
        if not isinstance(value, list) or len(value) != len(inners):
            raise MisfitError(f"{place} must be an array of {len(inners)}")
        pairs = enumerate(zip(inners, value, strict=True))
        return tuple(inner.decode(item, f"{place}[{i}]") for i, (inner, item) in pairs)

    def encode(value: tuple[Any, ...]) -> list[Any]:
        return [inner.encode(item) for inner, item in zip(inners, value, strict=True)]

    return Codec(encode, decode)


def _mapping_codec(inner: Codec) -> Codec:
    def decode(value: Any, place: str) -> dict[str, Any]:  # noqa: ANN401 - JSON is any of its types
        if not isinstance(value, dict):
            raise MisfitError(f"{place} must be an object")
        return {key: inner.decode(item, f"{place}.{key}") for key, item in value.items()}

    return Codec(
        lambda value: {_text(key): inner.encode(item) for key, item in value.items()}, decode
    )


def _dataclass_codec(kind: type) -> Codec:
    hints = typing.get_type_hints(kind)
    members = {field.name: codec(hints[field.name]) for field in dataclasses.fields(kind)}
    needed = {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }

    def encode(value: Any) -> dict[str, Any]:  # noqa: ANN401 - an instance of `kind`
        return {name: member.encode(getattr(value, name)) for name, member in members.items()}

    def decode(value: Any, place: str) -> Any:  # noqa: ANN401 - JSON in, an instance of `kind` out
        if not isinstance(value, dict):
            raise MisfitError(f"{place} must be an object")
        if missing := sorted(needed - value.keys()):
            raise MisfitError(f"{place} lacks {', '.join(missing)}")
        if unknown := sorted(value.keys() - members.keys()):
            raise MisfitError(f"{place} has {unknown[0]!r}, which is unknown here")
        return kind(
            **{name: members[name].decode(v, f"{place}.{name}") for name, v in value.items()}
        )

    return Codec(encode, decode)
