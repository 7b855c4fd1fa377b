"""Applies through the Python API: what is verified before a copy appears."""

from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ckptclamp.applying.apply import ApplyOptions, apply
from ckptclamp.auditing.audit import audit
from ckptclamp.auditing.options import AuditOptions
from ckptclamp.constraints.sets.norms import MaxNorm, MinMaxNorm
from ckptclamp.errors import NotWrittenError, UsageError
from ckptclamp.spec.loader import spec_from_mapping
from ckptclamp.spec.model import Units


def test_results_are_told_apart_where_rules_share_a_name(tmp_path):
    """A rule that the copy conforms to never stands in for another one of the same name."""
    path = tmp_path / "model.safetensors"
    save_file({"w": np.full((4, 3), 5, np.float32)}, path)
    rule = {"id": "r", "tensors": "w", "constraint": "MaxNorm", "max_value": 1.0, "axis": 0}
    spec = spec_from_mapping({"version": 1, "rules": [rule]})
    small, large = MaxNorm(1.0), MinMaxNorm(2.0, 3.0)
    again = replace(spec.rules[0], constraint=large, units=Units(whole=True))
    both = replace(spec, rules=(*spec.rules, again))
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


def rules(*given):
    """A spec of one rule for each pair of a constraint's arguments and an axis."""
    rules = [{"id": f"r{i}", "tensors": "w", **arguments} for i, arguments in enumerate(given)]
    return {"version": 1, "rules": rules}


MAX = {"constraint": "MaxNorm", "max_value": 2.0}
BETWEEN = {"constraint": "MinMaxNorm", "min_value": 1.0, "max_value": 9.0}


@pytest.mark.parametrize(
    ("spec", "changed", "planned"),
    [
        (rules(MAX | {"axis": 1}, BETWEEN | {"axis": 1}), (4, 4), 4),
        (rules(MAX | {"axis": 1}, MAX | {"max_value": 3.0, "axis": 1}), (4, 2), 4),
        (rules(MAX | {"axis": 1}, {"constraint": "NonNeg"}), (16, 9), 9),
        (rules(BETWEEN | {"axis": 1}, MAX | {"axis": 0}), (4, 4), 4),
    ],
)
def test_changed_units_are_those_that_differ(tmp_path, spec, changed, planned):
    """Rules that move different units add up, those that move the same do not; the smallest count."""
    path, out = tmp_path / "model.safetensors", tmp_path / "out.safetensors"
    weights = np.zeros((4, 4), np.float32)
    weights[:, 0] = [4.0, 5.0, 0.5, 0.25]
    weights[0, 1:] = [1.0, 2.0, 3.0]
    weights[1, 1:] = [1.0, 2.0, 3.0]
    weights[3, 3] = -0.125
    save_file({"w": weights}, path)
    options = ApplyOptions(allow_remaining=True)
    (change,) = apply(path, out, spec, options).changes
    copy = load_file(out)["w"]
    assert (change.units, change.changed) == changed
    differ = copy != weights
    by_unit = differ if change.units == 16 else differ.any(axis=1)
    assert np.count_nonzero(by_unit) == change.changed
    (would,) = apply(path, None, spec, replace(options, dry_run=True)).changes
    assert would.changed == planned


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (MAX | {"axis": 1}, BETWEEN | {"min_value": 3.0, "axis": 1}),
        ({"constraint": "UnitNorm", "axis": 1}, BETWEEN | {"min_value": 3.0, "axis": 1}),
        ({"constraint": "NonNeg"}, {"constraint": "Clip", "low": -3.0, "high": -1.0}),
    ],
)
def test_a_dry_run_knows_rules_that_exclude_each_other(tmp_path, first, second):
    """Intervals that do not meet are seen before a copy is made, in earnest and in a dry run."""
    path, out = tmp_path / "model.safetensors", tmp_path / "out.safetensors"
    save_file({"w": np.full((2, 4), 2.0, np.float32)}, path)
    spec = rules(first, second)
    for dry_run in (False, True):
        with pytest.raises(NotWrittenError, match=r"rules r[01] and r[01] exclude each other"):
            apply(path, out, spec, ApplyOptions(dry_run=dry_run))
    apply(path, out, spec, ApplyOptions(allow_remaining=True))
    ignore = [{"rules": "r1", "reason": "known"}]
    out.unlink()
    apply(path, out, spec | {"ignore": ignore}, ApplyOptions(dry_run=True))


def test_a_dry_run_knows_what_cannot_be_overwritten(tmp_path):
    """A dataset that was never written has no bytes; the copy would fail, and so does the trial."""
    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("w", (2, 4), np.float32, fillvalue=5.0)
    spec = rules(MAX | {"axis": 1})
    for dry_run in (False, True):
        with pytest.raises(NotWrittenError, match="no bytes of its own"):
            apply(path, tmp_path / "out.h5", spec, ApplyOptions(dry_run=dry_run))


def test_a_dry_run_looks_at_where_the_copy_would_go(tmp_path):
    """The input, what exists, and what has no directory are refused as they would be."""
    path, there = tmp_path / "model.safetensors", tmp_path / "there.safetensors"
    save_file({"w": np.full((2, 4), 5.0, np.float32)}, path)
    there.write_bytes(b"precious")
    spec = rules(MAX | {"axis": 1})
    for output in (path, there, tmp_path / "missing" / "out.safetensors"):
        with pytest.raises(UsageError):
            apply(path, output, spec, ApplyOptions(dry_run=True))
    apply(path, there, spec, ApplyOptions(dry_run=True, force=True))
    apply(path, None, spec, ApplyOptions(dry_run=True, in_place=True))
    assert there.read_bytes() == b"precious"
