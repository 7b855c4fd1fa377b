"""Constraints in parts of a config that mean something to a user's code only.

A layer of the user's own may hold other layers, or constraints, in settings of any name. They are
found so that none passes unseen; which weights they govern cannot be told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ckptclamp.keras_config.binding import NAME_IT
from ckptclamp.keras_config.constraint_forms import is_serialised_constraint, names_a_builtin
from ckptclamp.keras_config.declaration import Declaration
from ckptclamp.printable import printable

if TYPE_CHECKING:
    from ckptclamp.keras_config.model_tree import Layer


def unread_constraints(layer: Layer) -> Iterator[Declaration]:
    """Declarations, all not evaluated, for what the tree of layers does not reach in `layer`."""
    for key in layer.odd:
        yield Declaration(
            layer="/".join(layer.path),
            layer_class=layer.class_name,
            argument=key,
            serialised="unknown",
            not_evaluated=f"{key} is no serialised layer, so what it declares cannot be known",
            hint=NAME_IT,
        )
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
    pending: list[tuple[str, Any, bool]] = [(key, value, _tells(key))]
    while pending:
        path, item, told = pending.pop()
        if _is_constraint(path, item, told):
            yield path, item
        elif isinstance(item, Mapping):
            pending.extend((f"{path}.{k}", v, told or _tells(str(k))) for k, v in item.items())
        elif isinstance(item, list):
            pending.extend((f"{path}[{i}]", v, told) for i, v in enumerate(item))


def _tells(key: str) -> bool:
    """Whether a key says that constraints stand under it."""
    return key.lower().endswith(("constraint", "constraints"))


def _is_constraint(path: str, item: object, told: bool) -> bool:
    """Whether `item` is a constraint, by its form or because it stands where one must.

    Under a key that tells (`told`), what has a class is one, and so is a string that names a
    built-in one. The very value of such a key, or an element of a list there, is one whatever it is
    called; ``constraints`` may be a mapping of them, too.
    """
    if is_serialised_constraint(item):
        return True
    if not (told and isinstance(item, (str, Mapping))):
        return False
    element = re.sub(r"(\[\d+\])+$", "", path)
    is_value = _tells(element)
    if isinstance(item, str):
        return is_value or names_a_builtin(item)
    is_many = element == path and path.lower().endswith("s")
    return "class_name" in item or (is_value and not is_many)
