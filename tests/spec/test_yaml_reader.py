"""YAML with one meaning: numbers, places, and everything that is refused."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptclamp.spec.yaml_reader import MAX_BYTES, MAX_EVENTS, read_yaml


def data(text):
    document = read_yaml(text.encode())
    assert document.problems == []
    return document.data


def problems(raw):
    found = read_yaml(raw if isinstance(raw, bytes) else raw.encode()).problems
    return [(p.line, p.column, p.message) for p in found]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("2.", 2.0),
        (".5", 0.5),
        ("-0.0", 0.0),
        ("12", 12),
        ("+3", 3),
        ("0", 0),
        ("0o17", 15),
        ("0xff", 255),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("on", "on"),
        ("yes", "yes"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("2030-01-31", "2030-01-31"),
        ("'1e-3'", "1e-3"),
        ('"010"', "010"),
    ],
)
def test_scalars(text, value):
    """Plain scalars are numbers where YAML 1.2 says so, and words elsewhere."""
    got = data(f"a: {text}")["a"]
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("a: 1\na: 2", 2, 1, "twice, first in line 1"),
        ("a: {b: 1, b: 2}", 1, 11, "twice"),
        ("a: &x 1", 1, 4, "anchors"),
        ("a: &x 1\nb: *x", 2, 4, "aliases"),
        ("a: {<<: {b: 1}}", 1, 5, "merge keys"),
        ("a: !!python/object/apply:os.system [ls]", 1, 4, "tags"),
        ("a: !!str 5", 1, 4, "tags"),
        ("a: 010", 1, 4, "octal"),
        ("a: .nan", 1, 4, "NaN"),
        ("a: 1e999", 1, 4, "too large"),
        ("a: " + "9" * 5000, 1, 4, "too large"),
        ("a: 0x" + "f" * 300, 1, 4, "too large"),
        ("a: 0o" + "7" * 9000, 1, 4, "too large"),
        ("a: 1\n---\nb: 2", 2, 1, "several documents"),
        ("? [a, b]\n: 1", 1, 3, "key"),
        ("a: [1, 2", 1, 9, "not YAML"),
        ("a: b: c", 1, 5, "not YAML"),
        ("a: 1\n\tb: 2", 2, 1, "not YAML"),
        ("a: \x07", 1, 4, "not YAML"),
        ('a: "\\ud800"', 1, 4, "surrogate"),
        ("[" * 100_000, 1, 33, "deeper than 32"),
        ("{a: " * 100_000, 1, 129, "deeper than 32"),
        ("- " * 100_000, 1, 65, "deeper than 32"),
    ],
)
def test_refused_with_its_place(text, line, column, words):
    """What has two meanings, costs much or is no YAML is a problem at its line and column."""
    found = problems(text)
    assert (line, column) in [(at, col) for at, col, _ in found]
    assert any(words in message for *_, message in found)


@pytest.mark.parametrize("pattern", ["**.weight", "*weight", "!head/**"])
def test_a_pattern_without_quotes(pattern):
    """YAML has a meaning of its own for a first `*` or `!`; whoever writes a glob is told."""
    (problem,) = read_yaml(f"tensors: {pattern}\n".encode()).problems
    assert "stands in quotes" in (problem.hint or "")


def test_all_problems_at_once():
    """One bad value does not hide the next."""
    found = problems("a: 010\nb: &x .nan\nc: *x\na: 3\n")
    assert [line for line, *_ in found] == [1, 2, 2, 3, 4]


def test_duplicates_do_not_win():
    """The first of two equal keys stays, and what the second held is not mixed into it."""
    document = read_yaml(b"a: {x: 1}\na: {y: 2, x: 3}\n")
    assert document.data == {"a": {"x": 1}}
    assert len(document.problems) == 1


def test_alias_bomb_costs_nothing():
    """Nested aliases, which would expand to billions of values, are never expanded."""
    levels = "\n".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 30))
    document = read_yaml(f"l0: &l0 [x]\n{levels}\n".encode())
    assert len(document.problems) > 30
    assert len(json.dumps(document.data)) < 10_000


def test_size_is_bounded():
    """A file over 1 MiB is refused before it is parsed."""
    assert problems(b"a" * (MAX_BYTES + 1)) == [(1, 1, "is larger than 1 MiB")]


def test_number_of_values_is_bounded():
    """A small file of very many values costs seconds; it is refused at the first too many."""
    ((line, column, message),) = problems("[" + "a," * 250_000 + "]")
    assert line == 1
    assert MAX_EVENTS < column <= 2 * MAX_EVENTS
    assert "more than" in message


def test_not_utf8_has_its_place():
    """A byte that is no UTF-8 is named by line and column."""
    assert problems(b"a: 1\nb: \xff") == [(2, 4, "is not UTF-8")]


def test_places_of_keys_and_values():
    """Every key and value knows its line and column, counted from 1."""
    document = read_yaml(b"rules:\n  - id: x\n    axis: [0, 1]\n")
    assert document.values[("rules", 0)] == (2, 5)
    assert document.values[("rules", 0, "axis", 1)] == (3, 15)
    assert document.keys[("rules", 0, "axis")] == (3, 5)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.text(max_size=20)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(JSON)
def test_json_is_read_as_json(value):
    """A spec may be JSON, and then means what it means as JSON."""
    assert read_yaml(json.dumps(value).encode()).data == value


@given(st.binary(max_size=200))
def test_never_raises(raw):
    """Whatever the bytes, there is a document or a problem with a place."""
    document = read_yaml(raw)
    assert all(p.line and p.column for p in document.problems)


@given(st.text("[]{},:-? &*!|>'\"#%@`\n\tab01.", max_size=60))
def test_never_raises_on_indicators(text):
    """Nor on texts of YAML's own signs."""
    document = read_yaml(text.encode())
    assert all(p.line and p.column for p in document.problems)
