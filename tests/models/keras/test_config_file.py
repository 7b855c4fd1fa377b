"""A config from beside its weights, in the forms in which people save one."""

from __future__ import annotations

import json

import pytest

from ckptclamp.errors import CkptclampError
from ckptclamp.models.keras.config import read_model_config
from tests.models.keras.models import dense, max_norm, sequential

CONFIG = sequential(dense(kernel_constraint=max_norm()))
TEXT = json.dumps(CONFIG).encode()
TWICE = json.dumps(TEXT.decode()).encode()


@pytest.mark.parametrize(
    "data",
    [TEXT, b"\n\t " + TEXT, b"\xef\xbb\xbf" + TEXT, TWICE, b"\r\n" + TWICE, b" " * 4000 + TEXT],
    ids=["plain", "white space", "byte order mark", "encoded twice", "both", "indented"],
)
def test_what_people_save(tmp_path, data):
    """``to_json()`` as text or dumped once more, by editors of every habit."""
    path = tmp_path / "model.json"
    path.write_bytes(data)
    assert read_model_config(path) == CONFIG


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (json.dumps(TWICE.decode()).encode(), "holds no model config"),
        (b'"words"', "not JSON"),
        (b'"{\\"a\\": 1, \\"a\\": 2}"', "twice"),
        (json.dumps("[" * 300 + "]" * 300).encode(), "nests deeper"),
        (b'{"class_name": "Sequential"}', "holds no model config"),
        (b'"\\ud800"', "surrogate"),
        (TEXT.decode().encode("utf-16"), "not a checkpoint"),
    ],
)
def test_what_is_none(tmp_path, data, problem):
    """What holds no config, or two, says so in a sentence."""
    path = tmp_path / "model.json"
    path.write_bytes(data)
    with pytest.raises(CkptclampError, match=problem) as caught:
        read_model_config(path)
    assert str(path) in str(caught.value)
