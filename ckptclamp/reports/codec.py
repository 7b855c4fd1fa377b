"""Frozen dataclasses ⇄ JSON values, led by the types that the dataclasses state.

Strict both ways: what is read must have every field that has no default and no field that is
unknown, each of the stated type. Floats that JSON lacks are the strings ``NaN``, ``Infinity`` and
``-Infinity``. Lone surrogates, which are no Unicode text, are written as ``\\u{…}``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import operator
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from functools import cache, lru_cache
from typing import Any

Value = Any
"""A JSON value, or what it stands for: a dataclass and what its fields hold."""

_NAMED_FLOATS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class MisfitError(ValueError):
    """A JSON value that does not fit the type; the message begins with its place."""


@dataclasses.dataclass(frozen=True, slots=True)
class Codec:
    """How values of one type are written, and read from where they stand (``$.results[3].units``)."""

    encode: Callable[[Value], Value]
    decode: Callable[[Value, str], Value]


def json_text(value: Value, indent: int | None = None, *, allow_nan: bool = False) -> str:
    """Return `value` as JSON in ASCII, without the ``##[`` that CI runners take for a command."""
    plain = indent is None and not allow_nan
    text = _PLAIN(value) if plain else json.dumps(value, indent=indent, allow_nan=allow_nan)
    return text.replace("##", r"#\u0023")


_PLAIN = json.JSONEncoder(allow_nan=False).encode
"""What `json.dumps` makes anew for each value."""


@cache
def codec(kind: Value) -> Codec:
    """Return the codec of `kind`: a dataclass, an enumeration, a scalar, or a tuple, mapping or
    optional of these.
    """
    origin: Value = typing.get_origin(kind)
    arguments = typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass_codec(typing.cast("type", kind))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _enum_codec(kind)
    if origin in (types.UnionType, typing.Union):
        (inner,) = (argument for argument in arguments if argument is not types.NoneType)
        return _optional_codec(codec(inner))
    if origin is tuple and arguments[-1] is Ellipsis:
        return _array_codec(codec(arguments[0]))
    if origin is tuple:
        return _record_codec([codec(argument) for argument in arguments])
    return _mapping_codec(codec(arguments[1])) if origin is Mapping else _SCALARS[kind]


def _checked(value: Value, kind: type, place: str, words: str) -> Value:
    if type(value) is not kind:
        raise MisfitError(f"{place} must be {words}")
    return value


def _read_text(value: Value, place: str) -> str:
    """One object for equal texts: thousands of results say the same of their tensors."""
    return sys.intern(_checked(value, str, place, "a string"))


def _text(value: str) -> str:
    if value.isascii() and type(value) is str:
        return value
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


def _read_float(value: Value, place: str) -> float:
    if isinstance(value, str) and value in _NAMED_FLOATS:
        return _NAMED_FLOATS[value]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise MisfitError(f"{place} must be a number")
    try:
        return float(value)
    except OverflowError:
        raise MisfitError(f"{place} must be a number that a float can hold") from None


_SCALARS: dict[Value, Codec] = {
    str: Codec(_text, _read_text),
    int: Codec(operator.index, lambda value, place: _checked(value, int, place, "an integer")),
    bool: Codec(bool, lambda value, place: _checked(value, bool, place, "true or false")),
    float: Codec(_float, _read_float),
}


def _enum_codec(kind: type[Enum]) -> Codec:
    members = {member.value: member for member in kind}

    def decode(value: Value, place: str) -> Enum:
        if not isinstance(value, (str, int)) or value not in members:
            raise MisfitError(f"{place} must be one of {', '.join(map(str, members))}")
        return members[value]

    return Codec(lambda value: value.value, decode)


def _optional_codec(inner: Codec) -> Codec:
    return Codec(
        lambda value: None if value is None else inner.encode(value),
        lambda value, place: None if value is None else inner.decode(value, place),
    )


def _array_codec(inner: Codec) -> Codec:
    def decode(value: Value, place: str) -> tuple[Value, ...]:
        items = enumerate(_checked(value, list, place, "an array"))
        return tuple(inner.decode(item, f"{place}[{i}]") for i, item in items)

    if inner is _SCALARS[float]:
        return Codec(_floats, decode)
    if inner is _SCALARS[int]:
        return Codec(_integers, lambda value, place: _one_of(decode(value, place)))
    return Codec(lambda value: list(map(inner.encode, value)), decode)


def _integers(values: Iterable[int]) -> Value:
    return list(map(operator.index, values))


@lru_cache(4096)
def _one_of(value: tuple[int, ...]) -> tuple[int, ...]:
    """One object for equal shapes, axes and counts."""
    return value


def _floats(values: Iterable[float]) -> Value:
    found = list(map(float, values))
    return found if all(map(math.isfinite, found)) else list(map(_float, found))


def _record_codec(inners: list[Codec]) -> Codec:
    def decode(value: Value, place: str) -> tuple[Value, ...]:
        if not isinstance(value, list) or len(value) != len(inners):
            raise MisfitError(f"{place} must be an array of {len(inners)}")
        pairs = enumerate(zip(inners, value, strict=True))
        return tuple(inner.decode(item, f"{place}[{i}]") for i, (inner, item) in pairs)

    return Codec(
        lambda value: [c.encode(item) for c, item in zip(inners, value, strict=True)], decode
    )


def _mapping_codec(inner: Codec) -> Codec:
    def decode(value: Value, place: str) -> dict[str, Value]:
        items = _checked(value, dict, place, "an object").items()
        return {key: inner.decode(item, f"{place}.{key}") for key, item in items}

    return Codec(
        lambda value: {_text(key): inner.encode(item) for key, item in value.items()}, decode
    )


def _dataclass_codec(kind: type) -> Codec:
    hints, fields = typing.get_type_hints(kind), dataclasses.fields(kind)
    members = {field.name: codec(hints[field.name]) for field in fields}
    none = dataclasses.MISSING
    needed = {f.name for f in fields if f.default is none and f.default_factory is none}

    def decode(value: Value, place: str) -> Value:
        _checked(value, dict, place, "an object")
        if missing := sorted(needed - value.keys()):
            raise MisfitError(f"{place} lacks {', '.join(missing)}")
        if unknown := sorted(value.keys() - members.keys()):
            raise MisfitError(f"{place} has {unknown[0]!r}, which is unknown here")
        read = {key: members[key].decode(v, f"{place}.{key}") for key, v in value.items()}
        try:
            return kind(**read)
        except ValueError as error:
            raise MisfitError(f"{place}: {kind.__name__.lower()} {error}") from None

    encoders = [(name, member.encode) for name, member in members.items()]
    return Codec(
        lambda value: {name: encode(getattr(value, name)) for name, encode in encoders}, decode
    )
