"""From the form of a spec, or from options, to rules: what several values mean together.

A rule of options needs no YAML, so the forms are imported only where a file is read.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any, Literal

from ckptclamp.constraints.base import number
from ckptclamp.constraints.registry import BUILTIN, arguments_of, canonical, make, suggestion
from ckptclamp.errors import UsageError, printable
from ckptclamp.frozen import frozen
from ckptclamp.spec.model import (
    CustomObject,
    Leeway,
    Rule,
    Spec,
    Storage,
    Suppression,
    Units,
)
from ckptclamp.spec.patterns import PatternChecker

if TYPE_CHECKING:
    from ckptclamp.constraints.base import Constraint
    from ckptclamp.spec.model import Location, NamedAxes, Split
    from ckptclamp.spec.schema import (
        IgnoreForm,
        PlacedForm,
        RuleForm,
        SerialisedForm,
        SpecForm,
        SplitForm,
    )


class MisplacedError(UsageError):
    """What is wrong with one part of a form: `key` says which (``constraint``), ``""`` all of it."""

    def __init__(self, key: str, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.key = key


@frozen
class RuleBuilder:
    """Makes rules of forms.

    Attributes:
        allow_import: modules from which a custom constraint may be imported.
        leeway: that of rules that state none.
    """

    allow_import: AbstractSet[str] = frozenset()
    leeway: Leeway = field(default_factory=Leeway)

    def rule(self, form: RuleForm, name: str, location: Location | None) -> Rule:
        """Make the rule that `form` describes; `name` is its id if it has none.

        Raises:
            MisplacedError: its values do not go together.
        """
        constraint, units = self._constraint(form)
        named = None if form.units is None else replace(form.units, sizes=form.sizes)
        return Rule(
            id=form.id or name,
            tensors=form.tensors,
            constraint=constraint,
            units=_units(form, units, named),
            severity=form.severity,
            leeway=leeway(form, self.leeway),
            required=form.required,
            storage=form.storage,
            location=location,
        )

    def custom_object(self, form: str | SerialisedForm | PlacedForm) -> CustomObject:
        """What a name under ``custom_objects`` stands for.

        With arguments it is one constraint, or one for each config where an argument is ``$name``;
        without, each declaration's own config makes one.

        Raises:
            UsageError: there is no such constraint, or it may not be imported.
        """
        from ckptclamp.spec.schema import PlacedForm, SerialisedForm

        if isinstance(form, PlacedForm):
            if any(isinstance(value, str) for value in form.arguments.values()):
                return self._referring(form)
            constraint, units = self._constraint(form)
            return CustomObject(lambda _: constraint, _units(form, units), uses=frozenset())
        if isinstance(form, SerialisedForm) and form.config is not None:
            constraint, units = self._serialised(form)
            return CustomObject(lambda _: constraint, units, uses=frozenset())
        name = form if isinstance(form, str) else form.class_name
        if ":" not in name and canonical(name) is None:
            raise UsageError(f"unknown constraint {name!r}", hint=suggestion(name, BUILTIN))
        return CustomObject(functools.partial(self._of_config, name))

    def _referring(self, form: PlacedForm) -> CustomObject:
        """A constraint whose numbers are those of the config that a model holds."""
        name, arguments = form.constraint, form.arguments
        if not isinstance(name, str):
            raise MisplacedError(next(iter(arguments)), "belongs into the constraint's config")
        # What is wrong whatever the numbers are is said before a model is opened.
        known = {key: value for key, value in arguments.items() if not isinstance(value, str)}
        if ":" not in name and (
            canonical(name) is None or not arguments.keys() <= {*arguments_of(name)}
        ):
            self._named(name, known | dict.fromkeys(arguments, 1.0))
        return CustomObject(
            lambda config: self._of_config(name, _resolved(arguments, config)),
            _units(form, Units()),
            uses=frozenset(v.partition("$")[2] for v in arguments.values() if isinstance(v, str)),
        )

    def _constraint(self, form: PlacedForm) -> tuple[Constraint, Units]:
        arguments = form.arguments
        if isinstance(form.constraint, str):
            return self._named(form.constraint, arguments), Units()
        if arguments:
            key = next(iter(arguments))
            raise MisplacedError(key, f"{key} belongs into the constraint's config")
        try:
            return self._serialised(form.constraint)
        except UsageError as error:
            raise MisplacedError("constraint", error.message, error.hint) from error

    def _named(self, name: str, arguments: Mapping[str, Any]) -> Constraint:
        try:
            return self._of_config(name, arguments)
        except UsageError as error:
            key = _blamed(error, name, arguments)
            raise MisplacedError(key, error.message, error.hint) from error

    def _serialised(self, form: SerialisedForm) -> tuple[Constraint, Units]:
        """A constraint as Keras writes it, or a class of the user's."""
        config = dict(form.config or {})
        if ":" in form.class_name:
            made = self._of_config(form.class_name, config)
            return made, Units.in_config(config) if made.streaming else Units()
        from ckptclamp.models.keras.constraints import parse_constraint

        parsed = parse_constraint(form.given)
        if parsed.opaque is not None:
            raise UsageError(parsed.opaque)
        if parsed.builtin is not None and parsed.builtin in BUILTIN:
            return make(parsed.builtin, parsed.config), Units.in_config(config)
        if parsed.builtin is None and "registered_name" not in form.given:
            return self._of_config(form.class_name, config), Units.in_config(config)
        raise UsageError(
            f"{parsed.builtin or parsed.custom} is not known here",
            hint="write class_name as 'package.module:Class'",
        )

    def _of_config(self, name: str, config: Mapping[str, Any]) -> Constraint:
        """The constraint of that name; a built-in one has no axis, its rule has."""
        if ":" not in name:
            return make(name, {key: value for key, value in config.items() if key != "axis"})
        from ckptclamp.constraints.custom import import_custom

        return import_custom(name, config, self.allow_import)


def leeway(form: RuleForm | SpecForm, otherwise: Leeway) -> Leeway:
    """What `form` states, and where it states nothing, what holds `otherwise`.

    A tolerance of ``auto`` is stated, too.
    """
    states_tolerance = "tolerance" in form.given
    return Leeway(
        tolerance=form.tolerance if states_tolerance else otherwise.tolerance,
        epsilon=otherwise.epsilon if form.epsilon is None else form.epsilon,
        zero_units=form.zero_units or otherwise.zero_units,
    )


def _resolved(arguments: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """`arguments` with each ``-2*$name`` replaced by what `config` holds as ``name``.

    Raises:
        UsageError: the config has no such number.
    """
    return {
        key: _referred(value, config) if isinstance(value, str) else value
        for key, value in arguments.items()
    }


def _referred(reference: str, config: Mapping[str, Any]) -> float:
    factor, _, name = reference.partition("$")
    try:
        value = number(f"${name} of the model's config", config.get(name))
    except UsageError as error:
        hint = f"its arguments are: {printable(', '.join(config))[:200]}"
        raise UsageError(error.message, hint=hint) from error
    sign, factor = (-1.0 if factor.startswith("-") else 1.0), factor.strip("-*")
    product = sign * float(factor or 1.0) * value
    if math.isfinite(value) and not math.isfinite(product):
        raise UsageError(f"{reference} is too large for a float64")  # no bound would be a pass
    return product


def suppression(form: IgnoreForm, location: Location | None) -> Suppression:
    """Make the suppression that `form` describes.

    Raises:
        MisplacedError: it would accept everything.
    """
    if not form.tensors and not form.rules:
        raise MisplacedError("", "needs tensors or rules: it would accept everything")
    return Suppression(
        tensors=form.tensors or ("**",),
        rules=form.rules or ("**",),
        reason=form.reason,
        expires=form.expires,
        location=location,
    )


def split(form: SplitForm, location: Location | None) -> Split:
    """Make the split that `form` describes.

    Raises:
        MisplacedError: it has other names than sizes, or a name twice.
    """
    names, sizes = tuple(form.names.values()), tuple(form.sizes.values())
    if len(names) != len(sizes):
        raise MisplacedError("names", f"{len(names)} names for {len(sizes)} sizes")
    if len(set(names)) < len(names):
        raise MisplacedError("names", "one name is there twice")
    from ckptclamp.spec.model import Split

    return Split(form.tensors, form.axis, sizes, names, location)


_STATING = ("axis", "unit_axis", "units")
"""The keys of a rule that say what a unit is; it has one of them."""


def _units(form: PlacedForm, in_config: Units, named: NamedAxes | None = None) -> Units:
    keys = [key for key in _STATING if key in form.given]
    if not keys:
        return in_config
    if len(keys) > 1:
        raise MisplacedError(keys[1], f"{keys[0]} and {keys[1]} exclude each other")
    key = keys[0]
    if in_config.stated:
        raise MisplacedError(key, f"{key} is stated twice: here and in the constraint's config")
    if named is not None:
        return Units(named=named)
    if key == "unit_axis":
        return Units(unit_axis=form.unit_axis)
    return Units(whole=True) if form.axis is None else Units(axis=form.axis)


def _blamed(error: UsageError, name: str, arguments: Mapping[str, Any]) -> str:
    """The key that an error is about: an argument that it names, or else the constraint."""
    known = canonical(name)
    for argument in arguments:
        is_foreign = known is not None and argument not in arguments_of(known)
        if is_foreign or error.message.startswith(f"{argument} "):
            return argument
    return "constraint"


Axis = Sequence[int] | Literal["all"] | None
"""Axes as an option states them; ``all`` is the whole tensor, ``None`` says nothing."""


def inline_spec(
    *,
    tensors: Sequence[str],
    max_norm: float | None = None,
    min_max_norm: tuple[float, float] | None = None,
    unit_norm: bool = False,
    non_neg: bool = False,
    clip: tuple[float, float] | None = None,
    center: float | None = None,
    finite: bool = False,
    min_norm: float | None = None,
    max_l1_norm: float | None = None,
    distance: float | None = None,
    axis: Axis = None,
    unit_axis: Axis = None,
    storage: str = "effective",
) -> Spec:
    """Return a spec with one rule for each constraint that is given, all over the same tensors.

    A rule's id is its option's name (``max-norm``). The axes belong to the rules that have any, so
    ``--non-neg --max-norm 2 --axis 0`` is two rules, of which only the second has an axis. `storage`
    is that of every rule.

    Raises:
        UsageError: a bound, a pattern or an axis makes no sense, or no constraint is given.
    """
    given: dict[str, tuple[str, tuple[str, ...], object]] = {
        "max-norm": ("MaxNorm", ("max_value",), max_norm),
        "min-max-norm": ("MinMaxNorm", ("min_value", "max_value"), min_max_norm),
        "unit-norm": ("UnitNorm", (), unit_norm or None),
        "non-neg": ("NonNeg", (), non_neg or None),
        "clip": ("Clip", ("low", "high"), clip),
        "center": ("CenterAround", ("ref_value",), center),
        "finite": ("Finite", (), finite or None),
        "min-norm": ("MinNorm", ("min_value",), min_norm),
        "max-l1-norm": ("MaxL1Norm", ("max_value",), max_l1_norm),
        "max-distance": (
            "Distance",
            ("max_value", "relative"),
            None if distance is None else (distance, True),
        ),
    }
    PatternChecker().check(tensors)
    stated = units(axis, unit_axis)
    rules = []
    for option, (name, arguments, bound) in given.items():
        if bound is None:
            continue
        bounds = bound if isinstance(bound, Sequence) else [bound] * len(arguments)
        constraint = make(name, dict(zip(arguments, bounds, strict=True)))
        own = Units() if constraint.elementwise else stated
        rules.append(Rule(option, tuple(tensors), constraint, own, storage=Storage(storage)))
    if not rules:
        raise UsageError("no constraint is given", hint="for example --max-norm 2")
    if stated.stated and not any(rule.units.stated for rule in rules):
        raise UsageError(f"--{rules[0].id} is about each weight by itself, so it has no axis")
    return Spec(rules=tuple(rules))


def units(axis: Axis, unit_axis: Axis) -> Units:
    """Return what the options ``--axis`` and ``--unit-axis`` say of units.

    Raises:
        UsageError: both are given, or no axis is left to take a norm over.
    """
    if axis is not None and unit_axis is not None:
        raise UsageError("--axis and --unit-axis exclude each other")
    if unit_axis is not None:
        if isinstance(unit_axis, str):
            raise UsageError(
                "--unit-axis all would make each weight a unit",
                hint="--clip bounds each weight by itself",
            )
        return Units(unit_axis=tuple(unit_axis))
    if axis is None:
        return Units()
    return Units(whole=True) if isinstance(axis, str) else Units(axis=tuple(axis))
