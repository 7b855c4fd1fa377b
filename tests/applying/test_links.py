"""Shards that nothing changes may come to the copy without being copied."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ckptclamp.applying.apply import ApplyOptions, apply
from ckptclamp.applying.staging import links
from ckptclamp.applying.staging.links import Link
from ckptclamp.auditing.audit import audit
from ckptclamp.auditing.options import AuditOptions
from tests.applying.publishing import names
from tests.checkpoints.contract import contents
from tests.checkpoints.safetensors_files import write_set

SPEC = {
    "version": 1,
    "rules": [{"tensors": "*.w", "constraint": "MaxNorm", "max_value": 1, "unit_axis": 0}],
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Three shards, of which the second violates."""
    folder = tmp_path / "set"
    folder.mkdir()
    shards = {
        f"model-{n}.safetensors": {f"{n}.w": np.full((4, 4), 1.0 if n == 1 else 0.1, np.float32)}
        for n in range(3)
    }
    write_set(folder, shards)
    (folder / "config.json").write_text("{}")
    (folder / "model-0.safetensors").chmod(0o640)
    return folder


def _codes(report):
    return {notice.code for notice in report.notices}


@pytest.mark.parametrize("hashed", [True, False])
def test_a_hard_link_is_a_second_name(model: Path, tmp_path: Path, hashed: bool):
    """Of shards that nothing changes; the others, and all that is small, are copied."""
    apply(model, tmp_path / "whole", SPEC)
    options = ApplyOptions(link=Link.HARD, audit=AuditOptions(hash=hashed))
    report = apply(model, tmp_path / "copy", SPEC, options)
    assert contents(tmp_path / "copy") == contents(tmp_path / "whole")
    same = {path.name: path.samefile(model / path.name) for path in (tmp_path / "copy").iterdir()}
    assert same == {
        "model-0.safetensors": True,
        "model-1.safetensors": False,
        "model-2.safetensors": True,
        "model.safetensors.index.json": True,
        "config.json": False,
    }
    assert (model / "model-0.safetensors").stat().st_mode & 0o777 == 0o640
    assert "not-linked" not in _codes(report)
    assert report.after is not None
    told = {Path(file.path) for file in report.after.checkpoint.files}
    assert told == {p for p in (tmp_path / "copy").iterdir() if p.name != "config.json"}
    assert audit(tmp_path / "copy", SPEC).exit_code == 0


def test_what_cannot_be_linked_is_copied(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """On another file system, or one without such links; a notice says so."""

    def refused(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    report = apply(model, tmp_path / "copy", SPEC, ApplyOptions(link=Link.HARD))
    assert "not-linked" in _codes(report)
    assert not (tmp_path / "copy" / "model-0.safetensors").samefile(model / "model-0.safetensors")
    assert audit(tmp_path / "copy", SPEC).exit_code == 0


@pytest.mark.parametrize("able", [True, False])
def test_a_reflink_is_a_file_of_its_own(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, able: bool
):
    """Where the file system cannot share blocks it is a copy."""

    def cloned(source, fd):
        if able:
            os.pwrite(fd, source.read_at(0, source.size), 0)
        return able

    assert callable(links.clone)
    monkeypatch.setattr("ckptclamp.applying.staging.directories.clone", cloned)
    apply(model, tmp_path / "whole", SPEC)
    report = apply(model, tmp_path / "copy", SPEC, ApplyOptions(link=Link.REFLINK))
    assert ("not-linked" in _codes(report)) != able
    assert contents(tmp_path / "copy") == contents(tmp_path / "whole")
    for name in names(tmp_path / "copy"):
        assert not (tmp_path / "copy" / name).samefile(model / name)
        assert ((tmp_path / "copy" / name).stat().st_mode & 0o777) == (
            (tmp_path / "whole" / name).stat().st_mode & 0o777
        )


def test_a_request_to_share_blocks_is_answered_by_this_system(model: Path, tmp_path: Path):
    """By a shared file or by a copy, whatever lies below the temporary directory."""
    report = apply(model, tmp_path / "copy", SPEC, ApplyOptions(link=Link.REFLINK))
    assert report.exit_code == 0
    assert audit(tmp_path / "copy", SPEC).exit_code == 0
