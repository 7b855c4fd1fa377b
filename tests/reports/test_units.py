"""Every violating unit, one line each."""

import json

import pytest

from ckptclamp.auditing.results import WorstUnit
from ckptclamp.errors import CkptclampError
from ckptclamp.reports.formats.json import units_file


def test_each_unit_is_a_line(tmp_path):
    """Tools that read line by line get every unit with its numbers, NaN by name."""
    path = tmp_path / "units.jsonl"
    with units_file(path) as writer:
        writer.write("a/kernel", "r1", WorstUnit((3, 1), 1.5, 1.0, 0.5, 0.5))
        writer.write("b\n", "r2", WorstUnit((), float("nan"), 0.0, float("nan"), None, 2))
    lines = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    assert lines == [
        {
            "tensor": "a/kernel",
            "rule": "r1",
            "index": [3, 1],
            "measured": 1.5,
            "bound": 1.0,
            "distance": 0.5,
            "excess": 0.5,
            "nonfinite": 0,
            "zero": False,
        },
        {
            "tensor": "b\n",
            "rule": "r2",
            "index": [],
            "measured": "NaN",
            "bound": 0.0,
            "distance": "NaN",
            "excess": None,
            "nonfinite": 2,
            "zero": False,
        },
    ]


def test_an_audit_that_fails_leaves_no_file(tmp_path):
    """Half a list of violations would read as all of them."""
    path = tmp_path / "units.jsonl"

    def interrupted():
        with units_file(path) as writer:
            writer.write("a", "r", WorstUnit((0,), 2.0, 1.0, 1.0, 1.0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_an_error(tmp_path):
    """The message names the file."""
    with (
        pytest.raises(CkptclampError, match=r"units\.jsonl"),
        units_file(tmp_path / "gone" / "units.jsonl"),
    ):
        pass
