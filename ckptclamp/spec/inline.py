"""Rules from the command line's options: the same objects that a spec file makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from ckptclamp.constraints.registry import make
from ckptclamp.errors import UsageError
from ckptclamp.spec.model import Rule, Spec, Storage, Units
from ckptclamp.spec.patterns import TensorPatterns

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
    given: dict[str, tuple[str, dict[str, Any]]] = {}
    if max_norm is not None:
        given["max-norm"] = ("MaxNorm", {"max_value": max_norm})
    if min_max_norm is not None:
        low, high = min_max_norm
        given["min-max-norm"] = ("MinMaxNorm", {"min_value": low, "max_value": high})
    if unit_norm:
        given["unit-norm"] = ("UnitNorm", {})
    if non_neg:
        given["non-neg"] = ("NonNeg", {})
    if clip is not None:
        given["clip"] = ("Clip", {"low": clip[0], "high": clip[1]})
    if center is not None:
        given["center"] = ("CenterAround", {"ref_value": center})
    if not given:
        raise UsageError("no constraint is given", hint="for example --max-norm 2")
    TensorPatterns([tensors])
    stated = units(axis, unit_axis)
    rules = [
        replace(_rule(option, *what, tuple(tensors), stated), storage=Storage(storage))
        for option, what in given.items()
    ]
    if stated.stated and not any(rule.units.stated for rule in rules):
        raise UsageError(f"--{rules[0].id} is about each weight by itself, so it has no axis")
    return Spec(rules=tuple(rules))


def _rule(
    option: str, name: str, arguments: dict[str, Any], tensors: tuple[str, ...], units: Units
) -> Rule:
    constraint = make(name, arguments)
    own = Units() if constraint.elementwise else units
    return Rule(id=option, tensors=tensors, constraint=constraint, units=own)


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
