"""Among which tensors those must be that a declaration governs, where nothing tells which they are."""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING

from ckptclamp.checkpoints.tensor import Role
from ckptclamp.models.keras.layouts import Bound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptclamp.models.keras.model import BoundModel
    from ckptclamp.models.keras.tree import Layer

_Key = tuple[str | None, str | None]


class Candidates:
    """The weights of the layers of one model, more rather than fewer where a file tells little.

    Those of a layer are known by its group, or by its name within a group, as far as either is known.
    """

    def __init__(self, bound: BoundModel) -> None:
        self._bound = bound
        self._called: dict[tuple[_Key, str], tuple[str, ...]] = {}

    def of(self, layer: Layer, argument: str) -> tuple[str, ...]:
        """The tensors of `layer` that its `argument` may govern.

        Where the file names them, a ``kernel_constraint`` is about what is called kernel, if
        anything is.
        """
        if not self._bound.legacy:
            return tuple(self._within.get(self._nearest_group(layer), ()))
        key = self._legacy_key(layer)
        wanted = argument.rpartition(".")[2].removesuffix("_constraint")
        if (key, wanted) not in self._called:
            stored = self._listed[key]
            exact = [name for name in stored if wanted in _calls(name)]
            self._called[key, wanted] = tuple(exact or stored)
        return self._called[key, wanted]

    @cached_property
    def _within(self) -> dict[str, list[str]]:
        """The weights at or below each group of the v3 layout."""
        found: dict[str, list[str]] = defaultdict(list)
        for path, numbered in self._bound.groups.variables.items():
            parts = path.split("/") if path else []
            around = ["/".join(parts[:length]) for length in range(len(parts) + 1)]
            weights = [n for n in numbered.values() if self._bound.tensors[n].role is Role.WEIGHT]
            for group in around:
                found[group] += weights
        return found

    @cached_property
    def _groups(self) -> dict[tuple[str, ...], str]:
        """The groups of the layers that are bound to one, by path."""
        groups = {}
        for layer in self._bound.layers:
            binding = self._bound.bindings[layer.key]
            if isinstance(binding, Bound) and binding.group is not None:
                groups[layer.path] = binding.group
        return groups

    def _nearest_group(self, layer: Layer) -> str:
        """The group of the layer, or of the nearest one around it that is bound to one."""
        around = (layer.path[:length] for length in range(len(layer.path), -1, -1))
        return next((self._groups[path] for path in around if path in self._groups), "")

    @cached_property
    def _listed(self) -> dict[_Key, list[str]]:
        """The weights of a legacy file by top-level group and by a component of their names."""
        found: dict[_Key, list[str]] = defaultdict(list)
        for name, group, weight in self._bound.listed_weights():
            if name in self._bound.tensors:
                for part in {None, *weight.split("/")[:-1]}:
                    found[group, part].append(name)
                found[None, None].append(name)
        return found

    def _legacy_key(self, layer: Layer) -> _Key:
        """A user's layer by its name within its group, if a weight bears it; else the whole group."""
        top = layer.path[0] if layer.path else None
        if (top, None) not in self._listed:
            return None, None
        own = not layer.known and len(layer.path) > 1 and (top, layer.name) in self._listed
        return top, layer.name if own else None


def _calls(name: str) -> Iterator[str]:
    """The last component of a weight's name, also without what TF and Keras 1 add to it."""
    last = re.sub(r":\d+$", "", name.rpartition("/")[2])
    yield from (last, re.sub(r"_\d+$", "", last))
