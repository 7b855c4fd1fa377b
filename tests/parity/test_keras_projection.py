"""The projection named `keras` against what real Keras returned, over recorded cases.

Keras computes in the storage dtype. ckptclamp takes norms and factors in float64; a copy then rounds
the factor and the product, as Keras does. Every operation of Keras' formula rounds: the sum of
squares (in an order that belongs to the backend), its square root, the quotient, the product, and
with a `rate` two products and a sum more. Each rounding is at most half an ulp, and weighs up to
twice as much where a result lies just above a power of two; most of them cancel. Over the recorded
cases that comes to the figures below, and to no more.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from ckptclamp import apply
from ckptclamp.applying.apply import ApplyOptions
from ckptclamp.constraints.base import Statistic, Transform, UnitStatistics
from ckptclamp.constraints.sets.norms import MinMaxNorm, UnitNorm
from ckptclamp.spec.model import Projection
from tests.parity.records import BACKENDS, DTYPES, Record, records
from tests.parity.ulps import ulps_apart

ALLOWED_ULPS = {"float16": 3, "bfloat16": 3, "float32": 4, "float64": 3}
EACH = [(dtype, backend) for dtype in DTYPES for backend in BACKENDS]


def projected(record: Record) -> NDArray[Any]:
    """Project with statistics in float64, taken by the plainest NumPy, and round once."""
    wide = record.weights.astype(np.float64)
    norms = wide if record.norms is None else record.norms
    statistics = UnitStatistics(
        size=record.weights.size // norms.size,
        values={Statistic.NORM: norms.ravel(), Statistic.MIN: wide.ravel()},
        nonfinite=np.zeros(norms.size, dtype=np.int64),
    )
    transform = record.constraint.project_keras(statistics)
    assert isinstance(transform, Transform)
    scale = np.broadcast_to(transform.scale, norms.size).reshape(norms.shape)
    result = np.clip(wide * scale + transform.shift, transform.low, transform.high)
    stored: NDArray[Any] = result.astype(record.weights.dtype)
    return stored


def overflows_in_keras(record: Record) -> NDArray[np.bool_]:
    """Where float16 Keras divides a positive minimum by its epsilon alone: zero units.

    0.5 / 1e-7 is beyond float16, and infinity times 0 is NaN.
    """
    if record.weights.dtype != np.float16 or not isinstance(record.constraint, MinMaxNorm):
        return np.zeros(record.weights.shape, dtype=np.bool_)
    assert record.norms is not None
    return np.broadcast_to(record.norms == 0, record.weights.shape)


def assert_as_in_keras(record: Record, backend: str, ours: NDArray[Any]) -> None:
    """Hold `ours` to what Keras returned on `backend`, within `ALLOWED_ULPS`."""
    theirs = record.outputs[backend]
    unbounded = isinstance(record.constraint, UnitNorm)
    if backend == "torch" and ours.dtype == np.float64 and not unbounded:
        # On this backend Keras turns the numbers 0 and max_value into float32 tensors, and a
        # float64 weight that meets them loses its last digits.
        ours, theirs = ours.astype(np.float32), theirs.astype(np.float32)
    apart = ulps_apart(ours, theirs)[~overflows_in_keras(record)]
    assert apart.max(initial=0) <= ALLOWED_ULPS[ours.dtype.name], str(record)


@pytest.mark.parametrize(("dtype", "backend"), EACH)
def test_every_recorded_case_comes_out_as_in_keras(dtype, backend):
    """Who compares a projected copy with training must find what training would have made."""
    for record in records(dtype):
        assert_as_in_keras(record, backend, projected(record))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_keras_copy_holds_what_keras_returned(tmp_path, dtype):
    """The same from file to file: units, blocks and storage add nothing to the formula."""
    files: dict[int, list[Record]] = defaultdict(list)
    met: Counter[bytes] = Counter()
    for record in records(dtype):  # equal weights in one file would be tied
        files[met[record.weights.tobytes()]].append(record)
        met[record.weights.tobytes()] += 1
    for number, found in files.items():
        _assert_copied(tmp_path, f"{number}", found)


def _assert_copied(directory: Path, stem: str, found: Sequence[Record]) -> None:
    cases = {f"case{number}": record for number, record in enumerate(found)}
    source, target = directory / f"{stem}.safetensors", directory / f"{stem}-copy.safetensors"
    save_file({name: record.weights for name, record in cases.items()}, source)
    rules = [{"id": name, "tensors": name, **_rule(record)} for name, record in cases.items()]
    options = ApplyOptions(projection=Projection.KERAS, allow_remaining=True)
    apply(source, target, {"version": 1, "rules": rules}, options)
    written = load_file(target)
    for name, record in cases.items():
        for backend in BACKENDS:
            assert_as_in_keras(record, backend, written[name])
        assert (written[name][overflows_in_keras(record)] == 0).all()


def _rule(record: Record) -> dict[str, Any]:
    """A rule with the constraint as Keras serialises it."""
    config = record.constraint.get_config() | ({"axis": list(record.axes)} if record.axes else {})
    return {"constraint": {"class_name": type(record.constraint).__name__, "config": config}}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_zero_unit_stays_zero_where_float16_keras_makes_nan(backend):
    """The one deliberate difference: overflow of Keras' epsilon in float16 is not copied."""
    cases = [(record, overflows_in_keras(record)) for record in records("float16")]
    assert any(zero.any() for _, zero in cases)
    for record, zero in cases:
        assert np.isnan(record.outputs[backend][zero]).all()
        assert (projected(record)[zero] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_records_cover_every_constraint_rank_and_kind_of_axis(dtype):
    """A record that lost its cases must not let the comparison pass with nothing compared."""
    found = records(dtype)
    kinds = {(type(r.constraint).__name__, r.weights.ndim) for r in found}
    assert kinds == {
        (name, rank)
        for name in ("MaxNorm", "MinMaxNorm", "UnitNorm", "NonNeg")
        for rank in range(1, 6)
    }
    assert {len(r.axes) for r in found} == {0, 1, 2, 3, 4, 5}
    rates = {r.constraint.rate for r in found if isinstance(r.constraint, MinMaxNorm)}
    assert rates == {0.5, 1.0}
