"""Rules that ask for a weight by a name that the checkpoint cannot tell it by.

``**/kernel`` passes the kernel of a user's layer by, because nothing says which of that layer's
weights it is. A rule that would match such a weight, were it only called so, has to be told of.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import islice
from typing import TYPE_CHECKING

from ckptclamp.notices import Notice
from ckptclamp.printable import printable
from ckptclamp.spec.patterns import TensorPatterns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ckptclamp.spec.model import Rule

_SHOWN = 5
_TRIALS = 200_000
"""How many pairs of a weight and a word are tried; more weights than that allows are not looked at."""


def unnamed_notice(
    rules: Sequence[Rule],
    unnamed: Mapping[str, str],
    names: Mapping[str, Sequence[str]],
    labels: Iterable[str],
) -> tuple[Notice, ...]:
    """Warn of weights that a rule may have meant and matched none of in their layer.

    Args:
        rules: the rules of a spec.
        unnamed: the layers that each weight without a known name lies in, by its full name.
        names: what each of these weights is called, by its full name.
        labels: what weights of which it is known are called.
    """
    if not (rules and unnamed):
        return ()
    patterns = TensorPatterns([rule.tensors for rule in rules])
    words = _words(rules, labels)
    unnamed = dict(islice(unnamed.items(), max(1, _TRIALS // max(1, len(words)))))
    met: dict[str, set[int]] = defaultdict(set)
    for tensor, layer in unnamed.items():
        met[layer] |= patterns.matching(names[tensor])
    passed = {
        tensor: by
        for tensor, layer in unnamed.items()
        if (by := _meant(patterns, names[tensor], layer, words) - met[layer])
    }
    if not passed:
        return ()
    ids = sorted({rules[index].id for by in passed.values() for index in by})
    return (
        Notice(
            "unnamed-weights",
            f"nothing tells what {len(passed)} weight(s) are called in their layers "
            f"({_few(list(passed))}), so a rule that asks for such names passes them by: "
            f"{_few(ids)}",
            "match them by these names, or exclude them by '!' and such a name",
            tensor=next(iter(passed)),
        ),
    )


def _meant(
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
    return "" if set(last) & set("?[") else last


def _few(values: Sequence[str]) -> str:
    return ", ".join(_shown(values))


def _shown(values: Sequence[str]) -> Iterator[str]:
    yield from map(printable, values[:_SHOWN])
    if len(values) > _SHOWN:
        yield f"and {len(values) - _SHOWN} more"
