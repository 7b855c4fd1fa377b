"""The one escaper: whatever a stranger calls a tensor comes out as one inert line."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ckptclamp.errors import printable

ANY_TEXT = st.text(st.characters(), max_size=80)


@given(ANY_TEXT)
def test_result_is_one_printable_line(text):
    """No control, format or surrogate character survives, and no line break of any kind."""
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1
    shown.encode("utf-8")


@given(ANY_TEXT)
def test_ci_commands_are_inert(text):
    """CI runners read ``::`` at the start of a line and ``##`` anywhere in it."""
    for hostile in (
        f"::error::{text}",
        f"  ::set-output{text}",
        f"{text}##[error]",
        f"{text}##vso[",
    ):
        shown = printable(hostile)
        assert not shown.lstrip().startswith("::")
        assert "##" not in shown


@given(
    st.text(
        st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="#:"), max_size=200
    )
)
def test_plain_names_stay_as_they_are(text):
    """A usual tensor name is not touched."""
    assert printable(text) == text


def test_long_names_keep_their_ends_and_a_digest():
    """A cut name is still told from another that has the same ends."""
    first, second = ("a" * 300 + middle + "z" * 300 for middle in ("x", "y"))
    assert len(printable(first)) <= 256
    assert printable(first).startswith("aaa")
    assert printable(first).endswith("zzz")
    assert printable(first) != printable(second)
