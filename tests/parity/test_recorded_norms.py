"""Measured norms against norms that were summed exactly when the cases were recorded."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.constraints.base import Statistic
from ckptclamp.engine.measure import measure
from ckptclamp.engine.measure.requests import Batch, Request
from tests.parity.records import DTYPES, records

RELATIVE = 4 * np.finfo(np.float64).eps
"""Squares, their sum over at most 72 weights and its root, each rounded in float64."""


@pytest.mark.parametrize("dtype", DTYPES)
def test_measured_norms_have_float64_quality(tmp_path, dtype):
    """An audit compares norms with a bound: they must be right whatever the storage dtype."""
    cases = [record for record in records(dtype) if record.norms is not None]
    file = tmp_path / "weights.safetensors"
    save_file({f"rank{record.weights.ndim}": record.weights for record in cases}, file)
    with open_checkpoint(file) as checkpoint:
        requests = [
            Request(
                checkpoint.tensors[f"rank{record.weights.ndim}"],
                record.axes,
                frozenset({Statistic.NORM}),
            )
            for record in cases
        ]
        measured = [np.full(_kept(record.norms, record.axes).shape, np.nan) for record in cases]
        for batch in measure(checkpoint, requests):
            assert isinstance(batch, Batch)
            box = tuple(slice(*extent) for extent in batch.units)
            shape = [stop - start for start, stop in batch.units]
            measured[batch.request][box] = batch.statistics[Statistic.NORM].reshape(shape)
    for record, norms in zip(cases, measured, strict=True):
        exact = _kept(record.norms, record.axes)
        np.testing.assert_allclose(norms, exact, rtol=RELATIVE, atol=0, err_msg=str(record))


def _kept(norms, axes):
    return norms.squeeze(axis=axes)
