"""What a checkpoint holds, without a verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptclamp.auditing.audit import audit
from ckptclamp.auditing.inspection import inspect

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.mark.parametrize("name", ["eegnet.h5", "composite_layers.keras", "builtin_constraints.h5"])
def test_norms_are_of_the_units_that_an_audit_judges(name):
    """Depthwise kernels have other units than others: two answers about one tensor would be one lie."""
    path = FIXTURES / "violating" / name
    norms = {t.name: t.norms for t in inspect(path, norms=True).tensors}
    judged = [r for r in audit(path).results if r.axes and r.units]
    assert judged
    first = {r.tensor: r for r in reversed(judged)}
    for tensor, result in first.items():
        found = norms[tensor]
        assert found is not None
        assert (found.units, found.unit_words) == (result.units, result.unit_words)
