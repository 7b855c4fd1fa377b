"""pydantic's errors in this project's words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptclamp.constraints.registry import suggestion

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

Keys = tuple[str | int, ...]

_EXPECTED = {
    "string_type": "expected text",
    "bool_type": "expected true or false",
    "list_type": "expected a list",
    "dict_type": "expected a mapping",
    "model_type": "expected a mapping",
    "union_tag_not_found": "expected a constraint's name, or a mapping with class_name",
}


@dataclass(frozen=True, slots=True)
class FormProblem:
    """What is wrong, and with which value; `is_key` where it is the key that is wrong."""

    keys: Keys
    message: str
    hint: str | None = None
    is_key: bool = False


def describe(details: ErrorDetails) -> FormProblem:
    """Translate one of pydantic's errors about a `SpecForm`."""
    from ckptclamp.spec.schema import BESIDE, BY_NAME, SERIALISED, shown

    keys = tuple(key for key in details["loc"] if key not in (BESIDE, BY_NAME, SERIALISED))
    name = str(keys[-1]) if keys else "the spec"
    match details["type"]:
        case "missing":
            hint = "write version: 1" if name == "version" else None
            return FormProblem(keys[:-1], f"{name} is missing", hint)
        case "extra_forbidden":
            hint = suggestion(name, _form_at(details["loc"][:-1]).model_fields)
            return FormProblem(keys, f"unknown key {name!r}", hint, is_key=True)
        case "literal_error":
            expected = details["ctx"]["expected"].replace("'", "")
            given = details["input"]
            hint = (
                suggestion(str(given), expected.split(" or ")) if isinstance(given, str) else None
            )
            return FormProblem(keys, f"{name}: expected {expected}, not {shown(given)}", hint)
        case "spec":
            context = details["ctx"]
            return FormProblem(keys, f"{name}: {context['message']}", context["hint"])
        case "string_too_short" | "string_pattern_mismatch":
            return FormProblem(keys, f"{name} is empty")
        case kind:
            expected = _EXPECTED.get(kind, details["msg"])
            return FormProblem(keys, f"{name}: {expected}, not {shown(details['input'])}")


def dotted(keys: Keys) -> str:
    """Where a value stands, for data that came from no file: ``rules[0].axis``."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys if key != "")
    return text.removeprefix(".")


def _form_at(keys: Keys) -> type[BaseModel]:
    """The model of the mapping at pydantic's `keys`, which tell the form of a constraint."""
    from ckptclamp.spec import schema

    if not keys:
        return schema.SpecForm
    forms: dict[str | int, type[BaseModel]] = {
        schema.BESIDE: schema.ConstraintForm,
        schema.SERIALISED: schema.SerialisedForm,
    }
    entries: dict[str, type[BaseModel]] = {"rules": schema.RuleForm, "ignore": schema.IgnoreForm}
    return forms.get(keys[-1]) or entries.get(str(keys[0]), schema.SerialisedForm)
