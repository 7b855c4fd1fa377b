"""JSON that parsers disagree about is refused; Keras' own peculiarities are not."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptclamp.checkpoints.documents import parse_strict
from ckptclamp.errors import RefusedError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def parse(text: str | bytes, *, infinity: bool = True) -> object:
    """What the strict parser makes of `text`."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return parse_strict(
        data, max_depth=40, max_bytes=10_000, what="config", allow_infinity=infinity
    )


@settings(deadline=None)
@given(VALUES)
def test_reads_what_python_writes(value: object) -> None:
    """Whatever `json` writes comes back, ``Infinity`` and ``NaN`` among it."""
    text = json.dumps(value)
    if "\\ud" in text and not _encodable(value):
        return
    assert json.dumps(parse(text)) == text


def _encodable(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


REFUSED: dict[str, tuple[str | bytes, str]] = {
    "a duplicate key": ('{"a": 1, "b": {"c": 1, "c": 2}}', "twice"),
    "a duplicate key, escaped": ('{"a": 1, "\\u0061": 2}', "twice"),
    "depth": ("[" * 41 + "]" * 41, "deeper"),
    "unbalanced depth": ("[" * 5_000, "deeper"),
    "size": ('"' + "a" * 10_000 + '"', "bytes long"),
    "overflow": ("1e999", "overflows"),
    "a negative overflow": ("-1e999", "overflows"),
    "a huge integer": ("1" * 9_000, "digits"),
    "a lone surrogate": ('"\\ud800"', "surrogate"),
    "two documents": ("{} {}", "not JSON"),
    "nothing": ("", "not JSON"),
    "a byte order mark": ("\ufeff{}", "not JSON|UTF-8"),
    "no UTF-8": (b'"\xff"', "not UTF-8"),
    "a comment": ("{} // x", "not JSON"),
    "a control character": ('"\n"', "not JSON"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refuses(what: str) -> None:
    """Text with two readings, or that costs too much, is refused in one sentence."""
    text, reason = REFUSED[what]
    with pytest.raises(RefusedError, match=reason):
        parse(text)


def test_brackets_in_strings_are_text() -> None:
    """Depth is that of the document, not of what its strings hold."""
    assert parse(json.dumps({"a": "[" * 100 + '\\"{'})) == {"a": "[" * 100 + '\\"{'}


def test_infinity_only_where_it_is_allowed() -> None:
    """A Keras config may hold ``Infinity``; an index or a header may not."""
    assert parse('{"max_value": Infinity}') == {"max_value": math.inf}
    with pytest.raises(RefusedError, match="not JSON"):
        parse('{"max_value": Infinity}', infinity=False)
