r"""Regular expressions that no text can stall: Python's syntax and meaning, matched by RE2.

Understood are literals, ``.`` (any character), classes, groups, ``|`` and the quantifiers
``* + ? {m,n}``. Anchors, look-around, back-references, flags and lazy quantifiers are refused: a match
is of the whole text, so they mean nothing or something that takes memory.

`re` backtracks, and a name from an untrusted file can make it run for ever. RE2 takes time linear in
the text and bounded memory. It is imported where it is first needed, to keep start-up small.

RE2's ``\w`` means ASCII, and a class of all scripts' letters is 1,300 of its instructions. So each
character of a text is matched after a mark of its kind, one of `_KINDS`: ``\w`` is two of the marks.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ckptclamp.errors import UsageError

MAX_LENGTH = 5_000
"""How many characters one expression may have."""

MAX_SIZE = 4_000_000
"""How many instructions (of 16 bytes) expressions may be together: a second of compiling."""

GIVEN_UP = 40_000
"""About how many instructions are made of an expression that is then refused; see `_MEMORY`."""

_MEMORY = 2 << 20
"""Bytes for one expression while it is checked, so that a literal of `MAX_LENGTH` fits."""

_GROUP_LENGTH, _GROUP_SIZE = 200, 100_000
"""How many expressions and instructions are matched at once: more make states that no cache holds."""

_GROUP_MEMORY = 16 << 20
"""Bytes for the program and the cached states of one group; RE2 asks for 150 per instruction."""

# What RE2 reads as a quantifier; it takes 'a{01}' and 'a{100000}' for text.
_COUNT = r"(?:0|[1-9][0-9]{0,3})"
_QUANTIFIER = rf"(?:[*+?]|\{{{_COUNT}(?:,{_COUNT}?)?\}})"
_TOKEN = re.compile(
    rf"""
      \\(?P<escape>.)
    | (?P<class>\[\^?\]?(?:\\.|[^\]\\])*\])
    | (?P<refused> \(\?(?!:) | {_QUANTIFIER}[*+?{{] )
    | (?P<operator>\((?:\?:)? | [)|] | {_QUANTIFIER})
    | (?P<misplaced>[\[{{}}^$\\])
    | .
    """,
    re.VERBOSE | re.DOTALL,
)
_KINDS = "0123"
_SHORTHANDS = {"d": "0", "D": "123", "w": "01", "W": "23", "s": "2", "S": "013"}
"""The kinds of characters that a shorthand takes; see `_kind`."""

_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}
_NOTHING = r"[^\x{0}-\x{10ffff}]"
_REASONS = {
    "missing )": "a '(' that is not closed",
    "unexpected )": "a ')' that closes nothing",
    "invalid repetition size": "a repetition of nothing, or of too much",
    "no argument for repetition operator": "a quantifier without anything to repeat",
    "pattern too large - compile failed": "too large a size",
}


class Expression(NamedTuple):
    """An expression in RE2's syntax, and how many instructions it becomes."""

    text: str
    size: int


class ExpressionSet:
    """Several expressions, matched together.

    Raises:
        UsageError: they are too large together.
    """

    def __init__(self, expressions: Collection[Expression]) -> None:
        if sum(expression.size for expression in expressions) > MAX_SIZE:
            raise too_large_together()
        self._groups = [(group, _compiled_set(group)) for group in _grouped(expressions)]

    def matching(self, text: str) -> Iterator[Expression]:
        """Yield the expressions that match all of `text`.

        Raises:
            UsageError: RE2 had too little memory to find out.
        """
        encoded = _encoded("".join(map(_marked, text)))
        for group, compiled in self._groups:
            numbers = compiled.Match(encoded)
            # The last of a set matches every text: without it, this is no answer.
            if not numbers:
                raise UsageError("the patterns take too much memory", hint="repeat less")
            yield from (group[number] for number in numbers if number < len(group))


@lru_cache(maxsize=1 << 14)
def compiled(regular: str) -> Expression:
    """Check and translate one regular expression.

    Raises:
        UsageError: it is not in the syntax that is understood, or too large.
    """
    import re2

    if len(regular) > MAX_LENGTH:
        raise UsageError(f"a pattern of {len(regular)} characters is too large")
    try:
        text = translated(regular)
        return Expression(text, re2.compile(_encoded(text), _options(_MEMORY)).programsize)
    except re2.error as error:
        reason, _, part = error.args[0].decode(errors="replace").partition(": ")
        raise _refused(regular, _REASONS.get(reason, f"{part!r}: {reason}")) from error
    except (ValueError, re.error) as error:
        raise _refused(regular, str(error)) from error


def _refused(regular: str, what: str) -> UsageError:
    return UsageError(
        f"the pattern {regular!r} has {what}",
        hint="use literals, '.', classes, groups, '|' and the quantifiers * + ? {m,n}",
    )


def translated(regular: str) -> str:
    """Say in RE2's syntax what `regular` means in Python; `ValueError` for what is not understood."""
    return _TOKEN.sub(_token, regular)


def _token(token: re.Match[str]) -> str:
    text = token.group()
    match token.lastgroup:
        case "operator":
            return text
        case "escape":
            return _escape(token["escape"])
        case "class":
            return _class(text)
        case "refused" if text == "(?":
            raise ValueError("'(?', for look-around and flags")
        case "refused":
            raise ValueError("a quantifier on a quantifier")
        case "misplaced":
            raise ValueError(f"{text!r} in a place where it is not understood")
    return "(?:..)" if text == "." else _literal(text)


def _literal(char: str) -> str:
    return rf"(?:{_kind(char)}\x{{{ord(char):x}}})"


def _escape(char: str) -> str:
    if char in _SHORTHANDS:
        return f"(?:[{_SHORTHANDS[char]}].)"
    if char.isalnum() and char not in _CONTROLS:
        raise ValueError(f"'\\{char}'")
    return _literal(_CONTROLS.get(char, char))


def _class(text: str) -> str:
    # `re` warns of what may one day be an operation on sets; RE2 has classes by name, as '[:alpha:]'.
    inner = re.sub(r"\\.|[\[&~|]", lambda m: m[0] if len(m[0]) == 2 else f"\\{m[0]}", text[1:-1])
    inner = inner.replace("--", r"-\-")
    re.compile(f"[{inner}]")
    negated, inner = inner.startswith("^"), inner.removeprefix("^")
    kinds = "".join(_SHORTHANDS.get(char, "") for char in re.findall(r"\\(.)", inner, re.DOTALL))
    chars = re.sub(r"\\(.)", lambda m: _in_class(m[1]), inner, flags=re.DOTALL)
    # What is left may not begin with a sign that it did not begin with.
    chars = re.sub(r"^\^", r"\^", chars)
    if negated:
        others = _one_of("".join(sorted(set(_KINDS) - set(kinds))))
        return f"(?:{others}[^{chars}])" if chars else f"(?:{others}.)"
    return f"(?:{_one_of(kinds)}.|[{_KINDS}]{_one_of(chars)})"


def _one_of(chars: str) -> str:
    return f"[{chars}]" if chars else _NOTHING


def _in_class(char: str) -> str:
    """The inside of a class that means an escaped `char`, which is no shorthand."""
    if char in _SHORTHANDS:
        return ""
    return f"\\{char}" if char.isascii() and char.isalnum() else rf"\x{{{ord(char):x}}}"


def too_large_together() -> UsageError:
    """What is raised where expressions go beyond `MAX_SIZE`."""
    return UsageError("the patterns are too large together", hint="repeat less")


@lru_cache(maxsize=1 << 12)
def _marked(char: str) -> str:
    return _kind(char) + char


def _kind(char: str) -> str:
    """What kind of character Python takes `char` for, as one of `_KINDS`."""
    if char.isdecimal():
        return "0"
    if char.isalnum() or char == "_":
        return "1"
    return "2" if char.isspace() else "3"


def _grouped(expressions: Iterable[Expression]) -> Iterator[list[Expression]]:
    group: list[Expression] = []
    size = 0
    for expression in expressions:
        if group and (len(group) == _GROUP_LENGTH or size + expression.size > _GROUP_SIZE):
            yield group
            group, size = [], 0
        group.append(expression)
        size += expression.size
    if group:
        yield group


def _compiled_set(group: Sequence[Expression]) -> Any:  # noqa: ANN401 - re2 has no types
    import re2

    compiled = re2.Set.FullMatchSet(_options(_GROUP_MEMORY))
    try:
        for expression in group:
            compiled.Add(_encoded(expression.text))
        compiled.Add(b".*")
        compiled.Compile()
    except re2.error as error:
        raise too_large_together() from error
    return compiled


def _options(memory: int) -> Any:  # noqa: ANN401 - re2 has no types
    import re2

    options = re2.Options()
    options.max_mem = memory
    options.dot_nl = True
    options.never_capture = True
    options.log_errors = False
    return options


def _encoded(text: str) -> bytes:
    """UTF-8, with lone surrogates (of names that are none) as RE2 reads them."""
    return text.encode("utf-8", "surrogatepass")
