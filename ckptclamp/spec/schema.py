"""The form of a spec, and its JSON Schema for editors.

What one value may be stands in `values`; what several values mean together (an axis stated twice,
arguments that a constraint does not have) is checked where rules are built, in `rules`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ckptclamp.spec.forms import (
    Form,
    Key,
    Kind,
    ListOf,
    MapOf,
    OneOf,
    OrNull,
    Schema,
    choice,
    optional,
)
from ckptclamp.spec.model import Declared, Preset, Projection, Severity, Storage, ZeroUnits
from ckptclamp.spec.values import (
    AXES,
    BOOLEAN,
    CONFIG,
    CONSTRAINT_NAME,
    CUSTOM_LAYER,
    DATE,
    EPSILON,
    EXTENT,
    INTEGER,
    NAME,
    NAMED_AXES,
    NUMBER,
    NUMBER_OR_REFERENCE,
    PART,
    PATTERNS,
    SENTENCE,
    TEXT,
    TOLERANCE,
    VERSION,
)

_ARGUMENTS = {
    "max_value": "MaxNorm, MinMaxNorm, MaxL1Norm, MaxLInfNorm, SpectralNorm: the largest norm; Distance: the largest distance.",
    "min_value": "MinMaxNorm, MinNorm: the smallest norm.",
    "rate": "MinMaxNorm: how far a step of Keras' training moves; not judged.",
    "low": "Clip: the smallest weight.",
    "high": "Clip: the largest weight.",
    "ref_value": "CenterAround: the mean of each unit.",
    "total": "Simplex: the sum of each unit.",
    "max_nonzero": "MaxNonZero, Sparsity: how many weights may differ from 0.",
    "group": "Sparsity: of how many consecutive weights.",
}
"""The numbers that may be said of a constraint beside its name."""

_RELATIVE = "relative"


def _arguments(kind: Kind[Any]) -> dict[str, Key[Any]]:
    numbers = {name: optional(kind, description) for name, description in _ARGUMENTS.items()}
    share = "Distance: whether the distance is a share of the base's norm."
    return {**numbers, _RELATIVE: optional(BOOLEAN, share)}


class SerialisedForm(Form):
    """A constraint as a Keras config holds it, or a class of your own."""

    title = "Serialised constraint"

    class_name = Key(NAME, "A built-in constraint, or ``package.module:Class``.")
    config = Key(
        OrNull(CONFIG), "The arguments of the constructor; ``axis`` is the rule's axis.", None
    )
    module = Key(OrNull(TEXT), "Where Keras found the class.", None)
    registered_name = Key(OrNull(TEXT), "Its name in Keras' registry.", None)


def _named_or_serialised(value: object) -> Kind[str | SerialisedForm] | None:
    if isinstance(value, str):
        return CONSTRAINT_NAME
    return SerialisedForm if isinstance(value, dict) else None


_EXPECTED = "a constraint's name, or a mapping with class_name"
_CONSTRAINT: OneOf[str | SerialisedForm] = OneOf(
    (CONSTRAINT_NAME, SerialisedForm), _named_or_serialised, _EXPECTED
)


class PlacedForm(Form):
    """A constraint, and what is a unit under it."""

    constraint = Key(
        _CONSTRAINT,
        "A built-in constraint by name, such as MaxNorm, NonNeg or Finite; or a mapping with ``class_name``.",
    )
    axis = Key(
        OrNull(AXES), "The axes a norm is taken over, as in Keras; null is all of them.", None
    )
    unit_axis = optional(AXES, "The axes that are kept: one unit for each index along them.")

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that are stated, numbers or references to a model's own config."""
        return {key: self.given[key] for key in (*_ARGUMENTS, _RELATIVE) if key in self.given}


class MappedForm(PlacedForm, further=_arguments(NUMBER_OR_REFERENCE)):
    """What a custom constraint is: its numbers may be arguments of the model's own config, such as ``-$clip_value``."""

    title = "Constraint of a custom object"


def _object_form(value: object) -> Kind[str | SerialisedForm | MappedForm] | None:
    is_placed = isinstance(value, dict) and "constraint" in value
    return MappedForm if is_placed else _named_or_serialised(value)


_OBJECT: OneOf[str | SerialisedForm | MappedForm] = OneOf(
    (CONSTRAINT_NAME, SerialisedForm, MappedForm), _object_form, _EXPECTED
)


class RuleForm(PlacedForm, further=_arguments(NUMBER)):
    """Which tensors, which constraint, which units."""

    title = "Rule"
    elsewhere = dict.fromkeys(
        (
            *("version", "declared", "projection", "preset", "base", "rules", "split"),
            *("custom_objects", "custom_layers", "ignore"),
        ),
        "it stands at the top of the spec, beside rules",
    )

    id = optional(NAME, "What reports call the rule; ``rule-1`` and so on if left out.")
    tensors = Key(
        PATTERNS,
        "Globs over tensor names: ``*`` within a segment, ``**`` over any number of them; ``!`` excludes; ``re:`` begins a regular expression.",
    )
    tolerance = optional(
        TOLERANCE,
        "How far outside a unit may lie, relative to the bound: a number; ``trained``, what training in the storage dtype leaves behind; ``cast``, what casting to it does; ``auto`` chooses by the producer.",
    )
    epsilon = optional(
        EPSILON,
        "What Keras added to the norms that it divided by (``keras.config.set_epsilon``), which leaves units short of a minimum; 1e-7 if nobody says.",
    )
    zero_units = optional(
        choice(ZeroUnits),
        "Whether units without a weight but zeros (padding, unseen rows) may lie outside; ``violation`` if nobody says.",
    )
    severity = Key(
        choice(Severity), "Warnings fail the gate only with --strict.", default=Severity.ERROR
    )
    required = Key(BOOLEAN, "Whether matching no tensor is a failure.", default=True)
    storage = Key(
        choice(Storage),
        "Which numbers are judged: effective, the weights that the model computes with, so that codes, scales and factors that only stand for them are not evaluated; or raw, whatever is stored.",
        default=Storage.EFFECTIVE,
    )
    units = optional(
        NAMED_AXES,
        "The axes by name, and those that are kept: ``(head dim) in -> head``; beside it the size of a name, as ``head: 32`` or ``head: $num_attention_heads`` of the model's config.json.",
    )

    @property
    def sizes(self) -> dict[str, int | str]:
        """Those of axes that `units` names."""
        return {name: size for name, size in self.given.items() if name not in self.keys}

    @classmethod
    def keys_of(cls, mapping: Mapping[str, object]) -> dict[str, Key[Any]]:
        """A key may be a name in `units`; a name that is a key anyway stays one."""
        units = mapping.get("units")
        names = re.findall(r"[A-Za-z_]\w*", units) if isinstance(units, str) else ()
        return dict.fromkeys(names, optional(EXTENT, "")) | cls.keys

    @classmethod
    def definition(cls, definitions: dict[str, Schema]) -> Schema:
        """As of every form; beside `units` a key may be the name of an axis."""
        schema = super().definition(definitions)
        del schema["additionalProperties"]
        named = {"properties": dict.fromkeys(cls.keys, True)}
        return schema | {
            "if": {"required": ["units"]},
            "then": {**named, "additionalProperties": EXTENT.schema(definitions)},
            "else": {**named, "additionalProperties": False},
        }


class IgnoreForm(Form):
    """Findings that are known and accepted."""

    title = "Accepted findings"

    tensors = optional(PATTERNS, "Which tensors; all if left out.")
    rules = optional(PATTERNS, "Which rules, as globs over their ids; all if left out.")
    reason = Key(SENTENCE, "Why.")
    expires = optional(DATE, "The last day on which they are accepted.")


class SplitForm(Form):
    """One axis of some tensors, cut into parts that rules name: ``qkv_proj.weight.q``."""

    title = "Split"

    tensors = Key(PATTERNS, "Which tensors.")
    axis = Key(INTEGER, "The axis that is cut.")
    sizes = Key(
        ListOf(EXTENT, nonempty=True),
        "How much of the axis each part has; all of them together have all of it.",
    )
    names = Key(
        ListOf(PART, nonempty=True), "What each part is called behind the tensor's own name."
    )


class SpecForm(Form):
    """What the weights of a checkpoint must satisfy."""

    title = "ckptclamp spec"

    version = Key(VERSION, "The version of this form.", advice="write version: 1")
    declared = Key(
        choice(Declared),
        "What to do with constraints that the checkpoint's own model declares.",
        default=Declared.AUDIT,
    )
    tolerance = optional(TOLERANCE, "That of rules that state none, and of declarations.")
    epsilon = optional(EPSILON, "That of rules that state none, and of declarations.")
    zero_units = optional(
        choice(ZeroUnits), "What holds in rules that do not say, and for declarations."
    )
    projection = Key(
        choice(Projection),
        "How a violating unit is fixed: to the nearest point, or by Keras' formula.",
        default=Projection.EXACT,
    )
    preset = optional(
        choice(Preset),
        "Rules that come along; ``health``: every weight finite, no weight all one value, scales positive, tied tensors equal.",
    )
    base = optional(
        NAME,
        "The checkpoint that this one was made from, a path from the spec's directory: what Distance compares with, and what an adapter is added to.",
    )
    rules = Key(ListOf(RuleForm), "The rules.", default={})
    split = Key(ListOf(SplitForm), "Tensors that hold several weights along one axis.", default={})
    custom_objects = Key(
        MapOf(_OBJECT),
        "What a custom constraint in a model config is, by its registered name.",
        default={},
    )
    custom_layers = Key(
        MapOf(CUSTOM_LAYER),
        "What layer classes of your own code are, by registered name: ``unconstrained`` if the code sets no constraint that the config does not declare; ``like: Conv2D``; or the weight that an argument governs, ``kernel_constraint: kernel``.",
        default={},
    )
    ignore = Key(ListOf(IgnoreForm), "Findings that are known and accepted.", default={})


def json_schema() -> Schema:
    """Return the JSON Schema (draft 2020-12) of a spec, for editors."""
    definitions: dict[str, Schema] = {}
    whole = SpecForm.definition(definitions)
    draft = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": draft, "$defs": definitions, **whole}
