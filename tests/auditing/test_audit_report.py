"""The report of an audit, word by word: what was audited, under what, and what could not be."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ckptclamp import __version__
from ckptclamp.auditing import audit as auditing
from ckptclamp.auditing.audit import audit, check_isolation
from ckptclamp.auditing.options import AuditOptions
from ckptclamp.auditing.results import FileDigest, Result, Verdict
from ckptclamp.errors import ChangedError, Notice, RefusedError, SpecError, UnreadableError
from ckptclamp.plan import Origin
from ckptclamp.spec.loader import load_spec
from ckptclamp.spec.model import Severity
from tests.checkpoints.safetensors_files import encoded, entry, write_set

FIXTURES = Path(__file__).parents[2] / "fixtures"
CONFORMING = FIXTURES / "conforming"
RULE = """\
version: 1
rules:
  - {id: bounded, tensors: '**', constraint: MaxNorm, max_value: 2, axis: 0, severity: warning}
"""


def digest(path: Path) -> str:
    """The sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two tensors, of which the second violates."""
    path = tmp_path / "model.safetensors"
    save_file({"a": np.ones((2, 3), np.float32), "b": np.full((2, 4), 9, np.float32)}, path)
    return path


def rule(**changes: object) -> dict[str, object]:
    """A spec of one rule."""
    first = {"id": "r", "tensors": "**", "constraint": "MaxNorm", "max_value": 2, "axis": 0}
    return {"version": 1, "rules": [first | changes]}


def test_what_was_audited_and_under_what(model: Path, tmp_path: Path):
    """Files, sizes, digests, the spec and the parameters bind the answer to what it is about."""
    spec = tmp_path / "constraints.yaml"
    spec.write_text(RULE)
    report = audit(model, spec)
    assert report.checkpoint.path == str(model)
    assert report.checkpoint.format == "safetensors"
    assert report.checkpoint.files == (FileDigest(str(model), model.stat().st_size, digest(model)),)
    assert report.checkpoint.tensors == 2
    assert (report.checkpoint.producer, report.checkpoint.isolation) == (None, ())
    assert (report.spec_path, report.spec_sha256) == (str(spec), digest(spec))
    assert report.parameters == {"tolerance": "auto", "strict": "false"}
    assert report.tool_version == __version__
    assert not report.strict
    assert 0 < report.seconds < 600
    assert [(r.tensor, r.verdict) for r in report.results] == [
        ("a", Verdict.PASS),
        ("b", Verdict.VIOLATION),
    ]
    assert (report.unmatched, report.notices) == ((), ())


def test_a_model_names_its_producer(tmp_path: Path):
    """A Keras file says who wrote it, and its report which walls stood around the parser."""
    report = audit(CONFORMING / "builtin_constraints.keras")
    assert report.checkpoint.producer == "keras 3.15.1"
    assert "rlimits" in report.checkpoint.isolation
    assert (report.spec_path, report.spec_sha256) == (None, None)


def test_parameters_that_change_the_answer(model: Path):
    """A laxer run must not look like the one that was asked for."""
    options = AuditOptions(tolerance=0.25, strict=True, allow_import=frozenset({"b", "a"}))
    report = audit(model, rule(), options)
    assert report.parameters == {"tolerance": "0.25", "strict": "true", "allow-import": "a,b"}
    assert report.strict
    assert {r.tolerance for r in report.results} == {0.25}


@pytest.mark.parametrize(("asked", "hashed"), [(None, True), (True, True), (False, False)])
def test_small_files_are_hashed_unless_told(model: Path, asked: bool | None, hashed: bool):
    """The digest costs nothing here; `False` leaves it out."""
    report = audit(model, rule(), AuditOptions(hash=asked))
    assert report.checkpoint.files[0].sha256 == (digest(model) if hashed else None)


@pytest.mark.parametrize(("more", "hashed"), [(0, True), (1, False)])
def test_where_hashing_is_no_longer_free(tmp_path: Path, more: int, hashed: bool):
    """Up to and including 64 MiB unasked; beyond, only where asked."""
    path, size = tmp_path / "model.safetensors", (64 << 20) + more
    length = size - 8 - 256
    header = encoded({"w": entry("I8", [length], 0, length)})[8:].ljust(256)
    path.write_bytes((256).to_bytes(8, "little") + header)
    os.truncate(path, size)
    spec = {"version": 1, "rules": [{"id": "r", "tensors": "**", "constraint": "NonNeg"}]}
    report = audit(path, spec)
    assert report.checkpoint.files[0].size == size
    assert (report.checkpoint.files[0].sha256 is not None) is hashed
    asked = audit(path, spec, AuditOptions(hash=True))
    assert asked.checkpoint.files[0].sha256 is not None


def test_every_file_of_a_set_is_named(tmp_path: Path):
    """The index and each shard, each with its own digest."""
    shards = {
        "model-00001-of-00002.safetensors": {"a": np.ones((2, 3), np.float32)},
        "model-00002-of-00002.safetensors": {"b": np.ones((2, 3), np.float32)},
    }
    index = write_set(tmp_path, shards)
    files = audit(index, rule()).checkpoint.files
    assert [file.path for file in files] == [str(index), *(str(tmp_path / name) for name in shards)]
    assert [file.sha256 for file in files] == [digest(Path(file.path)) for file in files]


def test_a_name_that_promises_another_format_is_told(model: Path):
    """A note, not a warning: what counts is the content."""
    path = model.rename(model.with_suffix(".h5"))
    assert audit(path, rule()).notices == (
        Notice("format", "named .h5 but holds safetensors", informational=True),
    )


def test_what_cannot_be_read_is_a_result_of_its_own(tmp_path: Path):
    """The tensor, the rule and its place, and the reason; no measurement."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(encoded({"w": entry("F4", [2, 2], 0, 2)}, bytes(2)))
    spec = tmp_path / "constraints.yaml"
    spec.write_text(RULE)
    (result,) = audit(path, spec).results
    assert result == Result(
        tensor="w",
        rule="bounded",
        constraint="MaxNorm(max_value=2)",
        origin=Origin.SPEC,
        verdict=Verdict.NOT_EVALUATED,
        shape=(2, 2),
        dtype="float4_e2m1fn",
        location=f"{spec}:3:5",
        severity=Severity.WARNING,
        reason="the dtype F4 cannot be read",
        reason_code="stored-unreadably",
    )


def test_what_cannot_be_bound_is_named_by_its_layer(tmp_path: Path):
    """Where no tensor is known, the layer stands for it, with a hint."""
    config = json.loads((CONFORMING / "unzipped_directory" / "config.json").read_text())
    custom = {"class_name": "Own", "config": {}, "module": "own", "registered_name": "own>Own"}
    layers = config["config"]["layers"]
    layer = next(one for one in layers if one["config"].get("kernel_constraint"))
    layer["config"]["kernel_constraint"] = custom
    report = audit(
        CONFORMING / "builtin_constraints.weights.h5", options=AuditOptions(config=config)
    )
    missing = [r for r in report.results if r.verdict is Verdict.NOT_EVALUATED]
    assert len(missing) == 1
    assert layer["config"]["name"] in missing[0].tensor
    assert (missing[0].shape, missing[0].dtype) == ((), "")
    assert (missing[0].origin, missing[0].units) == (Origin.DECLARED, 0)
    assert "Own" in (missing[0].reason or "")
    assert missing[0].hint
    assert report.exit_code == 3


def test_options_reach_the_work(model: Path):
    """How many units are kept, histograms, streamed units, progress and threads."""
    heard: list[tuple[int, ...]] = []
    steps: list[tuple[int, int]] = []
    options = AuditOptions(
        worst=1,
        histogram=True,
        jobs=1,
        progress=lambda done, total: steps.append((done, total)),
        on_unit=lambda _, unit: heard.append(unit.index),
    )
    _, result = audit(model, rule(), options).results
    assert [unit.index for unit in result.worst] == [(0,)]
    assert result.histogram is not None
    assert heard == [(0,), (1,), (2,), (3,)]
    total = 4 * (2 * 3 + 2 * 4)
    assert steps[-1] == (total, total)
    plain = audit(model, rule()).results[1]
    assert (len(plain.worst), plain.histogram) == (4, None)


def test_a_spec_may_come_in_any_form(model: Path, tmp_path: Path):
    """A path, its text, what it holds, or what was read before: one answer."""
    path = tmp_path / "constraints.yaml"
    path.write_text(RULE.replace("severity: warning", "severity: error"))
    reports = [audit(model, form) for form in (path, str(path), load_spec(path))]
    assert {report.exit_code for report in reports} == {1}
    assert audit(model, rule()).exit_code == 1
    with pytest.raises(SpecError):
        audit(model, {"version": 1, "rulez": []})


@pytest.mark.parametrize("form", ["mapping", "file"])
def test_imports_need_permission_in_every_form(model: Path, tmp_path: Path, form: str):
    """A spec names code; only the caller allows it."""
    own = {"class_name": "math:hypot", "config": {}}
    spec: object = {"version": 1, "rules": [{"id": "r", "tensors": "**", "constraint": own}]}
    if form == "file":
        (tmp_path / "c.yaml").write_text(json.dumps(spec))
        spec = tmp_path / "c.yaml"
    with pytest.raises(SpecError, match="import"):
        audit(model, spec)  # type: ignore[arg-type]
    allowed = audit(model, spec, AuditOptions(allow_import=frozenset({"math"})))  # type: ignore[arg-type]
    assert allowed.exit_code == 3  # it is imported, and turns out to project nothing


def test_a_file_that_changes_is_no_answer(model: Path, monkeypatch: pytest.MonkeyPatch):
    """What was measured must be what lies there when the report is made."""
    summarise = auditing.summarise

    def touch(*arguments):
        os.utime(model, ns=(1, 1))
        return summarise(*arguments)

    monkeypatch.setattr(auditing, "summarise", touch)
    with pytest.raises(ChangedError, match="changed"):
        audit(model, rule())


def test_links_need_permission(tmp_path: Path):
    """A set whose shard is a link elsewhere is opened only on request."""
    index = write_set(tmp_path, {"model-00001-of-00001.safetensors": {"a": np.ones((2, 3), "f4")}})
    shard = tmp_path / "model-00001-of-00001.safetensors"
    shard.rename(tmp_path / "blob")
    shard.symlink_to(tmp_path / "blob")
    with pytest.raises(RefusedError, match="symbolic link"):
        audit(index, rule())
    assert audit(index, rule(), AuditOptions(follow_symlinks=True)).exit_code == 0


def test_an_archive_with_wrong_bytes_is_no_answer(tmp_path: Path):
    """Its checksums are compared, also of members that nobody measures."""
    data = bytearray((CONFORMING / "builtin_constraints.keras").read_bytes())
    at = data.index(b"metadata.json") + 20
    data[at] ^= 1
    path = tmp_path / "model.keras"
    path.write_bytes(data)
    with pytest.raises(UnreadableError):
        audit(path)


def test_the_meant_axis_is_told_beside_the_stated_one(tmp_path: Path):
    """The figure stands in the notice of the vacuous axis, and in no other."""
    path = tmp_path / "model.safetensors"
    save_file({"w": np.ones((1, 9, 4), np.float32)}, path)
    (result,) = audit(path, rule()).results
    (notice,) = [n for n in result.notices if n.code == "degenerate-axis"]
    assert "; taken over axes [0, 1], 4 of 4 units (" in notice.message
    assert notice.message.endswith(") lie outside")
    assert (result.verdict, result.axes, result.units) == (Verdict.PASS, (0,), 36)


def test_required_isolation_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    """The missing walls, the file, and the way out."""
    monkeypatch.setattr(
        "ckptclamp.checkpoints.formats.hdf5.sandbox.missing_sandbox_layers",
        lambda: ("landlock", "seccomp"),
    )
    with pytest.raises(UnreadableError) as caught:
        check_isolation("model.h5")
    assert str(caught.value) == (
        "model.h5: was not opened: isolation is required, and this system lacks landlock, seccomp "
        "(leave out --require-isolation to open it all the same)"
    )


def test_a_rule_without_a_match_is_named(model: Path):
    """The others are judged all the same, and the answer is not theirs."""
    spec = rule(tensors="a")
    spec["rules"] = [*spec["rules"], {"id": "lost", "tensors": "z", "constraint": "NonNeg"}]  # type: ignore[misc]
    report = audit(model, spec)
    assert [unmatched.rule for unmatched in report.unmatched] == ["lost"]
    assert [r.tensor for r in report.results] == ["a"]
    assert report.exit_code == 4


def test_ignored_violations_are_suppressed(model: Path):
    """A spec's own list of what is known, with its reason."""
    known = {"tensors": "b", "reason": "known"}
    report = audit(model, rule() | {"ignore": [known]})
    assert [r.suppressed is not None for r in report.results] == [False, True]
    assert report.exit_code == 0
