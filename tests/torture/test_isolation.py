"""What an audit does where the walls around the HDF5 parser are, and where one is missing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ckptclamp import audit
from ckptclamp.auditing.options import AuditOptions
from ckptclamp.checkpoints.formats.hdf5 import sandbox
from ckptclamp.checkpoints.formats.hdf5.isolation import SANDBOX_LAYERS
from ckptclamp.errors import RefusedError, UnreadableError
from torture.mutating import FIXTURES

MODEL = FIXTURES / "conforming" / "builtin_constraints.keras"
REQUIRED = AuditOptions(require_isolation=True)


@pytest.fixture
def fresh() -> Iterator[None]:
    """Ask the system anew, and forget the answer afterwards."""
    sandbox.missing_sandbox_layers.cache_clear()
    yield
    sandbox.missing_sandbox_layers.cache_clear()


@pytest.mark.skipif(sys.platform != "linux", reason="the walls are those of Linux")
def test_the_report_names_every_wall(fresh: None):
    """Where the system has all walls, the report says so, and an audit may require them."""
    if sandbox.missing_sandbox_layers():
        pytest.skip(f"this kernel lacks {sandbox.missing_sandbox_layers()}")
    report = audit(MODEL, options=REQUIRED)
    assert report.exit_code == 0
    assert report.checkpoint.isolation == SANDBOX_LAYERS


def test_a_missing_wall_is_an_incomplete_audit(fresh: None, monkeypatch: pytest.MonkeyPatch):
    """A system without one of the walls opens nothing where all are required."""
    told = {"isolation": ["rlimits", "seccomp", "no-new-privileges"]}
    monkeypatch.setattr(sandbox, "run", lambda task: told)
    with pytest.raises(UnreadableError, match="lacks landlock") as caught:
        audit(MODEL, options=REQUIRED)
    assert caught.value.exit_code == 3
    assert caught.value.path == str(MODEL)


def test_the_report_tells_which_walls_there_are(fresh: None, monkeypatch: pytest.MonkeyPatch):
    """A system without one audits all the same, unless all are required; the report does not claim it."""
    without = "import sys; sys.modules['resource'] = None; "
    monkeypatch.setattr(sandbox, "_BOOTSTRAP", without + sandbox._BOOTSTRAP)
    report = audit(MODEL)
    assert report.exit_code == 0
    assert "rlimits" not in report.checkpoint.isolation
    with pytest.raises(UnreadableError, match=r"isolation is required, .* lacks .*rlimits"):
        audit(MODEL, options=REQUIRED)


def test_the_header_limit_reaches_the_reader(tmp_path: Path):
    """A caller may allow less than the format does."""
    path = FIXTURES / "conforming" / "transformer_bf16.safetensors"
    with pytest.raises(RefusedError, match="at most 64 are read"):
        audit(path, options=replace(AuditOptions(), header_limit=64))


def test_the_command_line_has_both(tmp_path: Path):
    """Both reach the reader from the command line."""
    path = FIXTURES / "conforming" / "transformer_bf16.safetensors"
    command = [sys.executable, "-m", "ckptclamp", "audit"]
    limited = [*command, str(path), "--header-limit", "64"]
    done = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "at most 64 are read" in done.stderr
    required = [*command, str(MODEL), "--require-isolation"]
    done = subprocess.run(required, capture_output=True, text=True, check=False)
    assert done.returncode == (3 if sandbox.missing_sandbox_layers() else 0), done.stderr
