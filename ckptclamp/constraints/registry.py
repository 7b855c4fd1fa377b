"""Constraints by name: the built-in ones, under the names that Keras and its users give them.

A constraint's module is imported when it is first asked for.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import TYPE_CHECKING, Any

from ckptclamp.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptclamp.constraints.base import Constraint

BUILTIN = {
    "MaxNorm": "norms",
    "MinMaxNorm": "norms",
    "UnitNorm": "norms",
    "NonNeg": "linear",
    "Clip": "linear",
    "CenterAround": "linear",
    "RadialConstraint": "whole",
    "Finite": "linear",
    "MinNorm": "norms",
    "MaxLInfNorm": "linear",
    "MaxL1Norm": "l1",
    "Simplex": "l1",
    "MaxNonZero": "sparsity",
    "Sparsity": "sparsity",
    "SpectralNorm": "matrices",
    "Orthonormal": "matrices",
    "Symmetric": "subspaces",
    "LowerTriangular": "subspaces",
    "UpperTriangular": "subspaces",
    "Distance": "distance",
}
"""The names of the classes, and the modules that hold them."""

_ALIASES = {
    spelling: name
    for name in BUILTIN
    for spelling in (
        name.lower(),
        "".join(f"_{c}" if c.isupper() else c for c in name).lstrip("_").lower(),
    )
}
"""``maxnorm`` and ``max_norm``, as Keras 1 to 3 know them."""


def canonical(name: str) -> str | None:
    """Return the built-in constraint's class name for any spelling of it, or ``None``."""
    return name if name in BUILTIN else _ALIASES.get(name)


def arguments_of(name: str) -> tuple[str, ...]:
    """The arguments of a built-in constraint's constructor."""
    return tuple(field.name for field in _fields(name))


def measured_words(shown: str) -> str:
    """What a built-in constraint measures, by how it is `shown`; ``""`` where its name says it."""
    name = shown.partition("(")[0]
    return _class(name).measures if name in BUILTIN else ""


def make(name: str, arguments: Mapping[str, Any]) -> Constraint:
    """Make a built-in constraint by name.

    Raises:
        UsageError: no such constraint, no such argument, one is missing, or a value makes no sense.
    """
    known = canonical(name)
    if known is None:
        raise UsageError(f"unknown constraint {name!r}", hint=suggestion(name, BUILTIN))
    fields = _fields(known)
    for argument in arguments:
        if argument not in [field.name for field in fields]:
            hint = suggestion(argument, arguments_of(known), known)
            raise UsageError(f"{known} has no argument {argument!r}", hint=hint)
    for field in fields:
        if field.default is dataclasses.MISSING and field.name not in arguments:
            raise UsageError(f"{known} needs {field.name}")
    return _class(known)(**arguments)


def suggestion(word: str, known: Iterable[str], owner: str | None = None) -> str:
    """What was probably meant by `word`, or else everything that there is."""
    choices = list(known)
    import difflib

    close = difflib.get_close_matches(word.lower(), [c.lower() for c in choices], n=1)
    if close:
        return f"did you mean {next(c for c in choices if c.lower() == close[0])}?"
    listed = ", ".join(choices)
    if owner is None:
        return f"known: {listed}"
    return f"{owner} has {listed}" if listed else f"{owner} takes none"


def _class(name: str) -> type[Constraint]:
    module = importlib.import_module(f"ckptclamp.constraints.sets.{BUILTIN[name]}")
    constraint: type[Constraint] = getattr(module, name)
    return constraint


def _fields(name: str) -> tuple[dataclasses.Field[Any], ...]:
    constraint = _class(name)
    assert dataclasses.is_dataclass(constraint)
    return dataclasses.fields(constraint)
