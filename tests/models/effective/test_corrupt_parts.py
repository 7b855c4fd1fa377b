"""Parts of every family with one thing wrong: never a pass, and never a copy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ckptclamp.applying.apply import ApplyOptions, apply
from ckptclamp.auditing.audit import audit
from ckptclamp.auditing.options import AuditOptions
from ckptclamp.errors import CkptclampError
from tests.models.effective import families
from tests.models.effective.families import FAMILIES
from tests.models.effective.test_random_parts import FEW

SEEDS = st.integers(0, 2**32 - 1)
SHAPE = (64, 128)
EVERYTHING = {"id": "r", "tensors": "**", "constraint": "MaxNorm", "max_value": 1e30, "axis": None}
EXPONENTS = ("packed_exponents", "rows_of_float8", "compressed_mxfp4", "mxfp4")
"""Families whose scales are exponents, of which one stands for NaN and none for an infinity."""

OPTIONAL = ("input_scale", "scale_input", "weight_format", "alpha", "base_layer.weight")
"""Parts that change no weight, or without which there is another: an update, or one times 1."""

PLANTED = {"nan": np.nan, "infinity": np.inf, "negative": -0.5, "zero": 0.0}


def refused(made, tmp_path, parts):
    """Whether a rule that any weight meets, and that parts of weights cannot fail, does not pass."""
    path, copy = made.write(tmp_path, parts), tmp_path / "copy.safetensors"
    spec, options = {"version": 1, "rules": [EVERYTHING]}, AuditOptions(memory=1 << 22)
    report = audit(path, spec, options)
    with pytest.raises(CkptclampError):
        apply(path, copy, spec, ApplyOptions(audit=options))
    return report.exit_code in (1, 3) and not copy.exists()


def is_float(part):
    """Whether a part holds floats that are wide enough to hold any number."""
    return np.asarray(part).dtype.name in ("float32", "float16", "bfloat16")


def with_neighbour(made, random, family):
    """The parts, beside those of another layer that has all of its own."""
    other = family(random, SHAPE).parts
    return made.parts | {f"x.{name}": part for name, part in other.items()}


def planted(part, value, where):
    """A part in which one number is another."""
    changed = np.array(part)
    changed.reshape(-1)[where % changed.size] = value
    return changed


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", PLANTED)
@FEW
@given(seed=SEEDS, data=st.data())
def test_a_number_that_is_no_scale_never_passes(tmp_path, family, kind, seed, data):
    """NaN and infinities in any part, numbers that are negative or 0 in those that scale codes.

    The sign of a length or a factor is a matter of the weights, and 0 makes zeros of these.
    """
    made = family(np.random.default_rng(seed), SHAPE)
    finite = kind in ("negative", "zero")
    able = [n for n in made.parts if is_float(made.parts[n]) and "input" not in n]
    able = [n for n in able if n in made.scales] if finite else able
    if not able:
        pytest.skip("has no part that can hold it")
    name = data.draw(st.sampled_from(able))
    assume("quant_map" not in name)  # which of its numbers are used is for the codes to say
    part = planted(made.parts[name], PLANTED[kind], seed)
    assert refused(made, tmp_path, made.parts | {name: part})


@pytest.mark.parametrize("name", EXPONENTS)
@FEW
@given(seed=SEEDS)
def test_the_exponent_that_stands_for_nan_never_passes(tmp_path, name, seed):
    """255 is no power of two."""
    made = getattr(families, name)(np.random.default_rng(seed), SHAPE)
    scale = next(n for n in made.parts if n.endswith(("_scale_inv", "_scale", "_scales")))
    held = made.parts[scale]
    raw = planted(np.ascontiguousarray(held).view(np.uint8), 255, seed)
    raw = raw.view(held.dtype).reshape(held.shape)
    assert refused(made, tmp_path, made.parts | {scale: raw})


def reshaped(part):
    """The same numbers with one more or one less along an axis, in one axis, or with two axes swapped.

    Axes of extent 1 mean nothing, so that none is added or left out.
    """
    array = np.asarray(part)
    for axis, extent in enumerate(array.shape):
        yield np.concatenate([array, array.take([0], axis)], axis)
        if extent > 2:
            yield array.take(range(extent - 1), axis)
    if min(array.shape, default=1) > 1 and array.ndim > 1:
        yield array.reshape(-1)
        yield (
            np.ascontiguousarray(array.swapaxes(-1, -2)) if len(set(array.shape)) > 1 else array[:1]
        )


@pytest.mark.parametrize("family", FAMILIES)
@FEW
@given(seed=SEEDS, data=st.data())
def test_a_part_of_another_shape_never_passes(tmp_path, family, seed, data):
    """One row too many or too few, another rank, or axes that were swapped."""
    made = family(np.random.default_rng(seed), SHAPE)
    if not made.sized:
        pytest.skip("has parts of any shape")
    name = data.draw(st.sampled_from(made.sized))
    shapes = list(reshaped(made.parts[name]))
    wrong = shapes[data.draw(st.integers(0, len(shapes) - 1))]
    assert refused(made, tmp_path, made.parts | {name: wrong})


@pytest.mark.parametrize("family", FAMILIES)
@FEW
@given(seed=SEEDS, data=st.data())
def test_a_part_that_is_missing_is_missed(tmp_path, family, seed, data):
    """Where the rest of the file, or its config, shows that there should be one."""
    random = np.random.default_rng(seed)
    made = family(random, SHAPE)
    needed = [n for n in made.parts if not n.endswith(OPTIONAL)]
    name = data.draw(st.sampled_from(needed))
    parts = with_neighbour(made, random, family)
    del parts[name]
    assert refused(made, tmp_path, parts)


@pytest.mark.parametrize("one", FAMILIES)
def test_parts_of_two_families_never_pass(tmp_path, one):
    """Which of them makes the weight, nobody can tell; an update is added, and no other claim."""
    for other in FAMILIES:
        random = np.random.default_rng(1)
        first, second = one(random, SHAPE), other(random, SHAPE)
        added = set(second.parts) - set(first.parts)
        if added - ALIKE and not {one, other} & UPDATES:
            assert refused(first, tmp_path, second.parts | first.parts), (other.__name__, added)


UPDATES = {families.update, families.peft, families.dora}
ALIKE = {
    "l.input_scale",
    "l.scale_input",
    "l.weight_zero_point",
    "l.weight_g_idx",
    "l.weight_format",
}
"""Parts that several families may have, so that they are no claim of another one."""
