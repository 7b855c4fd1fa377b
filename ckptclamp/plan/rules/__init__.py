"""A spec's rules matched with the tensors of a checkpoint."""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import islice
from typing import TYPE_CHECKING

from ckptclamp.errors import Notice, SpecError, plural, printable
from ckptclamp.plan import Assignment, Entry, UnmatchedRule
from ckptclamp.plan.layout import numbers, split_tensors
from ckptclamp.plan.rules.pairs import Pairing, place_of
from ckptclamp.plan.tensors import (
    audited_tensors,
    governed,
    is_effective,
    keras_model,
    matching_tensors,
    names_of,
    parts_of,
    unread_config_notice,
)
from ckptclamp.spec.patterns import TensorPatterns, single_choices

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ckptclamp.checkpoints.checkpoint import Checkpoint
    from ckptclamp.checkpoints.tensor import Tensor
    from ckptclamp.models.keras.model import BoundModel
    from ckptclamp.spec.model import Leeway, Rule, Spec


_MOST, _LONGEST, _GUESSES = 2000, 200, 20
"""How many names, and how long ones, are compared with how many patterns that match nothing."""

_LONE_STAR = re.compile(r"(?<!\*)\*(?!\*)")

_SHOWN = 5
_TRIALS = 200_000
"""How many pairs of a weight and a word are tried; more weights than that allows are not looked at."""


def plan_rules(checkpoint: Checkpoint, spec: Spec, caller: Leeway) -> Iterator[Entry]:
    """Match every rule of `spec` with every tensor; what the `caller` forgives goes before a rule's.

    Raises:
        SpecError: a rule states axes that a tensor does not have, or none where it must.
    """
    bound = keras_model(checkpoint)
    labels = {} if bound is None else bound.labels
    patterns = TensorPatterns([rule.tensors for rule in spec.rules])
    number = numbers(checkpoint.config)
    audited = audited_tensors(checkpoint)
    if spec.splits:
        audited = {**audited, **split_tensors(spec, audited, number)}
    met = matching_tensors(patterns, audited.values(), labels)
    parts = parts_of(checkpoint)
    matching = [
        _without_parts_of(governed(rule, tensors, checkpoint.tensors, parts))
        for rule, tensors in zip(spec.rules, met, strict=True)
    ]
    pairing = Pairing(checkpoint, caller, number)
    found = [pairing.of(rule, some) for rule, some in zip(spec.rules, matching, strict=True)]
    problems = [problem for _, problem in found if problem is not None]
    if problems:
        raise SpecError(spec.path or "options", tuple(problems))
    pairs = [pair for some, _ in found for pair in some]
    empty = [rule for rule, found in zip(spec.rules, matching, strict=True) if not found]
    nearest = _Nearest(audited)
    partly = (
        _matches_in_part(spec.rules[index], unused, nearest)
        for index, unused in _never_met(patterns, audited.values(), labels).items()
        if matching[index] and spec.rules[index].required
    )
    yield from pairs
    yield from (_unmatched(rule, nearest) for rule in empty if rule.required)
    yield from (_matches_nothing(rule) for rule in empty if not rule.required)
    yield from partly
    yield from _stars_that_end(spec.rules, met, [*audited.values()])
    if bound is not None:
        yield from _unnamed_notice(spec.rules, bound)
    else:
        yield from _computed_notice(pairs)
    if any(matching):
        yield from unread_config_notice(checkpoint)


def _without_parts_of(tensors: Sequence[Tensor]) -> list[Tensor]:
    """A rule that matches a whole tensor and parts of it is about the whole."""
    names = {tensor.name for tensor in tensors}
    return [t for t in tensors if t.whole is t or t.whole.name not in names]


def _computed_notice(pairs: Iterable[Entry]) -> Iterator[Notice]:
    """Tell once that what is judged is not what is stored."""
    names = {p.tensor.name for p in pairs if isinstance(p, Assignment) and is_effective(p.tensor)}
    if names:
        yield Notice(
            "computed",
            f"judged as the model computes them from their parts: {plural(len(names), 'weight')}, "
            f"{_few(sorted(names))}",
            hint="`ckptclamp explain` tells from which; `storage: raw` judges what is stored",
            informational=True,
        )


def _unmatched(rule: Rule, nearest: _Nearest) -> UnmatchedRule:
    """Tell where the rule stands, and which tensor it may have meant."""
    glob = next((p for p in rule.tensors if not p.startswith(("!", "re:"))), None)
    return UnmatchedRule(
        rule=rule.id,
        patterns=rule.tensors,
        location=place_of(rule),
        meant=None if glob is None else nearest.to(glob),
    )


class _Nearest:
    """Guesses which tensor or glob a pattern meant; only the first few: each looks at many names."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = names
        self._left = _GUESSES

    def to(self, pattern: str) -> str | None:
        """A glob for this producer's names that `pattern` may have meant, or the name nearest to it."""
        if not self._left:
            return None
        self._left -= 1
        few = list(islice((name for name in self._names if len(name) <= _LONGEST), _MOST))
        for other in _otherwise_written(pattern):
            if any(TensorPatterns([[other]]).matching([name]) for name in few):
                return other
        import difflib

        return next(iter(difflib.get_close_matches(pattern, few, n=1)), None)


def _otherwise_written(pattern: str) -> Iterator[str]:
    """`pattern` with the other sign between segments, and across segments where it stays in one."""
    if set(pattern) & set("[{"):
        return
    other = pattern.translate(str.maketrans("/.", "./"))
    across = (_LONE_STAR.sub("**", glob) for glob in (pattern, other))
    yield from (glob for glob in (other, *across) if glob != pattern)


def _stars_that_end(
    rules: Sequence[Rule], met: Sequence[Sequence[Tensor]], tensors: Sequence[Tensor]
) -> Iterator[Notice]:
    """Tell of rules that leave tensors out because a star ends at a dot; that may not be meant."""
    wider = [tuple(map(_across_dots, rule.tensors)) for rule in rules]
    if all(rule.tensors == patterns for rule, patterns in zip(rules, wider, strict=True)):
        return
    found = matching_tensors(TensorPatterns(wider), tensors, {})
    for rule, patterns, some, more in zip(rules, wider, met, found, strict=True):
        count = len({t.name for t in more} - {t.name for t in some})
        if not (some and count):
            continue
        old, new = next(p for p in zip(rule.tensors, patterns, strict=True) if p[0] != p[1])
        yield Notice(
            "star-ends-at-dot",
            f"rule {rule.id}: * stays within a segment, so {old} matches {len(some)} tensor(s)",
            hint=f"{new} would match {count} more",
            informational=True,
        )


def _across_dots(pattern: str) -> str:
    """A glob for dotted names whose stars would go on; others, and exclusions, as they are."""
    dotted = "." in pattern and not set(pattern) & set("/[{")
    if not dotted or pattern.startswith(("!", "re:")):
        return pattern
    return _LONE_STAR.sub("**", pattern)


def _never_met(
    patterns: TensorPatterns, tensors: Iterable[Tensor], labels: Mapping[str, str]
) -> dict[int, list[str]]:
    """What matched no tensor, by rule: patterns, and of those that did match single choices of a brace."""
    idle = patterns.never_met()
    met = [
        [p for p in rule if p not in idle.get(index, ())]
        for index, rule in enumerate(patterns.rules)
    ]
    choices = single_choices(met)
    if not choices:
        return idle
    alone = TensorPatterns([*choices.values()])
    matching_tensors(alone, tensors, labels)
    places = [*choices]
    for place, unused in alone.never_met().items():
        idle.setdefault(places[place], []).extend(unused)
    return dict(sorted(idle.items()))


def _matches_in_part(rule: Rule, unused: Sequence[str], nearest: _Nearest) -> Notice:
    """Some of a rule's patterns may be misspelt though others match; what they meant is not judged."""
    meant = nearest.to(unused[0])
    more = f" (and {len(unused) - 1} more)" if len(unused) > 1 else ""
    return Notice(
        "pattern-matches-nothing",
        f"rule {rule.id}: no tensor matches {unused[0]}{more}, though others of its patterns do",
        hint=f"did you mean {meant}?" if meant else "remove it, or make it a rule of its own",
    )


def _matches_nothing(rule: Rule) -> Notice:
    message = f"rule {rule.id} matches no tensor, and need not"
    return Notice("no-match", message, informational=True)


def _unnamed_notice(rules: Sequence[Rule], bound: BoundModel) -> tuple[Notice, ...]:
    """Warn of weights without a known name that a rule may mean, though it matches none in their layer."""
    if not (rules and bound.unnamed):
        return ()
    patterns = TensorPatterns([rule.tensors for rule in rules])
    words = _words(rules, bound.labels.values())
    unnamed = dict(islice(bound.unnamed.items(), max(1, _TRIALS // max(1, len(words)))))
    names = {name: names_of(bound.tensors[name], bound.labels.get(name)) for name in unnamed}
    met: dict[str, set[int]] = defaultdict(set)
    for tensor, layer in unnamed.items():
        met[layer] |= patterns.matching(names[tensor])
    passed = {
        tensor: by
        for tensor, layer in unnamed.items()
        if (by := _intended(patterns, names[tensor], layer, words) - met[layer])
    }
    if not passed:
        return ()
    ids = sorted({rules[index].id for by in passed.values() for index in by})
    return (
        Notice(
            "unnamed-weights",
            f"nothing tells a name within its layer for {plural(len(passed), 'weight')} "
            f"({_few(list(passed))}), so a rule that asks for such names does not match: {_few(ids)}",
            "match them by these names, or exclude them by '!' and such a name",
            tensor=next(iter(passed)),
        ),
    )


def _intended(
    patterns: TensorPatterns, names: Sequence[str], layer: str, words: Sequence[str]
) -> frozenset[int]:
    """The rules that would match a weight with `names` if it were called by one of `words`.

    One word at a time: an exclusion of biases is none of what may be a kernel.
    """
    found = (patterns.matching((*names, f"{layer}/{word}")) for word in words)
    return frozenset[int]().union(*found)


def _words(rules: Sequence[Rule], labels: Iterable[str]) -> list[str]:
    """What weights are called: in this checkpoint, and in the patterns.

    The config's labels end in few words. A file's own names may be as many as it likes, and each
    word is tried with each weight.
    """
    asked = (_last(pattern) for rule in rules for pattern in rule.tensors)
    known = (label.rpartition("/")[2] for label in labels)
    return sorted({word for word in (*asked, *known) if word and not word.isdecimal()})


def _last(pattern: str) -> str:
    """The last segment of a glob, as the shortest name that it stands for."""
    if pattern.startswith(("!", "re:")):
        return ""
    last = pattern.rpartition("/")[2].replace("*", "")
    return "" if set(last) & set("?[{") else last


def _few(values: Sequence[str]) -> str:
    rest = [f"and {len(values) - _SHOWN} more"] if len(values) > _SHOWN else []
    return ", ".join([*map(printable, values[:_SHOWN]), *rest])
