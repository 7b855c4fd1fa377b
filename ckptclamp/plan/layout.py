"""A tensor seen as a rule names its axes, and the parts that a spec splits it into.

Both are views: the same bytes under other axes, so that everything that judges or projects a tensor
does so with them. Numbers may come from the model's own config.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptclamp.checkpoints.tensor import Tensor, Unreadable, View
from ckptclamp.errors import SpecError, SpecProblem, UsageError, printable
from ckptclamp.frozen import frozen
from ckptclamp.spec.model import Units
from ckptclamp.spec.patterns import TensorPatterns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptclamp.spec.model import Size, Spec, Split

Numbers = Callable[["Size"], int]
"""Makes an extent of what a spec says: itself, or a number of the config."""

_LARGEST = 1 << 40


def numbers(config: Callable[[], Mapping[str, Any] | Unreadable | None]) -> Numbers:
    """Return what finds ``$name`` in the mapping that `config` returns when it is first needed.

    What it returns raises `UsageError` where there is no such positive integer.
    """
    read: list[Mapping[str, Any] | Unreadable | None] = []

    def number(size: Size) -> int:
        if isinstance(size, int):
            return size
        if not read:
            read.append(config())
        return _referred(size, read[0])

    return number


def _referred(reference: str, config: Mapping[str, Any] | Unreadable | None) -> int:
    if config is None:
        raise UsageError(
            f"{reference} is a number of the model's config.json, and there is none beside it",
            hint="write the number",
        )
    if isinstance(config, Unreadable):
        raise UsageError(f"{reference} cannot be looked up: {config.reason}")
    value: Any = config
    for key in reference.removeprefix("$").split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _LARGEST:
        known = [key for key, found in config.items() if type(found) is int]
        raise UsageError(
            f"config.json holds no positive integer {printable(reference.removeprefix('$'))}",
            hint=f"it has {printable(', '.join(known))[:200]}" if known else None,
        )
    return value


@frozen
class Seen:
    """A tensor as a rule sees it: its axes, which of them a unit spans, and their `names`, if any."""

    tensor: Tensor
    units: Units
    names: tuple[str, ...] = ()


def seen_by(units: Units, tensor: Tensor, number: Numbers) -> Seen:
    """Return `tensor` with the axes that `units` names, or as it is if there are no names.

    Raises:
        UsageError: its shape is not of that kind, or the config has no such number.
    """
    named = units.named
    if named is None:
        return Seen(tensor, units)
    if len(named.axes) != len(tensor.shape):
        raise UsageError(
            f"units {named.text!r} names {len(named.axes)} axes; it has {len(tensor.shape)}"
        )
    sizes = {name: number(size) for name, size in named.sizes.items()}
    factors = tuple(
        _factors(names, sizes, extent)
        for names, extent in zip(named.axes, tensor.shape, strict=True)
    )
    axes = tuple(i for i, name in enumerate(named.names) if name not in named.kept)
    shape = tuple(extent for axis in factors for extent in axis)
    if shape != tensor.shape:
        tensor = _seen(tensor, (0,) * len(tensor.shape), factors, tensor.name)
    return Seen(tensor, Units(axis=axes), named.names)


def _factors(names: Sequence[str], sizes: Mapping[str, int], extent: int) -> tuple[int, ...]:
    """The extents of the names within one axis; one of them may follow from the others."""
    open_ = [name for name in names if name not in sizes]
    if len(open_) > 1:
        raise UsageError(
            f"({' '.join(names)}) needs the size of {open_[0]}, or of {open_[1]}",
            hint=f"write {open_[0]}: a number, or {open_[0]}: $name of the model's config",
        )
    known = math.prod(sizes[name] for name in names if name in sizes)
    if extent % known or (not open_ and known != extent):
        words = " x ".join(f"{name} = {sizes[name]}" for name in names if name in sizes)
        raise UsageError(f"{words} does not fit its axis of {extent}")
    return tuple(sizes.get(name, extent // known) for name in names)


def _seen(
    tensor: Tensor, start: tuple[int, ...], factors: tuple[tuple[int, ...], ...], name: str
) -> Tensor:
    """`tensor`, or a part of it, under other axes; a view of a view is one of the whole tensor."""
    if isinstance(tensor.storage, View):
        start = tuple(a + b for a, b in zip(start, tensor.storage.start, strict=True))
    shape = tuple(extent for axis in factors for extent in axis)
    return replace(tensor, name=name, shape=shape, storage=View(tensor.whole, start, factors))


def split_tensors(spec: Spec, tensors: Mapping[str, Tensor], number: Numbers) -> dict[str, Tensor]:
    """Return the parts that `spec` splits `tensors` into, by their names: ``qkv_proj.weight.q``.

    Raises:
        SpecError: a split matches no tensor, does not fit one, or makes a name that is taken.
    """
    patterns = TensorPatterns([split.tensors for split in spec.splits])
    met: set[int] = set()
    parts: dict[str, Tensor] = {}
    problems: list[SpecProblem] = []
    for tensor in tensors.values():
        for index in sorted(patterns.matching((tensor.name, *tensor.aliases))):
            met.add(index)
            try:
                for part in _parts(tensor, spec.splits[index], number):
                    if part.name in tensors or part.name in parts:
                        raise UsageError(f"there is a {printable(part.name)} already")
                    parts[part.name] = part
            except UsageError as error:
                problems.append(_problem(spec.splits[index], f"{tensor.name}: {error.message}"))
    problems += [
        _problem(split, "it matches no tensor")
        for index, split in enumerate(spec.splits)
        if index not in met
    ]
    if problems:
        raise SpecError(spec.path or "options", tuple(problems))
    return parts


def _parts(tensor: Tensor, split: Split, number: Numbers) -> Iterator[Tensor]:
    rank, shape = len(tensor.shape), tensor.shape
    if not -rank <= split.axis < rank:
        raise UsageError(f"axis {split.axis} does not exist in {rank} axes")
    axis = split.axis % rank
    sizes = [number(size) for size in split.sizes]
    if sum(sizes) != shape[axis]:
        raise UsageError(f"the sizes sum to {sum(sizes)}, and axis {axis} has {shape[axis]}")
    at = 0
    joint = "/" if "/" in tensor.name else "."
    for size, name in zip(sizes, split.names, strict=True):
        start = tuple(at if i == axis else 0 for i in range(rank))
        factors = tuple((size if i == axis else extent,) for i, extent in enumerate(shape))
        yield replace(_seen(tensor, start, factors, f"{tensor.name}{joint}{name}"), aliases=())
        at += size


def _problem(split: Split, message: str) -> SpecProblem:
    place = split.location
    return SpecProblem(
        f"split: {message}",
        line=None if place is None else place.line,
        column=None if place is None else place.column,
    )
