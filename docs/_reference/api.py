"""The public names of the package, with their signatures and docstrings."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable, Iterator
from enum import EnumType
from types import FunctionType, ModuleType
from typing import Any

import ckptclamp
from _reference.markdown import heading, prose
from ckptclamp import errors

_SECTION = re.compile(r"^(?P<title>Raises|Args|Attributes|Returns):\n", re.MULTILINE)
_ITEM = re.compile(r"^    (?P<name>[\w. ,|]+): ", re.MULTILINE)


def page() -> str:
    """Everything that ``import ckptclamp`` offers, and the exceptions."""
    names = [name for name in ckptclamp.__all__ if not name.startswith("__")]
    offered = {name: getattr(ckptclamp, name) for name in names}
    functions = {name: thing for name, thing in offered.items() if inspect.isroutine(thing)}
    classes = {name: thing for name, thing in offered.items() if name not in functions}
    classes = {n: t for n, t in classes.items() if not _is_error(t)}
    return "\n".join(
        [
            heading(1, "Python API"),
            _summary(ckptclamp) + "\n",
            heading(2, "Functions", "api-functions"),
            *(_entry(name, thing) for name, thing in functions.items()),
            heading(2, "Classes", "api-classes"),
            *(_entry(name, thing) for name, thing in classes.items()),
            heading(2, "Exceptions", "api-exceptions"),
            "All of them are in `ckptclamp.errors`; `exit_code` is what the program returns for them.\n",
            *(_entry(t.__name__, t) for t in vars(errors).values() if _is_error(t)),
        ]
    )


def _is_error(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, BaseException)


def _summary(module: ModuleType) -> str:
    """The docstring of a module, its examples as blocks."""
    return _docstring(inspect.getdoc(module) or "")


def _entry(name: str, thing: object) -> str:
    parts = [heading(3, f"`{name}`", f"api-{name.lower()}")]
    if isinstance(thing, FunctionType) or (isinstance(thing, type) and not _plain(thing)):
        parts.append(f"```python\n{_signature(name, thing)}\n```\n")
    parts.append(_docstring(inspect.getdoc(thing) or "") + "\n")
    if isinstance(thing, EnumType):
        members: Iterable[Any] = thing
        parts.append(", ".join(f"`{member.value}`" for member in members) + "\n")
    elif isinstance(thing, type):
        parts += _members(thing)
    return "\n".join(parts)


def _plain(thing: type) -> bool:
    return isinstance(thing, EnumType) or issubclass(thing, BaseException)


def _signature(name: str, thing: object) -> str:
    """One argument a line, if there are many."""
    signature = inspect.signature(thing)  # type: ignore[arg-type] # a function or a class
    arguments = [str(p).replace("'", "") for p in signature.parameters.values()]
    short = f"{name}({', '.join(arguments)})"
    if len(short) > 80:
        short = f"{name}(\n    " + ",\n    ".join(arguments) + ",\n)"
    answer = signature.return_annotation
    if answer in (inspect.Signature.empty, None, "None"):
        return short
    return f"{short} -> {answer}"


def _members(kind: type) -> Iterator[str]:
    """What a class computes and does beside holding its fields."""
    fields = {f.name for f in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    for name, member in inspect.getmembers(kind):
        own = any(name in vars(base) for base in kind.__mro__ if base.__module__.startswith("ckpt"))
        if name.startswith("_") or name in fields or not own:
            continue
        doc = (inspect.getdoc(member) or "").partition("\n\n")[0].replace("\n", " ")
        call = "()" if inspect.isroutine(member) else ""
        if doc and (call or isinstance(member, property)):
            yield f"- `{name}{call}`: {prose(doc)}"
    yield ""


def _docstring(text: str) -> str:
    """A docstring as Markdown: examples as blocks, ``Raises:`` and its kin as lists."""
    text = _SECTION.sub(r"**\g<title>**\n\n", prose(text))
    head, mark, rest = text.partition("**\n\n")
    if mark:
        rest = re.sub(r"\n {8,}", " ", rest)
        text = head + mark + _ITEM.sub(r"- `\g<name>`: ", rest)
    return re.sub(
        r"(?:^ {4}(?:>>>|\.\.\.).*\n?(?:^ {4}.*\n?)*)+", _example, text, flags=re.MULTILINE
    )


def _example(match: re.Match[str]) -> str:
    code = inspect.cleandoc(re.sub(r" *# doctest:.*", "", match[0]))
    return f"```pycon\n{code}\n```\n"
