"""Specs: what they become."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import sys

import pytest

from ckptclamp.constraints.custom import CallableConstraint
from ckptclamp.constraints.sets.linear import CenterAround, Clip, NonNeg
from ckptclamp.constraints.sets.norms import MaxNorm, MinMaxNorm, UnitNorm
from ckptclamp.errors import SpecError
from ckptclamp.spec.loader import load_spec, spec_from_mapping
from ckptclamp.spec.model import CustomLayer, Declared, Projection, Severity, Storage, Units


def one_rule(constraint, **rest):
    mapping = {"version": 1, "rules": [{"tensors": "x", "constraint": constraint, **rest}]}
    (rule,) = spec_from_mapping(mapping).rules
    return rule


def test_everything_a_spec_can_say(load, tmp_path):
    """One spec with every key, and what becomes of each."""
    text = """\
version: 1
declared: ignore
tolerance: 1e-3
projection: keras
rules:
  - id: bounded-kernels
    tensors: ["**/kernel", "!head/**"]
    constraint: MaxNorm
    max_value: 2.0
    axis: 0
    tolerance: auto
    severity: warning
    required: false
    storage: raw
  - tensors: head/*
    constraint: NonNeg
ignore:
  - {tensors: old/**, rules: [rule-2], reason: known since spring, expires: 2030-01-31}
  - {rules: "bounded-*", reason: to be retrained}
custom_objects:
  WeightClip: {constraint: Clip, low: -0.5, high: 0.5}
  pkg>Other: {class_name: NonNeg, config: {}}
  pkg>Ring: {class_name: MaxNorm, config: {max_value: 2, axis: [0, 1]}}
  pkg>Ball: {constraint: MaxNorm, max_value: 2, unit_axis: -1}
custom_layers:
  pkg>Plain: unconstrained
  pkg>Conv: {like: Conv2D}
  pkg>Own: {kernel_constraint: [kernel, vars/0], bias_constraint: bias}
"""
    spec = load(text)
    first, second = spec.rules
    assert first.id == "bounded-kernels"
    assert first.tensors == ("**/kernel", "!head/**")
    assert first.constraint == MaxNorm(2)
    assert first.units == Units(axis=(0,))
    assert (first.leeway.tolerance, first.severity, first.required) == (
        None,
        Severity.WARNING,
        False,
    )
    assert str(first.location) == f"{tmp_path / 'spec.yaml'}:6:5"
    assert (second.id, second.constraint, second.leeway.tolerance) == ("rule-2", NonNeg(), 1e-3)
    assert (first.storage, second.storage) == (Storage.RAW, Storage.EFFECTIVE)
    assert not second.units.stated
    assert second.required
    assert (spec.declared, spec.projection) == (Declared.IGNORE, Projection.KERAS)
    assert spec.leeway.tolerance == 1e-3
    assert spec.ignore[0].expires == datetime.date(2030, 1, 31)
    assert spec.ignore[0].rules == ("rule-2",)
    assert spec.ignore[1].tensors == ("**",)
    made = {name: (known.make({}), known.units) for name, known in spec.custom_objects.items()}
    assert made == {
        "WeightClip": (Clip(-0.5, 0.5), Units()),
        "pkg>Other": (NonNeg(), Units()),
        "pkg>Ring": (MaxNorm(2), Units(axis=(0, 1))),
        "pkg>Ball": (MaxNorm(2), Units(unit_axis=(-1,))),
    }
    assert spec.unconstrained == {"pkg>Plain"}
    assert spec.custom_layers == {
        "pkg>Conv": CustomLayer(like="Conv2D"),
        "pkg>Own": CustomLayer(
            weights={"kernel_constraint": ("kernel", "vars/0"), "bias_constraint": ("bias",)}
        ),
    }
    assert spec.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert spec.path == str(tmp_path / "spec.yaml")


@pytest.mark.parametrize(
    ("arguments", "constraint"),
    [
        ({"constraint": "max_norm", "max_value": 3}, MaxNorm(3)),
        ({"constraint": "MaxNorm"}, MaxNorm(2)),
        ({"constraint": "MaxNorm", "max_value": math.inf}, MaxNorm(math.inf)),
        (
            {"constraint": "MinMaxNorm", "min_value": 0.5, "max_value": 1, "rate": 0.5},
            MinMaxNorm(0.5, 1, 0.5),
        ),
        ({"constraint": "unitnorm"}, UnitNorm()),
        ({"constraint": "Clip", "low": -1, "high": 1}, Clip(-1, 1)),
        ({"constraint": "center_around", "ref_value": 1}, CenterAround(1)),
        ({"constraint": {"class_name": "Clip", "config": {"low": 0, "high": 1}}}, Clip(0, 1)),
        ({"constraint": {"class_name": "NonNeg", "config": None}}, NonNeg()),
    ],
)
def test_constraints(arguments, constraint):
    """Names in every spelling, with arguments beside them or in a config."""
    assert one_rule(**arguments).constraint == constraint


@pytest.mark.parametrize(
    "serialised",
    [
        {"class_name": "MaxNorm", "config": {"max_value": 3, "axis": [0, 1]}},
        {
            "module": "keras.constraints",
            "class_name": "MaxNorm",
            "config": {"max_value": 3, "axis": [0, 1]},
            "registered_name": None,
        },
    ],
)
def test_keras_form_brings_its_axis(serialised):
    """What is pasted from a config means what it meant there, its axis included."""
    rule = one_rule(serialised)
    assert rule.constraint == MaxNorm(3)
    assert rule.units == Units(axis=(0, 1))


def test_keras_form_without_an_axis_states_none():
    """An axis that was not written is not made up: Keras' default may not fit the tensor."""
    assert not one_rule({"class_name": "MaxNorm", "config": {"max_value": 3}}).units.stated


@pytest.mark.parametrize(
    ("stated", "units"),
    [
        ({"axis": -1}, Units(axis=(-1,))),
        ({"axis": [0, 1, 2]}, Units(axis=(0, 1, 2))),
        ({"axis": None}, Units(whole=True)),
        ({"unit_axis": -1}, Units(unit_axis=(-1,))),
        ({"unit_axis": [0, 1]}, Units(unit_axis=(0, 1))),
        ({}, Units()),
    ],
)
def test_axes(stated, units):
    """Null is the whole tensor, which is not the same as saying nothing."""
    assert one_rule("MaxNorm", **stated).units == units


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_unreadable_file_is_one_clear_problem(tmp_path, name):
    """A spec that is not there, or is a directory, is a spec error and no traceback."""
    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / name)
    assert len(caught.value.problems) == 1
    assert caught.value.exit_code == 2


def test_json_is_a_spec(load):
    """JSON is YAML, and a spec may be written in it."""
    spec = load(json.dumps({"version": 1, "rules": [{"tensors": ["a"], "constraint": "NonNeg"}]}))
    assert spec.rules[0].constraint == NonNeg()


@pytest.fixture
def our_package(tmp_path, monkeypatch):
    """A package of the user's own, where Python finds it."""
    package = tmp_path / "our_constraints_pkg"
    package.mkdir()
    (package / "__init__.py").write_text("IMPORTED = True\n")
    (package / "things.py").write_text(
        "class Halve:\n"
        "    def __init__(self, factor=0.5):\n"
        "        self.factor = factor\n"
        "    def __call__(self, w):\n"
        "        return w * self.factor\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "our_constraints_pkg"
    for name in [n for n in sys.modules if n.startswith("our_constraints_pkg")]:
        del sys.modules[name]


def test_own_class_is_imported_only_if_allowed(load, our_package):
    """A spec may name code, but only the caller's word lets it run."""
    text = (
        "version: 1\nrules:\n  - tensors: x\n"
        f"    constraint: {{class_name: '{our_package}.things:Halve', config: {{factor: 0.25}}}}\n"
    )
    with pytest.raises(SpecError, match=f"--allow-import {our_package}"):
        load(text)
    assert our_package not in sys.modules
    constraint = load(text, allow_import={our_package}).rules[0].constraint
    assert isinstance(constraint, CallableConstraint)
    assert constraint.get_config() == {"factor": 0.25}


def test_custom_object_without_arguments_takes_the_files(our_package):
    """A name alone says which class it is; the arguments are those that the config declares."""
    spec = spec_from_mapping(
        {
            "version": 1,
            "custom_objects": {"p>C": "CenterAround", "H": f"{our_package}.things:Halve"},
        },
        allow_import={our_package},
    )
    center, halve = spec.custom_objects["p>C"], spec.custom_objects["H"]
    assert center.make({"ref_value": 3.0}) == CenterAround(3)
    assert halve.make({"factor": 2.0}).get_config() == {"factor": 2.0}


def test_our_fixture_specs_load(request):
    """The specs that stand beside the fixtures are specs."""
    specs = sorted((request.config.rootpath / "fixtures" / "specs").glob("*.yaml"))
    assert specs
    for path in specs:
        assert load_spec(path).path == str(path)
