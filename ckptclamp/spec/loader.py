"""From a YAML file, or what it would hold, to a `Spec`: all problems at once, each with its place."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ckptclamp.errors import SpecError, SpecProblem, UsageError
from ckptclamp.spec import schema
from ckptclamp.spec.model import Declared, Location, Projection, Spec
from ckptclamp.spec.yaml_reader import MAX_BYTES, Document, read_yaml

if TYPE_CHECKING:
    from pydantic import BaseModel

    from ckptclamp.spec.model import CustomObject, Rule, Suppression
    from ckptclamp.spec.rules import RuleBuilder
    from ckptclamp.spec.yaml_reader import Place

Form = TypeVar("Form", bound="BaseModel")
Keys = tuple[str | int, ...]

_MOST_PROBLEMS = 100


def load_spec(path: str | Path, *, allow_import: AbstractSet[str] = frozenset()) -> Spec:
    """Read the spec at `path`; its sha256 is in the result.

    Args:
        path: a YAML (or JSON) file of at most 1 MiB.
        allow_import: modules from which custom constraints may be imported.

    Raises:
        SpecError: it cannot be read or understood; every problem is in it.
    """
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpecError(str(path), (SpecProblem(error.strerror or str(error)),)) from error
    spec = _Loader(read_yaml(raw), str(path), allow_import).load()
    return replace(spec, path=str(path), sha256=hashlib.sha256(raw).hexdigest())


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
        self.problems = list(document.problems)
        self._reported = {(problem.line, problem.column) for problem in document.problems}

    def load(self) -> Spec:
        """Return the spec, or raise with every problem."""
        from ckptclamp.spec.rules import RuleBuilder
        from ckptclamp.spec.schema import SpecForm

        if not isinstance(self.document.data, dict):
            if not self.problems:
                self._add((), "is not a mapping", "a spec begins with version: 1")
            raise self._error()
        whole = self._whole(SpecForm)
        tolerance = None if whole is None else whole.tolerance
        builder = RuleBuilder(self.allow_import, tolerance)
        rules, ignored, custom = self._rules(builder), self._ignored(), self._custom(builder)
        if self.problems or whole is None:
            raise self._error()
        return Spec(
            rules=tuple(rules),
            declared=Declared(whole.declared),
            tolerance=tolerance,
            projection=Projection(whole.projection),
            custom_objects=custom,
            ignore=tuple(ignored),
        )

    def _whole(self, model: type[Form]) -> Form | None:
        """The whole document in its form; what is wrong with that becomes problems."""
        from pydantic import ValidationError

        try:
            return model.model_validate(self.document.data)
        except ValidationError as error:
            for details in error.errors(include_url=False):
                found = schema.describe(details)
                # An unknown key is a problem of the key, all others of the value.
                place = self.document.keys.get(found.keys) if found.is_key else None
                if place is None:
                    self._add(found.keys, found.message, found.hint)
                else:
                    self.problems.append(SpecProblem(found.message, *place, hint=found.hint))
            return None

    def _rules(self, builder: RuleBuilder) -> list[Rule]:
        from ckptclamp.spec.rules import MisplacedError
        from ckptclamp.spec.schema import RuleForm

        rules: list[Rule] = []
        taken: set[str] = set()
        for keys, form in self._sound("rules", RuleForm):
            name = f"rule-{int(keys[-1]) + 1}"
            try:
                rule = builder.rule(form, name, self._location(keys))
            except MisplacedError as error:
                self._add((*keys, error.key), error.message, error.hint)
                continue
            if rule.id in taken:
                self._add((*keys, "id"), f"two rules have the id {rule.id!r}")
            taken.add(rule.id)
            rules.append(rule)
        return rules

    def _ignored(self) -> list[Suppression]:
        from ckptclamp.spec.rules import MisplacedError, suppression
        from ckptclamp.spec.schema import IgnoreForm

        ignored = []
        for keys, form in self._sound("ignore", IgnoreForm):
            try:
                ignored.append(suppression(form, self._location(keys)))
            except MisplacedError as error:
                self._add((*keys, error.key), error.message, error.hint)
        return ignored

    def _custom(self, builder: RuleBuilder) -> dict[str, CustomObject]:
        from ckptclamp.spec.rules import MisplacedError
        from ckptclamp.spec.schema import ConstraintForm, SerialisedForm

        custom: dict[str, CustomObject] = {}
        for name, value in self._data("custom_objects", dict).items():
            keys: Keys = ("custom_objects", name)
            form: str | ConstraintForm | SerialisedForm | None
            if isinstance(value, str):
                form = value
            elif isinstance(value, dict) and "constraint" in value:
                form = _form_or_none(ConstraintForm, value)
            else:
                form = _form_or_none(SerialisedForm, value)
            if form is None:
                continue
            try:
                custom[name] = builder.custom_object(form)
            except MisplacedError as error:
                self._add((*keys, error.key), error.message, error.hint)
            except UsageError as error:
                self._add(keys, error.message, error.hint)
        return custom

    def _sound(self, key: str, model: type[Form]) -> Iterator[tuple[Keys, Form]]:
        """The entries of a list whose form is right; the others are problems already."""
        for index, value in enumerate(self._data(key, list)):
            form = _form_or_none(model, value)
            if form is not None:
                yield (key, index), form

    def _data(self, key: str, kind: type) -> Any:  # noqa: ANN401 - as the document has it
        value = self.document.data.get(key)
        return value if isinstance(value, kind) else kind()

    def _location(self, keys: Keys) -> Location | None:
        place = self.document.values.get(keys)
        return None if place is None else Location(self.path, *place)

    def _add(self, keys: Keys, message: str, hint: str | None = None) -> None:
        """Add a problem with the value at `keys`, or with the nearest place around it."""
        place = self._place(keys)
        if place is None:
            where = schema.dotted(keys)
            what = message.removeprefix(f"{keys[-1]}: ") if keys else message
            self.problems.append(SpecProblem(f"{where}: {what}" if where else what, hint=hint))
        elif place not in self._reported:
            self.problems.append(SpecProblem(message, *place, hint=hint))

    def _place(self, keys: Keys) -> Place | None:
        for length in range(len(keys), -1, -1):
            place = self.document.values.get(keys[:length])
            if place is not None:
                return place
        return None

    def _error(self) -> SpecError:
        problems = sorted(self.problems, key=lambda p: (p.line or 0, p.column or 0))
        more = len(problems) - _MOST_PROBLEMS
        if more > 0:
            problems = [*problems[:_MOST_PROBLEMS], SpecProblem(f"and {more} more problems")]
        return SpecError(self.path, tuple(problems))


def _form_or_none(model: type[Form], value: object) -> Form | None:
    from pydantic import ValidationError

    try:
        return model.model_validate(value)
    except ValidationError:
        return None
