"""Applies through the Python API: what is verified before a copy appears."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from ckptclamp.applying import apply
from ckptclamp.constraints.norms import MaxNorm, MinMaxNorm
from ckptclamp.errors import NotWrittenError
from ckptclamp.spec.loader import spec_from_mapping


def test_results_are_told_apart_where_rules_share_a_name(tmp_path):
    """A rule that the copy conforms to never stands in for another one of the same name."""
    path = tmp_path / "model.safetensors"
    save_file({"w": np.full((4, 3), 5, np.float32)}, path)
    rule = {"id": "r", "tensors": "w", "constraint": "MaxNorm", "max_value": 1.0, "axis": 0}
    spec = spec_from_mapping({"version": 1, "rules": [rule]})
    small, large = MaxNorm(1.0), MinMaxNorm(2.0, 3.0)
    both = replace(spec, rules=(*spec.rules, replace(spec.rules[0], constraint=large)))
    assert str(both.rules[0].constraint) == str(small)
    with pytest.raises(NotWrittenError, match="still outside"):
        apply(path, tmp_path / "out.safetensors", both)
    assert not (tmp_path / "out.safetensors").exists()
