"""A starting spec as commented YAML, with every untrusted name made safe to read and to load."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ckptclamp.printable import printable

if TYPE_CHECKING:
    from ckptclamp.starting_spec import StartingRule, StartingSpec

_SHOWN = 20
_NO_WORDS = frozenset({"false", "n", "no", "null", "off", "on", "true", "y", "yes"})
_ESCAPES = ((0x100, "\\x{:02x}"), (0x10000, "\\u{:04x}"), (0x110000, "\\U{:08x}"))


SCHEMA = "ckptclamp.schema.json"
"""The file beside a spec where editors find the JSON Schema, unless another one is chosen."""


def render_spec(spec: StartingSpec, schema: str | None = SCHEMA) -> str:
    """Return `spec` as YAML; `schema` is where editors find the JSON Schema, relative to it."""
    return "\n".join(_lines(spec, schema)) + "\n"


def _lines(spec: StartingSpec, schema: str | None) -> Iterator[str]:
    if schema is not None:
        yield f"# yaml-language-server: $schema={printable(schema, limit=None)}"
    origin = "what its model declares" if spec.declared else "the norms that its weights have now"
    yield f"# A first spec for {printable(Path(spec.checkpoint).name)}, made from {origin}."
    yield "# A norm is taken over `axis`; a unit is what one norm belongs to."
    if schema is not None:
        yield "# Editors check this file by the schema in the first line; `ckptclamp schema` prints it."
    yield "version: 1"
    yield from _declared(spec)
    yield "rules:"
    for rule in spec.rules:
        yield from _rule(rule)
    yield from _left_out(spec.left_out)


def _declared(spec: StartingSpec) -> Iterator[str]:
    if not spec.declared and not spec.unknown:
        yield "# `audit` judges what a model itself declares, too; `ignore` leaves it to the rules."
        yield "declared: audit"
        return
    if spec.declared:
        yield "# The rules below are what the model declares; `audit` would judge it a second time. Under"
        yield "# `ignore`, what a later model declares besides is not judged."
    if spec.warnings:
        yield "# `audit` would also warn:"
        yield from _listed([printable(warning, limit=None) for warning in spec.warnings])
    if spec.unknown:
        yield "# No rule was made of these declared constraints; nothing judges them under `ignore`:"
        yield from _listed([_with_reason(*entry) for entry in spec.unknown])
        yield "# Say under `custom_objects` what an unknown class is, for example"
        yield "# `my_package>WeightClip: {constraint: Clip, low: -0.3, high: 0.3}`, and set `audit`."
    yield "declared: ignore"


def _rule(rule: StartingRule) -> Iterator[str]:
    yield f"  # {printable(rule.remark, limit=None)}"
    yield f"  - id: {_word(rule.id)}"
    if len(rule.tensors) == 1:
        yield f"    tensors: {quoted(rule.tensors[0])}"
    else:
        yield "    tensors:"
        yield from (f"      - {quoted(pattern)}" for pattern in rule.tensors)
    yield f"    constraint: {type(rule.constraint).__name__}"
    for name, value in rule.constraint.get_config().items():
        yield f"    {name}: {_number(value)}"
    if rule.axes is not None:
        yield f"    axis: {_axes(rule.axes)}"


def _axes(axes: Sequence[int]) -> str:
    if not axes:
        return "null  # the whole tensor is one unit"
    return str(axes[0]) if len(axes) == 1 else str(list(axes))


def _word(text: str) -> str:
    """A word as it is, unless YAML would take it for a number or another value."""
    plain = re.fullmatch(r"[A-Za-z][\w-]*", text, re.ASCII) and text.lower() not in _NO_WORDS
    return text if plain else quoted(text)


def _number(value: float) -> str:
    if math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    return repr(float(value))


def _left_out(left_out: Sequence[tuple[str, str]]) -> Iterator[str]:
    if left_out:
        yield "# No rule governs these:"
        yield from _listed([_with_reason(*entry) for entry in left_out])


def _listed(lines: Sequence[str]) -> Iterator[str]:
    """Comments, a line each, as many as anybody reads."""
    yield from (f"#   {line}" for line in lines[:_SHOWN])
    if len(lines) > _SHOWN:
        yield f"#   and {len(lines) - _SHOWN} more"


def _with_reason(name: str, reason: str) -> str:
    return f"{printable(name)}: {printable(reason, limit=None)}"


def quoted(text: str) -> str:
    r"""Return `text` as a double-quoted YAML scalar in one line that hides nothing.

    What `printable` would escape is written as ``\xNN``, ``\uNNNN`` or ``\UNNNNNNNN``.
    """
    return '"' + "".join(_escaped(char) for char in text).replace("##", r"#\x23") + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if char.isascii() and char.isprintable():
        return char
    if char.isalnum() and printable(char) == char:
        return char
    code = ord(char)
    return next(form for limit, form in _ESCAPES if code < limit).format(code)
