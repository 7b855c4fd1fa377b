"""Globs over the names of tensors, in RE2's syntax over marked characters (`characters`)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from ckptclamp.spec.patterns.characters import DOT, SLASH, WITHIN, character_class, literal

_ANY = "(?:..)*"
_ONE_WITHIN = "(?:[012].|3[^/])"
_DEEPEST = 8
"""How many braces may stand within each other."""


def from_glob(glob: str) -> str:
    """Return what matches all of a name as `glob` does.

    Raises:
        ValueError: a brace is not closed, closes nothing, or holds no alternatives.
    """
    text, end = _alternative(glob, 0, depth=0)
    if end < len(glob):
        raise ValueError("a '}' that closes nothing; write [}] for the sign itself")
    return text


def narrower(glob: str) -> Iterator[str]:
    """Yield `glob` with one of its outermost braces replaced by one of its choices, for each of them.

    A misspelt choice is found among them whatever the other braces hold; which choices of several
    braces go together is not asked.
    """
    at, depth = 0, 0
    signs: list[int] = []
    while at < len(glob):
        if glob[at] == "[" and (end := _class_end(glob, at)):
            at = end
            continue
        depth += glob[at] == "{"
        if depth == 1 and glob[at] in "{,}":
            signs.append(at)
        depth -= glob[at] == "}"
        at += 1
        if signs and depth == 0:
            head, tail = glob[: signs[0]], glob[at:]
            yield from (head + glob[a + 1 : b] + tail for a, b in pairwise(signs))
            signs = []


def _alternative(glob: str, at: int, depth: int) -> tuple[str, int]:
    """Translate up to the end, or the sign that ends an alternative of a brace; say where that is."""
    parts = []
    while at < len(glob):
        char = glob[at]
        if char == "}" or (char == "," and depth):
            break
        if char == "{":
            part, at = _braces(glob, at, depth + 1)
        elif char == "*":
            part, at = _stars(glob, at)
        elif char == "[" and (end := _class_end(glob, at)):
            part, at = _class(glob[at:end]), end
        else:
            part, at = (_ONE_WITHIN if char == "?" else literal(char)), at + 1
        parts.append(part)
    return "".join(parts), at


def _braces(glob: str, at: int, depth: int) -> tuple[str, int]:
    if depth > _DEEPEST:
        raise ValueError(f"braces more than {_DEEPEST} deep")
    choices = []
    while at < len(glob) and glob[at] != "}":
        text, at = _alternative(glob, at + 1, depth)  # after the brace, or the comma
        choices.append(text)
    if at == len(glob):
        raise ValueError("a '{' that is not closed; write [{] for the sign itself")
    if len(choices) < 2:
        raise ValueError("braces without alternatives, as {a,b}; write [{] for the sign itself")
    return f"(?:{'|'.join(choices)})", at + 1


def _stars(glob: str, at: int) -> tuple[str, int]:
    """One star stays within a segment; two are anything, and as a whole segment also nothing."""
    end = at
    while end < len(glob) and glob[end] == "*":
        end += 1
    if end - at == 1:
        return f"{_ONE_WITHIN}*", end
    begins = at == 0 or glob[at - 1] in (SLASH, DOT)
    if begins and end < len(glob) and glob[end] in (SLASH, DOT):
        return f"(?:{_ANY}{literal(glob[end])})?", end + 1
    return _ANY, end


def _class_end(glob: str, at: int) -> int:
    """Where a class that begins at `at` has ended; 0 if it does not, and the bracket is a sign."""
    first = at + 1
    if glob[first : first + 1] in ("!", "^"):
        first += 1
    return glob.find("]", first + 1) + 1


def _class(text: str) -> str:
    """A class as globs write it; what it does not name stays within a segment."""
    inner = text[1:-1]
    negated = inner.startswith(("!", "^"))
    inner = (inner[1:] if negated else inner).replace("\\", r"\\").replace("]", r"\]")
    return character_class(f"[^/{inner}]", WITHIN) if negated else character_class(f"[{inner}]")
