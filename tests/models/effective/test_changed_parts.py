"""A projection of a weight in parts: one part is written, what it then makes conforms, the rest stays."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptclamp.applying.apply import ApplyOptions, apply
from ckptclamp.auditing.audit import audit
from ckptclamp.auditing.options import AuditOptions
from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.constraints.sets.l1 import MaxL1Norm
from ckptclamp.constraints.sets.norms import MaxNorm
from ckptclamp.errors import NotWrittenError
from ckptclamp.models.effective.levels import Wanted, levels_of
from ckptclamp.models.effective.numbers import NIBBLE_TABLE
from ckptclamp.models.effective.weights import Effective
from ckptclamp.plan.parts import part_to_change
from ckptclamp.plan.tensors import computed_tensors
from tests.checkpoints.safetensors_files import serialised
from tests.models.effective.families import FAMILIES, blocks_of_float8, peft, rows_of_int8
from tests.models.effective.test_random_parts import FEW

EXACTLY = AuditOptions(tolerance=0, memory=1 << 24)


def stored(tmp_path, family, seed, shape=(32, 64)):
    """A file of random parts, and the weight that they make."""
    made = family(np.random.default_rng(seed), shape)
    return made.write(tmp_path), made.weight


def opened(path):
    """The one weight of a file, its values, and the bytes of each tensor."""
    with open_checkpoint(path) as checkpoint:
        if not checkpoint.quantisation and (path.parent / "config.json").exists():
            checkpoint.quantisation = json.loads((path.parent / "config.json").read_text())[
                "quantization_config"
            ]
        ((_, tensor),) = computed_tensors(checkpoint).items()
        weight = checkpoint.read(tensor, tuple((0, n) for n in tensor.shape))
        whole = {
            t.name: checkpoint.read(t, tuple((0, n) for n in t.shape)).tobytes()
            for t in checkpoint.tensors.values()
        }
    return tensor, weight, whole


def ruled(name, constraint, **more):
    """A spec of one rule."""
    return {"version": 1, "rules": [{"id": "r", "tensors": name, "constraint": constraint, **more}]}


@pytest.mark.parametrize("family", FAMILIES)
@FEW
@given(seed=st.integers(0, 2**32 - 1), axis=st.integers(-2, -1))
def test_norms_come_to_lie_inside_and_one_part_alone_changes(tmp_path, family, seed, axis):
    """Half of the units are too long. The others, and every other part, keep their bits."""
    path, expected = stored(tmp_path, family, seed)
    norms = np.sqrt((expected**2).sum(axis=axis))
    bound = float(np.median(norms))
    before, held, parts = opened(path)
    spec = ruled(before.name, "MaxNorm", max_value=bound, axis=axis)
    copy = tmp_path / "copy.safetensors"
    options = ApplyOptions(audit=EXACTLY, force=True)
    if part_to_change(before, MaxNorm(bound), (expected.ndim + axis,)) is None:
        # weight_norm over the other axis, DoRA, and spectral_norm.
        with pytest.raises(NotWrittenError, match=r"is ever changed|changes all of it"):
            apply(path, copy, spec, options)
        return
    report = apply(path, copy, spec, options)
    _, after, changed = opened(copy)
    now = np.sqrt((after**2).sum(axis=axis))
    assert (now <= bound * (1 + 1e-12)).all()
    fine = norms <= bound * (1 - 1e-12)
    aim, moved = np.moveaxis(held, axis, -1), np.moveaxis(after, axis, -1)
    np.testing.assert_array_equal(moved[fine], aim[fine])
    differing = {name for name in parts if parts[name] != changed[name]}
    assert report.before.results[0].violating == int((~fine).sum())
    assert len(differing) == 1
    # The direction of a unit stays, as far as its grid can say it.
    aim, moved = aim[~fine], moved[~fine]
    dot, lengths = (moved * aim).sum(axis=-1), (moved**2).sum(axis=-1) * (aim**2).sum(axis=-1)
    assert (dot > 0.9 * np.sqrt(lengths)).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("constraint", "more"),
    [
        ("Clip", {"low": -1, "high": 1}),
        ("MaxLInfNorm", {"max_value": 1, "axis": 1}),
        ("MaxL1Norm", {"max_value": 1, "axis": 1}),
        ("NonNeg", {}),
        ("UnitNorm", {"axis": 1}),
        ("MaxNonZero", {"max_nonzero": 3, "axis": 1}),
    ],
)
def test_other_sets_are_reached_or_nothing_is_written(tmp_path, family, constraint, more):
    """What was written is audited as it is stored; what the parts cannot hold is refused."""
    path, expected = stored(tmp_path, family, 3)
    scale = {
        "Clip": float(np.abs(expected).max() / 2),
        "MaxLInfNorm": float(np.abs(expected).max() / 2),
        "MaxL1Norm": float(np.median(np.abs(expected).sum(axis=1))),
    }.get(constraint)
    if scale is not None:
        more = {k: v * scale if k in ("low", "high", "max_value") else v for k, v in more.items()}
    before = opened(path)[0]
    spec = ruled(before.name, constraint, **more)
    copy = tmp_path / "copy.safetensors"
    audited = replace(EXACTLY, tolerance=0.02 if constraint == "UnitNorm" else 0)
    try:
        apply(path, copy, spec, ApplyOptions(audit=audited))
    except NotWrittenError:
        assert not copy.exists()
        return
    (result,) = audit(copy, spec, audited).results
    assert result.verdict == "pass"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_stored_weight_is_found_again(tmp_path, family):
    """What a weight is, is what it is stored as: no bit moves where nothing moves."""
    path, _ = stored(tmp_path, family, 5, (96, 32))
    with open_checkpoint(path) as checkpoint:
        ((_, tensor),) = computed_tensors(checkpoint).items()
        storage = tensor.storage
        assert isinstance(storage, Effective)
        part = storage.recoded
        if part is None:
            pytest.skip("has no element for each weight")
        name = part.name
        box = tuple((n // 3, n - n // 4) for n in tensor.shape)
        weights = checkpoint.read(tensor, box)
        for rounding in (-1, 0, 1):
            wanted = Wanted(
                weights,
                np.full(weights.shape, rounding, np.int8),
                np.ones(weights.shape, bool),
            )
            place, held = storage.recode(checkpoint.read, box, wanted)

            def read(part, asked, place=place, held=held):
                if part.name != name:
                    return checkpoint.read(part, asked)
                cut = zip(asked, place, strict=True)
                return held[tuple(slice(a - s, b - s) for (a, b), (s, _) in cut)]

            again = np.empty(weights.shape)
            storage.compute(read, tensor, box, again)
            # What an update is added to is a difference, so that it may come to the next number.
            step = 2.0**-22 * np.abs(weights).max() if family is peft else 0
            np.testing.assert_allclose(again, weights, rtol=0, atol=step)


def test_levels_round_to_the_side_that_is_asked_for():
    """4-bit floats: the next below, the nearest, the next above, and no further than there are any."""
    levels = levels_of(NIBBLE_TABLE)
    numbers = np.array([0.3, -0.3, 5.1, 9.0, -9.0, 2.0])
    for rounding, expected in (
        (-1, [0, -0.5, 4, 6, -6, 2]),
        (0, [0.5, -0.5, 6, 6, -6, 2]),
        (1, [0.5, 0, 6, 6, -6, 2]),
    ):
        wanted = Wanted(numbers, np.full(6, rounding, np.int8), np.ones(6, bool))
        np.testing.assert_array_equal(np.array(NIBBLE_TABLE)[levels.encode(wanted)], expected)


@pytest.mark.parametrize(("family", "rescaled"), [(blocks_of_float8, False), (rows_of_int8, True)])
def test_a_row_of_scales_takes_the_factor_and_a_block_of_them_does_not(tmp_path, family, rescaled):
    """A scale of 16 x 16 weights belongs to 16 rows, so codes are rounded; one of a row is multiplied."""
    path, _ = stored(tmp_path, family, 1)
    tensor = opened(path)[0]
    rows, whole, sums = (
        part_to_change(tensor, constraint, axes)
        for constraint, axes in ((MaxNorm(1), (1,)), (MaxNorm(1), (0, 1)), (MaxL1Norm(1), (0, 1)))
    )
    assert rows is not None
    assert whole is not None
    assert sums is not None
    assert (rows.rescaling is not None) is rescaled
    assert whole.rescaling is not None
    assert sums.rescaling is None


def test_a_part_that_another_rule_changed_is_measured_again(tmp_path):
    """What was measured of a factor is no longer true once the update that it makes was projected."""
    random = np.random.default_rng(0)
    factors = {"l.lora_A.weight": (4, 32), "l.lora_B.weight": (16, 4)}
    drawn = {name: random.normal(size=n).astype(np.float32) for name, n in factors.items()}
    drawn["l.lora_B.weight"] *= 5
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(serialised(drawn))
    adapter = {"peft_type": "LORA", "r": 4, "lora_alpha": 4}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    update = {"id": "u", "tensors": "l.delta_weight", "constraint": "MaxNorm", "max_value": 5}
    factor = {"id": "f", "tensors": "l.lora_B.weight", "constraint": "MaxNorm", "max_value": 3}
    rules = [update | {"axis": 1}, factor | {"axis": 1, "storage": "raw"}]
    alone, both = tmp_path / "alone.safetensors", tmp_path / "both.safetensors"
    apply(path, alone, {"version": 1, "rules": rules[:1]})
    report = apply(path, both, {"version": 1, "rules": rules})
    assert [change.tensor for change in report.changes] == ["l.delta_weight"]
    assert both.read_bytes() == alone.read_bytes()


@pytest.mark.parametrize("bound", [0.15, 0.9, 12.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_base_under_an_update_comes_inside_a_sum_and_then_stays(tmp_path, bound, seed):
    """Weights that are to be 0 are not quite that beside an update: the others make room for them."""
    random = np.random.default_rng(seed)
    shapes = {"l.weight": (12, 150), "l.lora_down.weight": (3, 150), "l.lora_up.weight": (12, 3)}
    parts = {name: random.normal(size=n).astype(np.float32) for name, n in shapes.items()}
    path = tmp_path / "model.safetensors"
    path.write_bytes(serialised(parts | {"l.alpha": np.array(2, np.float32)}))
    spec = ruled("l.weight", "MaxL1Norm", max_value=bound, axis=1)
    once, twice = tmp_path / "once.safetensors", tmp_path / "twice.safetensors"
    apply(path, once, spec, ApplyOptions(audit=EXACTLY))
    assert not apply(once, twice, spec, ApplyOptions(audit=EXACTLY)).changes
    near = MaxL1Norm(bound).nearest(opened(path)[1])
    # Half a step of the largest base weights for each of those that are to be 0, at most.
    assert np.abs(opened(once)[1] - near).max() < 150 * 2.0**-24
