"""Copies of one variable that differ are told apart from those that do not."""

from __future__ import annotations

import numpy as np
import pytest

from ckptclamp.auditing.audit import audit
from ckptclamp.auditing.comparison.drift import tied_notices
from ckptclamp.auditing.options import AuditOptions
from ckptclamp.errors import ExitCode
from tests.engine.raw import InMemory

MEMORY = 1 << 20


@pytest.fixture(scope="module")
def directory(pytestconfig):
    return pytestconfig.rootpath / "fixtures" / "shared"


def warnings(report):
    return [n for n in report.all_notices if n.code == "shared-twice" and not n.informational]


@pytest.mark.parametrize("name", ["one_layer.h5", "two_layers.h5"])
def test_nothing_is_torn(directory, name):
    """Copies that agree, and two layers of one name that need not, are no warning."""
    report = audit(directory / name, options=AuditOptions(strict=True))
    assert warnings(report) == []
    assert report.exit_code is ExitCode.OK


def test_torn_copies_are_a_warning(directory):
    """Which weights the model has depends on the order of loading; a strict gate fails."""
    report = audit(directory / "torn.h5")
    (notice,) = warnings(report)
    assert notice.tensor == "model_weights/one/twice/kernel:0"
    assert "model_weights/two/twice/kernel:0" in notice.message
    assert report.exit_code is ExitCode.OK
    strict = audit(directory / "torn.h5", options=AuditOptions(strict=True))
    assert strict.exit_code is ExitCode.VIOLATIONS


def test_only_what_is_governed_is_compared(directory):
    """Where no constraint asks about a layer, its copies are not the audit's affair."""
    rule = {"tensors": "**/bias*", "constraint": "Clip", "low": -9, "high": 9}
    spec = {"version": 1, "declared": "ignore", "rules": [rule]}
    assert warnings(audit(directory / "torn.h5", spec)) == []


def compared(one, other, memory=MEMORY):
    reader = InMemory(one=one, other=other)
    pair = (reader.tensors["one"], reader.tensors["other"])
    return [notice.message for notice in tied_notices(reader, [pair], memory, keras=True)]


def test_bits_are_compared_to_the_last():
    """In large tensors too, whose boxes are read one after another; NaN is a copy of itself."""
    one = np.full((700, 500), np.nan, np.float32)
    assert compared(one, one.copy()) == []
    other = one.copy()
    other[-1, -1] = 0
    assert len(compared(one, other)) == 1
    assert len(compared(np.zeros(3), -np.zeros(3))) == 1


@pytest.mark.parametrize(
    "other", [np.zeros((2, 3), np.float64), np.zeros((3, 2), np.float32), np.zeros(6, np.float32)]
)
def test_another_form_is_a_difference(other):
    """What has another shape or dtype is no copy, whatever its values."""
    (message,) = compared(np.zeros((2, 3), np.float32), other)
    assert "different weights" in message


def test_empty_tensors_are_alike():
    """There is nothing in them to differ."""
    assert compared(np.zeros((0, 3)), np.zeros((0, 3))) == []


def test_what_cannot_be_read_is_said():
    """No comparison is no agreement."""
    (message,) = compared(np.zeros(3, np.complex64), np.zeros(3, np.complex64))
    assert "cannot be compared" in message
