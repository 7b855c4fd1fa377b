"""Declarations that cannot be judged, and rules over the tensors that they are about.

What a user's class declares may be known to its code alone. Whoever writes a rule for the tensor, or
an ignore rule with a reason, has answered for it; the report says so. A pattern that would match any
layer may not have been meant so, which is a warning.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ckptclamp.errors import Notice, printable
from ckptclamp.models.keras.layouts.v3 import LISTS
from ckptclamp.plan import Assignment, Entry, NotEvaluated
from ckptclamp.plan.tensors import names_of
from ckptclamp.spec.model import utc_today
from ckptclamp.spec.patterns import TensorPatterns, literal_head

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckptclamp.models.keras.model import BoundModel
    from ckptclamp.spec.model import Spec, Suppression


class Settling:
    """The rules of one spec over the tensors of one model.

    Attributes:
        used: the ignore rules that settled something.
    """

    def __init__(self, bound: BoundModel, planned: Iterable[Entry], spec: Spec) -> None:
        self._bound = bound
        self._patterns = {rule.id: rule.tensors for rule in spec.rules}
        self._judged: dict[str, list[str]] = defaultdict(list)
        for entry in planned:
            # A preset asks the same of all tensors, so it answers for no constraint of one.
            if isinstance(entry, Assignment) and entry.rule in self._patterns:
                self._judged[entry.tensor.name].append(entry.rule)
        root = f"{bound.model.weights_root}/" if bound.model.weights_root else ""
        self._roots = (root, *(f"{root}{name}/" for name in LISTS))
        today = utc_today()
        self._ignore = [rule for rule in spec.ignore if rule.holds(today)]
        self._tensors = TensorPatterns([rule.tensors for rule in self._ignore])
        self._rules = TensorPatterns([rule.rules for rule in self._ignore])
        self.used: list[Suppression] = []

    def settled(self, entry: Entry) -> Entry:
        """What remains of an entry: a notice where it is a declaration that rules settle."""
        if not isinstance(entry, NotEvaluated) or entry.candidates is None:
            return entry
        by_rule = [name for name in entry.candidates if name in self._judged]
        left = [name for name in entry.candidates if name not in self._judged]
        ignoring = self._ignoring(entry, left)
        if ignoring is None or not (by_rule or ignoring):
            return entry
        self.used += ignoring
        return self._notice(entry, by_rule, ignoring)

    def _ignoring(self, entry: NotEvaluated, left: Sequence[str]) -> list[Suppression] | None:
        """The ignore rules that answer for all that is `left`; ``None`` if they do not."""
        if not left and entry.candidates:
            return []
        found: dict[int, None] = {}
        rules = self._rules.matching([entry.rule])
        for names in [self._names(name) for name in left] or [(entry.subject,)]:
            matching = rules & self._tensors.matching(names)
            if not matching:
                return None
            found[min(matching)] = None
        return [self._ignore[index] for index in found]

    def _names(self, name: str) -> tuple[str, ...]:
        return names_of(self._bound.tensors[name], self._bound.labels.get(name))

    def _notice(
        self, entry: NotEvaluated, judged: Sequence[str], ignoring: Sequence[Suppression]
    ) -> Notice:
        ids = list(dict.fromkeys(rule for name in judged for rule in self._judged[name]))
        by = [f"rule {printable(rule)}" for rule in ids]
        by += [f"an ignore rule ({rule.reason})" for rule in ignoring]
        meant = all(self._is_meant(name) for name in judged) and all(
            _names_something(rule, entry.rule) for rule in ignoring
        )
        return Notice(
            "settled-by-rule",
            f"{entry.rule} ({printable(entry.constraint)}) is not evaluated itself, but settled by "
            f"{', '.join(by)}: {entry.reason}",
            hint=None if meant else "name the layer in the rule if that is meant",
            tensor=next(iter(entry.candidates or ()), None),
            informational=meant,
        )

    def _is_meant(self, name: str) -> bool:
        """Whether some rule over this tensor names its layer, and not just any."""
        names = self._names(name)
        patterns = [p for rule in self._judged[name] for p in self._patterns[rule]]
        return any(_begins(pattern, names, self._roots) for pattern in patterns)


def _names_something(rule: Suppression, declaration: str) -> bool:
    """Whether an ignore rule names the declaration or begins the name of a tensor."""
    named = any(_begins(pattern, (declaration,)) for pattern in rule.rules)
    return named or any(map(literal_head, rule.tensors))


def _begins(pattern: str, names: Sequence[str], roots: Sequence[str] = ()) -> bool:
    """Whether `pattern` begins as one of `names` does, and goes beyond what begins them all."""
    head = "" if pattern.startswith("!") else literal_head(pattern)
    if not head or any(root.startswith(head) for root in roots):
        return False
    return any(name.startswith(head) for name in names)
