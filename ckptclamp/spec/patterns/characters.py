"""Characters of names, each after a mark of its kind, and what matches them in RE2's syntax.

RE2's ``\\w`` means ASCII, and a class of all scripts' letters is 1,300 of its instructions. With marks
``\\w`` is two of them. A dot that parts the segments of a name has a mark of its own, so that what stays
within a segment need not know where a name has its segments.
"""

from __future__ import annotations

import re
from functools import lru_cache

KINDS = "01234"
"""A digit, another character of a word, a space, any other, and a dot that parts segments."""

WITHIN = "0123"
"""The kinds that stand within a segment; among the third is the slash, which does not."""

_SHORTHANDS = {"d": "0", "D": "1234", "w": "01", "W": "234", "s": "2", "S": "0134"}
"""The kinds of characters that a shorthand takes; see `_kind`."""

_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}
_NOTHING = r"[^\x{0}-\x{10ffff}]"
SLASH, DOT = "/", "."


def literal(char: str) -> str:
    """What matches `char` alone."""
    kind = "[34]" if char == DOT else _kind(char)
    return rf"(?:{kind}\x{{{ord(char):x}}})"


def escape(char: str) -> str:
    """What a backslash and `char` match; `ValueError` where that is not understood."""
    if char in _SHORTHANDS:
        return f"(?:[{_SHORTHANDS[char]}].)"
    if char.isalnum() and char not in _CONTROLS:
        raise ValueError(f"'\\{char}'")
    return literal(_CONTROLS.get(char, char))


def character_class(text: str, among: str = KINDS) -> str:
    """What the class `text`, brackets and all, matches; negated, of the kinds `among` these alone."""
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
        others = _one_of("".join(sorted(set(among) - set(kinds))))
        return f"(?:{others}[^{chars}])" if chars else f"(?:{others}.)"
    return f"(?:{_one_of(kinds)}.|[{KINDS}]{_one_of(chars)})"


def _one_of(chars: str) -> str:
    return f"[{chars}]" if chars else _NOTHING


def _in_class(char: str) -> str:
    """The inside of a class that means an escaped `char`, which is no shorthand."""
    if char in _SHORTHANDS:
        return ""
    return f"\\{char}" if char.isascii() and char.isalnum() else rf"\x{{{ord(char):x}}}"


def marked(name: str) -> str:
    """Every character of `name` after its mark; dots part segments where no slash does."""
    text = "".join(map(_marked, name))
    return text if SLASH in name else text.replace("3.", "4.")


@lru_cache(maxsize=1 << 12)
def _marked(char: str) -> str:
    return _kind(char) + char


def _kind(char: str) -> str:
    """What kind of character Python takes `char` for, as one of `KINDS`."""
    if char.isdecimal():
        return "0"
    if char.isalnum() or char == "_":
        return "1"
    return "2" if char.isspace() else "3"
