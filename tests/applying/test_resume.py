"""An apply of shards that was killed goes on where it was, and never with what is not its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from ckptclamp.applying.apply import ApplyOptions, apply
from ckptclamp.applying.leftovers import clean
from ckptclamp.applying.steps.record import find_record
from ckptclamp.auditing.audit import audit
from ckptclamp.auditing.options import AuditOptions
from ckptclamp.checkpoints.directories.unfinished import RESUME, is_hidden
from ckptclamp.errors import NotWrittenError, UsageError
from tests.applying.publishing import names
from tests.checkpoints.contract import contents
from tests.checkpoints.safetensors_files import write_set

pytestmark = pytest.mark.skipif(os.name != "posix", reason="nothing else dies of SIGKILL")

RULE = {"id": "r", "tensors": "*.w", "constraint": "MaxNorm", "max_value": 1, "unit_axis": 0}
SPEC = {"version": 1, "rules": [RULE]}
RESUMED = ApplyOptions(resume=True)
SHARDS = 4

PROGRAM = """
import json, os, signal, sys
from ckptclamp.applying.apply import ApplyOptions, apply
from ckptclamp.applying.steps.record import Record
source, output, after, how, number, spec = sys.argv[1:]
add, left = Record.add, [int(after)]

def dying(record, step):
    if not left[0]:
        os.kill(os.getpid(), getattr(signal, number))
    left[0] -= 1
    add(record, step)

Record.add = dying
options = ApplyOptions(in_place=not output, resume="resume" in how)
apply(source, output or None, json.loads(spec), options)
"""


def _shard(number: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(number)
    return {
        f"{number}.w": rng.normal(size=(32, 16)).astype(np.float32),
        f"{number}.b": rng.normal(size=16).astype(np.float32),
    }


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory with four shards that violate, an index and a config."""
    folder = tmp_path / "set"
    folder.mkdir()
    write_set(folder, {f"model-{n}.safetensors": _shard(n) for n in range(SHARDS)})
    (folder / "config.json").write_text("{}")
    return folder


def stopped(
    source: Path, output: Path | None, after: int, how: str = "", number: str = "SIGKILL"
) -> None:
    """Apply, and end it by a signal when it has made one shard more than `after`."""
    arguments = [str(source), str(output or ""), str(after), how, number, json.dumps(SPEC)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], check=False, capture_output=True
    )
    assert done.returncode in (-getattr(signal, number), 128 + getattr(signal, number)), done


def _resumed(report: Any) -> str:
    return next((n.message for n in report.notices if n.code == "resumed"), "")


@pytest.mark.parametrize(
    ("in_place", "after"),
    [(False, n) for n in range(SHARDS + 1)] + [(True, n) for n in range(SHARDS)],
)
def test_what_is_done_is_taken_over(model: Path, tmp_path: Path, after: int, in_place: bool):
    """The copy, and what is told of it, are those of an undisturbed run."""
    undisturbed = apply(model, tmp_path / "whole", SPEC)
    output = None if in_place else tmp_path / "copy"
    stopped(model, output, after)
    report = apply(model, output, SPEC, ApplyOptions(resume=True, in_place=in_place))
    assert contents(output or model) == contents(tmp_path / "whole")
    assert report.changes == undisturbed.changes
    assert _resumed(report) == f"{after} files were done by a run that was interrupted" * (
        after > 0
    )
    assert report.after is not None
    assert undisturbed.after is not None
    assert [f.sha256 for f in report.after.checkpoint.files] == [
        f.sha256 for f in undisturbed.after.checkpoint.files
    ]
    assert not [name for name in (*names(tmp_path), *names(model)) if is_hidden(name)]


def test_files_that_are_done_are_not_written_again(model: Path, tmp_path: Path):
    """A kill costs the shard that the run was at."""
    stopped(model, tmp_path / "copy", 2)
    (hidden,) = [p for p in tmp_path.iterdir() if p.is_dir() and is_hidden(p.name)]
    before = {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in hidden.iterdir()}
    apply(model, tmp_path / "copy", SPEC, RESUMED)
    for name in ("model-0.safetensors", "model-1.safetensors"):
        status = (tmp_path / "copy" / name).stat()
        assert (status.st_ino, status.st_mtime_ns) == before[name]


def test_without_the_option_it_begins_anew_and_tells_what_lies_there(model: Path, tmp_path: Path):
    """As after any kill; the notice says that there is a choice."""
    stopped(model, tmp_path / "copy", 2)
    report = apply(model, tmp_path / "copy", SPEC)
    left = [n for n in report.notices if n.code == "leftover"]
    assert len(left) == 2
    assert all("--resume goes on with it" in str(n.hint) for n in left)
    assert not _resumed(report)
    assert len(clean(tmp_path / "copy")) == 2
    assert names(tmp_path) == ["copy", "set"]


def test_where_nothing_was_left_it_begins(model: Path, tmp_path: Path):
    """So that a job may always say --resume."""
    report = apply(model, tmp_path / "copy", SPEC, RESUMED)
    assert report.exit_code == 0
    assert not _resumed(report)
    assert names(tmp_path) == ["copy", "set"]


@pytest.mark.parametrize(
    ("differs", "told"),
    [
        ("shard", "the checkpoint differs: model-3.safetensors"),
        ("spec", "what is judged differs"),
        ("tolerance", "an option differs: tolerance"),
        ("release", "the release of ckptclamp differs"),
    ],
)
def test_other_work_is_not_resumed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, differs: str, told: str
):
    """What differs is told; nothing that was done is lost by asking."""
    stopped(model, tmp_path / "copy", 2)
    spec, options = SPEC, RESUMED
    match differs:
        case "shard":
            os.utime(model / "model-3.safetensors", ns=(1, 1))
        case "spec":
            spec = {"version": 1, "rules": [{**RULE, "max_value": 2}]}
        case "tolerance":
            options = ApplyOptions(resume=True, audit=AuditOptions(tolerance=0.1))
        case "release":
            monkeypatch.setattr("ckptclamp.applying.steps.__version__", "0.0.1")
    before = names(tmp_path)
    with pytest.raises(UsageError, match=told) as refused:
        apply(model, tmp_path / "copy", spec, options)
    assert "leave out --resume" in str(refused.value.hint)
    assert names(tmp_path) == before


def test_a_file_that_is_not_as_it_was_is_made_again(model: Path, tmp_path: Path):
    """The digest decides, not the name."""
    apply(model, tmp_path / "whole", SPEC)
    stopped(model, tmp_path / "copy", 3)
    (hidden,) = [p for p in tmp_path.iterdir() if p.is_dir() and is_hidden(p.name)]
    damaged = bytearray((hidden / "model-1.safetensors").read_bytes())
    damaged[-1] ^= 1
    (hidden / "model-1.safetensors").write_bytes(damaged)
    (hidden / "model-2.safetensors").write_bytes(damaged + b"more")
    (hidden / "stranger").write_bytes(b"?")
    report = apply(model, tmp_path / "copy", SPEC, RESUMED)
    assert _resumed(report).startswith("1 files")
    assert contents(tmp_path / "copy") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    "line",
    [
        b'{"todo": "", "files": [',
        b"[]",
        b"not JSON",
        b'{"todo": "", "files": [{"name": "../x", "where": "..", "size": 1, "sha256": ""}], '
        b'"written": [], "changes": []}',
        b'{"todo": 1, "files": [], "written": [1], "changes": []}',
    ],
)
def test_a_record_is_read_as_untrusted(model: Path, tmp_path: Path, line: bytes):
    """A line that is torn or says what it must not is none; what stands before it may count."""
    stopped(model, tmp_path / "copy", 2)
    (record,) = [p for p in tmp_path.iterdir() if is_hidden(p.name, RESUME)]
    record.write_bytes(record.read_bytes() + line + (b"" if line.endswith(b"[") else b"\n"))
    report = apply(model, tmp_path / "copy", SPEC, RESUMED)
    assert report.exit_code == 0
    assert names(tmp_path / "copy") == names(model)


def test_a_record_that_names_a_directory_elsewhere_is_none(model: Path, tmp_path: Path):
    """Nothing outside of what this program made is touched."""
    stopped(model, tmp_path / "copy", 2)
    (record,) = [p for p in tmp_path.iterdir() if is_hidden(p.name, RESUME)]
    head, *rest = record.read_text().splitlines()
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(model, elsewhere)
    record.write_text(
        "\n".join([json.dumps({**json.loads(head), "directory": "elsewhere"}), *rest]) + "\n"
    )
    assert find_record(tmp_path, "copy") is None
    apply(model, tmp_path / "copy", SPEC, RESUMED)
    assert contents(elsewhere) == contents(model)


def test_a_run_that_is_at_work_is_not_resumed(model: Path, tmp_path: Path):
    """Two runs never write one copy."""
    stopped(model, tmp_path / "copy", 2)
    found = find_record(tmp_path, "copy")
    assert found is not None
    with pytest.raises(NotWrittenError, match="another run is at work"):
        apply(model, tmp_path / "copy", SPEC, RESUMED)
    found.record.close()
    assert apply(model, tmp_path / "copy", SPEC, RESUMED).exit_code == 0


@pytest.mark.parametrize("in_place", [False, True])
def test_a_run_that_may_be_resumed_leaves_what_it_did_when_it_is_told_to_stop(
    model: Path, tmp_path: Path, in_place: bool
):
    """As schedulers do; one that may not be resumed tidies up."""
    output = None if in_place else tmp_path / "copy"
    stopped(model, output, 2, number="SIGTERM")
    assert not [name for name in (*names(tmp_path), *names(model)) if is_hidden(name)]
    stopped(model, output, 2, how="resume", number="SIGTERM")
    report = apply(model, output, SPEC, ApplyOptions(resume=True, in_place=in_place))
    assert _resumed(report).startswith("2 files")
    assert audit(output or model, SPEC).exit_code == 0


def test_what_is_refused_before_a_shard_is_made_leaves_nothing(model: Path, tmp_path: Path):
    """There is nothing that a later run could go on with."""
    rule = {"tensors": "*.w", "constraint": "MinNorm", "min_value": 2, "unit_axis": 0}
    spec = {"version": 1, "rules": [RULE, rule]}
    with pytest.raises(NotWrittenError, match="exclude"):
        apply(model, tmp_path / "out", spec, RESUMED)
    assert names(tmp_path) == [model.name]


def test_shards_that_one_weight_is_computed_from_are_made_together(tmp_path: Path):
    """Codes and their scales may lie in two shards: a projection reads one and writes the other."""
    folder = tmp_path / "set"
    folder.mkdir()
    rng = np.random.default_rng(3)
    codes = rng.normal(size=(64, 64)).astype(ml_dtypes.float8_e4m3fn)
    write_set(
        folder,
        {
            "model-0.safetensors": {"a.weight": codes},
            "model-1.safetensors": _shard(1),
            "model-2.safetensors": {"a.weight_scale": np.full((64, 1), 0.5, np.float32)},
            "model-3.safetensors": _shard(3),
        },
    )
    rules = [
        {"id": r, "tensors": t, "constraint": "MaxNorm", "max_value": 1, "unit_axis": 0}
        for r, t in (("computed", "a.weight"), ("plain", "*.w"))
    ]
    spec = {"version": 1, "rules": rules}
    whole = apply(folder, tmp_path / "whole", spec)
    assert whole.exit_code == 0
    arguments = [str(folder), str(tmp_path / "copy"), "2", "", "SIGKILL", json.dumps(spec)]
    subprocess.run([sys.executable, "-c", PROGRAM, *arguments], check=False, capture_output=True)
    report = apply(folder, tmp_path / "copy", spec, RESUMED)
    assert _resumed(report).startswith("3 files")
    assert contents(tmp_path / "copy") == contents(tmp_path / "whole")
    assert report.changes == whole.changes


def test_one_file_begins_anew(tmp_path: Path):
    """A copy of a single file has no steps."""
    folder = tmp_path / "set"
    folder.mkdir()
    write_set(folder, {"model.safetensors": _shard(0)})
    report = apply(folder / "model.safetensors", tmp_path / "copy.safetensors", SPEC, RESUMED)
    assert report.exit_code == 0
