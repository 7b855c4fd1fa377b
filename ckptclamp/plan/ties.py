"""Tied tensors: weights that a model computes with once and a checkpoint holds under several names.

A projection of one alone would untie them, so what governs one governs all. Told are those that the
model's config ties, and those whose bytes are equal: matrices and larger, because vectors are often
equal by how they begin (ones, zeros).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ckptclamp.checkpoints.tensor import Contiguous, Unreadable, View
from ckptclamp.errors import Reason, printable
from ckptclamp.frozen import frozen
from ckptclamp.plan import Assignment, NotEvaluated
from ckptclamp.plan.tensors import audited_tensors, is_effective, parts_of

if TYPE_CHECKING:
    from ckptclamp.checkpoints.checkpoint import Checkpoint
    from ckptclamp.checkpoints.source import Source
    from ckptclamp.checkpoints.tensor import Extent, Tensor
    from ckptclamp.plan import Entry

_HEADS = ("lm_head", "embed_out")
_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings", "shared")
"""What transformers calls the modules of the two matrices that ``tie_word_embeddings`` ties."""

_GLANCE = 256
"""Bytes that are compared before all are read."""

_BLOCK = 1 << 20
"""Bytes of each that are compared at a time, where many begin alike."""

Telling = Callable[[Sequence["Tensor"]], bool]
"""Whether it tells anything that some tensors hold the same bytes."""

Groups = tuple[tuple[str, ...], ...]
"""Names of tensors that are one weight."""


@frozen
class Ties:
    """What is planned, for tied tensors too; which are tied, and the pairs that the config ties."""

    entries: tuple[Entry, ...] = ()
    groups: Groups = ()
    stated: tuple[tuple[Tensor, Tensor], ...] = ()


def find_ties(
    checkpoint: Checkpoint,
    entries: Sequence[Entry],
    groups: Groups | None = None,
    *,
    comparing: bool = True,
    all_groups: bool = False,
) -> Ties:
    """Find what the tensors of `entries` are tied to in a checkpoint that is none of Keras'.

    Weights that are computed from parts are tied to nothing, and parts are no weights. A copy has the
    `groups` of its original: what a projection made equal is not tied by that. Without `comparing` only
    what the config ties is told, and no weight is read. Unless `all_groups` are asked for, tensors that
    the same rules are about are not compared: they are judged alike, equal or not.

    Raises:
        UnreadableError: bytes that are to be compared are not there.
    """
    parts = parts_of(checkpoint)
    entries = [*entries, *_half(checkpoint, entries)]
    own: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for entry in entries:
        if isinstance(entry, Assignment) and not is_effective(entry.tensor):
            name = entry.tensor.whole.name
            if name not in parts:
                own[name].append((entry.tensor.name.removeprefix(name), entry.rule))
            all_groups = all_groups or entry.base is not None
    if not own:
        return Ties(tuple(entries))
    tensors = {name: t for name, t in checkpoint.tensors.items() if name not in parts}
    stated = _stated(checkpoint, tensors)
    if groups is None:
        telling = _several if all_groups else _differing(own, stated)
        equal = _equal(checkpoint, tensors, own, telling) if comparing else ()
        found = _joined([*stated, *equal])
        groups = tuple(group for group in found if not own.keys().isdisjoint(group))
    group_of = {name: group for group in groups for name in group}
    stated = [pair for pair in stated if not group_of.keys().isdisjoint(pair)]
    shared = _Shared(group_of, tensors, stated, checkpoint)
    return Ties(
        tuple(shared.entries(entries)),
        groups,
        tuple((tensors[one], tensors[other]) for one, other in stated),
    )


def _stated(checkpoint: Checkpoint, tensors: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """The embedding and the head that the config ties, where both are stored and there is one each."""
    pair = tied_by_config(checkpoint, tensors)
    if pair is None:
        return []
    one, other = pair
    return [(one.name, other.name)] if _kind(one) == _kind(other) else []


def tied_by_config(
    checkpoint: Checkpoint, tensors: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor] | None:
    """The embedding and the head among `tensors` that the config ties, if there is one each."""
    heads, embeddings = (_of_modules(tensors, modules) for modules in (_HEADS, _EMBEDDINGS))
    if len(heads) != 1 or len(embeddings) != 1:
        return None
    config = checkpoint.config()
    if config is None or isinstance(config, Unreadable):
        return None
    inner = config.get("text_config")
    places = (config, inner if isinstance(inner, dict) else {})
    tied = any(place.get("tie_word_embeddings") is True for place in places)
    return (tensors[embeddings[0]], tensors[heads[0]]) if tied else None


def _of_modules(names: Iterable[str], modules: Sequence[str]) -> list[str]:
    """The names of the weights of such modules, wherever they lie."""
    whole = {f"{module}.weight" for module in modules}
    ends = tuple(f".{one}" for one in whole)
    return [name for name in names if name in whole or name.endswith(ends)]


def stored_apart(checkpoint: Checkpoint) -> tuple[Tensor, Tensor] | None:
    """What the config ties though the two are stored in different ways, so that they cannot be tied."""
    parts = parts_of(checkpoint)
    weights = audited_tensors(checkpoint)
    named = {n: weights[n] for n in _of_modules(weights, (*_HEADS, *_EMBEDDINGS))}
    whole = {n: t for n, t in named.items() if n not in parts or is_effective(t)}
    pair = tied_by_config(checkpoint, whole)
    if pair is None or (_kind(pair[0]) == _kind(pair[1]) and not any(map(is_effective, pair))):
        return None
    return pair


def untied(other: Tensor) -> Reason:
    """Why what is said of one of `stored_apart` need not hold for the model."""
    return Reason(
        "tied-otherwise",
        f"the config ties it to {printable(other.name)}, and they are not two plain weights of one kind: "
        "nothing tells which of them the model computes with",
    )


def _half(checkpoint: Checkpoint, entries: Sequence[Entry]) -> Iterator[NotEvaluated]:
    """The one of `stored_apart` that a rule about the other one leaves out."""
    if (pair := stored_apart(checkpoint)) is None:
        return
    met: dict[str, dict[str, Assignment]] = defaultdict(dict)
    for entry in entries:
        if isinstance(entry, Assignment):
            met[entry.rule][entry.tensor.whole.name] = entry
    for rule, found in met.items():
        for one, other in (pair, pair[::-1]):
            if one.name in found and other.name not in found:
                like = found[one.name]
                yield NotEvaluated(
                    subject=other.name,
                    rule=rule,
                    constraint=str(like.constraint),
                    origin=like.origin,
                    reason=untied(one),
                    hint=f"let the rule match {printable(other.name)}, too",
                    location=like.location,
                    tensor=other,
                    severity=like.severity,
                )


def _several(alike: Sequence[Tensor]) -> bool:
    return len(alike) > 1


def _differing(
    rules: Mapping[str, Sequence[tuple[str, str]]], stated: Iterable[tuple[str, str]]
) -> Telling:
    """Tell groups in which the `rules` of one are not those of all.

    What is `stated` as tied has those of whatever else is equal to one of the two.
    """
    known: dict[str, object] = {name: tuple(some) for name, some in rules.items()}
    for pair in stated:
        known |= dict.fromkeys(pair, pair)
    return lambda alike: len({known.get(tensor.name, ()) for tensor in alike}) > 1


def _equal(
    checkpoint: Checkpoint,
    tensors: Mapping[str, Tensor],
    governed: Iterable[str],
    telling: Telling,
) -> Iterator[tuple[str, ...]]:
    """Groups of names with the same bytes, if `telling`, of tensors of which one of the kind is `governed`.

    Matrices of one number are left out, which is how weights begin.
    """
    wanted = {_kind(tensors[name]) for name in governed if name in tensors}
    found = [t for t in tensors.values() if _comparable(t) and _kind(t) in wanted]
    for alike in _grouped(found, _kind):
        if telling(alike):
            for begun in _grouped(alike, partial(_glance, checkpoint), checkpoint.mapped):
                for group, number in _same(checkpoint, begun, telling):
                    if number is None:
                        yield tuple(tensor.name for tensor in group)


def _grouped(
    tensors: Sequence[Tensor],
    key: Callable[[Tensor], object],
    keys: Callable[[Callable[[Tensor], object], Sequence[Tensor]], Iterable[object]] = map,
) -> list[list[Tensor]]:
    """The `tensors` by their key, which `keys` takes of all."""
    groups: dict[object, list[Tensor]] = defaultdict(list)
    for tensor, value in zip(tensors, keys(key, tensors), strict=True):
        groups[value].append(tensor)
    return list(groups.values())


def _kind(tensor: Tensor) -> object:
    return tensor.shape, tensor.dtype


def _comparable(tensor: Tensor) -> bool:
    return isinstance(tensor.storage, Contiguous) and len(tensor.shape) > 1 and tensor.nbytes > 0


def _glance(checkpoint: Checkpoint, tensor: Tensor) -> int:
    """A number that tensors share which begin alike, and hardly any others."""
    (start, stop), source = _place(checkpoint, tensor)
    return hash(source.read_at(start, min(_GLANCE, stop - start)))


def _same(
    checkpoint: Checkpoint, tensors: Sequence[Tensor], telling: Telling
) -> list[tuple[list[Tensor], bytes | None]]:
    """The `tensors`, of one kind, by what they hold; the one number that all weights of a group are, if so.

    They are read in step, and no farther than they are alike in groups that are `telling`.
    """
    first = tensors[0]
    itemsize = first.nbytes // first.size
    groups: list[tuple[list[Tensor], bytes | None]] = [([*tensors], b"")]
    for at in range(0, first.nbytes, _BLOCK):
        split: list[tuple[list[Tensor], bytes | None]] = []
        for alike, number in groups:
            if not telling(alike):
                continue
            if len(alike) == 1:
                split.append((alike, number))
                continue
            held: dict[tuple[bool, bytes], list[Tensor]] = defaultdict(list)
            for tensor in alike:
                held[_content(checkpoint, tensor, at, itemsize)].append(tensor)
            split += (
                (some, content if repeated and number in (b"", content) else None)
                for (repeated, content), some in held.items()
            )
        groups = split
    return [(alike, number) for alike, number in groups if telling(alike)]


def _content(checkpoint: Checkpoint, tensor: Tensor, at: int, itemsize: int) -> tuple[bool, bytes]:
    """What a block holds: whether it is one element again and again, and that, or else its digest."""
    (start, stop), source = _place(checkpoint, tensor)
    block = source.read_at(start + at, min(_BLOCK, stop - start - at))
    first = block[:itemsize]
    if block[itemsize:] == block[:-itemsize]:
        return True, first
    return False, hashlib.sha256(block).digest()


def _place(checkpoint: Checkpoint, tensor: Tensor) -> tuple[Extent, Source]:
    assert isinstance(tensor.storage, Contiguous)
    return tensor.extents[0], checkpoint.sources[tensor.storage.source]


def _joined(groups: Iterable[Sequence[str]]) -> Groups:
    """Groups that share a name as one."""
    of: dict[str, list[str]] = {}
    for group in groups:
        merged: list[str] = []
        for name in group:
            known = of.get(name, [name])
            if known is not merged:
                merged += known
                of |= dict.fromkeys(known, merged)
    unique = {id(group): group for group in of.values()}
    return tuple(map(tuple, unique.values()))


class _Shared:
    """Every entry, each followed by its like for the tied tensors that its rule does not match.

    So the rules of all of a group stand in one order, and a projection makes the same of all.
    """

    def __init__(
        self,
        groups: Mapping[str, Sequence[str]],
        tensors: Mapping[str, Tensor],
        stated: Sequence[tuple[str, str]],
        checkpoint: Checkpoint,
    ) -> None:
        self._groups = groups
        self._tensors = tensors
        self._stated = stated
        self._base = checkpoint.base
        self._equal: dict[Sequence[str], list[list[str]]] = {}

    def entries(self, entries: Sequence[Entry]) -> Iterator[Entry]:
        """What is planned of all of them."""
        if not self._groups:
            yield from entries
            return
        asked = {
            (e.tensor.name, e.rule)
            for e in entries
            if isinstance(e, Assignment) and e.tensor.whole.name in self._groups
        }
        matched = set(asked)
        for entry in entries:
            name = "" if not isinstance(entry, Assignment) else entry.tensor.whole.name
            group = self._groups.get(name, ())
            if not isinstance(entry, Assignment) or is_effective(entry.tensor) or not group:
                yield entry
                continue
            first, alike = entry, group
            if entry.base is not None:
                alike = self._alike(entry, group, asked)
                other = next((one for one in group if one not in alike), None)
                if other is not None:
                    first = replace(entry, unprojected=entry.unprojected or _untied(other))
            yield first
            for one in alike:
                like = _for(first, self._tensors[one], name)
                if (like.tensor.name, entry.rule) not in matched:
                    matched.add((like.tensor.name, entry.rule))
                    yield like

    def _alike(
        self, entry: Assignment, group: Sequence[str], asked: AbstractSet[tuple[str, str]]
    ) -> Sequence[str]:
        """Those of `group` that may be compared with the same base as `entry`, itself among them.

        They are equal in the base, too, or tied by the config and not matched by the rule. Whatever the
        rule matches is judged by its own base.
        """
        assert self._base is not None
        if group not in self._equal:
            self._equal[group] = _equal_in(self._base, group)
        name = entry.tensor.whole.name
        suffix = entry.tensor.name.removeprefix(name)
        tied = [
            pair
            for pair in self._stated
            if set(pair) <= set(group)
            and not all((f"{one}{suffix}", entry.rule) in asked for one in pair)
        ]
        return next(some for some in _joined([*self._equal[group], *tied]) if name in some)


def _untied(other: str) -> str:
    return (
        f"it is equal to {printable(other)}, and the base does not hold them as equal: each would be "
        "moved towards a base of its own, which unties them"
    )


def _equal_in(base: Checkpoint, group: Sequence[str]) -> list[list[str]]:
    """`group` by what is the same in `base`; what that does not hold differs from nothing else there."""
    audited = audited_tensors(base)
    held = [audited[name] for name in group if name in audited]
    absent = [name for name in group if name not in audited]
    found = [[tensor.name] for tensor in held if not _comparable(tensor)]
    for alike in _grouped([tensor for tensor in held if _comparable(tensor)], _kind):
        found += ([t.name for t in same] for same, _ in _same(base, alike, bool))
    return [[*found[0], *absent]] if len(found) == 1 else [*found, *([name] for name in absent)]


def _for(entry: Assignment, tensor: Tensor, other: str) -> Assignment:
    """`entry` about another tensor with the same weights."""
    seen = entry.tensor
    if isinstance(seen.storage, View):
        suffix = seen.name.removeprefix(seen.whole.name)
        view = replace(seen.storage, whole=tensor)
        tensor = replace(seen, name=f"{tensor.name}{suffix}", storage=view)
    why = f"tied to {printable(other)}; {entry.why}"
    return replace(entry, tensor=tensor, label=None, why=why, tied_to=seen.name)
