"""A spec as plain frozen data, whatever door it came through: a YAML file, options, Python."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ckptclamp.constraints.base import Constraint
from ckptclamp.errors import UsageError


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


class Storage(StrEnum):
    """Which numbers a rule is about: the weights of the model, or those of the file."""

    EFFECTIVE = "effective"
    RAW = "raw"


@dataclass(frozen=True, slots=True)
class Location:
    """A place in a spec file, counted from 1."""

    path: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Units:
    """Which axes a unit spans, as a rule states it: `axis` reduced, or `unit_axis` kept.

    At most one of the two is set; each is a tuple of possibly negative axes. Both ``None`` means
    that the rule says nothing; `axis=()` is never written by a user. `whole` means all axes
    (Keras' ``axis: null``): the whole tensor is one unit.
    """

    axis: tuple[int, ...] | None = None
    unit_axis: tuple[int, ...] | None = None
    whole: bool = False

    @property
    def stated(self) -> bool:
        """Whether the rule says anything about axes."""
        return self.whole or self.axis is not None or self.unit_axis is not None

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


def axes_in(value: object) -> tuple[int, ...] | None:
    """The axes that one integer or a list of them names; ``None`` where it names none."""
    axes = value if isinstance(value, list | tuple) else [value]
    if not axes or not all(isinstance(a, int) and not isinstance(a, bool) for a in axes):
        return None
    return tuple(axes)


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a spec.

    `tolerance` is relative; ``None`` means `auto`, derived from the storage dtype. `required` rules
    fail when they match nothing. `storage` says whether numbers that only stand for weights (codes,
    factors, integers) are judged as they are stored.
    """

    id: str
    tensors: tuple[str, ...]
    constraint: Constraint
    units: Units = field(default_factory=Units)
    severity: Severity = Severity.ERROR
    tolerance: float | None = None
    required: bool = True
    storage: Storage = Storage.EFFECTIVE
    location: Location | None = None


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class CustomLayer:
    """What a class of layers of the user's own is like.

    Either exactly like the class that `like` names; or `weights` names, for arguments of its config,
    the weights that these govern: by their names (``kernel``), or by their numbers where a file has no
    names (``vars/0``).
    """

    like: str | None = None
    weights: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Spec:
    """Rules, and what to do with declared constraints.

    `tolerance` is that of declared constraints. `custom_objects` maps a constraint's registered name
    in a model config to what it means. `unconstrained` names classes of layers whose code is known
    to set no constraint, and `custom_layers` tells what others are like.
    """

    rules: tuple[Rule, ...] = ()
    declared: Declared = Declared.AUDIT
    tolerance: float | None = None
    projection: Projection = Projection.EXACT
    custom_objects: Mapping[str, CustomObject] = field(default_factory=dict)
    unconstrained: frozenset[str] = frozenset()
    custom_layers: Mapping[str, CustomLayer] = field(default_factory=dict)
    ignore: tuple[Suppression, ...] = ()
    path: str | None = None
    sha256: str | None = None
