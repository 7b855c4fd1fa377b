"""Which tensors a rule means: globs over names, exclusions, and regular expressions.

A name is made of segments between slashes. ``*`` stands for any characters of one segment, ``?`` for
one of them, ``[abc]`` and ``[!abc]`` for one of a class; ``**`` as a whole segment stands for any
number of segments, also none. ``!`` before a pattern excludes, ``re:`` makes it a regular expression
for the whole name (see `regular` for what is understood). Case matters.

A tensor has several names: its own, its aliases, its label. It matches by any of them, each also
without the leading ``model_weights/`` of Keras' whole-model files and without TensorFlow's ``:0``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptclamp.errors import UsageError
from ckptclamp.spec.regular import Expression, ExpressionSet, parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ROOT = "(model_weights/)?"
_SUFFIX = "(:0)?"
_EXCLUDE = "!"
_REGULAR = "re:"


class TensorPatterns:
    """The patterns of several rules, matched together so that their number costs little.

    Attributes:
        rules: for each rule its patterns, exclusions among them.

    Raises:
        UsageError: a pattern that cannot be understood, or a rule that only excludes.
    """

    def __init__(self, rules: Sequence[Sequence[str]]) -> None:
        self.rules = rules
        self._patterns = [
            (rule, pattern) for rule, all_of in enumerate(rules) for pattern in all_of
        ]
        self._set = ExpressionSet([_expression(pattern) for _, pattern in self._patterns])
        self._met: set[int] = set()
        if any(all(map(_excludes, patterns)) for patterns in rules):
            raise UsageError(
                "only exclusions, so no tensor can match",
                hint="begin with '**' to mean the rest",
            )

    def matching(self, names: Iterable[str]) -> frozenset[int]:
        """Return the rules (by place) that a tensor with these names matches."""
        wanted: set[int] = set()
        excluded: set[int] = set()
        for name in names:
            matched = self._set.matching(name)
            self._met |= matched
            for number in matched:
                rule, pattern = self._patterns[number]
                (excluded if _excludes(pattern) else wanted).add(rule)
        return frozenset(wanted - excluded)

    def never_met(self) -> dict[int, list[str]]:
        """Return the patterns, without exclusions, that matched no name so far, by rule."""
        idle: dict[int, list[str]] = {}
        for number, (rule, pattern) in enumerate(self._patterns):
            if number not in self._met and not _excludes(pattern):
                idle.setdefault(rule, []).append(pattern)
        return idle


def check(pattern: str) -> None:
    """Raise `UsageError` if one pattern cannot be understood."""
    _body(pattern)


def literal_head(pattern: str) -> str:
    """The part of a pattern before anything that varies: ``optimizer/`` of ``optimizer/**``."""
    bare = _bare(pattern)
    special = r"[\\.^$*+?{}\[\]()|]" if bare.startswith(_REGULAR) else r"[*?\[]"
    return re.split(special, bare.removeprefix(_REGULAR), maxsplit=1)[0]


def _bare(pattern: str) -> str:
    return pattern.removeprefix(_EXCLUDE)


def _excludes(pattern: str) -> bool:
    return pattern.startswith(_EXCLUDE)


def _expression(pattern: str) -> Expression:
    """What a pattern means, with the root and the suffix made optional."""
    body = _body(pattern)
    return Expression(f"{parse(_ROOT).text}(?:{body.text}){parse(_SUFFIX).text}", body.size)


def _body(pattern: str) -> Expression:
    bare = _bare(pattern)
    if not bare:
        raise UsageError("an empty pattern matches no name", hint="write '**' for every tensor")
    if bare.startswith(_REGULAR):
        return parse(_without_anchors(bare.removeprefix(_REGULAR)))
    try:
        return parse(_from_glob(bare))
    except UsageError as error:
        raise UsageError(f"the glob {pattern!r} cannot be understood", hint=error.hint) from error


def _without_anchors(expression: str) -> str:
    body = expression.removeprefix("^")
    return body[:-1] if body.endswith("$") and not body.endswith(r"\$") else body


def _from_glob(glob: str) -> str:
    *groups, last = glob.split("/")
    parts = ["(.*/)?" if group == "**" else _segment(group) + "/" for group in groups]
    return "".join(parts) + (".*" if last == "**" else _segment(last))


def _segment(glob: str) -> str:
    return "".join(
        _one(piece) for piece in re.findall(r"\*+|\?|\[[!^]?\]?[^\]]*\]|.", glob, re.DOTALL)
    )


def _one(piece: str) -> str:
    if piece.startswith("*"):
        return "[^/]*"
    if piece == "?":
        return "[^/]"
    if len(piece) == 1:
        return re.escape(piece)
    inner = piece[1:-1]
    negated = inner.startswith(("!", "^"))
    inner = (inner[1:] if negated else inner).replace("\\", r"\\").replace("]", r"\]")
    return f"[^/{inner}]" if negated else f"[{inner}]"
