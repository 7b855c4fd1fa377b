"""From a YAML file, or what it would hold, to a `Spec`: all problems at once, each with its place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from ckptclamp.checkpoints.remote import as_path, content
from ckptclamp.checkpoints.remote.path import RemotePath
from ckptclamp.errors import SpecError, SpecProblem, UsageError
from ckptclamp.spec.forms import FormProblem
from ckptclamp.spec.model import Leeway, Location, Rule, Spec
from ckptclamp.spec.patterns import PatternChecker
from ckptclamp.spec.rules import MisplacedError, RuleBuilder, leeway, split, suppression
from ckptclamp.spec.schema import SpecForm
from ckptclamp.spec.yaml_reader import MAX_BYTES, Document, Keys, Place, read_yaml

Name = TypeVar("Name", str, int)
Read = TypeVar("Read")
Made = TypeVar("Made")

_MOST_PROBLEMS = 100


def load_spec(path: str | Path, *, allow_import: AbstractSet[str] = frozenset()) -> Spec:
    """Read the spec at `path`; its sha256 is in the result.

    Args:
        path: a YAML (or JSON) file of at most 1 MiB.
        allow_import: modules from which custom constraints may be imported.

        >>> import ckptclamp
        >>> spec = ckptclamp.load_spec("constraints.yaml")
        >>> [(rule.id, str(rule.constraint)) for rule in spec.rules]
        [('bounded', 'MaxNorm(max_value=4)')]

    Raises:
        SpecError: it cannot be read or understood; every problem is in it.
    """
    try:
        raw = content(path := as_path(path), MAX_BYTES + 1)
    except OSError as error:
        raise SpecError(str(path), (SpecProblem(error.strerror or str(error)),)) from error
    spec = _Loader(read_yaml(raw), str(path), allow_import).load()
    if spec.base is not None and isinstance(path, RemotePath):
        problem = SpecProblem("a spec that is elsewhere names no base", hint="pass --base")
        raise SpecError(str(path), (problem,))
    base = None if spec.base is None else path.parent / spec.base
    return replace(spec, base=base, path=str(path), sha256=hashlib.sha256(raw).hexdigest())


def spec_from_mapping(
    data: Mapping[str, Any], *, allow_import: AbstractSet[str] = frozenset()
) -> Spec:
    """Make a spec of what a YAML file would hold.

    Raises:
        SpecError: it cannot be understood; every problem is in it.
    """
    return _Loader(Document(data=_plain(data)), "spec", allow_import).load()


def _plain(value: object) -> object:
    """Mappings and tuples as YAML would give them."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


class _Loader:
    """One document on its way to a spec."""

    def __init__(self, document: Document, path: str, allow_import: AbstractSet[str]) -> None:
        self.document = document
        self.path = path
        self.allow_import = allow_import
        self.patterns = PatternChecker()
        self.problems = list(document.problems)
        self._reported = {(problem.line, problem.column) for problem in document.problems}

    def load(self) -> Spec:
        """Return the spec, or raise with every problem."""
        if not isinstance(self.document.data, dict):
            if not self.problems:
                self._add((), "is not a mapping", "a spec begins with version: 1")
            raise self._error()
        whole, problems = SpecForm.read(self.document.data, (), self.patterns)
        self._refuse(problems)
        given = leeway(whole, Leeway())
        builder = RuleBuilder(self.allow_import, given)
        rules = self._rules(whole, builder)
        ignored = self._made(
            "ignore", whole.ignore, lambda keys, form: suppression(form, self._location(keys))
        )
        custom = self._made(
            "custom_objects", whole.custom_objects, lambda _, form: builder.custom_object(form)
        )
        splits = self._made(
            "split", whole.split, lambda keys, form: split(form, self._location(keys))
        )
        if self.problems:
            raise self._error()
        return Spec(
            rules=rules,
            declared=whole.declared,
            leeway=given,
            projection=whole.projection,
            custom_objects=custom,
            unconstrained=frozenset(n for n, told in whole.custom_layers.items() if told is None),
            custom_layers={n: told for n, told in whole.custom_layers.items() if told is not None},
            ignore=tuple(ignored.values()),
            splits=tuple(splits.values()),
            preset=whole.preset,
            base=None if whole.base is None else Path(whole.base),
        )

    def _rules(self, whole: SpecForm, builder: RuleBuilder) -> tuple[Rule, ...]:
        rules = self._made(
            "rules",
            whole.rules,
            lambda keys, form: builder.rule(
                form, f"rule-{int(keys[-1]) + 1}", self._location(keys)
            ),
        )
        taken: set[str] = set()
        for number, rule in rules.items():
            if rule.id in taken:
                self._add(("rules", number, "id"), f"two rules have the id {rule.id!r}")
            taken.add(rule.id)
        return tuple(rules.values())

    def _made(
        self, key: str, forms: Mapping[Name, Read], make: Callable[[Keys, Read], Made]
    ) -> dict[Name, Made]:
        """What `make` makes of each form; where its values do not go together is a problem."""
        made = {}
        for name, form in forms.items():
            keys: Keys = (key, name)
            try:
                made[name] = make(keys, form)
            except MisplacedError as error:
                self._add((*keys, error.key), error.message, error.hint)
            except UsageError as error:
                self._add(keys, error.message, error.hint)
        return made

    def _location(self, keys: Keys) -> Location | None:
        place = self.document.values.get(keys)
        return None if place is None else Location(self.path, *place)

    def _refuse(self, problems: Iterable[FormProblem]) -> None:
        """Add what is wrong with the form of the document."""
        for found in problems:
            # An unknown key is a problem of the key, all others of the value.
            place = self.document.keys.get(found.keys) if found.is_key else None
            if place is None:
                self._add(found.keys, found.message, found.hint)
            else:
                self.problems.append(SpecProblem(found.message, *place, hint=found.hint))

    def _add(self, keys: Keys, message: str, hint: str | None = None) -> None:
        """Add a problem with the value at `keys`, or with the nearest place around it."""
        place = self._place(keys)
        if place is None:
            where = _dotted(keys)
            what = message.removeprefix(f"{keys[-1]}: ") if keys else message
            self.problems.append(SpecProblem(f"{where}: {what}" if where else what, hint=hint))
        elif place not in self._reported:
            self.problems.append(SpecProblem(message, *place, hint=hint))

    def _place(self, keys: Keys) -> Place | None:
        around = (keys[:length] for length in range(len(keys), -1, -1))
        return next(filter(None, map(self.document.values.get, around)), None)

    def _error(self) -> SpecError:
        problems = sorted(self.problems, key=lambda p: (p.line or 0, p.column or 0))
        more = len(problems) - _MOST_PROBLEMS
        if more > 0:
            problems = [*problems[:_MOST_PROBLEMS], SpecProblem(f"and {more} more problems")]
        return SpecError(self.path, tuple(problems))


def _dotted(keys: Keys) -> str:
    """Where a value stands, for data that came from no file: ``rules[0].axis``."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys if key != "")
    return text.removeprefix(".")
