"""What a progress bar is told: it must grow, and end at the end."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from safetensors.numpy import save_file

from ckptclamp.applying.apply import ApplyOptions, apply
from ckptclamp.auditing.audit import audit
from ckptclamp.auditing.options import AuditOptions
from ckptclamp.engine.executors import Meter

SPEC = {
    "version": 1,
    "rules": [{"tensors": "big", "constraint": "MaxNorm", "max_value": 1.0, "unit_axis": 0}],
}


@pytest.fixture
def model(tmp_path):
    """One tensor of 24 MB, which takes several reads."""
    path = tmp_path / "model.safetensors"
    save_file({"big": np.ones((6000, 1000), np.float32)}, path)
    return path


def passes(calls):
    """The calls of each pass over the weights; a new pass begins where the numbers fall."""
    found = [[calls[0]]]
    for before, call in pairwise(calls):
        if call[0] < before[0]:
            found.append([])
        found[-1].append(call)
    return found


def test_an_audit_tells_how_far_it_is(model):
    """The bytes of one large tensor add up to its size, in several steps."""
    calls = []
    audit(model, SPEC, AuditOptions(progress=lambda *call: calls.append(call)))
    (only,) = passes(calls)
    assert len(only) > 1
    assert only[-1] == (24_000_000, 24_000_000)


def test_an_apply_tells_of_every_pass(model, tmp_path):
    """Measuring, projecting and verifying each go from the first byte to the last."""
    calls = []
    options = AuditOptions(progress=lambda *call: calls.append(call))
    apply(model, tmp_path / "copy.safetensors", SPEC, ApplyOptions(audit=options))
    found = passes(calls)
    assert len(found) == 3
    assert [steps[-1] for steps in found] == [(24_000_000, 24_000_000)] * 3


def test_work_that_is_done_again_counts_once():
    """Rules that take turns pass over a tensor more than once; a bar never exceeds its end."""
    calls = []
    meter = Meter(lambda *call: calls.append(call), 10)
    for more in (4, 4, 4):
        meter.add(more)
    assert calls == [(4, 10), (8, 10), (10, 10)]
