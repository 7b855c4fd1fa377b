"""Classes of data: what `dataclass(frozen=True, slots=True)` makes, in a fifth of the time.

`dataclass` writes six methods of each class as text and compiles them, 0.6 ms a class, and a hundred classes
are imported before an audit begins. Here one text is compiled, that of ``__init__``; the other methods are
shared. What comes out is a dataclass to `fields`, `replace`, `asdict` and a type checker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, field, fields
from operator import attrgetter
from typing import Any, ClassVar, NoReturn, Protocol, TypeVar, cast, dataclass_transform

T = TypeVar("T")


class Made(Protocol):
    """An instance of such a class."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    _compared: Callable[[Any], object]


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """Make a class of data whose instances cannot be changed, compare and hash by their fields.

    Methods that the class or a base has already stay as they are.
    """
    return _made(cls, slots=True)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen_with_dict(cls: type[T]) -> type[T]:
    """As `frozen`, without slots: a class that caches properties, or has several bases with fields."""
    return _made(cls, slots=False)


def _made(cls: type[T], *, slots: bool) -> type[T]:
    made: Any = dataclass(init=False, repr=False, eq=False, slots=slots)(cls)
    made._compared = attrgetter("__class__", *(f.name for f in fields(made) if f.compare))
    made.__init__ = _constructor(made)
    for name, method in _SHARED.items():
        if getattr(made, name, None) is getattr(object, name, None):
            setattr(made, name, method)
    return cast("type[T]", made)


def _constructor(cls: type[Made]) -> Callable[..., None]:
    """Compile ``__init__(self, first, second=its default, ...)``, which ends in ``__post_init__``.

    That sets fields with ``init=False``.
    """
    # No field is called as these are: two underscores at the beginning.
    known: dict[str, Any] = {"__store": object.__setattr__, "__absent": _ABSENT}
    parameters, lines = ["self"], []
    for each in fields(cls):
        if not each.init:
            continue
        name, value = each.name, each.name
        if each.default is not MISSING:
            known[f"__default_{name}"] = each.default
            parameters.append(f"{name}=__default_{name}")
        elif each.default_factory is not MISSING:
            known[f"__new_{name}"] = each.default_factory
            parameters.append(f"{name}=__absent")
            value = f"__new_{name}() if {name} is __absent else {name}"
        else:
            parameters.append(name)
        lines.append(f"__store(self, {name!r}, {value})")
    if hasattr(cls, "__post_init__"):
        lines.append("self.__post_init__()")
    text = f"def __init__({', '.join(parameters)}):\n " + "\n ".join(lines or ["pass"])
    exec(text, known)  # noqa: S102 - of names of fields
    made: Callable[..., None] = known["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    made.__annotations__ = {f.name: f.type for f in fields(cls) if f.init} | {"return": None}
    return made


class _Absent:
    """Stands in a signature for a value that is made for each instance."""

    def __repr__(self) -> str:
        return "<factory>"


_ABSENT = _Absent()


def _repr(self: Made) -> str:
    shown = (f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if f.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _eq(self: Made, other: Made) -> object:
    if other.__class__ is self.__class__:
        return self._compared(self) == self._compared(other)
    return NotImplemented


def _hash(self: Made) -> int:
    return hash(self._compared(self))


def _refuse(self: object, name: str, value: object = None) -> NoReturn:
    raise FrozenInstanceError(f"cannot assign to or delete field {name!r}")


def _state(self: Made) -> list[Any]:
    return [getattr(self, f.name) for f in fields(self)]


def _restore(self: Made, state: list[Any]) -> None:
    for each, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, each.name, value)


_SHARED = {
    "__repr__": _repr,
    "__eq__": _eq,
    "__hash__": _hash,
    "__setattr__": _refuse,
    "__delattr__": _refuse,
    "__getstate__": _state,
    "__setstate__": _restore,
}
