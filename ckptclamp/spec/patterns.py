"""Which tensors a rule means: globs over names, exclusions, and regular expressions.

A name is made of segments between slashes. ``*`` stands for any characters of one segment, ``?`` for
one of them, ``[abc]`` and ``[!abc]`` for one of a class; ``**`` as a whole segment stands for any
number of segments, also none. ``!`` before a pattern excludes, ``re:`` makes it a regular expression
for the whole name (see `automaton` for what is understood). Case matters.

A tensor has several names: its own, its aliases, its label. It matches by any of them, each also
without the leading ``model_weights/`` of Keras' whole-model files and without TensorFlow's ``:0``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptclamp.errors import UsageError
from ckptclamp.spec.automaton import Automaton
from ckptclamp.spec.regular import parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ROOT = "model_weights/"
_SUFFIX = ":0"
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
        self._patterns: list[str] = []
        self._excluding: list[bool] = []
        self._rule: list[int] = []
        self._met: set[int] = set()
        expressions = []
        for index, patterns in enumerate(rules):
            for pattern in patterns:
                check(pattern)
                self._patterns.append(pattern)
                self._excluding.append(pattern.startswith(_EXCLUDE))
                self._rule.append(index)
                expressions.append(_expression(pattern))
            if all(pattern.startswith(_EXCLUDE) for pattern in patterns):
                raise UsageError(
                    "only exclusions, so no tensor can match",
                    hint="begin with '**' to mean the rest",
                )
        self._automaton = Automaton(expressions)

    def matching(self, names: Iterable[str]) -> frozenset[int]:
        """Return the rules (by place) that a tensor with these names matches."""
        wanted: set[int] = set()
        excluded: set[int] = set()
        for name in names:
            matched = self._automaton.matching(name)
            self._met |= matched
            for number in matched:
                (excluded if self._excluding[number] else wanted).add(self._rule[number])
        return frozenset(wanted - excluded)

    def never_met(self) -> dict[int, list[str]]:
        """Return the patterns, without exclusions, that matched no name so far, by rule."""
        idle: dict[int, list[str]] = {}
        for number, pattern in enumerate(self._patterns):
            if number not in self._met and not self._excluding[number]:
                idle.setdefault(self._rule[number], []).append(pattern)
        return idle


def check(pattern: str) -> None:
    """Raise `UsageError` if one pattern cannot be understood."""
    if not _bare(pattern):
        raise UsageError("an empty pattern matches no name", hint="write '**' for every tensor")
    if _bare(pattern).startswith(_REGULAR):
        # By itself, before it is put between parentheses that could hide one it lacks.
        parse(_body(pattern))
        return
    try:
        parse(_body(pattern))
    except UsageError as error:
        raise UsageError(f"the glob {pattern!r} cannot be understood", hint=error.hint) from error


def literal_head(pattern: str) -> str:
    """The part of a pattern before anything that varies: ``optimizer/`` of ``optimizer/**``."""
    bare = _bare(pattern)
    special = r"[\\.^$*+?{}\[\]()|]" if bare.startswith(_REGULAR) else r"[*?\[]"
    return re.split(special, bare.removeprefix(_REGULAR), maxsplit=1)[0]


def _bare(pattern: str) -> str:
    return pattern.removeprefix(_EXCLUDE)


def _expression(pattern: str) -> str:
    """The regular expression that a pattern means, with the root and the suffix made optional."""
    return f"({re.escape(_ROOT)})?({_body(pattern)})({re.escape(_SUFFIX)})?"


def _body(pattern: str) -> str:
    bare = _bare(pattern)
    if not bare.startswith(_REGULAR):
        return _from_glob(bare)
    body = bare.removeprefix(_REGULAR).removeprefix("^")
    return body[:-1] if body.endswith("$") and not body.endswith(r"\$") else body


def _from_glob(glob: str) -> str:
    segments = glob.split("/")
    parts = [_many(last=False) if s == "**" else _segment(s) + "/" for s in segments[:-1]]
    parts.append(_many(last=True) if segments[-1] == "**" else _segment(segments[-1]))
    return "".join(parts)


def _many(*, last: bool) -> str:
    return "([^/]*/)*[^/]*" if last else "([^/]*/)*"


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
