"""YAML read as a numeric spec needs it: one meaning for every document, and a place for every value.

Of YAML this takes mappings, sequences and scalars, and reads plain scalars as YAML 1.2 does: ``1e-3``
is a number and ``on`` is a word. What lets two readers differ, or a small file cost much, is an
error: duplicate keys, anchors, aliases, merge keys, tags, several documents, ``010`` (8 or 10?), NaN.
PyYAML's pure-Python parser gives the events; the data are built from these, no deeper than `MAX_DEPTH`.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from typing import Any

import yaml

from ckptclamp.errors import SpecProblem

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_EVENTS = 200_000
"""How many values, keys, begins and ends a document may have: 15,000 rules and more."""

Keys = tuple[str | int, ...]
"""Where a value stands: ``("rules", 0, "axis")``."""

Place = tuple[int, int]
"""Line and column, counted from 1."""

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_PREFIXED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"[-+]?\.(?:inf|Inf|INF)")
_NAN = frozenset({".nan", ".NaN", ".NAN"})


@dataclass(slots=True)
class Document:
    """What a YAML file holds, where each value and each key stands, and what is wrong with it."""

    data: Any = None
    values: dict[Keys, Place] = field(default_factory=dict)
    keys: dict[Keys, Place] = field(default_factory=dict)
    problems: list[SpecProblem] = field(default_factory=list)


def read_yaml(raw: bytes) -> Document:
    """Read a document; never raises, what is wrong is in `problems`.

    Where the text breaks YAML itself, or is too large or too deep, `data` is ``None`` and the one
    problem says where. Other problems leave ``None`` in their place, so that the rest can be checked.
    """
    if len(raw) > MAX_BYTES:
        return _broken(f"is larger than {MAX_BYTES >> 20} MiB")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        return _broken("is not UTF-8", (line, error.start - raw.rfind(b"\n", 0, error.start)))
    try:
        return _Reader(text).read()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (1, 1) if mark is None else (mark.line + 1, mark.column + 1)
        hint = _QUOTES if error.context == "while scanning an alias" else None
        return _broken(f"is not YAML: {error.problem or error.context}", place, hint)
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = (before.count("\n") + 1, len(before) - before.rfind("\n"))
        return _broken(f"is not YAML: {error.reason}", place)
    except _TooMuchError as error:
        return _broken(str(error), error.place)


_QUOTES = "a pattern that begins with * or ! stands in quotes"


def _broken(message: str, place: Place = (1, 1), hint: str | None = None) -> Document:
    return Document(problems=[SpecProblem(message, *place, hint=hint)])


class _TooMuchError(Exception):
    """What makes a document too large or too deep begins at `place`."""

    def __init__(self, message: str, event: yaml.Event) -> None:
        super().__init__(message)
        self.place = _place(event)


class _Reader:
    """Builds a `Document` from PyYAML's events."""

    def __init__(self, text: str) -> None:
        self.document = Document()
        self.events = enumerate(yaml.parse(text, Loader=yaml.SafeLoader))

    def read(self) -> Document:
        """Read the one document that there should be."""
        self.document.values[()] = (1, 1)
        self.next()  # the stream begins
        if isinstance(self.next(), yaml.DocumentStartEvent):
            self.document.data = self.value(self.next(), ())
            self.next()  # the document ends
            if isinstance(event := self.next(), yaml.DocumentStartEvent):
                self.problem(event, "holds several documents; a spec is one")
        return self.document

    def next(self) -> yaml.Event:
        count, event = next(self.events)
        if count > MAX_EVENTS:
            raise _TooMuchError(f"holds more than {MAX_EVENTS} values", event)
        return event

    def value(self, event: yaml.Event, path: Keys, depth: int = 1) -> object:
        """Read the value that begins with `event`, and remember its place."""
        self.document.values[path] = _place(event)
        if isinstance(event, yaml.AliasEvent):
            self.problem(event, "aliases are not read", f"write the value out; {_QUOTES}")
            return None
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        self.refuse_marks(event)
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event)
        if depth > MAX_DEPTH:
            raise _TooMuchError(f"is nested deeper than {MAX_DEPTH} levels", event)
        if isinstance(event, yaml.MappingStartEvent):
            return self.mapping(path, depth)
        items: list[Any] = []
        while not isinstance(event := self.next(), yaml.SequenceEndEvent):
            items.append(self.value(event, (*path, len(items)), depth + 1))
        return items

    def mapping(self, path: Keys, depth: int) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        while not isinstance(event := self.next(), yaml.MappingEndEvent):
            key = self.key(event, path, depth)
            # What is refused stands beside the tree, so that it does not take another one's place.
            inner = (*path, -1) if key is None else (*path, key)
            value = self.value(self.next(), inner, depth + 1)
            if key is not None:
                mapping[key] = value
        return mapping

    def key(self, event: yaml.Event, path: Keys, depth: int) -> str | None:
        """Read a key of the mapping at `path`; ``None`` for one whose value is to be dropped."""
        if not isinstance(event, yaml.ScalarEvent):
            self.problem(event, "a key must be a word, not a mapping or a sequence")
            self.value(event, (*path, -1), depth + 1)
            return None
        self.refuse_marks(event)
        key = self.joined(event)
        if key == "<<" and event.implicit[0]:
            self.problem(event, "merge keys are not read", "write the keys out")
            return None
        if (first := self.document.keys.get((*path, key))) is not None:
            self.problem(event, f"the key {key!r} is there twice, first in line {first[0]}")
            return None
        self.document.keys[*path, key] = _place(event)
        return key

    def scalar(self, event: yaml.ScalarEvent) -> object:
        text = self.joined(event)
        if not event.implicit[0]:
            return text
        try:
            return plain_scalar(text)
        except ValueError as error:
            message, _, hint = str(error).partition("; ")
            self.problem(event, message, hint or None)
            return None

    def joined(self, event: yaml.ScalarEvent) -> str:
        """The text with surrogate pairs, as JSON escapes write them, made into characters."""
        text: str = event.value
        try:
            return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        except UnicodeDecodeError:
            self.problem(event, "half of a surrogate pair is no character")
            return text.encode("utf-8", "replace").decode()

    def refuse_marks(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
        """Refuse anchors, which aliases refer to, and tags, which change what a value is."""
        if event.anchor is not None:
            self.problem(event, f"anchors (&{event.anchor}) are not read")
        if event.tag is not None:
            self.problem(event, f"tags ({event.tag}) are not read", _QUOTES)

    def problem(self, event: yaml.Event, message: str, hint: str | None = None) -> None:
        self.document.problems.append(SpecProblem(message, *_place(event), hint=hint))


def plain_scalar(text: str) -> object:
    """Return what a plain (unquoted) scalar means.

    Raises:
        ValueError: it could mean two things, or a number that cannot be compared; the message ends
            with advice after a semicolon.
    """
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _PREFIXED.fullmatch(text):
        return _representable(int(text, 0), text)
    if _LEADING_ZERO.fullmatch(text):
        raise ValueError(
            f"{text} is octal to some readers; write it without the leading 0, or quoted"
        )
    if text in _NAN:
        raise ValueError("NaN compares with nothing; leave the bound out, or write .inf")
    if _INFINITY.fullmatch(text):
        return float(text.replace(".", ""))
    if not _FLOAT.fullmatch(text):
        return text
    value = _representable(float(text), text)
    return int(text) if _INTEGER.fullmatch(text) else value


def _representable(value: float, text: str) -> float:
    if abs(value) > sys.float_info.max:
        raise ValueError(f"{text[:20]} is too large for a float64; write .inf to mean no bound")
    return value


def _place(event: yaml.Event) -> Place:
    mark = event.start_mark
    assert mark is not None, "the parser marks every event"
    return mark.line + 1, mark.column + 1
