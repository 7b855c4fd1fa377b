"""Hugging Face's cache: links are read where they stay in their repository, blobs are never written."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ckptclamp.applying.apply import ApplyOptions, apply
from ckptclamp.auditing.audit import audit
from ckptclamp.auditing.options import AuditOptions
from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.errors import RefusedError, UsageError
from ckptclamp.gate.attestation import Match, verify
from tests.checkpoints.contract import contents
from tests.checkpoints.safetensors_files import serialised, write_set

SPEC = {
    "version": 1,
    "rules": [{"tensors": "w*", "constraint": "MaxNorm", "max_value": 1.0, "axis": 1}],
}
LARGE = np.full((4, 3), 5, np.float32)
INDEX = "model.safetensors.index.json"


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A snapshot with a sharded model, a config and a file in a folder, all of them links."""
    directory = tmp_path / "download"
    (directory / "onnx").mkdir(parents=True)
    write_set(
        directory, {"model-1.safetensors": {"w1": LARGE}, "model-2.safetensors": {"w2": LARGE}}
    )
    (directory / "config.json").write_text('{"model_type": "none", "head_dim": 4}')
    (directory / "onnx" / "readme.txt").write_text("nothing")
    return cached(directory, tmp_path / "models--org--name")


def cached(directory: Path, repository: Path) -> Path:
    """Lay the files of `directory` out as the cache does; the snapshot."""
    place = repository / "snapshots" / "0a1b2c"
    (repository / "blobs").mkdir(parents=True)
    for file in (path for path in directory.rglob("*") if path.is_file()):
        link = place / file.relative_to(directory)
        blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        blob.write_bytes(file.read_bytes())
        link.parent.mkdir(parents=True, exist_ok=True)
        up = "../" * (len(link.relative_to(repository).parts) - 1)
        link.symlink_to(f"{up}blobs/{blob.name}")
    return place


def blobs(snapshot: Path) -> dict[str, str]:
    """The digest of each blob, by its name."""
    directory = snapshot.parents[1] / "blobs"
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()
    }


def test_a_directory_and_its_file_behave_alike(snapshot: Path):
    """Both are read without a flag, with no note of links, and so is the config beside them."""
    for path in (snapshot, snapshot / INDEX, snapshot / "model-1.safetensors"):
        report = audit(path, SPEC)
        assert report.exit_code == 1
        assert not report.all_notices
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.config() == {"model_type": "none", "head_dim": 4}


def test_a_copy_has_files_and_no_links(snapshot: Path, tmp_path: Path):
    """What is made of a snapshot can be taken elsewhere."""
    before = blobs(snapshot)
    apply(snapshot, tmp_path / "copy", SPEC)
    copied = contents(tmp_path / "copy")
    assert copied.keys() == contents(snapshot).keys()
    assert not any(path.is_symlink() for path in (tmp_path / "copy").rglob("*"))
    assert (tmp_path / "copy" / "onnx" / "readme.txt").read_text() == "nothing"
    assert audit(tmp_path / "copy", SPEC).exit_code == 0
    assert blobs(snapshot) == before


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("name", ["", INDEX, "model-1.safetensors"])
def test_in_place_replaces_links_and_never_blobs(snapshot: Path, name: str, follow: bool):
    """A blob is called by its content: the snapshot gets files of its own, and the report says so."""
    before = blobs(snapshot)
    options = ApplyOptions(audit=AuditOptions(follow_symlinks=follow), in_place=True)
    report = apply(snapshot / name, None, SPEC, options)
    assert blobs(snapshot) == before == {name: name for name in before}
    assert not (snapshot / "model-1.safetensors").is_symlink()
    assert (snapshot / INDEX).is_symlink()
    (said,) = (n.message for n in report.notices if n.code == "link-replaced")
    assert said.startswith("model-1.safetensors")
    assert audit(snapshot / name, SPEC).exit_code == 0


def test_an_output_that_leads_to_a_blob_is_refused(snapshot: Path, tmp_path: Path):
    """Also where links are to be followed, and something is to be replaced; and a blob by its name."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(serialised({"w": LARGE}))
    before = blobs(snapshot)
    for follow, match in ((False, "is a symbolic link"), (True, "a cache of Hugging Face")):
        options = ApplyOptions(audit=AuditOptions(follow_symlinks=follow), force=True)
        with pytest.raises(UsageError, match=match):
            apply(path, snapshot / "model-1.safetensors", SPEC, options)
    blob = (snapshot / "model-1.safetensors").resolve()
    with pytest.raises(UsageError, match=r"a cache of Hugging Face.*name the file in the snapshot"):
        apply(blob, None, SPEC, ApplyOptions(in_place=True))
    assert blobs(snapshot) == before


@pytest.mark.parametrize(
    "where", ["another repository", "beside the blobs", "a loop", "a link to a link"]
)
def test_links_that_leave_are_refused(snapshot: Path, tmp_path: Path, where: str):
    """Only what stays among the repository's own blobs is read unasked."""
    shard = snapshot / "model-2.safetensors"
    blob, repository = shard.resolve(), snapshot.parents[1]
    shard.unlink()
    if where == "another repository":
        other = tmp_path / "models--org--other" / "blobs"
        other.mkdir(parents=True)
        shard.symlink_to(blob.rename(other / blob.name))
    elif where == "beside the blobs":
        shard.symlink_to(blob.rename(repository / blob.name))
    elif where == "a loop":
        shard.symlink_to(shard.name)
    else:  # the blob itself is a link to elsewhere
        real = blob.rename(tmp_path / "elsewhere")
        blob.symlink_to(real)
        shard.symlink_to(blob)
    for path in (snapshot, snapshot / INDEX):
        with pytest.raises(RefusedError, match=r"model-2\.safetensors: is a symbolic link"):
            audit(path, SPEC)


def test_a_snapshot_can_be_attested(snapshot: Path, tmp_path: Path):
    """What was audited through links is verified through them; a link that leaves is not."""
    statement, rule = tmp_path / "statement.json", tmp_path / "spec.yaml"
    rule.write_text(json.dumps(SPEC))
    program = [sys.executable, "-m", "ckptclamp"]
    attest = [*program, "audit", snapshot, "--spec", rule, "--attest", statement, "-q"]
    assert subprocess.run(list(map(str, attest)), check=False).returncode == 1
    assert {file.match for file in verify(statement, snapshot).files} == {Match.SAME}
    shard = snapshot / "model-1.safetensors"
    (tmp_path / "elsewhere").write_bytes(shard.read_bytes())
    shard.unlink()
    shard.symlink_to(tmp_path / "elsewhere")
    found = {file.name: file.match for file in verify(statement, snapshot).files}
    assert found.pop(shard.name) is Match.UNREADABLE
    assert set(found.values()) == {Match.SAME}
