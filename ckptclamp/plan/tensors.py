"""The tensors of a checkpoint as a plan sees them: their names, who governs them, what is judged."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from operator import is_
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from ckptclamp.checkpoints.dtypes import CODE_DTYPES, Kind
from ckptclamp.checkpoints.tensor import Computed, NotComputed, Role, Tensor, Unreadable, View
from ckptclamp.errors import Notice, NotWrittenError, Reason, UsageError, printable
from ckptclamp.frozen import frozen
from ckptclamp.spec.model import Storage
from ckptclamp.spec.patterns import TensorPatterns, literal_head

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ckptclamp.checkpoints.checkpoint import Checkpoint
    from ckptclamp.constraints.base import Constraint
    from ckptclamp.models.keras.model import BoundModel
    from ckptclamp.models.parts import Part
    from ckptclamp.plan import Plan
    from ckptclamp.spec.model import CustomLayer, Rule

RAW_HINT: Final = "`storage: raw` in a rule, or --storage raw, judges the stored numbers"

_BOUND: WeakKeyDictionary[Checkpoint, BoundModel] = WeakKeyDictionary()
_IN_PARTS: WeakKeyDictionary[Checkpoint, _InParts] = WeakKeyDictionary()


def keras_model(
    checkpoint: Checkpoint, custom_layers: Mapping[str, CustomLayer] | None = None
) -> BoundModel | None:
    """The model of a Keras checkpoint, bound to its tensors once for as long as it has this config.

    `custom_layers` says what a user's classes of layers are like; what was said last goes on to hold.

    Raises:
        RefusedError: the config nests layers deeper than 64 levels.
    """
    if checkpoint.keras is None:
        return None
    bound = _BOUND.get(checkpoint)
    told = bound.custom_layers if bound is not None and custom_layers is None else custom_layers
    if bound is None or bound.model is not checkpoint.keras or bound.custom_layers != (told or {}):
        from ckptclamp.models.keras.model import BoundModel

        bound = _BOUND[checkpoint] = BoundModel(checkpoint.keras, checkpoint.tensors, told or {})
    return bound


def labels_of(checkpoint: Checkpoint) -> Mapping[str, str]:
    """The friendlier names that Keras gives weights, by the full name."""
    bound = keras_model(checkpoint)
    return {} if bound is None else bound.labels


def names_of(tensor: Tensor, label: str | None) -> tuple[str, ...]:
    """Every name of one tensor; `label` is its own of `labels_of`, if it has one."""
    own = (tensor.name, *tensor.aliases)
    return own if label is None or label in own else (*own, label)


def all_names(checkpoint: Checkpoint) -> Mapping[str, tuple[str, ...]]:
    """Every name of every tensor, by the full name."""
    labels, audited = labels_of(checkpoint), audited_tensors(checkpoint)
    return {name: names_of(tensor, labels.get(name)) for name, tensor in audited.items()}


def matching_tensors(
    patterns: TensorPatterns, tensors: Iterable[Tensor], labels: Mapping[str, str]
) -> list[list[Tensor]]:
    """The tensors of each rule of `patterns`, in the order of the checkpoint.

    Rules govern weights. An optimizer's slots are governed only by a pattern that begins with the
    literal name of their group (``optimizer/**``), and other state, such as that of a random
    generator, only by its full name: neither is what a rule about ``**`` means.
    """
    rules = patterns.rules
    found: list[list[Tensor]] = [[] for _ in rules]
    for tensor in tensors:
        names = names_of(tensor, labels.get(tensor.name))
        for index in sorted(patterns.matching(names)):
            if tensor.role is Role.WEIGHT or _names_it(rules[index], tensor.role, names):
                found[index].append(tensor)
    return found


def _names_it(patterns: Sequence[str], role: Role, names: Sequence[str]) -> bool:
    """Whether some pattern names a tensor that is no weight on purpose."""
    if role is Role.STATE:
        return not set(patterns).isdisjoint(names)
    groups = tuple(name.partition("/")[0] + "/" for name in names)
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")]
    return any(literal_head(pattern).startswith(groups) for pattern in wanted)


def audited_tensors(checkpoint: Checkpoint) -> Mapping[str, Tensor]:
    """Every tensor by name, as it is judged, and every weight that is computed from parts."""
    return {**checkpoint.tensors, **computed_tensors(checkpoint)}


def computed_tensors(checkpoint: Checkpoint) -> Mapping[str, Tensor]:
    """Weights that are not stored as the model computes with them, by name.

    A quantised weight of a Keras model keeps its tensor's name; weights of other formats have names
    of their own, by which a part of them may be called as well.
    """
    bound = keras_model(checkpoint)
    if bound is not None:
        return bound.dequantised
    return _in_parts(checkpoint).weights


def parts_of(checkpoint: Checkpoint) -> Mapping[str, Part]:
    """The tensors that are parts of weights, by name; Keras' files tell of theirs in another way."""
    return {} if checkpoint.keras is not None else _in_parts(checkpoint).parts


@frozen
class _InParts:
    """The parts of a checkpoint and their weights; `made_of` is what they were found in."""

    made_of: tuple[object, ...]
    parts: Mapping[str, Part]
    weights: Mapping[str, Tensor]


def _in_parts(checkpoint: Checkpoint) -> _InParts:
    """What is known of the parts of a checkpoint, for as long as it has these tensors and configs."""
    stated, adapter = checkpoint.quantisation, checkpoint.adapter
    made_of = (checkpoint.tensors, stated, adapter)
    known = _IN_PARTS.get(checkpoint)
    if known is not None and all(map(is_, known.made_of, made_of)):
        return known
    from ckptclamp.models.families import find_parts

    config = None if isinstance(stated, Unreadable) else stated
    parts = find_parts(checkpoint.tensors, config, adapter)
    weights: Mapping[str, Tensor] = {}
    if parts:
        from ckptclamp.models.effective.offers import find_effective

        weights = find_effective(
            checkpoint.tensors,
            parts,
            checkpoint.read,
            stated=config,
            adapter=adapter,
            unlisted=frozenset(checkpoint.unlisted),
        )
    known = _IN_PARTS[checkpoint] = _InParts(made_of, parts, weights)
    return known


def unmerged(checkpoint: Checkpoint) -> str | None:
    """The name of an update that belongs to no weight of `checkpoint`, or of no update at all."""
    from ckptclamp.models.adapters import DELTA

    weights = {part.weight for part in parts_of(checkpoint).values()}
    return next((weight for weight in weights if weight.endswith(DELTA)), None)


def stored(constraint: Constraint, tensor: Tensor) -> Constraint:
    """`constraint` with its bounds as the dtype of `tensor` holds them."""
    return constraint if tensor.dtype is None else constraint.as_stored(tensor.dtype)


def why_not_audited(tensor: Tensor, constraint: Constraint | None = None) -> Reason | None:
    """Say why the weights of `tensor` cannot be judged by any constraint; ``None`` if they can.

    Truth values are no numbers, but they are finite: a mask may be among the tensors of such a rule.
    """
    if isinstance(tensor.whole.storage, Unreadable):
        return why_unreadable(tensor.whole.storage)
    if tensor.dtype is None:
        unknown = f"its dtype {tensor.dtype_name} is not known here".replace("  ", " ")
        return Reason("stored-unreadably", unknown)
    if tensor.dtype.kind in (Kind.BOOLEAN, Kind.COMPLEX) and not _are_finite(tensor, constraint):
        return Reason("no-real-numbers", f"{tensor.dtype} weights are no real numbers")
    return Reason("no-real-numbers", "it has no weights") if tensor.size == 0 else None


def why_unreadable(storage: Unreadable) -> Reason:
    """Why what is stored so is not evaluated."""
    told = storage.reason
    return told if isinstance(told, Reason) else Reason("stored-unreadably", told)


def _are_finite(tensor: Tensor, constraint: Constraint | None) -> bool:
    """Whether truth values are all that `constraint` asks for."""
    from ckptclamp.constraints.sets.linear import Finite

    is_truth = tensor.dtype is not None and tensor.dtype.kind is Kind.BOOLEAN
    return is_truth and isinstance(constraint, Finite)


def governed(
    rule: Rule,
    matched: Sequence[Tensor],
    stored: Mapping[str, Tensor],
    parts: Mapping[str, Part],
) -> list[Tensor]:
    """What `rule` is about of the tensors that its patterns have `matched`.

    A part of a weight that is matched too is judged as that weight. `storage: raw` means what is
    `stored` under these names; `parts` are as `parts_of` says.
    """
    if not parts:
        return list(matched)
    if rule.storage is Storage.RAW:
        return [_as_stored(t, stored) for t in matched if t.whole.name in stored]
    weights = {tensor.name for tensor in matched if is_effective(tensor)}
    return [t for t in matched if is_effective(t) or _weight_of(t, parts) not in weights]


def _as_stored(tensor: Tensor, stored: Mapping[str, Tensor]) -> Tensor:
    """`tensor`, or the part of a tensor that it is, in the numbers that are stored under its name."""
    if not isinstance(tensor.storage, View):
        return stored[tensor.name]
    whole = stored[tensor.whole.name]
    view = replace(tensor.storage, whole=whole)
    return replace(tensor, storage=view, dtype=whole.dtype, dtype_name=whole.dtype_name)


def _weight_of(tensor: Tensor, parts: Mapping[str, Part]) -> str | None:
    part = parts.get(tensor.whole.name)
    return None if part is None else part.weight


_NOT_STORED: Final = (Computed, NotComputed)


def is_effective(tensor: Tensor) -> bool:
    """Whether it is a weight that is computed from parts, or would be if that were possible."""
    return isinstance(tensor.whole.storage, _NOT_STORED)


def why_no_weight(
    tensor: Tensor, part: Part | None, constraint: Constraint, label: str | None = None
) -> Reason | None:
    """Say why `constraint` does not judge the stored numbers of `tensor`; ``None`` if it does.

    `label` is the friendlier name that Keras gives it, if it has one.
    """
    storage = tensor.whole.storage
    if isinstance(storage, NotComputed):
        return why_unreadable(storage)
    if isinstance(storage, Computed):
        return None
    if part is not None:
        return part.reason
    if constraint.elementwise:
        bounded = any(map(math.isfinite, constraint.bounds()))
        return why_no_norm(tensor) if bounded and may_be_codes(tensor, label) else None
    return why_no_norm(tensor)


_WEIGHT: Final = re.compile(r"(?:^|[./])(?:weight|kernel(?::0)?|embeddings(?::0)?|vars/\d+)$")
"""What the weights of a layer are called; Keras 3 numbers them."""


def may_be_codes(tensor: Tensor, label: str | None = None) -> bool:
    """Whether it holds integers as narrow as codes and is called, or has the `label`, of a weight."""
    if tensor.dtype is None or tensor.dtype.name not in CODE_DTYPES or tensor.role is Role.STATE:
        return False
    return _WEIGHT.search(label or tensor.whole.name) is not None


def raw_hint(tensor: Tensor, part: Part | None) -> str:
    """What to do about a rule that matches what is no weight."""
    if part is None or is_effective(tensor):
        return RAW_HINT
    return f"a rule that matches {printable(part.weight)} judges the weight; {RAW_HINT}"


def why_no_norm(tensor: Tensor) -> Reason | None:
    """Say why norms of the stored numbers of `tensor` mean nothing; ``None`` if they may.

    Integers have none unless somebody says that they are weights.
    """
    if isinstance(tensor.whole.storage, Computed | Unreadable) or tensor.dtype is None:
        return None
    if tensor.dtype.kind is not Kind.INTEGER:
        return None
    held = f"it holds {tensor.dtype} numbers, and nothing tells what weights they stand for"
    return Reason("integers", held)


def unread_config_notice(checkpoint: Checkpoint) -> tuple[Notice, ...]:
    """Warn that codes may be taken for weights because the config could not be read."""
    if not isinstance(checkpoint.quantisation, Unreadable):
        return ()
    return (
        Notice(
            "config-not-read",
            f"whether its weights are quantised is not known: {checkpoint.quantisation.reason}",
            hint="--follow-symlinks reads a config that is a symbolic link",
        ),
    )


def refuse_no_weights(checkpoint: Checkpoint, plan: Plan) -> None:
    """Refuse rules about numbers that are not the model's weights, which a projection would ruin.

    Raises:
        NotWrittenError: there are such rules.
    """
    found = [entry for entry in plan.not_evaluated if entry.no_weight]
    if found:
        first = found[0]
        others = f" (and {len(found) - 1:,} more)" if len(found) > 1 else ""
        rest = "; --allow-remaining leaves it as it is" if plan.assignments else ""
        raise NotWrittenError(
            f"nothing was written, rule {first.rule} governs what is no weight as it is stored: "
            f"{first.reason}{others}",
            path=checkpoint.path,
            tensor=first.subject,
            hint=f"{first.hint}{rest}",
        )


Patterns = tuple[str, ...]

_SPECIAL: Final = re.compile(r"[*?\[\]{}]|^!|^re:")
_NOTHING: Final = ("re:[^\\s\\S]",)
"""A pattern that no name matches."""


def exact_pattern(name: str) -> str:
    """The pattern in which no sign of `name` has a meaning of its own."""
    return f"re:{re.escape(name)}" if _SPECIAL.search(name) else name


class ExactPatterns:
    """Finds patterns for the tensors of one checkpoint; `labels` are as `labels_of` says."""

    def __init__(self, tensors: Sequence[Tensor], labels: Mapping[str, str]) -> None:
        self._tensors = tensors
        self._labels = labels
        self._owners = Counter(n for t in tensors for n in names_of(t, labels.get(t.name)))

    def friendly(self, name: str) -> str:
        """The label of the tensor with this full name if nothing else is called so, else `name`."""
        label = self._labels.get(name)
        return label if label is not None and self._owners[label] == 1 else name

    def of(
        self, groups: Sequence[Sequence[str]], short: Sequence[Patterns]
    ) -> list[Patterns | None]:
        """Return patterns for each group of tensors (by full names); ``None`` where none is exact.

        `short` are those that would be nicest, one proposal for each group, or an empty one. What
        full names alone would match besides is excluded at last.
        """
        found: list[Patterns | None] = [None] * len(groups)
        self._accept(groups, short, found)
        friendly = [tuple(exact_pattern(self.friendly(name)) for name in g) for g in groups]
        self._accept(groups, friendly, found)
        full = [tuple(map(exact_pattern, group)) for group in groups]
        others = self._accept(groups, full, found)
        without = [
            (*f, *(f"!{exact_pattern(n)}" for n in o)) for f, o in zip(full, others, strict=True)
        ]
        self._accept(groups, without, found)
        return found

    def _accept(
        self,
        groups: Sequence[Sequence[str]],
        proposed: Sequence[Patterns],
        found: list[Patterns | None],
    ) -> list[list[str]]:
        """Put what is exact into `found`, unless something stands there; return what else matched."""
        usable = [patterns if _understood(patterns) else _NOTHING for patterns in proposed]
        others = []
        matched = matching_tensors(TensorPatterns(usable), self._tensors, self._labels)
        for i, (group, tensors) in enumerate(zip(groups, matched, strict=True)):
            names = {tensor.name for tensor in tensors}
            others.append(sorted(names.difference(group)))
            if found[i] is None and names == set(group):
                found[i] = proposed[i]
        return others


def _understood(patterns: Patterns) -> bool:
    """Whether a spec could hold `patterns`: a name may be empty, or longer than a pattern may be."""
    try:
        TensorPatterns([patterns])
    except UsageError:
        return False
    return True
