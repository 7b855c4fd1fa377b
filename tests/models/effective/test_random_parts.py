"""Parts with random content, of every family that has a formula: the weight, and its worst unit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptclamp.auditing.audit import audit
from ckptclamp.auditing.options import AuditOptions
from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.constraints.base import Statistic
from ckptclamp.engine.blocks import grid_of
from ckptclamp.engine.measure import measure
from ckptclamp.engine.measure.requests import Batch, Request
from ckptclamp.models.effective.offers import BUILDERS
from ckptclamp.models.families import find_parts
from ckptclamp.plan.tensors import computed_tensors
from tests.models.effective.families import FAMILIES, awq, gptq, mxfp4

SOME = settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
FEW = settings(SOME, max_examples=6)
"""Of what takes many runs of the program."""

SIZES = st.sampled_from([(32, 64), (96, 32), (320, 384)])
"""Outputs and inputs; the last takes several pieces."""


@pytest.mark.parametrize("family", FAMILIES)
@SOME
@given(data=st.data())
def test_random_parts_make_the_weight_and_its_worst_unit(tmp_path, family, data):
    """What one line of NumPy makes of whole arrays is what is read in boxes and judged.

    The bound lies between the longest unit and the next, so that there is one violation to be found.
    """
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    made = family(random, data.draw(SIZES))
    path, expected = made.write(tmp_path), made.weight
    cuts = [data.draw(st.sets(st.integers(0, n), min_size=2, max_size=2)) for n in expected.shape]
    box = tuple((min(ends), max(ends)) for ends in cuts)
    with open_checkpoint(path) as checkpoint:
        ((name, tensor),) = computed_tensors(checkpoint).items()
        found = checkpoint.read(tensor, box)
    part = expected[tuple(slice(*span) for span in box)]
    np.testing.assert_allclose(found, part, rtol=1e-11, atol=1e-13 * np.abs(expected).max())
    axis = data.draw(st.integers(0, expected.ndim - 1))
    norms = np.sqrt((expected**2).sum(axis=axis))
    second, largest = np.sort(norms, axis=None)[-2:]
    rule = {"id": "r", "tensors": name, "constraint": "MaxNorm", "axis": axis}
    spec = {"version": 1, "rules": [rule | {"max_value": float(second + (largest - second) / 2)}]}
    (result,) = audit(path, spec, AuditOptions(tolerance=0, memory=1 << 22)).results
    assert result.measured_max == pytest.approx(largest, rel=1e-12)
    if largest > second * (1 + 1e-12):
        assert result.violating == 1
        assert result.worst[0].index == np.unravel_index(norms.argmax(), norms.shape)


def test_every_family_that_is_computed_is_among_those_of_these_tests(tmp_path):
    """A new formula gets random parts, planted corruption and projections with it."""
    found = set()
    for family in FAMILIES:
        with open_checkpoint(family(np.random.default_rng(0), (32, 64)).write(tmp_path)) as opened:
            found |= {part.family for part in find_parts(opened.tensors).values()}
    assert found == set(BUILDERS)


@pytest.mark.parametrize("family", [gptq, awq, mxfp4])
@pytest.mark.parametrize("axes", [(-1,), (-2,), (-2, -1)])
def test_boxes_of_what_is_stored_inputs_first_are_runs_of_it_and_meet_each_weight_once(
    tmp_path, family, axes
):
    """Whatever the units are, a box is as tall as it can be; units that lie in several become whole."""
    made = family(np.random.default_rng(0), (96, 320))
    with open_checkpoint(made.write(tmp_path)) as checkpoint:
        ((_, tensor),) = computed_tensors(checkpoint).items()
        reduced = tuple(axis % len(tensor.shape) for axis in axes)
        for block in (1 << 10, 1 << 12, 1 << 20):
            grid = grid_of(tensor, reduced, block)
            seen = np.zeros(tensor.shape, int)
            for box in map(grid.box, range(len(grid))):
                seen[tuple(slice(*span) for span in box)] += 1
            assert (seen == 1).all()
            request = Request(tensor, reduced, frozenset({Statistic.NORM}))
            found = [
                batch.statistics[Statistic.NORM]
                for batch in measure(checkpoint, [request], block=block)
                if isinstance(batch, Batch)
            ]
            expected = np.sqrt((made.weight**2).sum(axis=reduced)).reshape(-1)
            np.testing.assert_allclose(
                np.sort(np.concatenate(found)), np.sort(expected), rtol=1e-12
            )
