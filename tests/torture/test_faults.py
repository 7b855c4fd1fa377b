"""Some of the faults of `make torture`, which meets every point; and limits, full disks, short writes."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from ckptclamp.checkpoints.copying import ScratchFile
from ckptclamp.checkpoints.source import Source
from tests.torture.programs import program
from torture.applies import WRITERS, Apply, Expectation

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="faults are injected on Linux")


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_faults_lose_nothing():
    """Killed, signalled or refused at some of the calls: the old output or the new one, whole."""
    told = program("faults", "--every", 250)
    assert [line["writer"] for line in told] == list(WRITERS)
    assert all(line["points"] >= 1 for line in told)
    outcomes = {outcome.split(":")[1] for line in told for outcome in line["outcomes"]}
    assert {" old", " new"} <= outcomes


def test_scarcity_loses_nothing():
    """Too small a disk, a limit on file size, short writes: the old output or the new one, whole."""
    told = program("scarcity", "--sizes", 3)
    assert {line["scarce"] for line in told} == {
        "file size",
        "room on the disk",
        "length of a write",
    }
    for line in told:
        assert line["skipped"] or line["outcomes"].get("new"), line


def test_closing_never_fails(tmp_path: Path):
    """A disk that complains when a file is closed, of which all was read, changes no answer."""
    (tmp_path / "file").write_bytes(b"data")
    for opened in (Source.open(tmp_path / "file"), ScratchFile(tmp_path / "scratch")):
        os.close(opened.fd)
        opened.close()


def test_the_judge_notices(tmp_path: Path):
    """A judge that saw no half-written output would prove nothing."""
    apply = Apply("safetensors", tmp_path / "run")
    data = apply.input.read_bytes()
    expected = Expectation({"": data}, {"": b"what was there before"}, {"": b"new"})
    assert expected.judge(apply, 3) == ("old", "")
    assert expected.judge(apply, 0)[1] == "exit 0, but nothing was written"
    apply.output.write_bytes(b"ne")
    assert "neither" in expected.judge(apply, 3)[1]
    apply.output.write_bytes(b"new")
    assert expected.judge(apply, 0) == ("new", "")
    apply.input.write_bytes(b"")
    assert "input changed" in expected.judge(apply, 0)[1]
    apply.log.write_text("Traceback")
    assert "traceback" in expected.judge(apply, 1)[1]
