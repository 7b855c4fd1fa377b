"""Forms: mappings with known keys, read strictly, all problems at once, and described to editors.

A kind of value reads a value to what it means, beside what is wrong with it, and has a JSON Schema. A
`Form` is a kind, too: a class with a `Key` for each key that its mappings may have. Checks raise
`UsageError`, and know nothing of the place where their value stands.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from types import EllipsisType
from typing import Any, ClassVar, Generic, Protocol, TypeVar, cast

from ckptclamp.constraints.registry import suggestion
from ckptclamp.errors import UsageError
from ckptclamp.frozen import frozen
from ckptclamp.spec.patterns import PatternChecker
from ckptclamp.spec.yaml_reader import Keys

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
F = TypeVar("F", bound="Form")
E = TypeVar("E", bound=StrEnum)

Schema = dict[str, Any]


@frozen
class FormProblem:
    """What is wrong, and with which value; `is_key` where it is the key that is wrong."""

    keys: Keys
    message: str
    hint: str | None = None
    is_key: bool = False


class Kind(Protocol[T_co]):
    """What a value may be."""

    def read(
        self, value: object, at: Keys, patterns: PatternChecker
    ) -> tuple[T_co, list[FormProblem]]:
        """What `value`, which stands `at`, means, and what is wrong with it.

        Of what holds other values the sound part is returned, of a scalar that is wrong ``None``.
        `patterns` bounds those of a spec.
        """

    def schema(self, definitions: dict[str, Schema]) -> Schema:
        """The JSON Schema; what has a name of its own goes into `definitions`."""


@frozen
class Checked(Generic[T]):
    """A value that `check` makes something of, or refuses with a `UsageError`."""

    check: Callable[[object], T]
    described: Schema

    def read(
        self, value: object, at: Keys, patterns: PatternChecker
    ) -> tuple[T, list[FormProblem]]:
        """As `Kind.read`."""
        try:
            return self.checked(value, patterns), []
        except UsageError as error:
            return cast("T", None), [_refused(at, error.message, error.hint)]

    def checked(self, value: object, patterns: PatternChecker) -> T:
        """What `value` means.

        Raises:
            UsageError: it is none of these.
        """
        return self.check(value)

    def schema(self, definitions: dict[str, Schema]) -> Schema:
        """As `Kind.schema`."""
        return self.described


def choice(members: type[E]) -> Checked[E]:
    """One of the words of an enumeration."""
    expected = " or ".join(members)

    def check(value: object) -> E:
        if isinstance(value, str) and value in list(members):
            return members(value)
        hint = suggestion(value, members) if isinstance(value, str) else None
        raise UsageError(f"expected {expected}, not {shown(value)}", hint=hint)

    return Checked(check, {"type": "string", "enum": list(members)})


@frozen
class OrNull(Generic[T]):
    """What `kind` is, or null."""

    kind: Kind[T]

    def read(
        self, value: object, at: Keys, patterns: PatternChecker
    ) -> tuple[T | None, list[FormProblem]]:
        """As `Kind.read`."""
        return (None, []) if value is None else self.kind.read(value, at, patterns)

    def schema(self, definitions: dict[str, Schema]) -> Schema:
        """As `Kind.schema`."""
        return {"anyOf": [self.kind.schema(definitions), {"type": "null"}]}


@frozen
class ListOf(Generic[T]):
    """A list, read to its sound items by their places."""

    kind: Kind[T]
    nonempty: bool = False

    def read(
        self, value: object, at: Keys, patterns: PatternChecker
    ) -> tuple[dict[int, T], list[FormProblem]]:
        """As `Kind.read`."""
        if not isinstance(value, list):
            return {}, [_refused(at, f"expected a list, not {shown(value)}")]
        if self.nonempty and not value:
            return {}, [_refused(at, "is empty")]
        return _sound(self.kind, enumerate(value), at, patterns)

    def schema(self, definitions: dict[str, Schema]) -> Schema:
        """As `Kind.schema`."""
        bound = {"minItems": 1} if self.nonempty else {}
        return {"type": "array", "items": self.kind.schema(definitions), **bound}


@frozen
class MapOf(Generic[T]):
    """A mapping from any names, read to its sound items."""

    kind: Kind[T]

    def read(
        self, value: object, at: Keys, patterns: PatternChecker
    ) -> tuple[dict[str, T], list[FormProblem]]:
        """As `Kind.read`."""
        if not isinstance(value, dict):
            return {}, [_refused(at, f"expected a mapping, not {shown(value)}")]
        named, problems = _named(value, at)
        sound, others = _sound(self.kind, named.items(), at, patterns)
        return sound, problems + others

    def schema(self, definitions: dict[str, Schema]) -> Schema:
        """As `Kind.schema`."""
        return {"type": "object", "additionalProperties": self.kind.schema(definitions)}


@frozen
class OneOf(Generic[T]):
    """One of several kinds; `choose` tells by the value which, and is refused with `words`."""

    kinds: tuple[Kind[T], ...]
    choose: Callable[[object], Kind[T] | None]
    words: str

    def read(
        self, value: object, at: Keys, patterns: PatternChecker
    ) -> tuple[T, list[FormProblem]]:
        """As `Kind.read`."""
        kind = self.choose(value)
        if kind is None:
            return cast("T", None), [_refused(at, f"expected {self.words}, not {shown(value)}")]
        return kind.read(value, at, patterns)

    def schema(self, definitions: dict[str, Schema]) -> Schema:
        """As `Kind.schema`."""
        return {"oneOf": [kind.schema(definitions) for kind in self.kinds]}


class Key(Generic[T]):
    """A key of a form, and as its attribute what a mapping says there.

    It must be stated where it has no `default`; `advice` is for those who leave it out.
    """

    def __init__(
        self,
        kind: Kind[T],
        description: str,
        default: T | EllipsisType = ...,
        *,
        advice: str | None = None,
    ) -> None:
        self.kind = kind
        self.description = description
        self.default = default
        self.advice = advice

    @property
    def required(self) -> bool:
        """Whether each mapping must have it."""
        return self.default is ...

    def __set_name__(self, owner: type[Form], name: str) -> None:
        self.name = name

    def __get__(self, form: Form, owner: type[Form]) -> T:
        return cast("T", form.given.get(self.name, self.default))


def optional(kind: Kind[T], description: str) -> Key[T | None]:
    """A key that may be left out; what it then is, ``None``, cannot be stated."""
    return Key(kind, description, default=None)


class Form:
    """A mapping; its keys are the attributes that are a `Key`, its description is its docstring.

    Attributes:
        given: what the mapping states, and nothing that is a default.
        keys: all that it may state; `further` are those that need no attribute.
        elsewhere: keys that belong in another place, with the advice where.
        title: what editors call it.
    """

    keys: ClassVar[dict[str, Key[Any]]] = {}
    elsewhere: ClassVar[Mapping[str, str]] = {}
    title: ClassVar[str] = ""

    def __init_subclass__(cls, further: Mapping[str, Key[Any]] | None = None) -> None:
        own = {name: key for name, key in vars(cls).items() if isinstance(key, Key)}
        cls.keys = {**cls.keys, **(further or {}), **own}

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given

    @classmethod
    def keys_of(cls, mapping: Mapping[str, object]) -> dict[str, Key[Any]]:
        """The keys that this one mapping may have."""
        return cls.keys

    @classmethod
    def read(
        cls: type[F], value: object, at: Keys, patterns: PatternChecker
    ) -> tuple[F, list[FormProblem]]:
        """As `Kind.read`."""
        if not isinstance(value, dict):
            return cls({}), [_refused(at, f"expected a mapping, not {shown(value)}")]
        mapping, problems = _named(value, at)
        given: dict[str, Any] = {}
        keys = cls.keys_of(mapping)
        for name, key in keys.items():
            if name in mapping:
                given[name], wrong = key.kind.read(mapping[name], (*at, name), patterns)
                problems += wrong
            elif key.required:
                problems.append(FormProblem(at, f"{name} is missing", key.advice))
        for name in mapping:
            if name not in keys:
                message = f"unknown key {name!r}"
                hint = cls.elsewhere.get(name) or suggestion(name, cls.keys)
                problems.append(FormProblem((*at, name), message, hint, is_key=True))
        return cls(given), problems

    @classmethod
    def schema(cls, definitions: dict[str, Schema]) -> Schema:
        """As `Kind.schema`."""
        definitions[cls.__name__] = cls.definition(definitions)
        return {"$ref": f"#/$defs/{cls.__name__}"}

    @classmethod
    def definition(cls, definitions: dict[str, Schema]) -> Schema:
        """The JSON Schema itself, where `schema` refers to it."""
        properties = {}
        for name, key in cls.keys.items():
            told = {"title": name.replace("_", " ").title(), "description": key.description}
            default = {"default": key.default} if isinstance(key.default, str | bool) else {}
            properties[name] = told | default | key.kind.schema(definitions)
        return {
            "title": cls.title,
            "description": cls.__doc__,
            "type": "object",
            "properties": properties,
            "required": [name for name, key in cls.keys.items() if key.required],
            "additionalProperties": False,
        }


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


def _sound(
    kind: Kind[T], items: Iterable[tuple[Any, object]], at: Keys, patterns: PatternChecker
) -> tuple[dict[Any, T], list[FormProblem]]:
    """Those of `items` in which nothing is wrong, and what is wrong with the others."""
    sound: dict[Any, T] = {}
    problems: list[FormProblem] = []
    for name, item in items:
        made, wrong = kind.read(item, (*at, name), patterns)
        problems += wrong
        if not wrong:
            sound[name] = made
    return sound, problems


def _named(mapping: dict[Any, object], at: Keys) -> tuple[dict[str, object], list[FormProblem]]:
    """What of `mapping` has text for its key, as all of YAML has."""
    odd = [key for key in mapping if not isinstance(key, str)]
    named = {key: value for key, value in mapping.items() if isinstance(key, str)}
    return named, [_refused(at, f"expected text for a key, not {shown(key)}") for key in odd]


def _refused(at: Keys, message: str, hint: str | None = None) -> FormProblem:
    """A problem with the value at `at`, whose message begins with its name."""
    joint = " " if message.startswith("is ") else ": "
    return FormProblem(at, f"{_called(at)}{joint}{message}", hint)


def _called(at: Keys) -> str:
    """The last key of a place, and which item of a list stands there: ``rules[2]``."""
    if not at:
        return "the spec"
    *before, last = at
    return f"{_called(tuple(before))}[{last}]" if isinstance(last, int) else last
