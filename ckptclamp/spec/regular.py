"""The syntax of regular expressions that are regular in the mathematical sense.

Literals, ``.``, classes, groups, ``|``, and the quantifiers ``* + ? {m,n}``, written as Python writes
them. Look-around, back-references, anchors and flags are refused: an automaton has no memory for
them, or no need.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Protocol

from ckptclamp.errors import UsageError

MAX_STATES = 5_000
"""How large one pattern may be; a repetition counts as often as it repeats."""

MAX_NESTING = 32

Predicate = Callable[[str], object]
"""Whether it takes one character (any truth value)."""

_ATOM = re.compile(
    r"""
      \\(?P<escape>.)
    | (?P<class>\[\^?\]?(?:\\.|[^\]\\])*\])
    | (?P<group>\((?:\?:)?)
    | (?P<sign>[)|])
    | (?P<quantifier>[*+?]|\{\d+(?:,\d*)?\})
    | (?P<bad>[\[{}^$])
    | (?P<plain>.)
    """,
    re.VERBOSE | re.DOTALL,
)


class States(Protocol):
    """What a pattern is built into."""

    def state(self) -> int:
        """A new state."""

    def consume(self, start: int, end: int, accepts: Predicate) -> None:
        """Lead from `start` to `end` by one character."""

    def free(self, start: int, end: int) -> None:
        """Lead from `start` to `end` without a character."""


def parse(pattern: str) -> Chain:
    """Read one pattern.

    Raises:
        UsageError: it is not in the syntax above, or too large.
    """
    if len(pattern) > MAX_STATES:
        raise UsageError(f"a pattern of {len(pattern)} characters is too large")
    return _Parser(pattern).parse()


class Node(ABC):
    """A piece of a pattern.

    `key` is its text: pieces of equal keys match alike. `size` counts the states that it becomes.
    """

    key: str
    size: int

    @abstractmethod
    def build(self, nfa: States, start: int, end: int) -> None:
        """Make states that lead from `start` to `end` by what this piece matches.

        Nothing is made to lead back to `start`, so that several pieces can begin there.
        """


class One(Node):
    """One character."""

    def __init__(self, key: str, accepts: Predicate) -> None:
        self.key, self.size, self.accepts = key, 1, accepts

    def build(self, nfa: States, start: int, end: int) -> None:
        """See `Node.build`."""
        nfa.consume(start, end, self.accepts)


class Chain(Node):
    """One part after the other; a chain in a chain is only its parts."""

    def __init__(self, parts: Iterable[Node]) -> None:
        self.parts: list[Node] = []
        for part in parts:
            self.parts.extend(part.parts if isinstance(part, Chain) else [part])
        self.key = f"({''.join(part.key for part in self.parts)})"
        self.size = 1 + sum(part.size + 1 for part in self.parts)

    def build(self, nfa: States, start: int, end: int) -> None:
        """See `Node.build`."""
        for part in self.parts:
            following = nfa.state()
            part.build(nfa, start, following)
            start = following
        nfa.free(start, end)


class Either(Node):
    """Any one of the parts."""

    def __init__(self, parts: list[Node]) -> None:
        self.parts = parts
        self.key = f"({'|'.join(part.key for part in parts)})"
        self.size = 1 + sum(part.size for part in parts)

    def build(self, nfa: States, start: int, end: int) -> None:
        """See `Node.build`."""
        for part in self.parts:
            part.build(nfa, start, end)


class Repeat(Node):
    """`part` at least `low` times and at most `high` times (``None``: any number)."""

    def __init__(self, part: Node, low: int, high: int | None) -> None:
        self.part, self.low, self.high = part, low, high
        self.key = f"{part.key}{{{low},{high}}}"
        self.size = 2 + (part.size + 1) * max(low + 1, high or 0)

    def build(self, nfa: States, start: int, end: int) -> None:
        """See `Node.build`."""
        for _ in range(self.low):
            start = self._once(nfa, start)
        if self.high is None:
            loop = nfa.state()
            nfa.free(start, loop)
            self.part.build(nfa, loop, loop)
            start = loop
        else:
            for _ in range(self.high - self.low):
                nfa.free(start, end)
                start = self._once(nfa, start)
        nfa.free(start, end)

    def _once(self, nfa: States, start: int) -> int:
        following = nfa.state()
        self.part.build(nfa, start, following)
        return following


class _Parser:
    """A recursive descent over ``a|b``, ``ab``, ``a*`` and atoms."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._tokens = list(_ATOM.finditer(pattern))
        self._position = 0

    def parse(self) -> Chain:
        node = Chain([self._either(0)])
        if self._position < len(self._tokens):
            raise self._refusal("a ')' that closes nothing")
        if node.size > MAX_STATES:
            raise UsageError("the pattern is too large", hint="shorten it, or repeat less")
        return node

    def _either(self, depth: int) -> Node:
        if depth > MAX_NESTING:
            raise self._refusal(f"groups nested deeper than {MAX_NESTING}")
        parts = [self._sequence(depth)]
        while self._at("|"):
            self._position += 1
            parts.append(self._sequence(depth))
        return parts[0] if len(parts) == 1 else Either(parts)

    def _sequence(self, depth: int) -> Node:
        parts = []
        while self._position < len(self._tokens) and not (self._at("|") or self._at(")")):
            parts.append(self._quantified(depth))
        return parts[0] if len(parts) == 1 else Chain(parts)

    def _quantified(self, depth: int) -> Node:
        node = self._atom(depth)
        token = self._token()
        if token is None or token.lastgroup != "quantifier":
            return node
        self._position += 1
        following = self._token()
        if following is not None and following.lastgroup == "quantifier":
            raise self._refusal("a quantifier on a quantifier")
        return self._repeat(node, token.group())

    def _repeat(self, node: Node, quantifier: str) -> Node:
        low, high = _bounds(quantifier)
        if high is not None and low > high:
            raise self._refusal(f"{quantifier} that repeats nothing")
        # Checked here, before nested repetitions can make a size that is no longer cheap.
        repeated = Repeat(node, low, high)
        if repeated.size > MAX_STATES:
            raise self._refusal(f"{quantifier} that makes it too large")
        return repeated

    def _atom(self, depth: int) -> Node:
        token = self._tokens[self._position]
        self._position += 1
        match token.lastgroup:
            case "group":
                return self._group(depth)
            case "escape":
                return self._escape(token["escape"])
            case "class":
                return self._one(token.group(), _plain_class(token.group()))
            case "plain" if token.group() == ".":
                return One(".", bool)
            case "plain":
                return _literal(token.group())
            case _:
                raise self._refusal(f"{token.group()!r} in a place where it is not understood")

    def _group(self, depth: int) -> Node:
        if self._pattern[self._start() :].startswith("?"):
            raise self._refusal("'(?', for look-around and flags")
        node = self._either(depth + 1)
        if not self._at(")"):
            raise self._refusal("a '(' that is not closed")
        self._position += 1
        return node

    def _escape(self, char: str) -> Node:
        if not char.isalnum():
            return _literal(char)
        if char not in "dDwWsSntrfv":
            raise self._refusal(f"'\\{char}'")
        return self._one(f"\\{char}", f"\\{char}")

    def _one(self, key: str, expression: str) -> Node:
        try:
            return One(key, re.compile(expression, re.DOTALL).fullmatch)
        except re.error as error:
            raise self._refusal(f"{key!r}: {error}") from error

    def _token(self) -> re.Match[str] | None:
        return self._tokens[self._position] if self._position < len(self._tokens) else None

    def _start(self) -> int:
        token = self._token()
        return len(self._pattern) if token is None else token.start()

    def _at(self, sign: str) -> bool:
        token = self._token()
        return token is not None and token.lastgroup == "sign" and token.group() == sign

    def _refusal(self, what: str) -> UsageError:
        return UsageError(
            f"the pattern {self._pattern!r} has {what}",
            hint="use literals, '.', classes, groups, '|' and the quantifiers * + ? {m,n}",
        )


def _literal(char: str) -> One:
    return One(re.escape(char), char.__eq__)


def _plain_class(text: str) -> str:
    """Escape what `re` warns may one day be an operation on sets."""
    inner = re.sub(r"\\.|[\[&~|]", lambda m: m[0] if len(m[0]) == 2 else f"\\{m[0]}", text[1:-1])
    return "[" + inner.replace("--", r"-\-") + "]"


def _bounds(quantifier: str) -> tuple[int, int | None]:
    signs: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
    if quantifier in signs:
        return signs[quantifier]
    low, comma, high = quantifier[1:-1].partition(",")
    # int() of a very long run of digits is refused by Python; more than MAX_STATES is refused here.
    least = min(int(low[:9]), MAX_STATES + 1)
    if not comma:
        return least, least
    return least, min(int(high[:9]), MAX_STATES + 1) if high else None
