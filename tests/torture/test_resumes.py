"""A slice of `torture.resumes`: an apply of shards that is killed at random moments and resumed."""

from __future__ import annotations

import os

import pytest

from torture.resumes import run

pytestmark = pytest.mark.skipif(os.name != "posix", reason="nothing else dies of SIGKILL")


@pytest.mark.parametrize("in_place", [False, True])
def test_a_set_comes_out_as_undisturbed_however_often_it_was_killed(tmp_path, in_place):
    """And what is done is not made again."""
    told = run(tmp_path, shards=3, rows=256, kills=2, in_place=in_place)
    assert told["problems"] == []
    assert told["shards_redone_at_most"] in (0, 1)
