"""What tests run is the program: a fork of it answers as a start of it does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ckptclamp.cli import _COMMANDS
from tests.cli import program

VIOLATING = Path(__file__).parents[2] / "fixtures" / "violating"
RULE = ("--tensors", "**", "--max-norm", "1", "--axis", "all")
CALLS = {
    "audit of HDF5": ("audit", VIOLATING / "chunked_gzip.h5"),
    "audit of a zip": ("audit", VIOLATING / "builtin_constraints.keras", "-f", "sarif"),
    "audit of safetensors": ("audit", VIOLATING / "transformer_bf16.safetensors", *RULE, "-v"),
    "apply": (
        "apply",
        VIOLATING / "transformer_bf16.safetensors",
        *RULE,
        "--dry-run",
        "-f",
        "html",
    ),
    "inspect": ("inspect", VIOLATING / "deflated_zip.keras", "--norms"),
    "explain": ("explain", VIOLATING / "transformer_bf16.safetensors", *RULE),
    "init": ("init", VIOLATING / "transformer_bf16.safetensors"),
    "diff": ("diff", VIOLATING / "chunked_gzip.h5", VIOLATING / "chunked_gzip.h5"),
    "usage": ("audit", "--bogus"),
    "nothing": (),
}


@pytest.fixture(scope="module")
def forks():
    """The process that calls are forks of."""
    if sys.platform != "linux":
        pytest.skip("every call starts the program here")
    forks = program.Forks()
    yield forks
    forks.close()


@pytest.mark.parametrize("name", [*_COMMANDS, *CALLS])
def test_a_fork_answers_as_a_start_does(name, forks, tmp_path):
    """The same code and the same words; only a start shows that modules can be imported in its order."""
    arguments = [*map(str, CALLS.get(name, (name, "--help")))]
    started = program.run_anew(arguments, os.environ, tmp_path)
    forked = forks.run(arguments, os.environ, tmp_path)
    assert forked.returncode == started.returncode
    assert _said(forked) == _said(started)
    assert started.stdout or started.returncode == 2


def _said(done):
    """What was said, without how long it took."""
    return re.sub(r"\d+\.\d+ s\b", "", done.stdout + done.stderr)


def test_nothing_of_a_call_is_left_for_the_next(forks, tmp_path):
    """Directory, environment and the ways to end are of one call."""
    (tmp_path / "elsewhere").mkdir()
    asked = ["audit", "m.h5", *RULE]
    odd = {**os.environ, "CKPTCLAMP_STRICT": "neither"}
    assert "neither" in forks.run(asked, odd, tmp_path / "elsewhere").stderr
    (tmp_path / "m.h5").symlink_to(VIOLATING / "chunked_gzip.h5")
    assert forks.run(["audit", "m.h5", "--follow-symlinks"], os.environ, tmp_path).returncode == 1


def test_a_call_that_does_not_end_is_ended(forks, tmp_path, monkeypatch):
    """And the next one is answered."""
    os.mkfifo(tmp_path / "spec.yaml")
    monkeypatch.setattr(program, "TIMEOUT", 0.5)
    with pytest.raises(subprocess.TimeoutExpired):
        forks.run(["audit", "x.h5", "--spec", "spec.yaml"], os.environ, tmp_path)
    monkeypatch.undo()
    assert forks.run(["--version"], os.environ, tmp_path).returncode == 0
