"""Every way of getting a spec wrong: its line, its column, what is wrong, and what was meant."""

from __future__ import annotations

from typing import Any

import pytest

from ckptclamp.errors import SpecError
from ckptclamp.spec.loader import spec_from_mapping
from ckptclamp.spec.schema import RuleForm, SpecForm


@pytest.fixture
def problems(load):
    """Write a spec that is wrong, and return (line, column, message, hint) of each problem."""

    def problems_of(text):
        with pytest.raises(SpecError) as caught:
            load(text)
        return [(p.line, p.column, p.message, p.hint) for p in caught.value.problems]

    return problems_of


PROBLEMS = [
    ("rules: []", (1, 1), "version is missing", "version: 1"),
    ("version: 2", (1, 10), "version: 2 is not known", "version: 1"),
    ("version: true", (1, 10), "version: true is not known", "version: 1"),
    ("[1]", (1, 1), "not a mapping", "version: 1"),
    ("", (1, 1), "not a mapping", "version: 1"),
    ("version: 1\nruels: []", (2, 1), "unknown key 'ruels'", "did you mean rules?"),
    ("version: 1\nrules:", (2, 7), "expected a list, not null", None),
    ("version: 1\nrules: {a: 1}", (2, 8), "expected a list, not a mapping", None),
    ("version: 1\nrules: [3]", (2, 9), "rules[0]: expected a mapping, not 3", None),
    ("version: 1\ndeclared: igonre", (2, 11), "expected audit or ignore", "did you mean ignore?"),
    ("version: 1\nprojection: best", (2, 13), "expected exact or keras", "known: exact, keras"),
    ("version: 1\ntolerance: -1", (2, 12), "makes no sense", "0.01 is one percent"),
    ("version: 1\ntolerance: 5", (2, 12), "makes no sense", "0.01 is one percent"),
    ("version: 1\ntolerance: .inf", (2, 12), "makes no sense", "0.01 is one percent"),
    ("version: 1\ntolerance:", (2, 11), "not null", "0.01 is one percent"),
    ("version: 1\ntolerance: casst", (2, 12), "auto, trained or cast", "0.01 is one percent"),
    ("version: 1\nepsilon: -1", (2, 10), "makes no sense", "keras.config.set_epsilon"),
    ("version: 1\nepsilon: .inf", (2, 10), "makes no sense", "keras.config.set_epsilon"),
    ("version: 1\nepsilon: auto", (2, 10), "expected a number, not 'auto'", "1e-7"),
    ("version: 1\nzero_units: alow", (2, 13), "violation or allow", "did you mean allow?"),
]

RULE_PROBLEMS = [
    ("constraint: NonNeg", (3, 5), "tensors is missing", None),
    ("tensors: x", (3, 5), "constraint is missing", None),
    ("tensors: []\n    constraint: NonNeg", (3, 14), "expected a pattern", None),
    ("tensors: [1]\n    constraint: NonNeg", (3, 14), "expected a pattern, not 1", None),
    ("tensors: '!x'\n    constraint: NonNeg", (3, 14), "only exclusions", "'**'"),
    ("tensors: 're:(a'\n    constraint: NonNeg", (3, 14), "not closed", None),
    ("tensors: x\n    constraint: MaxNrom", (4, 17), "unknown constraint 'MaxNrom'", "MaxNorm?"),
    ("tensors: x\n    constraint: nonegg", (4, 17), "unknown constraint", "NonNeg?"),
    ("tensors: x\n    constraint: 3", (4, 17), "a constraint's name", None),
    ("tensors: x\n    constraint: Clip\n    low: 0", (4, 17), "Clip needs high", None),
    ("tensors: x\n    constraint: MaxNorm\n    max_vaule: 2", (5, 5), "unknown key", "max_value?"),
    ("tensors: x\n    constraint: NonNeg\n    max_value: 2", (5, 16), "no argument", "takes none"),
    ("tensors: x\n    constraint: NonNeg\n    base: a.st", (5, 5), "unknown key", "the top of the"),
    ("tensors: x\n    constraint: MaxNorm\n    low: 2", (5, 10), "no argument 'low'", "max_value"),
    ("tensors: x\n    constraint: MaxNorm\n    max_value: -2", (5, 16), "negative", None),
    ("tensors: x\n    constraint: MaxNorm\n    max_value:", (5, 15), "not null", None),
    ("tensors: x\n    constraint: MaxNorm\n    max_value: true", (5, 16), "not true", None),
    ("tensors: x\n    constraint: MaxNorm\n    max_value: '2'", (5, 16), "not '2'", None),
    ("tensors: x\n    constraint: MaxNorm\n    max_value: 1_000", (5, 16), "not '1_000'", None),
    ("tensors: x\n    constraint: MaxNorm\n    max_value: .nan", (5, 16), "NaN", None),
    (
        "tensors: x\n    constraint: MinMaxNorm\n    min_value: 3\n    max_value: 1",
        (5, 16),
        "greater than",
        None,
    ),
    ("tensors: x\n    constraint: MinMaxNorm\n    rate: 2", (5, 11), "rate must lie", None),
    ("tensors: x\n    constraint: MaxNorm\n    axis: a", (5, 11), "expected an axis", None),
    ("tensors: x\n    constraint: MaxNorm\n    axis: all", (5, 11), "`axis: null`", None),
    ("tensors: x\n    constraint: MaxNorm\n    axis: []", (5, 11), "expected an axis", None),
    ("tensors: x\n    constraint: MaxNorm\n    axis: [0, true]", (5, 11), "expected an axis", None),
    ("tensors: x\n    constraint: MaxNorm\n    axis: [0, 0]", (5, 11), "twice", None),
    ("tensors: x\n    constraint: MaxNorm\n    axis: 0.0", (5, 11), "expected an axis", None),
    ("tensors: x\n    constraint: MaxNorm\n    unit_axis:", (5, 15), "expected an axis", None),
    (
        "tensors: x\n    constraint: MaxNorm\n    axis: 0\n    unit_axis: 1",
        (6, 16),
        "exclude",
        None,
    ),
    (
        "tensors: x\n    constraint: NonNeg\n    severity: fatal",
        (5, 15),
        "expected error or warning",
        None,
    ),
    (
        "tensors: x\n    constraint: NonNeg\n    required: yes",
        (5, 15),
        "true or false, not 'yes'",
        None,
    ),
    ("tensors: x\n    constraint: NonNeg\n    id: 3", (5, 9), "expected text, not 3", None),
    ("tensors: x\n    constraint: NonNeg\n    id: ''", (5, 9), "empty", None),
    ("tensors: x\n    constraint: {config: {}}", (4, 17), "class_name is missing", None),
    ("tensors: x\n    constraint: {class_name: A, confg: {}}", (4, 33), "unknown key", "config?"),
    ("tensors: x\n    constraint: {class_name: MaxNrom}", (4, 17), "unknown", "MaxNorm?"),
    (
        "tensors: x\n    constraint: {class_name: MaxNorm, config: {max: 2}}",
        (4, 17),
        "no setting",
        None,
    ),
    (
        "tensors: x\n    constraint: {class_name: MaxNorm, config: {axis: a}}",
        (4, 17),
        "axis is not an integer",
        None,
    ),
    (
        "tensors: x\n    constraint: {class_name: MaxNorm, config: {axis: 0}}\n    axis: 0",
        (5, 11),
        "stated twice",
        None,
    ),
    (
        "tensors: x\n    constraint: {class_name: MaxNorm}\n    max_value: 2",
        (5, 16),
        "belongs into the constraint's config",
        None,
    ),
    (
        "tensors: x\n    constraint: {class_name: Constraint, config: {}}",
        (4, 17),
        "Constraint is not known",
        "package.module:Class",
    ),
    (
        "tensors: x\n    constraint: {module: null, class_name: MaxNorm, config: {}, registered_name: MaxNorm}",
        (4, 17),
        "MaxNorm is not known",
        "package.module:Class",
    ),
    (
        "tensors: x\n    constraint: 'json:dumps'",
        (4, 17),
        "code that would be imported",
        "--allow-import json",
    ),
    (
        "tensors: x\n    constraint: {class_name: 'our_pkg.sub:Thing', config: {}}",
        (4, 17),
        "code that would be imported",
        "--allow-import our_pkg",
    ),
]

IGNORE_PROBLEMS = [
    ("reason: x", (3, 5), "accept everything", None),
    ("tensors: x", (3, 5), "reason is missing", None),
    ("tensors: x\n    reason: ''", (4, 13), "empty", None),
    ("rules: 3\n    reason: x", (3, 12), "expected a pattern", None),
    ("tensors: x\n    reason: x\n    expires: tomorrow", (5, 14), "expected a date", None),
    ("tensors: x\n    reason: x\n    expries: 2030-01-01", (5, 5), "unknown key", "expires?"),
]


@pytest.mark.parametrize(
    ("text", "place", "message", "hint"),
    [
        *PROBLEMS,
        *((f"version: 1\nrules:\n  - {text}", *rest) for text, *rest in RULE_PROBLEMS),
        *((f"version: 1\nignore:\n  - {text}", *rest) for text, *rest in IGNORE_PROBLEMS),
        ("version: 1\ncustom_objects: {a: Nope}", (2, 21), "unknown constraint", "NonNeg?"),
        ("version: 1\ncustom_objects: {a: 3}", (2, 21), "a constraint's name", None),
        ("version: 1\ncustom_objects:\n  a: {constraint: Clip, low: x}", (3, 30), "a number", None),
        ("version: 1\ncustom_layers: {a: unconstraint}", (2, 20), "unconstrained", "like: Conv2D"),
        ("version: 1\ncustom_layers:\n  a: {like: Conv2}", (3, 6), "not 'Conv2'", "Conv2D?"),
        ("version: 1\ncustom_layers:\n  a: {like: 3}", (3, 6), "not 3", "such as Dense"),
        (
            "version: 1\ncustom_layers:\n  a: {like: Dense, b: c}",
            (3, 6),
            "has that one's weights",
            "leave out",
        ),
        (
            "version: 1\ncustom_layers:\n  a: {b_constraint: 3}",
            (3, 6),
            "the name of a weight",
            "vars/0",
        ),
        (
            "version: 1\ncustom_objects:\n  a: {constraint: Clip, lwo: 1}",
            (3, 25),
            "unknown",
            "low?",
        ),
    ],
)
def test_each_problem_has_its_place(problems, text, place, message, hint):
    """Every kind of bad spec: its line, its column, what is wrong, and what was meant."""
    ((line, column, said, advice),) = problems(text)
    assert message in said
    assert (line, column) == place
    if hint is not None:
        assert hint in advice


def test_all_problems_at_once(problems):
    """A reader fixes a spec in one round: of every part, and of YAML itself, nothing is held back."""
    found = problems(
        "version: 1\ndeclared: x\nrules:\n"
        "  - {tensors: a, constraint: Nope}\n"
        "  - {tensors: a, constraint: NonNeg, axs: 0}\n"
        "  - {tensors: a, constraint: MaxNorm, max_value: 010}\n"
        "  - {tensors: a, tensors: b, constraint: NonNeg, id: x}\n"
        "  - {tensors: a, constraint: NonNeg, id: x}\n"
        "ignore: [{reason: y}]\n"
    )
    assert [line for line, *_ in found] == [2, 4, 5, 6, 7, 8, 9]


def test_problems_are_bounded(problems):
    """A thousand mistakes are shown by the first hundred and a count."""
    entries = "".join("  - {tensors: a, constraint: Nope}\n" for _ in range(1000))
    found = problems(f"version: 1\nrules:\n{entries}")
    assert len(found) == 101
    assert "900 more" in found[-1][2]


def test_patterns_are_bounded(problems):
    """What patterns cost is bounded over all of a spec, and the first that is too much has a place."""
    rules = "".join(
        f"  - {{tensors: 're:.{{1000}}{i}', constraint: NonNeg}}\n" for i in range(2000)
    )
    ((line, column, message, _),) = problems(f"version: 1\nrules:\n{rules}")
    assert message == "tensors: the patterns are too large together"
    assert 100 < line < 500
    assert column == 15


def test_a_bound_on_patterns_holds_back_no_other_problem(problems):
    """Where patterns are too large together, what else is wrong is still said."""
    rules = "".join(f"  - {{tensors: 're:.{{1000}}{i}', constraint: NonNeg}}\n" for i in range(400))
    found = problems(f"version: 1\nrules:\n{rules}  - {{tensors: a, constraint: Nope}}\n")
    assert [message.split(":")[0] for _, _, message, _ in found] == [
        "tensors",
        "unknown constraint 'Nope'",
    ]


def test_a_duplicate_id_is_refused(problems):
    """Two rules of one name could not be told apart in a report, given names and made ones alike."""
    rule = "{tensors: a, constraint: NonNeg"
    ((line, _, message, _),) = problems(
        f"version: 1\nrules:\n  - {rule}, id: rule-2}}\n  - {rule}}}\n"
    )
    assert line == 4
    assert "'rule-2'" in message


def test_message_is_one_line_for_each_problem(load):
    """What is printed is file:line:column: message (hint), with untrusted text made inert."""
    with pytest.raises(SpecError) as caught:
        load('version: 1\nrules: [{tensors: x, constraint: "\\e[31mNope"}]')
    (line,) = str(caught.value).splitlines()
    assert "spec.yaml:2:34: unknown constraint" in line
    assert "\x1b" not in line


def test_mapping_problems_name_the_value():
    """Data that came from no file has no lines; the path through it is told instead."""
    with pytest.raises(SpecError) as caught:
        spec_from_mapping(
            {"version": 1, "rules": ({"tensors": "a", "constraint": "MaxNorm", "max_value": "x"},)}
        )
    assert str(caught.value) == "spec: rules[0].max_value: expected a number, not 'x'"


def test_a_key_that_is_no_text_is_refused_where_it_stands():
    """Python's mappings may have keys that no YAML has; they are told with everything else."""
    spec: dict[Any, Any] = {
        "version": 1,
        2: 3,
        "rules": [{"tensors": "a", "constraint": {"class_name": "NonNeg", "config": {1: 2}}}],
        "custom_objects": {None: "NonNeg"},
    }
    with pytest.raises(SpecError) as caught:
        spec_from_mapping(spec)
    assert str(caught.value).splitlines() == [
        "spec: the spec: expected text for a key, not 2",
        "spec: rules[0].constraint.config: expected text for a key, not 1",
        "spec: custom_objects: expected text for a key, not null",
    ]


def test_sizes_stand_beside_the_units_that_name_them():
    """What `units` does not name is an unknown key, whatever it is called."""
    rule = {"tensors": "a", "constraint": "UnitNorm", "units": "(head dim) in -> head"}
    spec = spec_from_mapping({"version": 1, "rules": [{**rule, "head": 8}]})
    named = spec.rules[0].units.named
    assert named is not None
    assert named.sizes == {"head": 8}
    for key in ("sizes", "sizes of named axes", "heads", ""):
        with pytest.raises(SpecError, match="unknown key"):
            spec_from_mapping({"version": 1, "rules": [{**rule, key: {"head": 8}}]})


@pytest.mark.parametrize(
    "spec",
    [
        {"version": 10**5000},
        {"version": 1, "tolerance": 10**400},
        {"version": 1, "rules": [{"tensors": 10**5000, "constraint": "NonNeg"}]},
        {"version": 1, "rules": [{"tensors": "a", "constraint": "MaxNorm", "max_value": 10**400}]},
    ],
)
def test_numbers_beyond_every_float(spec):
    """Python's integers know no end; a message about one does."""
    with pytest.raises(SpecError, match="float64"):
        spec_from_mapping(spec)


def test_what_stands_at_the_top_of_a_spec_is_known_in_a_rule():
    """Whoever writes one of these keys in a rule is told where it belongs."""
    assert set(RuleForm.elsewhere) == set(SpecForm.keys) - set(RuleForm.keys)
