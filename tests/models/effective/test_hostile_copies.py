"""Copies of parts of any content: a conforming one, or none and a clear reason."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptclamp.applying.apply import ApplyOptions, apply
from ckptclamp.auditing.audit import audit
from ckptclamp.auditing.options import AuditOptions
from ckptclamp.errors import CkptclampError
from ckptclamp.models.parts import FAMILIES
from tests.checkpoints.safetensors_files import serialised
from tests.models.effective.test_hostile_parts import ANY, SHAPES, random_part

RULES = st.sampled_from(
    [
        {"constraint": "MaxNorm", "max_value": 1e-3, "axis": None},
        {"constraint": "UnitNorm", "unit_axis": 0},
        {"constraint": "Clip", "low": -0.25, "high": 0.5},
        {"constraint": "MaxL1Norm", "max_value": 2, "axis": -1},
    ]
)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@ANY
@given(data=st.data())
def test_any_parts_are_copied_so_that_they_conform_or_not_at_all(tmp_path, family, data):
    """No traceback, and nothing that the audit of the copy does not pass."""
    base = data.draw(SHAPES)
    arrays = {}
    for ending, (_, dtypes) in family.parts.items():
        stem = "l.weight" if not ending or ending[0] in "._:" else "l."
        arrays[f"{stem}{ending}"] = (
            np.abs(part)
            if _is_scale(part := random_part(data, ending, dtypes, base), ending)
            else part
        )
    path, copy = tmp_path / "model.safetensors", tmp_path / "copy.safetensors"
    path.write_bytes(serialised(arrays))
    copy.unlink(missing_ok=True)
    spec = {"version": 1, "rules": [{"id": "r", "tensors": "l.**", **data.draw(RULES)}]}
    options = AuditOptions(memory=1 << 24)
    try:
        apply(path, copy, spec, ApplyOptions(audit=options))
    except CkptclampError:
        assert not copy.exists()
        return
    assert audit(copy, spec, options).exit_code == 0


def _is_scale(part, ending):
    """Whether a part is made positive, so that some weights come to be computed."""
    return "scale" in ending and part.dtype.kind == "f"
