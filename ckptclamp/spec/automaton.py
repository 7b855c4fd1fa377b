"""Regular expressions that cannot stall: many at once, in time linear in the text.

Python's `re` backtracks, and a name that a stranger chose can make it run for ever. Here all
patterns become one nondeterministic automaton (Thompson's construction) that is walked as a
deterministic one, whose states are made when they are first needed (as grep and RE2 do). What the
patterns may say is told in `regular`. Matches are of the whole text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptclamp.spec.regular import parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptclamp.spec.regular import Node, Predicate

_DEAD = -1
_CACHED = 200_000
"""How many members the cached sets of states may have together."""


class Automaton:
    """Several regular expressions, matched together.

    Args:
        patterns: regular expressions; each matches a whole text or not at all.

    Raises:
        UsageError: a pattern is not understood, or too large.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._nfa = _Nfa()
        for index, pattern in enumerate(patterns):
            self._nfa.add(pattern, index)
        self._forget()

    def matching(self, text: str) -> frozenset[int]:
        """Return the places (in `patterns`) of those that match all of `text`."""
        state = 0
        for char in text:
            following = self._steps[state].get(char)
            state = self._step(state, char) if following is None else following
            if state == _DEAD:
                return frozenset()
        return self._accepted[state]

    def _forget(self) -> None:
        self._numbers: dict[frozenset[int], int] = {}
        self._sets: list[frozenset[int]] = []
        self._steps: list[dict[str, int]] = []
        self._accepted: list[frozenset[int]] = []
        self._known = 0
        self._number(self._nfa.start())

    def _number(self, states: frozenset[int]) -> int:
        number = self._numbers.get(states)
        if number is None:
            number = self._numbers[states] = len(self._sets)
            self._sets.append(states)
            self._steps.append({})
            self._accepted.append(self._nfa.accepted(states))
        return number

    def _step(self, number: int, char: str) -> int:
        following = self._nfa.step(self._sets[number], char)
        if not following:
            self._steps[number][char] = _DEAD
            return _DEAD
        self._known += 1 + len(following)
        if self._known > _CACHED:
            self._forget()
            return self._number(following)
        result = self._steps[number][char] = self._number(following)
        return result


@dataclass(slots=True)
class _State:
    """One state: where it goes on a character that `accepts` takes, and where without any."""

    accepts: Predicate | None = None
    target: int = -1
    free: list[int] = field(default_factory=list)
    patterns: list[int] = field(default_factory=list)


class _Nfa:
    """The states of all patterns, and the sets of states that a step leads to."""

    def __init__(self) -> None:
        self._states: list[_State] = []
        self._closures: dict[int, frozenset[int]] = {}
        self._shared: dict[tuple[int, str], int] = {}
        self._root = self.state()

    def add(self, pattern: str, index: int) -> None:
        """Add a pattern; it shares states with those that begin with the same pieces."""
        state = self._root
        for part in parse(pattern).parts:
            state = self._after(state, part)
        self._states[state].patterns.append(index)

    def start(self) -> frozenset[int]:
        """The states in which every match begins."""
        return self._closure(self._root)

    def step(self, states: frozenset[int], char: str) -> frozenset[int]:
        """All states that `char` leads to from any of `states`."""
        result: set[int] = set()
        for number in states:
            state = self._states[number]
            if state.accepts is not None and state.accepts(char):
                result |= self._closure(state.target)
        return frozenset(result)

    def accepted(self, states: frozenset[int]) -> frozenset[int]:
        """The patterns that match a text which ends in `states`."""
        return frozenset(index for number in states for index in self._states[number].patterns)

    def consume(self, start: int, end: int, accepts: Predicate) -> None:
        """Lead from `start` to `end` by one character."""
        number = self.state()
        self._states[number].accepts, self._states[number].target = accepts, end
        self.free(start, number)

    def free(self, start: int, end: int) -> None:
        """Lead from `start` to `end` without a character."""
        self._states[start].free.append(end)

    def state(self) -> int:
        """A new state."""
        self._states.append(_State())
        return len(self._states) - 1

    def _after(self, state: int, part: Node) -> int:
        """The state that `part` leads to from `state`."""
        key = (state, part.key)
        if key not in self._shared:
            self._shared[key] = self.state()
            part.build(self, state, self._shared[key])
        return self._shared[key]

    def _closure(self, number: int) -> frozenset[int]:
        """What is reached from a state without a character; only states that matter are kept."""
        if number not in self._closures:
            seen, waiting = {number}, [number]
            while waiting:
                new = [n for n in self._states[waiting.pop()].free if n not in seen]
                seen.update(new)
                waiting.extend(new)
            self._closures[number] = frozenset(n for n in seen if self._matters(n))
        return self._closures[number]

    def _matters(self, number: int) -> bool:
        state = self._states[number]
        return state.accepts is not None or bool(state.patterns)
