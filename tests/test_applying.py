"""Applies through the Python API: what is verified before a copy appears."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from ckptclamp.applying import ApplyOptions, apply
from ckptclamp.auditing import AuditOptions, audit
from ckptclamp.constraints.norms import MaxNorm, MinMaxNorm
from ckptclamp.errors import NotWrittenError, UsageError
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


def test_a_link_is_written_through_where_that_is_asked_for(tmp_path):
    """The link stays, what it points to becomes the copy; unasked, a link is refused."""
    path, linked, link = (tmp_path / name for name in ("model.safetensors", "old", "link"))
    save_file({"w": np.full((4, 3), 5, np.float32)}, path)
    linked.write_bytes(b"old")
    link.symlink_to(linked)
    rule = {"id": "r", "tensors": "w", "constraint": "MaxNorm", "max_value": 1.0, "axis": 0}
    spec = {"version": 1, "rules": [rule]}
    with pytest.raises(UsageError, match="symbolic link"):
        apply(path, link, spec, ApplyOptions(force=True))
    follow = AuditOptions(follow_symlinks=True)
    apply(path, link, spec, ApplyOptions(audit=follow, force=True))
    assert link.is_symlink()
    assert audit(linked, spec).exit_code == 0
