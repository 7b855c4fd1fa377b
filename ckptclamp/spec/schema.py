"""The form of a spec, as pydantic models: its errors in words, and a JSON Schema for editors.

What one value may be stands in `values`; what several values mean together (an axis stated twice,
arguments that a constraint does not have) is checked where rules are built, in `rules`. The models
are validated with a `PatternChecker` as their context, so that one bound holds for all patterns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    Tag,
    model_validator,
)
from pydantic_core import ErrorDetails

from ckptclamp.constraints.registry import suggestion
from ckptclamp.spec.values import (
    SIZE_SCHEMA,
    Axes,
    AxesOrAll,
    ConstraintName,
    Date,
    Epsilon,
    Extent,
    LayerMeaning,
    Name,
    Number,
    NumberOrReference,
    Patterns,
    Tolerance,
    UnitsByName,
    Version,
    optional,
    shown,
)
from ckptclamp.spec.yaml_reader import Keys

_BY_NAME = "by name"
_SERIALISED = "as a mapping"
_WITH_ARGUMENTS = "with arguments"
_SIZES = "sizes of named axes"
_TAGS = (_BY_NAME, _SERIALISED, _WITH_ARGUMENTS, _SIZES)
"""What stands in pydantic's paths and in no document: the three forms of a constraint, and the place
where the sizes of a rule's named axes are gathered."""


class _Strict(BaseModel):
    """No key that is not known, no value that is only nearly of its type.

    Pydantic could read what fields mean from docstrings, but parses this module anew for it at every
    start. What a start does not need is not built: `defer_build`.
    """

    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)


class SerialisedForm(_Strict):
    """A constraint as a Keras config holds it, or a class of your own."""

    model_config = ConfigDict(title="Serialised constraint")

    class_name: Name = Field(description="A built-in constraint, or ``package.module:Class``.")
    config: dict[str, Any] | None = Field(
        None, description="The arguments of the constructor; ``axis`` is the rule's axis."
    )
    module: str | None = Field(None, description="Where Keras found the class.")
    registered_name: str | None = Field(None, description="Its name in Keras' registry.")


def _form(value: object) -> str | None:
    if isinstance(value, str):
        return _BY_NAME
    return _SERIALISED if isinstance(value, dict | SerialisedForm) else None


SingleForm = Annotated[
    Annotated[ConstraintName, Tag(_BY_NAME)] | Annotated[SerialisedForm, Tag(_SERIALISED)],
    Discriminator(_form),
]


class PlacedForm(_Strict):
    """A constraint, and what is a unit under it."""

    constraint: SingleForm = Field(
        description="A built-in constraint by name, such as MaxNorm, NonNeg or Finite; or a mapping with ``class_name``."
    )
    axis: AxesOrAll = optional("The axes a norm is taken over, as in Keras; null is all of them.")
    unit_axis: Axes = optional("The axes that are kept: one unit for each index along them.")


class ConstraintForm(PlacedForm):
    """A constraint with its arguments and its axes beside it."""

    model_config = ConfigDict(title="Constraint")

    max_value: Number = optional(
        "MaxNorm, MinMaxNorm, MaxL1Norm, MaxLInfNorm, SpectralNorm: the largest norm."
    )
    min_value: Number = optional("MinMaxNorm, MinNorm: the smallest norm.")
    rate: Number = optional("MinMaxNorm: how far a step of Keras' training moves; not judged.")
    low: Number = optional("Clip: the smallest weight.")
    high: Number = optional("Clip: the largest weight.")
    ref_value: Number = optional("CenterAround: the mean of each unit.")
    total: Number = optional("Simplex: the sum of each unit.")
    max_nonzero: Number = optional("MaxNonZero, Sparsity: how many weights may differ from 0.")
    group: Number = optional("Sparsity: of how many consecutive weights.")


class MappedForm(PlacedForm):
    """What a custom constraint is: its numbers may be arguments of the model's own config."""

    model_config = ConfigDict(title="Constraint of a custom object")

    max_value: NumberOrReference = optional(
        "MaxNorm, MinMaxNorm, MaxL1Norm, MaxLInfNorm, SpectralNorm: the largest norm."
    )
    min_value: NumberOrReference = optional("MinMaxNorm, MinNorm: the smallest norm.")
    rate: NumberOrReference = optional("MinMaxNorm: how far a training step moves; not judged.")
    low: NumberOrReference = optional("Clip: the smallest weight, such as ``-$clip_value``.")
    high: NumberOrReference = optional("Clip: the largest weight, such as ``$clip_value``.")
    ref_value: NumberOrReference = optional("CenterAround: the mean of each unit.")
    total: NumberOrReference = optional("Simplex: the sum of each unit.")
    max_nonzero: NumberOrReference = optional(
        "MaxNonZero, Sparsity: how many weights may differ from 0."
    )
    group: NumberOrReference = optional("Sparsity: of how many consecutive weights.")


def _object_form(value: object) -> str | None:
    if isinstance(value, dict) and "constraint" in value:
        return _WITH_ARGUMENTS
    return _form(value)


ObjectForm = Annotated[
    Annotated[ConstraintName, Tag(_BY_NAME)]
    | Annotated[SerialisedForm, Tag(_SERIALISED)]
    | Annotated[MappedForm, Tag(_WITH_ARGUMENTS)],
    Discriminator(_object_form),
]


def _with_sizes(schema: dict[str, Any]) -> None:
    """Beside `units` a key may be the name of an axis."""
    known = schema["properties"]
    del known[_SIZES], schema["additionalProperties"]
    named = {"properties": dict.fromkeys(known, True)}
    schema |= {
        "if": {"required": ["units"]},
        "then": {**named, "additionalProperties": SIZE_SCHEMA},
        "else": {**named, "additionalProperties": False},
    }


class RuleForm(ConstraintForm):
    """Which tensors, which constraint, which units."""

    model_config = ConfigDict(title="Rule", json_schema_extra=_with_sizes)

    id: Name = optional("What reports call the rule; ``rule-1`` and so on if left out.")
    tensors: Patterns = Field(
        description="Globs over tensor names: ``*`` within a segment, ``**`` over any number of them; ``!`` excludes; ``re:`` begins a regular expression."
    )
    tolerance: Tolerance = optional(
        "How far outside a unit may lie, relative to the bound: a number; ``trained``, what training in the storage dtype leaves behind; ``cast``, what casting to it does; ``auto`` chooses by the producer."
    )
    epsilon: Epsilon = optional(
        "What Keras added to the norms that it divided by (``keras.config.set_epsilon``), which leaves units short of a minimum; 1e-7 if nobody says."
    )
    zero_units: Literal["violation", "allow"] = optional(
        "Whether units without a weight but zeros (padding, unseen rows) may lie outside; ``violation`` if nobody says."
    )
    severity: Literal["error", "warning"] = Field(
        "error", description="Warnings fail the gate only with --strict."
    )
    required: bool = Field(True, description="Whether matching no tensor is a failure.")
    storage: Literal["effective", "raw"] = Field(
        "effective",
        description="Which numbers are judged: effective, the weights that the model computes with, so that codes, scales and factors that only stand for them are not evaluated; or raw, whatever is stored.",
    )
    units: UnitsByName = optional(
        "The axes by name, and those that are kept: ``(head dim) in -> head``; beside it the size of a name, as ``head: 32`` or ``head: $num_attention_heads`` of the model's config.json."
    )
    sizes: dict[str, Extent] = Field(default_factory=dict, alias="sizes of named axes")

    @model_validator(mode="before")
    @classmethod
    def _gathered(cls, value: object) -> object:
        """Gather what the rule says of the names in its `units`; a name that is a key stays one."""
        if not isinstance(value, dict) or not isinstance(value.get("units"), str):
            return value
        names = {*re.findall(r"[A-Za-z_]\w*", value["units"])} - cls.model_fields.keys()
        sizes = {key: size for key, size in value.items() if key in names}
        rest = {key: other for key, other in value.items() if key not in names}
        return {**rest, _SIZES: sizes} if sizes else value


class IgnoreForm(_Strict):
    """Findings that are known and accepted."""

    model_config = ConfigDict(title="Accepted findings")

    tensors: Patterns = optional("Which tensors; all if left out.")
    rules: Patterns = optional("Which rules, as globs over their ids; all if left out.")
    reason: Annotated[Name, Field(pattern=r"\S")] = Field(description="Why.")
    expires: Date = optional("The last day on which they are accepted.")


class SplitForm(_Strict):
    """One axis of some tensors, cut into parts that rules name: ``qkv_proj.weight.q``."""

    model_config = ConfigDict(title="Split")

    tensors: Patterns = Field(description="Which tensors.")
    axis: Annotated[int, Strict()] = Field(description="The axis that is cut.")
    sizes: list[Extent] = Field(
        min_length=1,
        description="How much of the axis each part has; all of them together have all of it.",
    )
    names: list[Annotated[str, Field(pattern=r"^\w[\w-]*$")]] = Field(
        min_length=1, description="What each part is called behind the tensor's own name."
    )


class SpecForm(_Strict):
    """What the weights of a checkpoint must satisfy."""

    model_config = ConfigDict(title="ckptclamp spec")

    version: Version = Field(description="The version of this form.")
    declared: Literal["audit", "ignore"] = Field(
        "audit", description="What to do with constraints that the checkpoint's own model declares."
    )
    tolerance: Tolerance = optional("That of rules that state none, and of declarations.")
    epsilon: Epsilon = optional("That of rules that state none, and of declarations.")
    zero_units: Literal["violation", "allow"] = optional(
        "What holds in rules that do not say, and for declarations."
    )
    projection: Literal["exact", "keras"] = Field(
        "exact",
        description="How a violating unit is fixed: to the nearest point, or by Keras' formula.",
    )
    preset: Literal["health"] = optional(
        "Rules that come along; ``health``: every weight finite, no weight all one value, scales positive, tied tensors equal."
    )
    rules: list[RuleForm] = Field(default_factory=list, description="The rules.")
    split: list[SplitForm] = Field(
        default_factory=list, description="Tensors that hold several weights along one axis."
    )
    custom_objects: dict[str, ObjectForm] = Field(
        default_factory=dict,
        description="What a custom constraint in a model config is, by its registered name.",
    )
    custom_layers: dict[str, LayerMeaning] = Field(
        default_factory=dict,
        description="What layer classes of your own code are, by registered name: ``unconstrained`` if the code sets no constraint that the config does not declare; ``like: Conv2D``; or the weight that an argument governs, ``kernel_constraint: kernel``.",
    )
    ignore: list[IgnoreForm] = Field(
        default_factory=list, description="Findings that are known and accepted."
    )


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a spec, for editors."""
    schema = SpecForm.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


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
    keys = tuple(key for key in details["loc"] if key not in _TAGS)
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
            is_text = isinstance(given, str)
            hint = suggestion(given, expected.split(" or ")) if is_text else None
            return FormProblem(keys, f"{name}: expected {expected}, not {shown(given)}", hint)
        case "spec":
            context = details["ctx"]
            return FormProblem(keys, f"{name}: {context['message']}", context["hint"])
        case "string_too_short" | "too_short" | "string_pattern_mismatch":
            given = details["input"]
            is_name = isinstance(given, str) and given.strip()
            what = f"{shown(given)} is no name" if is_name else "is empty"
            return FormProblem(keys, f"{name}: {what}" if is_name else f"{name} {what}")
        case kind:
            expected = _EXPECTED.get(kind, details["msg"])
            return FormProblem(keys, f"{name}: {expected}, not {shown(details['input'])}")


def dotted(keys: Keys) -> str:
    """Where a value stands, for data that came from no file: ``rules[0].axis``."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys if key != "")
    return text.removeprefix(".")


def _form_at(keys: Keys) -> type[BaseModel]:
    """The model of the mapping at pydantic's `keys`, which tell the form of a constraint."""
    if not keys:
        return SpecForm
    if keys[-1] == _WITH_ARGUMENTS:
        return ConstraintForm
    if keys[-1] == _SERIALISED:
        return SerialisedForm
    entries: dict[str | int, type[BaseModel]] = {
        "rules": RuleForm,
        "ignore": IgnoreForm,
        "split": SplitForm,
    }
    return entries.get(keys[0], SerialisedForm)
