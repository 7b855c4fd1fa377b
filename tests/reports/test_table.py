"""Tables that stay aligned, and names that stay told apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptclamp.reports.names import cell_width, elide, shortened
from ckptclamp.reports.tables import Column, fits, table_lines

NAMES = Column("name", shrinks=True)
COUNTS = Column("count", right=True)


@given(st.text(max_size=60), st.integers(8, 40))
def test_a_shortened_name_fits_and_keeps_both_ends(text, width):
    """A name keeps its beginning and more of its end, where names of one model differ."""
    short = elide(text, width)
    assert cell_width(short) <= width
    if short != text:
        head, _, tail = short.partition("…") if "…" not in text else (short[:1], "", short[-1:])
        assert text.startswith(head)
        assert text.endswith(tail)


LAYERS = [
    f"model.layers.{layer}.{part}.{kind}"
    for layer in range(12)
    for part in ("self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj", "input_layernorm")
    for kind in ("weight", "bias")
]


@pytest.mark.parametrize(
    "names",
    [
        ["separable_conv2d/depthwise_kernel", "separable_conv2d/pointwise_kernel"],
        LAYERS,
        [*LAYERS, "lm_head.weight"],
        [f"{'a' * 100}{letter}{'z' * 100}" for letter in "bcd"],
        ["x" * 40, "x" * 41],
    ],
)
@pytest.mark.parametrize("width", [8, 14, 18, 24, 30])
def test_names_that_differ_stay_apart(names, width):
    """Two weights must never become one name, however little room there is."""
    shown = shortened(names, width)
    assert len(set(shown.values())) == len(names)
    assert max(map(len, shown.values())) < max(map(len, names))


def test_what_names_share_is_shortened_first():
    """A reader needs what tells weights apart: here the layer, and which projection."""
    shown = shortened(LAYERS, 30)
    assert "11.self_attn.k_proj." in shown["model.layers.11.self_attn.k_proj.bias"]
    assert max(map(len, shown.values())) <= 30
    assert shortened(["stem.block.a.kernel", "stem.block.b.kernel"], 12) == {
        "stem.block.a.kernel": "….a.kernel",
        "stem.block.b.kernel": "….b.kernel",
    }


def test_a_name_that_fits_stays_whole():
    """Only what is too wide is shortened."""
    assert shortened(["lm_head.weight", *LAYERS], 20)["lm_head.weight"] == "lm_head.weight"


@given(st.lists(st.text(max_size=40), min_size=1, unique=True), st.integers(8, 40))
def test_any_names_stay_apart(names, width):
    """Whatever a file calls its tensors."""
    assert len(set(shortened(names, width).values())) == len(names)


def test_only_columns_of_names_are_shortened():
    """A number is never cut."""
    rows = [("a" * 40, "1,234,567"), ("b", "1")]
    assert not fits((NAMES, COUNTS), rows, 30)
    lines = list(table_lines((NAMES, COUNTS), rows, width=30))
    assert lines[1].endswith("1,234,567")
    assert {len(line) for line in lines} == {30}


def test_nothing_is_cut_without_a_width():
    """A log has no width."""
    rows = [("a" * 400, "1")]
    assert list(table_lines((NAMES, COUNTS), rows))[1] == "a" * 400 + "      1"


def test_a_table_that_cannot_fit_is_still_whole():
    """Too narrow a terminal wraps; it loses nothing more than names may lose."""
    lines = list(table_lines((NAMES, COUNTS), [("a" * 40, "1,234,567")], width=5))
    assert cell_width(lines[1].split()[0]) == 8
    assert lines[1].endswith("1,234,567")


def test_the_last_cell_is_painted_by_its_whole_text():
    """Colour goes by what a cell says, and never changes the width."""
    painted = list(
        table_lines((COUNTS, NAMES), [("1", "name")], paint=lambda cell, shown: f"<{cell}:{shown}>")
    )
    assert painted[1] == "    1  <name:name>"
