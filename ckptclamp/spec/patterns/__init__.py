r"""Which tensors a rule means: globs over names, exclusions, and regular expressions.

A name is made of segments: between its slashes, or between its dots where it has no slash
(``dense/kernel``, ``model.layers.0.mlp.weight``). ``*`` stands for any characters within one segment,
``?`` for one of them, ``[abc]`` and ``[!abc]`` for one of a class. ``**`` stands for any characters,
across segments; as a whole segment (``**/kernel``, ``**.weight``, ``a.**.weight``) also for no segment at
all. ``{a,b}`` is one of several. ``[{]`` and ``[*]`` are the signs themselves. ``!`` before a pattern
excludes, ``re:`` makes it a regular expression for the whole name. Case matters.

A tensor has several names: its own, its aliases, its label. It matches by any of them, each also
without the leading ``model_weights/`` of Keras' whole-model files and without TensorFlow's ``:0``.

Regular expressions have Python's syntax and meaning, of which are understood literals, ``.`` (any
character), classes, groups, ``|`` and the quantifiers ``* + ? {m,n}``. Anchors, look-around,
back-references, flags and lazy quantifiers are refused: a match is of the whole name, so they mean
nothing or something that takes memory. `re` backtracks, and a name from an untrusted file can make it
run for ever. RE2 takes time linear in the name and bounded memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

from ckptclamp.errors import UsageError
from ckptclamp.spec.patterns.characters import character_class, escape, literal, marked
from ckptclamp.spec.patterns.globs import from_glob, narrower

_EXCLUDE = "!"
_REGULAR = "re:"
_ROOT = "model_weights/"
_SUFFIX = ":0"

_MAX_LENGTH = 5_000
"""How many characters one expression may have."""

_MAX_SIZE = 4_000_000
"""How many instructions (of 16 bytes) expressions may be together: a second of compiling."""

_GIVEN_UP = 40_000
"""About how many instructions are made of an expression that is then refused; see `_MEMORY`."""

_OVERHEAD = 100
"""How many instructions take as long to compile as is spent on any pattern, however small."""

_NARROWER_SIZE = 1_000_000
"""How many instructions of a spec's patterns with one choice of a brace are tried by themselves."""

_MEMORY = 2 << 20
"""Bytes for one expression while it is checked, so that a literal of `_MAX_LENGTH` fits."""

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
                self._owners.setdefault(_expression(pattern), []).append((rule, pattern))
        if sum(expression.size for expression in self._owners) > _MAX_SIZE:
            raise _too_large_together()
        self._groups = [(group, _compiled_set(group)) for group in _grouped(self._owners)]
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
        for name in set().union(*map(_spellings, names)):
            for expression in self._expressions(name):
                for rule, pattern in self._owners[expression]:
                    self._met.add(pattern)
                    (excluded if _excludes(pattern) else wanted).add(rule)
        return frozenset(wanted - excluded)

    def _expressions(self, name: str) -> Iterator[Expression]:
        """Yield the expressions that match all of `name`."""
        encoded = _encoded(marked(name))
        for group, compiled_set in self._groups:
            numbers = compiled_set.Match(encoded)
            # The last of a set matches every text: without it, this is no answer.
            if not numbers:
                raise UsageError("the patterns take too much memory", hint="repeat less")
            yield from (group[number] for number in numbers if number < len(group))

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
            if pattern not in self._refusals and self._size <= _MAX_SIZE:
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
            size, refusal = _GIVEN_UP, error
        self._size += size + _OVERHEAD
        return refusal or (_too_large_together() if self._size > _MAX_SIZE else None)


def single_choices(rules: Sequence[Sequence[str]]) -> dict[int, list[str]]:
    """Return the patterns of each rule that has braces, each with one choice of one brace alone.

    Exclusions and regular expressions are left out, and so is what goes beyond `_NARROWER_SIZE`
    together: it only serves to tell of choices that are misspelt.
    """
    found: dict[int, list[str]] = {}
    size = 0
    for rule, patterns in enumerate(rules):
        globs = (p for p in patterns if "{" in p and not p.startswith((_EXCLUDE, _REGULAR)))
        for choice in chain.from_iterable(map(narrower, globs)):
            if not choice or choice.startswith((_EXCLUDE, _REGULAR)):  # these mean something alone
                continue
            size += _expression(choice).size + _OVERHEAD
            if size > _NARROWER_SIZE:
                return found
            found.setdefault(rule, []).append(choice)
    return found


def literal_head(pattern: str) -> str:
    """The part of a pattern before anything that varies: ``optimizer/`` of ``optimizer/**``."""
    bare = pattern.removeprefix(_EXCLUDE)
    special = r"[\\.^$*+?{}\[\]()|]" if bare.startswith(_REGULAR) else r"[*?\[{]"
    return re.split(special, bare.removeprefix(_REGULAR), maxsplit=1)[0]


def _excludes(pattern: str) -> bool:
    return pattern.startswith(_EXCLUDE)


def _refuse_only_exclusions(patterns: Sequence[str]) -> None:
    if all(map(_excludes, patterns)):
        raise UsageError(
            "only exclusions, so no tensor can match", hint="begin with '**' to mean the rest"
        )


def _spellings(name: str) -> set[str]:
    """A name as it is, and without what Keras and TensorFlow put around it."""
    names = {name, name.removeprefix(_ROOT)}
    return names | {spelling.removesuffix(_SUFFIX) for spelling in names}


@lru_cache(maxsize=1 << 14)
def _expression(pattern: str) -> Expression:
    import re2

    bare = pattern.removeprefix(_EXCLUDE)
    if not bare:
        raise UsageError("an empty pattern matches no name", hint="write '**' for every tensor")
    if bare.startswith(_REGULAR):
        return compiled(_without_anchors(bare.removeprefix(_REGULAR)))
    if len(bare) > _MAX_LENGTH:
        raise UsageError(f"a pattern of {len(bare)} characters is too large")
    try:
        return _measured(from_glob(bare))
    except ValueError as error:
        raise UsageError(f"the glob {pattern!r} has {error}") from error
    except re.error as error:
        raise UsageError(f"the glob {pattern!r} cannot be understood: {error}") from error
    except re2.error as error:
        raise UsageError(f"the glob {pattern!r} has {_reason(error)}") from error


def _without_anchors(expression: str) -> str:
    body = expression.removeprefix("^")
    return body[:-1] if body.endswith("$") and not body.endswith(r"\$") else body


@lru_cache(maxsize=1 << 14)
def compiled(regular: str) -> Expression:
    """Check and translate one regular expression.

    Raises:
        UsageError: it is not in the syntax that is understood, or too large.
    """
    import re2

    if len(regular) > _MAX_LENGTH:
        raise UsageError(f"a pattern of {len(regular)} characters is too large")
    try:
        return _measured(_translated(regular))
    except re2.error as error:
        raise _refused(regular, _reason(error)) from error
    except (ValueError, re.error) as error:
        raise _refused(regular, str(error)) from error


def _measured(text: str) -> Expression:
    import re2

    return Expression(text, re2.compile(_encoded(text), _options(_MEMORY)).programsize)


def _reason(error: Exception) -> str:
    """Why RE2 refused an expression."""
    reason, _, part = error.args[0].decode(errors="replace").partition(": ")
    return _REASONS.get(reason, f"{part!r}: {reason}")


def _refused(regular: str, what: str) -> UsageError:
    return UsageError(
        f"the pattern {regular!r} has {what}",
        hint="use literals, '.', classes, groups, '|' and the quantifiers * + ? {m,n}",
    )


def _translated(regular: str) -> str:
    """Say in RE2's syntax what `regular` means in Python; `ValueError` for what is not understood."""
    return _TOKEN.sub(_token, regular)


def _token(token: re.Match[str]) -> str:
    text = token.group()
    match token.lastgroup:
        case "operator":
            return text
        case "escape":
            return escape(token["escape"])
        case "class":
            return character_class(text)
        case "refused" if text == "(?":
            raise ValueError("'(?', for look-around and flags")
        case "refused":
            raise ValueError("a quantifier on a quantifier")
        case "misplaced":
            raise ValueError(f"{text!r} in a place where it is not understood")
    return "(?:..)" if text == "." else literal(text)


def _too_large_together() -> UsageError:
    """What is raised where expressions go beyond `_MAX_SIZE`."""
    return UsageError("the patterns are too large together", hint="repeat less")


def _grouped(expressions: Iterable[Expression]) -> list[list[Expression]]:
    groups: list[list[Expression]] = []
    size = 0
    for expression in expressions:
        size += expression.size
        if not groups or len(groups[-1]) == _GROUP_LENGTH or size > _GROUP_SIZE:
            groups.append([])
            size = expression.size
        groups[-1].append(expression)
    return groups


def _compiled_set(group: Sequence[Expression]) -> Any:  # noqa: ANN401 - re2 has no types
    import re2

    compiled = re2.Set.FullMatchSet(_options(_GROUP_MEMORY))
    try:
        for expression in group:
            compiled.Add(_encoded(expression.text))
        compiled.Add(b".*")
        compiled.Compile()
    except re2.error as error:
        raise _too_large_together() from error
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
