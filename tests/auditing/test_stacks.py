"""Small tensors are measured many at a time, and answered to the bit as if each were by itself."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

import ckptclamp
from ckptclamp.auditing.audit import audit
from ckptclamp.auditing.options import AuditOptions
from ckptclamp.auditing.results import Verdict
from ckptclamp.auditing.verdicts import stacks as stacking
from ckptclamp.auditing.verdicts.stacks import stacks_of
from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.engine.measure import stacks
from ckptclamp.errors import UnreadableError
from ckptclamp.plan.build import build_plan
from ckptclamp.spec.loader import spec_from_mapping
from tests.checkpoints.safetensors_files import serialised

DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn]
SHAPES = [(), (5,), (4, 6), (1, 6), (3, 2, 5), (2, 3, 4, 5), (1, 1, 7)]
CONSTRAINTS = [
    {"constraint": "MaxNorm", "max_value": 2.0},
    {"constraint": "MinMaxNorm", "min_value": 0.5, "max_value": 2.0, "zero_units": "allow"},
    {"constraint": "UnitNorm"},
    {"constraint": "MinNorm", "min_value": 0.1},
    {"constraint": "MaxL1Norm", "max_value": 4.0},
    {"constraint": "CenterAround", "ref_value": 0.0, "tolerance": 0.3},
    {"constraint": "NonNeg"},
    {"constraint": "Clip", "low": -1.5, "high": 1.5},
    {"constraint": "Finite"},
    {"constraint": "MaxNonZero", "max_nonzero": 3},
]


def _tensors(rng):
    """Several of each kind, one after another and mixed, of which most conform to most rules."""
    for number in range(24):
        for dtype in DTYPES:
            for shape in SHAPES:
                values = np.asarray(rng.normal(scale=0.4, size=shape))
                match int(rng.integers(8)):
                    case 0:
                        values = values * 8
                    case 1:
                        values = np.zeros(shape)
                    case 2:
                        values = np.where(rng.random(shape) < 0.2, np.nan, values)
                    case 3:
                        # Each column of a matrix lies on the bound of 2, to the last bit.
                        values = np.zeros(shape)
                        values[(0,) * min(1, len(shape))] = 2.0
                name = f"{len(shape)}d.{np.dtype(dtype).name}.{'x'.join(map(str, shape))}.{number}"
                yield f"{name}.w", values.astype(dtype)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    path = tmp_path_factory.mktemp("mixed") / "mixed.safetensors"
    rng = np.random.default_rng(0)
    path.write_bytes(serialised(dict(_tensors(rng))))
    return path


def _spec(constraint):
    elementwise = constraint["constraint"] in ("NonNeg", "Clip", "Finite")
    rules = [{"id": f"{rank}d", "tensors": f"{rank}d.**", **constraint} for rank in range(5)]
    if not elementwise:
        for rank, rule in enumerate(rules[1:], 1):
            rule["axis"] = list(range(rank))
        rules += [
            {"id": f"{rank}d-columns", "tensors": f"{rank}d.**", **constraint, "axis": 0}
            for rank in (2, 3, 4)
        ]
        rules.append({"id": "3d-middle", "tensors": "3d.**", **constraint, "axis": 1})
    return {"version": 1, "rules": rules}


def _told(path, spec, options):
    report = audit(path, spec, options)
    return ckptclamp.render(replace(report, seconds=0.0), "json")


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=lambda c: c["constraint"])
@pytest.mark.parametrize("jobs", [1, 3])
def test_answers_are_those_of_each_tensor_by_itself(mixed, constraint, jobs, monkeypatch):
    """Counts, extremes, worst units, hints: all of the report, for every dtype and rank."""
    options = AuditOptions(jobs=jobs, worst=3, histogram=jobs == 1)
    together = _told(mixed, _spec(constraint), options)
    monkeypatch.setattr(stacks, "SMALL", 0)
    assert _told(mixed, _spec(constraint), options) == together


def test_the_health_preset_answers_alike(mixed, monkeypatch):
    """Its units are whole tensors."""
    options = AuditOptions()
    together = _told(mixed, {"version": 1, "preset": "health"}, options)
    monkeypatch.setattr(stacks, "SMALL", 0)
    assert _told(mixed, {"version": 1, "preset": "health"}, options) == together


def test_most_of_many_small_tensors_are_stacked(mixed, monkeypatch):
    """Only what does not plainly conform is measured by itself."""
    with open_checkpoint(mixed) as checkpoint:
        plan = build_plan(checkpoint, spec_from_mapping(_spec(CONSTRAINTS[8])))
        found = stacks_of(plan.assignments)
    places = [place for one in found for place in one.places]
    assert len(places) == len(set(places)) == len(plan.assignments)
    assert len(found) < len(places) / 10


def test_violating_units_are_listed_in_the_order_of_the_tensors(mixed, monkeypatch):
    """Whether tensors are stacked or not."""
    told = []
    options = AuditOptions(on_unit=lambda of, unit: told.append((of.tensor.name, unit.index)))
    audit(mixed, _spec(CONSTRAINTS[0]), options)
    together, told[:] = list(told), []
    monkeypatch.setattr(stacks, "SMALL", 0)
    audit(mixed, _spec(CONSTRAINTS[0]), options)
    assert told == together != []


def test_a_tensor_that_cannot_be_read_fails_alone(tmp_path):
    """A file that ends early is told for the tensors beyond its end, and for no others."""
    path = tmp_path / "short.safetensors"
    arrays = {f"{i}.w": np.ones((4, 4), np.float32) for i in range(40)}
    path.write_bytes(serialised(arrays))
    spec = {"version": 1, "rules": [{"tensors": "**", "constraint": "NonNeg"}]}
    with open_checkpoint(path) as checkpoint:
        plan = build_plan(checkpoint, spec_from_mapping(spec))

        class Torn:
            """Reads nothing that reaches the last ten tensors."""

            def read(self, tensor, box, buffer=None):
                parts = getattr(tensor.storage, "parts", (tensor,))
                if any(int(part.name.split(".")[0]) >= 30 for part in parts):
                    raise UnreadableError("is torn", tensor=tensor.name)
                return checkpoint.read(tensor, box, buffer)

        results = stacking_judge(Torn(), plan.assignments)
    verdicts = [result.verdict for result in results]
    assert verdicts == [Verdict.PASS] * 30 + [Verdict.NOT_EVALUATED] * 10
    assert {result.reason for result in results[30:]} == {"is torn"}


def stacking_judge(reader, assignments):
    from ckptclamp.auditing.verdicts import judge

    options = AuditOptions(jobs=1, memory=1 << 28)
    return judge(reader, assignments, options, options)


def test_stacks_read_what_lies_apart_in_few_pieces(tmp_path, monkeypatch):
    """Tensors at equal distances are one table; what lies between its columns is read past."""
    path = tmp_path / "alternating.safetensors"
    rng = np.random.default_rng(1)
    arrays = {}
    for i in range(100):
        arrays[f"{i:03}.up"] = rng.normal(size=(4, 8)).astype(np.float32)
        arrays[f"{i:03}.down"] = rng.normal(size=(8, 2)).astype(np.float32)
    path.write_bytes(serialised(arrays))
    rule = {"tensors": "*.up", "constraint": "MaxNorm", "max_value": 1e3, "axis": 1}
    with open_checkpoint(path) as checkpoint:
        plan = build_plan(checkpoint, spec_from_mapping({"version": 1, "rules": [rule]}))
        (one,) = stacks_of(plan.assignments)
        box = tuple((0, extent) for extent in one.request.tensor.shape)
        read = checkpoint.read(one.request.tensor, box)
        part = checkpoint.read(one.request.tensor, ((7, 9), (1, 3), (0, 8)))
    np.testing.assert_array_equal(read, np.stack([arrays[f"{i:03}.up"] for i in range(100)]))
    np.testing.assert_array_equal(part, read[7:9, 1:3])
    monkeypatch.setattr(stacking, "HEIGHT", 8)
    with open_checkpoint(path) as checkpoint:
        assert len(stacks_of(plan.assignments)) == 13
