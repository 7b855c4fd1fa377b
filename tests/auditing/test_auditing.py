"""Audits through the Python API: what is judged, what is told, and what is never taken for a pass."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ckptclamp.auditing.audit import audit
from ckptclamp.auditing.options import AuditOptions
from ckptclamp.auditing.results import Verdict
from ckptclamp.auditing.verdicts import Tally
from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.engine.measure import measure
from ckptclamp.engine.measure.requests import Request
from ckptclamp.errors import UnreadableError, UsageError
from ckptclamp.plan.build import build_plan
from ckptclamp.spec.loader import spec_from_mapping
from tests.checkpoints.keras_files import members, pack, weights

MAX_NORM = {
    "version": 1,
    "rules": [
        {"id": "r", "tensors": "w", "constraint": "MaxNorm", "max_value": 2.0, "axis": 0},
    ],
}


@pytest.fixture
def vacuous(tmp_path):
    """A kernel whose stated axis has one weight: as stated it conforms, as meant it does not."""
    path = tmp_path / "vacuous.safetensors"
    save_file({"w": np.ones((1, 9, 4), np.float32)}, path)
    return path


def test_units_of_what_was_only_supposed_are_not_streamed(vacuous):
    """The axis that was probably meant is measured for a notice; its units violate nothing."""
    heard = []
    options = AuditOptions(on_unit=lambda _, unit: heard.append(unit))
    report = audit(vacuous, MAX_NORM, options)
    (result,) = report.results
    assert result.verdict is Verdict.PASS
    assert "4 of 4 units" in result.notices[0].message
    assert heard == []


def test_a_unit_that_was_not_measured_is_no_pass(vacuous):
    """Were a block ever lost on its way, the tensor would count as not evaluated."""
    with open_checkpoint(vacuous) as checkpoint:
        (assignment,) = build_plan(checkpoint, spec_from_mapping(MAX_NORM)).assignments
        tally = Tally(assignment)
        wanted = Request(assignment.tensor, assignment.axes, assignment.constraint.needs)
        for piece in measure(checkpoint, [wanted]):
            tally.add(piece)
        assert tally.result().verdict is Verdict.PASS
        one_more = replace(assignment, tensor=replace(assignment.tensor, shape=(1, 10, 4)))
        tally.assignment = one_more
    assert tally.result().verdict is Verdict.NOT_EVALUATED
    assert tally.result().reason == "36 of 40 units were measured"


def test_a_config_that_is_refused_leaves_nothing_open(vacuous):
    """A long-lived program that asks in vain keeps no descriptor for it."""
    before = len(list(Path("/dev/fd").iterdir()))
    with pytest.raises(UsageError, match="only a Keras file"):
        audit(vacuous, MAX_NORM, AuditOptions(config={"class_name": "Sequential"}))
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_a_descriptor_never_travels_to_another_process(vacuous):
    """There its number may stand for another file, whose numbers would be judged instead."""
    with open_checkpoint(vacuous) as checkpoint, pytest.raises(TypeError, match="open in this"):
        pickle.dumps(checkpoint.sources[0])


def test_work_runs_on_any_pool_of_threads(vacuous):
    """Whoever has threads of their own lends them, and gets the same answer."""
    with ThreadPoolExecutor(3) as pool:
        lent = audit(vacuous, MAX_NORM, AuditOptions(executor=pool))
    assert lent.results == audit(vacuous, MAX_NORM).results


def test_damage_outside_of_the_weights_is_noticed(tmp_path):
    """A member of an archive that is no weights is compared with its checksum, too."""
    kernel = weights({"dense": np.ones(4, np.float32)})
    path = pack(tmp_path / "model.keras", members(kernel) | {"assets/words": b"sound"})
    rule = {"id": "r", "tensors": "**", "constraint": "NonNeg"}
    spec = {"version": 1, "rules": [rule]}
    assert audit(path, spec).exit_code == 0
    path.write_bytes(path.read_bytes().replace(b"sound", b"sOund"))
    with pytest.raises(UnreadableError, match="checksum"):
        audit(path, spec)


def test_weights_without_their_config_are_told(tmp_path):
    """Declarations that were to be audited and are not there are told of, whatever rules there are."""
    path = tmp_path / "model.weights.h5"
    path.write_bytes(weights({"dense": np.ones(4, np.float32)}))
    report = audit(path)
    assert report.exit_code == 4
    assert [notice.code for notice in report.notices] == ["no-config"]
    rule = {"id": "r", "tensors": "**", "constraint": "NonNeg"}
    spec = {"version": 1, "rules": [rule]}
    report = audit(path, spec, AuditOptions(strict=True))
    assert [notice.code for notice in report.notices] == ["no-config"]
    assert report.exit_code == 0
    assert audit(path, {**spec, "declared": "ignore"}).notices == ()
