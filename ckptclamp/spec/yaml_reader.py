"""YAML read as a numeric spec needs it: one meaning for every document, and a place for every value.

Of YAML this takes mappings, sequences and scalars, and reads plain scalars as YAML 1.2 does: ``1e-3``
is a number and ``on`` is a word. What lets two readers differ, or a small file cost much, is an
error: duplicate keys, anchors, aliases, merge keys, tags, several documents, ``010`` (8 or 10?), NaN.
PyYAML's pure-Python parser gives the events; the data are built from these without recursion.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ckptclamp.errors import SpecProblem

if TYPE_CHECKING:
    import yaml

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
    return _Builder().build(text)


def _broken(message: str, place: Place = (1, 1)) -> Document:
    return Document(problems=[SpecProblem(message, *place)])


@dataclass(slots=True)
class _Open:
    """A mapping or sequence whose end has not come yet.

    `key` is the key whose value comes next; `refused` says that the value is to be dropped.
    """

    container: dict[str, Any] | list[Any]
    path: Keys
    key: str = ""
    refused: bool = False
    awaits_key: bool = True


class _Builder:
    """Builds a `Document` from PyYAML's events."""

    def __init__(self) -> None:
        self.document = Document()
        self.open: list[_Open] = []

    def build(self, text: str) -> Document:
        import yaml

        try:
            for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
                if count > MAX_EVENTS:
                    return _broken(f"holds more than {MAX_EVENTS} values", _place(event))
                if not self._take(event):
                    break
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = (1, 1) if mark is None else (mark.line + 1, mark.column + 1)
            return _broken(f"is not YAML: {error.problem or error.context}", place)
        except yaml.reader.ReaderError as error:
            before = text[: error.position]
            place = (before.count("\n") + 1, len(before) - before.rfind("\n"))
            return _broken(f"is not YAML: {error.reason}", place)
        self.document.values.setdefault((), (1, 1))
        return self.document

    def _take(self, event: yaml.Event) -> bool:
        """Take one event; false where nothing after it can be trusted."""
        import yaml

        match event:
            case yaml.DocumentStartEvent() if self.document.values:
                self._problem(event, "holds several documents; a spec is one")
                return False
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                return self._begin(event)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self.open.pop()
            case yaml.ScalarEvent():
                self._scalar(event)
            case yaml.AliasEvent():
                self._problem(event, "aliases are not read", "write the value out")
                self._put(event, None)
        return True

    def _begin(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent) -> bool:
        import yaml

        self._refuse_marks(event)
        if len(self.open) >= MAX_DEPTH:
            self.document = _broken(f"is nested deeper than {MAX_DEPTH} levels", _place(event))
            return False
        if self._wants_key():
            self._problem(event, "a key must be a word, not a mapping or a sequence")
            self.document.data = None
            return False
        container: dict[str, Any] | list[Any]
        container = [] if isinstance(event, yaml.SequenceStartEvent) else {}
        self.open.append(_Open(container, self._put(event, container)))
        return True

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        self._refuse_marks(event)
        event.value = self._joined(event)
        if self._wants_key():
            self._key(event)
        else:
            self._put(event, self._value(event))

    def _key(self, event: yaml.ScalarEvent) -> None:
        inside = self.open[-1]
        path = (*inside.path, event.value)
        inside.key, inside.awaits_key, inside.refused = event.value, False, True
        if event.value == "<<" and event.implicit[0]:
            self._problem(event, "merge keys are not read", "write the keys out")
        elif path in self.document.keys:
            line = self.document.keys[path][0]
            self._problem(event, f"the key {event.value!r} is there twice, first in line {line}")
        else:
            inside.refused = False
            self.document.keys[path] = _place(event)

    def _wants_key(self) -> bool:
        if not self.open:
            return False
        return isinstance(self.open[-1].container, dict) and self.open[-1].awaits_key

    def _put(self, event: yaml.Event, value: object) -> Keys:
        """Put a value where it belongs and remember its place."""
        path: Keys = ()
        if not self.open:
            self.document.data = value
        elif isinstance(container := self.open[-1].container, list):
            path = (*self.open[-1].path, len(container))
            container.append(value)
        else:
            path = self._value_of_key(self.open[-1], container, value)
        self.document.values[path] = _place(event)
        return path

    @staticmethod
    def _value_of_key(inside: _Open, mapping: dict[str, Any], value: object) -> Keys:
        inside.awaits_key = True
        if inside.refused:
            # It stands beside the tree, so that it does not take another one's place.
            return (*inside.path, -1, inside.key)
        mapping[inside.key] = value
        return (*inside.path, inside.key)

    def _value(self, event: yaml.ScalarEvent) -> object:
        if not event.implicit[0]:
            return event.value
        try:
            return plain_scalar(event.value)
        except ValueError as error:
            message, _, hint = str(error).partition("; ")
            self._problem(event, message, hint or None)
            return None

    def _joined(self, event: yaml.ScalarEvent) -> str:
        """The text with surrogate pairs, as JSON escapes write them, made into characters."""
        text: str = event.value
        try:
            return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        except UnicodeDecodeError:
            self._problem(event, "half of a surrogate pair is no character")
            return text.encode("utf-8", "replace").decode()

    def _refuse_marks(self, event: yaml.NodeEvent) -> None:
        """Refuse anchors, which aliases refer to, and tags, which change what a value is."""
        if event.anchor is not None:
            self._problem(event, f"anchors (&{event.anchor}) are not read")
        tag = getattr(event, "tag", None)
        if tag is not None:
            self._problem(event, f"tags ({tag}) are not read")

    def _problem(self, event: yaml.Event, message: str, hint: str | None = None) -> None:
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
