"""Reading without filling the page cache, as `fincore` sees it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import ckptclamp
from ckptclamp.auditing.options import AuditOptions
from ckptclamp.checkpoints.source import Source

SIZE = 8 << 20


@pytest.fixture
def cold(tmp_path: Path) -> Path:
    """A checkpoint on disk of which the page cache holds nothing, on a system that can tell."""
    if shutil.which("fincore") is None:
        pytest.skip("fincore (util-linux) is not here")
    path = tmp_path / "cold.safetensors"
    save_file({"w": np.ones((SIZE // 4096, 1024), np.float32)}, path)
    source = Source.open(path)
    able = source.leave_cache()
    os.fsync(source.fd)
    os.posix_fadvise(source.fd, 0, 0, os.POSIX_FADV_DONTNEED)
    source.close()
    if not able or resident(path):
        pytest.skip("this system cannot read past its page cache")
    return path


def resident(path: Path) -> int:
    """How many bytes of a file the page cache holds."""
    done = subprocess.run(
        ["fincore", "-nb", "-o", "RES", str(path)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


SPEC = {
    "version": 1,
    "rules": [{"id": "r", "tensors": "w", "constraint": "MaxNorm", "max_value": 32, "axis": 1}],
}


def test_an_audit_leaves_the_cache_as_it_was(cold: Path) -> None:
    """An audit beside a server must not push out what the server needs."""
    options = AuditOptions(leave_cache=True, hash=False)
    assert ckptclamp.audit(cold, SPEC, options).exit_code == 0
    assert resident(cold) < SIZE // 8
    assert ckptclamp.audit(cold, SPEC, AuditOptions(hash=False)).exit_code == 0
    assert resident(cold) >= SIZE


def test_a_system_that_cannot_is_said_so(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is the same, and the report says that the wish was not met."""
    monkeypatch.setattr(Source, "leave_cache", lambda _: False)
    report = ckptclamp.audit(cold, SPEC, AuditOptions(leave_cache=True))
    assert report.exit_code == 0
    assert any("page cache" in notice.message for notice in report.notices)
