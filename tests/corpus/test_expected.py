"""Real checkpoints of public projects: nothing that they declare is violated, until we damage them.

They are not part of the repository: `CKPTCLAMP_CORPUS` names the folder, whose ``EXPECTED.tsv`` says
of each declared constraint which tensor it governs and what was measured there.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ckptclamp import audit
from ckptclamp.auditing.results import AuditReport, Result, Verdict

CORPUS = os.environ.get("CKPTCLAMP_CORPUS")
WEIGHT_CLIP = {
    "version": 1,
    "custom_objects": {"WeightClip": {"constraint": "Clip", "low": -0.499, "high": 0.499}},
}
"""What rnnoise's own class means: its config holds only the name and ``c: 0.499``."""

pytestmark = pytest.mark.skipif(
    not CORPUS, reason="CKPTCLAMP_CORPUS is not set to a folder of real checkpoints"
)


@dataclass(frozen=True)
class Declared:
    """One row: a constraint that a file declares, the tensor under it, and what was measured."""

    tensor: str
    layer: str
    class_name: str
    measured: dict[str, Any]

    @property
    def custom(self) -> bool:
        return self.class_name == "WeightClip"


def _expected() -> dict[str, list[Declared]]:
    files: dict[str, list[Declared]] = defaultdict(list)
    if CORPUS:
        with (Path(CORPUS) / "EXPECTED.tsv").open(newline="") as table:
            for row in csv.DictReader(table, delimiter="\t"):
                constraint = json.loads(row["constraint"])
                files[row["path"]].append(
                    Declared(
                        row["tensor"],
                        row["layer"],
                        constraint["class_name"],
                        json.loads(row["measured"]),
                    )
                )
    return dict(files)


EXPECTED = _expected()
WITH_NORMS = [path for path, rows in EXPECTED.items() if not any(row.custom for row in rows)]


def result_for(report: AuditReport, row: Declared) -> Result:
    """The one result about the tensor of a row, whatever group the format puts it in."""
    found = [r for r in report.results if r.tensor.endswith(f"/{row.tensor}")]
    assert len(found) == 1, f"{row.tensor}: {[r.tensor for r in found]}"
    return found[0]


@pytest.mark.parametrize("path", EXPECTED)
def test_no_declared_constraint_is_violated(path):
    """A finding on a file that its framework kept within bounds is a false alarm."""
    report = audit(Path(CORPUS or "") / path, WEIGHT_CLIP)
    assert report.exit_code == 0
    assert len(report.results) == len(EXPECTED[path])
    for row in EXPECTED[path]:
        result = result_for(report, row)
        assert result.verdict is Verdict.PASS, result
        if row.custom:
            extremes = (abs(result.measured_min or 0.0), abs(result.measured_max or 0.0))
            assert max(extremes) == row.measured["maxabs"]
        else:
            assert result.units == row.measured["n"]
            assert result.measured_max == pytest.approx(row.measured["max_norm"], rel=1e-12)


@pytest.mark.parametrize("path", EXPECTED)
def test_custom_constraints_are_not_guessed(path):
    """What a user's own class means is not in the file, so without a spec it is not evaluated."""
    report = audit(Path(CORPUS or "") / path)
    for row in EXPECTED[path]:
        custom = [
            r
            for r in report.results
            if r.verdict is Verdict.NOT_EVALUATED and row.class_name in r.constraint
        ]
        if row.custom:
            assert custom
            assert report.exit_code == 3
        else:
            assert not custom
            assert result_for(report, row).verdict is Verdict.PASS


@pytest.mark.parametrize("path", WITH_NORMS)
def test_a_damaged_copy_violates_where_it_was_damaged(tmp_path, path):
    """A pass on real files means something only if one bad unit in them would have been found."""
    for row in EXPECTED[path]:
        copy = tmp_path / Path(path).name
        shutil.copyfile(Path(CORPUS or "") / path, copy)
        before = result_for(audit(copy), row)
        unit = _enlarge_a_unit(copy, before, 10 * row.measured["limit"])
        report = audit(copy)
        assert report.exit_code == 1
        violations = [r for r in report.results if r.verdict is Verdict.VIOLATION]
        assert [r.tensor for r in violations] == [before.tensor]
        assert violations[0].violating == 1
        assert [worst.index for worst in violations[0].worst] == [unit]
        assert violations[0].worst[0].measured == pytest.approx(
            10 * row.measured["limit"], rel=1e-6
        )


def _enlarge_a_unit(path: Path, result: Result, norm: float) -> tuple[int, ...]:
    """Give the unit with the largest norm another norm, and return its coordinates."""
    if not zipfile.is_zipfile(path):
        with h5py.File(path, "r+") as file:
            return _enlarge(file[result.tensor], result.axes, norm)
    with zipfile.ZipFile(path) as archive:
        members = [(member, archive.read(member)) for member in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members:
            if member.filename == "model.weights.h5":
                weights = io.BytesIO(content)
                with h5py.File(weights, "r+") as file:
                    unit = _enlarge(file[result.tensor], result.axes, norm)
                archive.writestr(member, weights.getvalue())
            else:
                archive.writestr(member, content)
    return unit


def _enlarge(dataset: h5py.Dataset, axes: tuple[int, ...], norm: float) -> tuple[int, ...]:
    values = dataset[()]
    norms = np.sqrt(np.sum(values.astype(np.float64) ** 2, axis=axes))
    unit = tuple(int(i) for i in np.unravel_index(np.argmax(norms), norms.shape))
    factor = np.ones_like(norms)
    factor[unit] = norm / norms[unit]
    dataset[...] = values * np.expand_dims(factor, axes)
    return unit
