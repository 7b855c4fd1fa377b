"""The groups of a v3 weights file, as an index: which exist, what they hold, what lies inside."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from ckptclamp.checkpoints.description import Role

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptclamp.checkpoints.description import KerasModel, Tensor

LISTS: Final = ("layers", "_layer_checkpoint_dependencies")
"""What the list of a model's layers is called: Keras 3 and TF 2.15, and TF 2.12 to 2.14."""


_NUMBER: Final = re.compile("[0-9]{1,9}")


class V3Groups:
    """Groups by their path with forward slashes; TF on Windows wrote some with backslashes.

    Attributes:
        names: each group that owns variables or is said to, with its ``name`` attribute.
        variables: the tensors in each group's ``vars``, by number.
        ambiguous: whether two groups or tensors differ only in the slashes of their paths.
    """

    def __init__(self, model: KerasModel, tensors: Mapping[str, Tensor]) -> None:
        self._root = f"{model.weights_root}/" if model.weights_root else ""
        self.names: dict[str, str | None] = {}
        self.variables: dict[str, dict[int, str]] = defaultdict(dict)
        self._inside: dict[str, list[str]] = defaultdict(list)
        self.ambiguous = False
        self._filled: set[str] = set()
        for path, name in model.group_names.items():
            self._add_group(self._relative(path), name)
        for tensor in tensors.values():
            if tensor.role is not Role.OPTIMIZER:
                for name in (tensor.name, *tensor.aliases):
                    self._add_tensor(name, tensor.name)

    def _relative(self, path: str) -> str:
        return path.removeprefix(self._root).replace("\\", "/").strip("/")

    def _add_group(self, path: str, name: str | None) -> None:
        if self.names.get(path) is not None and name not in (None, self.names[path]):
            self.ambiguous = True
        if path not in self.names:
            parent, _, segment = path.rpartition("/")
            self._inside[parent].append(segment)
        self.names[path] = name if name is not None else self.names.get(path)

    def _add_tensor(self, path: str, name: str) -> None:
        group, _, number = self._relative(path).rpartition("/")
        if _NUMBER.fullmatch(number) is None or group.rpartition("/")[2] != "vars":
            return
        owner = group.removesuffix("vars").removesuffix("/")
        if owner not in self.names:
            self._add_group(owner, None)
        if int(number) in self.variables[owner]:
            self.ambiguous = True
        self.variables[owner][int(number)] = name
        while owner not in self._filled:
            self._filled.add(owner)
            owner = owner.rpartition("/")[0]

    def inside(self, path: str) -> list[str]:
        """The names of the groups directly in `path` that own a ``vars`` group."""
        return self._inside.get(path, [])

    def list_of(self, path: str, container: str) -> str | None:
        """The group that holds the elements of a container; ``None`` if none or several do."""
        choices = LISTS if container == "layers" else (container,)
        found = [choice for choice in choices if self.inside(join(path, choice))]
        return join(path, found[0]) if len(found) == 1 else None

    def attribute(self, path: str, choices: tuple[str, ...]) -> str | None:
        """The one of several attributes that is there as a group; ``None`` if none or several are."""
        if not choices:
            return path
        found = [choice for choice in choices if join(path, choice) in self.names]
        return join(path, found[0]) if len(found) == 1 else None

    def holds_anything(self, path: str) -> bool:
        """Whether a variable is stored in the group or anywhere below it."""
        return path in self._filled


def join(*parts: str) -> str:
    """A group's path from its parts, of which some may be empty."""
    return "/".join(part for part in parts if part)
