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
from collections.abc import Iterable, Sequence

from ckptclamp.errors import UsageError
from ckptclamp.spec import regular
from ckptclamp.spec.regular import Expression, ExpressionSet

_OVERHEAD = 100
"""How many instructions take as long to compile as is spent on any pattern, however small."""

_EXCLUDE = "!"
_REGULAR = "re:"
_ROOT = regular.translated("(model_weights/)?")
_SUFFIX = regular.translated("(:0)?")


class TensorPatterns:
    """The patterns of several rules, matched together so that their number costs little.

    Attributes:
        rules: for each rule its patterns, exclusions among them.

    Raises:
        UsageError: a pattern that cannot be understood, a rule that only excludes, or patterns that
            are too large together.
    """

    def __init__(self, rules: Sequence[Sequence[str]]) -> None:
        self.rules = rules
        # Patterns that mean the same are matched once.
        self._owners: dict[Expression, list[tuple[int, str]]] = {}
        for rule, patterns in enumerate(rules):
            for pattern in patterns:
                self._owners.setdefault(_of_tensors(pattern), []).append((rule, pattern))
        self._set = ExpressionSet(self._owners)
        self._met: set[str] = set()
        for patterns in rules:
            _refuse_only_exclusions(patterns)

    def matching(self, names: Iterable[str]) -> frozenset[int]:
        """Return the rules (by place) that a tensor with these names matches.

        Raises:
            UsageError: RE2 had too little memory to find out.
        """
        wanted: set[int] = set()
        excluded: set[int] = set()
        for name in names:
            for expression in self._set.matching(name):
                for rule, pattern in self._owners[expression]:
                    self._met.add(pattern)
                    (excluded if _excludes(pattern) else wanted).add(rule)
        return frozenset(wanted - excluded)

    def never_met(self) -> dict[int, list[str]]:
        """Return the patterns, without exclusions, that matched no name so far, by rule."""
        idle = {
            rule: [p for p in patterns if p not in self._met and not _excludes(p)]
            for rule, patterns in enumerate(self.rules)
        }
        return {rule: patterns for rule, patterns in idle.items() if patterns}


class PatternChecker:
    """Checks the patterns of one spec, and that they are not too large together.

    A pattern must be compiled to be checked, so that bound is kept from the first one on. What goes
    beyond it is refused once; of the patterns after it none is looked at.
    """

    def __init__(self) -> None:
        self._refusals: dict[str, UsageError | None] = {}
        self._size = 0

    def check(self, patterns: Sequence[str]) -> None:
        """Check the patterns of one rule.

        Raises:
            UsageError: one cannot be understood or goes beyond the bound, or all only exclude.
        """
        for pattern in patterns:
            if pattern not in self._refusals and self._size <= regular.MAX_SIZE:
                self._refusals[pattern] = self._refusal(pattern)
            refusal = self._refusals.get(pattern)
            if refusal is not None:
                raise refusal
        _refuse_only_exclusions(patterns)

    def _refusal(self, pattern: str) -> UsageError | None:
        refusal = None
        try:
            size = _expression(pattern).size
        except UsageError as error:
            size, refusal = regular.GIVEN_UP, error
        self._size += size + _OVERHEAD
        return refusal or (regular.too_large_together() if self._size > regular.MAX_SIZE else None)


def literal_head(pattern: str) -> str:
    """The part of a pattern before anything that varies: ``optimizer/`` of ``optimizer/**``."""
    bare = pattern.removeprefix(_EXCLUDE)
    special = r"[\\.^$*+?{}\[\]()|]" if bare.startswith(_REGULAR) else r"[*?\[]"
    return re.split(special, bare.removeprefix(_REGULAR), maxsplit=1)[0]


def _excludes(pattern: str) -> bool:
    return pattern.startswith(_EXCLUDE)


def _refuse_only_exclusions(patterns: Sequence[str]) -> None:
    if all(map(_excludes, patterns)):
        raise UsageError(
            "only exclusions, so no tensor can match", hint="begin with '**' to mean the rest"
        )


def _of_tensors(pattern: str) -> Expression:
    """What a pattern means, with the root and the suffix of names made optional."""
    body = _expression(pattern)
    return Expression(f"{_ROOT}(?:{body.text}){_SUFFIX}", body.size)


def _expression(pattern: str) -> Expression:
    bare = pattern.removeprefix(_EXCLUDE)
    if not bare:
        raise UsageError("an empty pattern matches no name", hint="write '**' for every tensor")
    if bare.startswith(_REGULAR):
        return regular.compiled(_without_anchors(bare.removeprefix(_REGULAR)))
    try:
        return regular.compiled(_from_glob(bare))
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
    pieces = re.findall(r"\*+|\?|\[[!^]?\]?[^\]]*\]|.", glob, re.DOTALL)
    return "".join(map(_piece, pieces))


def _piece(piece: str) -> str:
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
