"""A spec as plain frozen data, whatever door it came through: a YAML file, options, Python."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import field
from enum import StrEnum
from pathlib import Path
from typing import Any

from ckptclamp.constraints.base import Constraint, number
from ckptclamp.constraints.tolerance import History
from ckptclamp.errors import UsageError
from ckptclamp.frozen import frozen


class Severity(StrEnum):
    """How bad a violation of a rule is; only errors fail a gate (warnings too with `--strict`)."""

    ERROR = "error"
    WARNING = "warning"


class Projection(StrEnum):
    """How a violating unit is mended; see the README for what each promises."""

    EXACT = "exact"
    KERAS = "keras"


class Declared(StrEnum):
    """What to do with the constraints that the checkpoint's own model declares."""

    AUDIT = "audit"
    IGNORE = "ignore"


class Preset(StrEnum):
    """A set of rules that comes along."""

    HEALTH = "health"


class Storage(StrEnum):
    """Which numbers a rule is about: the weights of the model, or those of the file."""

    EFFECTIVE = "effective"
    RAW = "raw"


class ZeroUnits(StrEnum):
    """What a unit without a weight but zeros is, where it lies outside: unseen rows, padding."""

    VIOLATION = "violation"
    ALLOW = "allow"


_SHARES = {
    "tolerance": "a tolerance is relative: 0.01 is one percent",
    "epsilon": "it is what keras.config.set_epsilon was given: 1e-7 if it was not called",
}


@frozen
class Leeway:
    """What is forgiven, as a rule, a spec or a caller states it; ``None`` says nothing.

    `tolerance` is relative, or names the history that it is derived from. `epsilon` is what Keras
    added to the norms that it divided by. Text is taken for the member that it names.

    Raises:
        UsageError: a number is none from 0 up to but not including 1, or text names nothing.
    """

    tolerance: float | History | None = None
    epsilon: float | None = None
    zero_units: ZeroUnits | None = None

    def __post_init__(self) -> None:
        for name, hint in _SHARES.items():
            value = getattr(self, name)
            if name == "tolerance" and isinstance(value, str):
                object.__setattr__(self, name, _member(History, name, value))
            elif value is not None and not 0 <= number(name, value) < 1:
                raise UsageError(f"{name} {value:g} makes no sense", hint=hint)
        if self.zero_units is not None:
            object.__setattr__(
                self, "zero_units", _member(ZeroUnits, "zero_units", self.zero_units)
            )

    def over(self, other: Leeway) -> Leeway:
        """What this states, and of the rest what `other` states."""
        return Leeway(
            other.tolerance if self.tolerance is None else self.tolerance,
            other.epsilon if self.epsilon is None else self.epsilon,
            self.zero_units or other.zero_units,
        )


@frozen
class Location:
    """A place in a spec file, counted from 1."""

    path: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}"


Size = int | str
"""An extent, or ``$name`` of a number in the model's config."""


@frozen
class NamedAxes:
    """A rule's `units`: `axes` are the names within each axis, `kept` those of units in their order.

    `sizes` are what the rule states beside it.
    """

    text: str
    axes: tuple[tuple[str, ...], ...]
    kept: tuple[str, ...]
    sizes: Mapping[str, Size] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name on the left, in order."""
        return tuple(name for axis in self.axes for name in axis)


@frozen
class Split:
    """One axis of the tensors that match, cut into parts with names; `sizes` follow one another."""

    tensors: tuple[str, ...]
    axis: int
    sizes: tuple[Size, ...]
    names: tuple[str, ...]
    location: Location | None = None


@frozen
class Units:
    """Which axes a unit spans, as a rule states it: `axis` reduced, or `unit_axis` kept.

    At most one of the two is set; each is a tuple of possibly negative axes. Both ``None`` means
    that the rule says nothing; `axis=()` is never written by a user. `whole` means all axes
    (Keras' ``axis: null``): the whole tensor is one unit. `named` gives the axes names instead.
    """

    axis: tuple[int, ...] | None = None
    unit_axis: tuple[int, ...] | None = None
    whole: bool = False
    named: NamedAxes | None = None

    @property
    def stated(self) -> bool:
        """Whether the rule says anything about axes."""
        axes = (self.axis, self.unit_axis, self.named)
        return self.whole or any(stated is not None for stated in axes)

    @classmethod
    def in_config(cls, config: Mapping[str, Any]) -> Units:
        """Those that the config of a serialised constraint states as its ``axis``, if it does.

        Raises:
            UsageError: the axis is nothing that names axes.
        """
        if "axis" not in config:
            return cls()
        axis = config["axis"]
        if axis is None:
            return cls(whole=True)
        axes = axes_in(axis)
        if axes is None:
            raise UsageError("axis is not an integer, a list of them or null")
        return cls(axis=axes)


def _member(kind: type[StrEnum], name: str, value: str) -> StrEnum:
    if value not in list(kind):
        raise UsageError(f"{name} is no {value!r}", hint=f"known: {', '.join(kind)}")
    return kind(value)


def axes_in(value: object) -> tuple[int, ...] | None:
    """The axes that one integer or a list of them names; ``None`` where it names none."""
    axes = value if isinstance(value, list | tuple) else [value]
    if not axes or not all(isinstance(a, int) and not isinstance(a, bool) for a in axes):
        return None
    return tuple(axes)


@frozen
class Rule:
    """One line of a spec.

    `leeway` is what it forgives; a tolerance of ``None`` means `auto`, derived from the storage dtype
    and what is known of the producer. `required` rules fail when they match nothing. `storage` says whether
    numbers that only stand for weights (codes, factors, integers) are judged as they are stored.
    """

    id: str
    tensors: tuple[str, ...]
    constraint: Constraint
    units: Units = field(default_factory=Units)
    severity: Severity = Severity.ERROR
    leeway: Leeway = field(default_factory=Leeway)
    required: bool = True
    storage: Storage = Storage.EFFECTIVE
    location: Location | None = None


@frozen
class CustomObject:
    """What a constraint of the model's own is: `make` makes it of the config that a model holds.

    `units` are those that the spec states for it; if none, the model's config may state them.
    `uses` names the arguments of that config which `make` uses; ``None`` is all of them.
    """

    make: Callable[[Mapping[str, Any]], Constraint]
    units: Units = field(default_factory=Units)
    uses: frozenset[str] | None = None

    def ignored(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a declared constraint's config that nothing of this comes from."""
        if self.uses is None:
            return {}
        used = {*self.uses, "axis", "name"}
        return {key: value for key, value in config.items() if key not in used}


@frozen
class CustomLayer:
    """What a class of layers of the user's own is like.

    Either exactly like the class that `like` names; or `weights` names, for arguments of its config,
    the weights that these govern: by their names (``kernel``), or by their numbers where a file has no
    names (``vars/0``).
    """

    like: str | None = None
    weights: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@frozen
class Suppression:
    """Findings that are known and accepted: which tensors and rules, why, and until when."""

    tensors: tuple[str, ...]
    rules: tuple[str, ...]
    reason: str
    expires: datetime.date | None = None
    location: Location | None = None

    def holds(self, today: datetime.date) -> bool:
        """Whether it has not expired."""
        return self.expires is None or self.expires >= today


def utc_today() -> datetime.date:
    """The current day in UTC, so that an expiry falls on every machine at once."""
    return datetime.datetime.now(datetime.UTC).date()


@frozen
class Spec:
    """Rules, and what to do with declared constraints.

    `leeway` is that of declared constraints. `custom_objects` maps a constraint's registered name
    in a model config to what it means. `unconstrained` names classes of layers whose code is known
    to set no constraint, and `custom_layers` tells what others are like. `splits` cut tensors into
    parts that rules may name. `preset` adds rules that come along. `base` is the checkpoint that the
    audited one was made from.
    """

    rules: tuple[Rule, ...] = ()
    declared: Declared = Declared.AUDIT
    leeway: Leeway = field(default_factory=Leeway)
    projection: Projection = Projection.EXACT
    custom_objects: Mapping[str, CustomObject] = field(default_factory=dict)
    unconstrained: frozenset[str] = frozenset()
    custom_layers: Mapping[str, CustomLayer] = field(default_factory=dict)
    ignore: tuple[Suppression, ...] = ()
    splits: tuple[Split, ...] = ()
    preset: Preset | None = None
    base: Path | None = None
    path: str | None = None
    sha256: str | None = None
