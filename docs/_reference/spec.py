"""Every key of a spec with the text of its JSON Schema, and every constraint."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from _reference.markdown import heading, place, prose, table
from ckptclamp.constraints.registry import BUILTIN
from ckptclamp.spec.schema import json_schema

README = Path(__file__).parents[2] / "README.md"

_PLACES = {
    "RuleForm": "One of `rules`",
    "IgnoreForm": "One of `ignore`",
    "SplitForm": "One of `split`",
    "MappedForm": "One of `custom_objects`, by its arguments",
    "SerialisedForm": "A constraint as Keras serialises it",
}
"""Where the forms stand, in the order of the page; others follow under their own titles."""


def page() -> str:
    """All keys, level by level."""
    schema = json_schema()
    forms = {name: form for name, form in schema["$defs"].items() if "properties" in form}
    order = [*_PLACES, *sorted(forms.keys() - _PLACES.keys())]
    parts = [
        heading(1, "Keys of a spec"),
        "`ckptclamp schema` prints the JSON Schema that this page is made of; `ckptclamp init` writes"
        " it beside a first spec, so that editors check and complete it. A key that is not listed is"
        " an error, with the place in the file.\n",
        heading(2, "The whole spec", "spec-form"),
        _form("spec", schema),
    ]
    for name in order:
        if name in forms:
            title = _PLACES.get(name, forms[name].get("title", name))
            parts += [heading(2, title, f"form-{name.removesuffix('Form').lower()}")]
            parts += [_form(name.removesuffix("Form").lower(), forms[name])]
    return "\n".join(parts)


def _form(name: str, form: Mapping[str, Any]) -> str:
    required = form.get("required", [])
    rows = (
        [
            place(f"`{key}`", f"{name}-{key}".replace("_", "-")),
            _kind(value),
            _default(key, value, required),
            prose(value.get("description", "")),
        ]
        for key, value in form["properties"].items()
    )
    said = prose(form.get("description", ""))
    return f"{said}\n\n{table(['key', 'value', 'if left out', ''], rows)}"


def _default(key: str, value: Mapping[str, Any], required: list[str]) -> str:
    if key in required:
        return "*needed*"
    default = value.get("default")
    return _value(default) if default not in (None, [], {}) else ""


def _kind(value: Mapping[str, Any]) -> str:
    return " or ".join(dict.fromkeys(_kinds(value)))


def _kinds(value: Mapping[str, Any]) -> Iterator[str]:
    """What a value may be, in words."""
    for form in (*value.get("anyOf", ()), *value.get("oneOf", ())):
        yield from _kinds(form)
    match value:
        case {"$ref": str(reference)}:
            name = reference.rpartition("/")[2]
            yield f"[{_lowered(_PLACES.get(name, name))}](#form-{name.removesuffix('Form').lower()})"
        case {"const": constant}:
            yield _value(constant)
        case {"enum": list(choices)} if set(choices) <= BUILTIN.keys():
            yield "[a constraint's name](constraints.md)"
        case {"enum": list(choices)}:
            yield from (f"`{choice}`" for choice in choices)
        case {"type": "array", "items": items}:
            yield f"list of {_kind(items)}"
        case {"type": "array"}:
            yield "list"
        case {"type": "object", "additionalProperties": dict(inner)}:
            yield f"mapping to {_kind(inner)}"
        case {"type": "object"}:
            yield "mapping"
        case {"type": "string"}:
            yield "date" if value.get("format") == "date" else "text"
        case {"type": str(kind)}:
            yield {"boolean": "true or false"}.get(kind, kind)


def _lowered(title: str) -> str:
    return title[0].lower() + title[1:]


def _value(value: object) -> str:
    """A value as YAML has it."""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def constraints_page() -> str:
    """The sets that are built in, with their arguments."""
    parts = [
        heading(1, "Constraints"),
        "Names for `constraint` in a spec, with the arguments that stand beside it. Spellings of Keras"
        " (`max_norm`, `maxnorm`) are understood. A class of your own is `package.module:Class`, and"
        " is imported only with `--allow-import package`. What needs more than a stream of boxes at"
        " once is said by `ckptclamp explain`.\n",
    ]
    parts += [_overview(), *(_constraint(name) for name in BUILTIN)]
    return "\n".join(parts)


def _overview() -> str:
    """The table of the README, each name a link to what stands below."""
    section = README.read_text("utf-8").partition("\n## Constraints\n")[2]
    rows = re.findall(r"^\|.*\|$", section.partition("\n## ")[0], re.MULTILINE)
    linked = [re.sub(r"`(\w+)((?:\([\w, ]*\))?)`", _linked, row, count=2) for row in rows]
    return "\n".join(linked) + "\n"


def _linked(match: re.Match[str]) -> str:
    name = match[1]
    return f"[{match[0]}](#{name.lower()})" if name in BUILTIN else match[0]


def _constraint(name: str) -> str:
    module = importlib.import_module(f"ckptclamp.constraints.sets.{BUILTIN[name]}")
    kind = getattr(module, name)
    arguments = [field for field in dataclasses.fields(kind) if field.init]
    shown = ", ".join(
        field.name if field.default is dataclasses.MISSING else f"{field.name}={field.default!r}"
        for field in arguments
    )
    about = "each weight by itself" if kind.elementwise else "each unit"
    return "\n".join(
        [
            heading(2, name, name.lower()),
            f"```python\n{name}({shown})\n```\n",
            prose(inspect.getdoc(kind) or "") + "\n",
            f"It is about {about}.\n",
        ]
    )
