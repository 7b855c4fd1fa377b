"""Constraints in parts of a config that mean something to a user's code only.

A layer of the user's own may hold other layers, or constraints, in settings of any name. They are
found so that none passes unseen; which weights they govern cannot be told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ckptclamp.keras_config.binding import NAME_IT
from ckptclamp.keras_config.declaration import Declaration
from ckptclamp.printable import printable

if TYPE_CHECKING:
    from ckptclamp.keras_config.model_tree import Layer


def unread_constraints(layer: Layer) -> Iterator[Declaration]:
    """Declarations, all not evaluated, for what the tree of layers does not reach in `layer`."""
    for key, value in layer.unread:
        for argument, serialised in _constraints(key, value):
            yield Declaration(
                layer="/".join(layer.path),
                layer_class=layer.class_name,
                argument=argument,
                serialised=serialised if isinstance(serialised, str) else dict(serialised),
                not_evaluated=f"{printable(argument)} is a setting of {printable(layer.class_name)} "
                "that only its code can read",
                hint=NAME_IT,
            )


def _constraints(key: str, value: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - untrusted JSON
    """Every serialised constraint at or below a setting, with the path of keys to it."""
    pending: list[tuple[str, Any]] = [(key, value)]
    while pending:
        path, item = pending.pop()
        if _is_constraint(path, item):
            yield path, item
        elif isinstance(item, Mapping):
            pending.extend((f"{path}.{k}", v) for k, v in item.items())
        elif isinstance(item, list):
            pending.extend((f"{path}[{i}]", v) for i, v in enumerate(item))


def _is_constraint(path: str, item: object) -> bool:
    if isinstance(item, Mapping):
        module = item.get("module")
        if isinstance(module, str) and module.startswith("keras.constraints"):
            return True
    elif not isinstance(item, str):
        return False
    return path.endswith("constraint")
