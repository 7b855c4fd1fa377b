"""Why something was not evaluated, by a code that programs and readers can go by."""

from __future__ import annotations

import json
import pickle

import h5py
import ml_dtypes
import numpy as np
import pytest

from ckptclamp import AuditOptions, audit, render
from ckptclamp.errors import Reason, UnreadableError
from ckptclamp.reports.catalogue import SITE, Section, anchor, explained
from tests.checkpoints.safetensors_files import serialised

RULE = {"tensors": "**", "constraint": "MaxNorm", "max_value": 9, "axis": None}
ONES = np.ones((4, 4), np.float32)


def fails(weights):
    """A constraint of one's own, which does not work."""
    raise ValueError("no weights for me")


def st(path, **arrays):
    """A safetensors file of these tensors."""
    named = {name.replace("__", "."): array for name, array in arrays.items()}
    path.write_bytes(serialised(named))
    return path


def damaged(folder):
    """A compressed dataset of which the bytes are others than the filter wrote."""
    path = folder / "m.h5"
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("w", (64, 64), "f4", chunks=(64, 64), compression="gzip")
        dataset[...] = np.arange(4096, dtype=np.float32).reshape(64, 64)
        place = dataset.id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[place : place + 64] = bytes(64)
    path.write_bytes(data)
    return path, RULE


def fortran(folder):
    """An array that NumPy stored by its columns."""
    np.savez(folder / "m.npz", w=np.asfortranarray(ONES))
    return folder / "m.npz", RULE


def adapter(folder):
    """DoRA without its base."""
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "use_dora": True}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors = {
        "l.lora_A.weight": np.ones((2, 4), np.float32),
        "l.lora_B.weight": np.ones((4, 2), np.float32),
        "l.lora_magnitude_vector.weight": np.ones(4, np.float32),
    }
    path = folder / "adapter_model.safetensors"
    path.write_bytes(serialised(tensors))
    return path, RULE


def based(folder):
    """A fine-tune with a tensor that its base has not."""
    st(folder / "base.safetensors", v=ONES)
    rule = {"tensors": "w", "constraint": "Distance", "max_value": 1, "axis": None}
    return st(folder / "m.safetensors", w=ONES), rule


def unread_config(folder):
    """A config that is cut short."""
    (folder / "config.json").write_text("{")
    return st(folder / "model.safetensors", w=np.arange(4, dtype=np.float32).reshape(2, 2)), None


CASES = {
    "read-failed": damaged,
    "stored-unreadably": fortran,
    "parts-of-an-update": adapter,
    "not-in-the-base": based,
    "config-unread": unread_config,
    "no-real-numbers": lambda f: (st(f / "m.safetensors", w=ONES > 0), RULE),
    "integers": lambda f: (st(f / "m.safetensors", w=ONES.astype(np.int16)), RULE),
    "part-of-a-weight": lambda f: (scaled(f, (2, 2)), {**RULE, "tensors": "*.weight_scale_inv"}),
    "not-computed": lambda f: (scaled(f, (3, 3)), {**RULE, "tensors": "*.weight"}),
    "memory": lambda f: (
        st(f / "m.safetensors", w=np.ones((512, 512), np.float32)),
        {"tensors": "w", "constraint": "SpectralNorm", "max_value": 1},
    ),
    "code-failed": lambda f: (
        st(f / "m.safetensors", w=ONES),
        {"tensors": "w", "constraint": {"class_name": f"{__name__}:fails"}},
    ),
}


def scaled(folder, scales):
    """Float8 with a scale for each block."""
    codes = ONES.astype(ml_dtypes.float8_e4m3fn)
    tensors = {"l.weight": codes, "l.weight_scale_inv": np.ones(scales, np.float32)}
    (folder / "m.safetensors").write_bytes(serialised(tensors))
    return folder / "m.safetensors"


@pytest.mark.parametrize("code", CASES)
def test_each_kind_has_its_code_in_every_report_that_programs_read(code, tmp_path):
    """JSON has it beside the sentence; SARIF explains it, and text names it."""
    path, rule = CASES[code](tmp_path)
    spec = {"version": 1, "rules": [rule]} if rule else {"version": 1, "preset": "health"}
    if code == "not-in-the-base":
        spec["base"] = str(tmp_path / "base.safetensors")
    allowed = frozenset({"tests"})
    report = audit(path, spec, AuditOptions(memory=1 << 20, allow_import=allowed))
    assert report.exit_code == 3
    assert {r.reason_code for r in report.results if r.reason is not None} == {code}
    assert f"= reason: {code}" in render(report, "text")
    (run,) = json.loads(render(report, "sarif"))["runs"]
    (kind,) = run["tool"]["driver"]["notifications"]
    assert kind["id"] == code
    assert kind["helpUri"] == f"{SITE}/reference/findings.html#{anchor(code)}"
    told = [n for i in run["invocations"] for n in i["toolExecutionNotifications"]]
    assert {n["descriptor"]["id"] for n in told if "descriptor" in n} == {code}
    assert {r["properties"]["reason"] for r in run["results"] if r["kind"] == "open"} == {code}


def test_a_code_of_another_version_is_shown_and_explained_by_nothing(tmp_path):
    """Reports of later releases may have reasons that are not known here."""
    path = st(tmp_path / "m.safetensors", w=ONES > 0)
    document = render(audit(path, {"version": 1, "rules": [RULE]}), "json")
    later = tmp_path / "report.json"
    later.write_text(document.replace('"no-real-numbers"', '"too-beautiful"'))
    from ckptclamp.reports.formats.json import read_report

    report = read_report(later)
    assert "= reason: too-beautiful" in render(report, "text")
    (run,) = json.loads(render(report, "sarif"))["runs"]
    assert run["tool"]["driver"]["notifications"] == []


def test_a_reason_is_a_sentence_that_survives_another_process():
    """Measurements may be made elsewhere."""
    reason = pickle.loads(pickle.dumps(Reason("memory", "needs 9 bytes")))
    assert (reason, reason.code) == ("needs 9 bytes", "memory")
    assert UnreadableError(reason).reason.code == "memory"
    assert UnreadableError("is cut").reason.code == "read-failed"
    assert set(explained(Section.REASONS)) >= set(CASES)
