"""Tables that stay aligned, and names that stay told apart."""

from hypothesis import given
from hypothesis import strategies as st

from ckptclamp.reports.formats.text import Column, cell_width, elide, fits, table_lines

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


def test_names_that_differ_in_their_last_part_stay_apart():
    """Two kernels of one layer must not become one name."""
    names = ["separable_conv2d/depthwise_kernel", "separable_conv2d/pointwise_kernel"]
    assert len({elide(name, 20) for name in names}) == 2


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
