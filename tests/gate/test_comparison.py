"""Comparing releases: every difference is told, and a gate on drift fails closed."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

from ckptclamp.auditing.comparison import compare_checkpoints
from ckptclamp.errors import ExitCode, UsageError
from ckptclamp.spec.model import Units


@pytest.fixture
def pair(tmp_path):
    """Save two dictionaries of arrays and return the paths."""

    def call(old, new):
        paths = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
        for path, tensors in zip(paths, (old, new), strict=True):
            save_file({name: np.ascontiguousarray(w) for name, w in tensors.items()}, path)
        return paths

    return call


def expected(old, new, axes):
    """Drift and distance of each unit by the definition, in float64."""
    old, new = np.asarray(old, np.float64), np.asarray(new, np.float64)
    norm = np.sqrt((old**2).sum(axis=axes))
    after = np.sqrt((new**2).sum(axis=axes))
    apart = np.sqrt(((new - old) ** 2).sum(axis=axes))
    with np.errstate(divide="ignore", invalid="ignore"):
        drift = np.where(after == norm, 0, np.abs(after - norm) / norm)
        distance = np.where(apart == 0, 0, apart / norm)
    return drift, distance


shapes = hnp.array_shapes(min_dims=1, max_dims=3, max_side=6)
weights = st.floats(-100, 100, width=32)


@settings(max_examples=60)
@given(shapes.flatmap(lambda s: st.tuples(*[hnp.arrays(np.float32, s, elements=weights)] * 2)))
def test_drift_and_distance_are_those_of_the_definition(tmp_path_factory, arrays):
    """The numbers that a release is gated on, against a second computation."""
    old, new = arrays
    folder = tmp_path_factory.mktemp("pair")
    save_file({"w": old}, folder / "old")
    save_file({"w": new}, folder / "new")
    (found,) = compare_checkpoints(folder / "old", folder / "new").drifts
    axes = tuple(range(1, old.ndim)) if old.ndim > 1 else (0,)
    drift, distance = expected(old, new, axes)
    assert found.distance == pytest.approx(distance.max(), rel=1e-9)
    assert found.norm_drift == pytest.approx(drift.max(), rel=1e-6, abs=1e-12)
    assert found.changed == np.count_nonzero(distance)
    assert found.units == distance.size
    assert found.norm_drift <= found.distance * (1 + 1e-9)


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_units_that_span_many_boxes(pair, axes):
    """A tensor is compared box by box, and its units do not know it."""
    random = np.random.default_rng(7)
    old = random.normal(size=(700, 1300)).astype(np.float32)
    new = old * random.uniform(0.9, 1.1, size=old.shape).astype(np.float32)
    units = Units(whole=True) if axes == (0, 1) else Units(axis=axes)
    (found,) = compare_checkpoints(*pair({"w": old}, {"w": new}), units=units).drifts
    drift, distance = expected(old, new, axes)
    assert found.distance == pytest.approx(distance.max(), rel=1e-12)
    assert found.norm_drift == pytest.approx(drift.max(), rel=1e-9)
    assert found.unit == tuple(int(i) for i in np.unravel_index(distance.argmax(), distance.shape))
    assert found.histogram is not None
    assert sum(found.histogram.counts) == distance.size


def test_what_came_went_and_changed_its_form(pair):
    """No difference goes without a line."""
    old = {
        "same": np.ones((2, 2), np.float32),
        "gone": np.ones(2, np.float32),
        "wider": np.ones((2, 2), np.float32),
        "half": np.full((2, 2), 0.5, np.float32),
        "mask": np.ones(2, bool),
        "wave": np.ones(2, np.complex64),
    }
    new = old | {"wider": np.ones((2, 3), np.float32), "half": old["half"].astype(np.float16)}
    new["fresh"] = new.pop("gone")
    found = compare_checkpoints(*pair(old, new))
    assert (found.added, found.removed) == (("fresh",), ("gone",))
    assert [(r.tensor, r.old, r.new) for r in found.reshaped] == [("wider", (2, 2), (2, 3))]
    assert {(d.tensor, d.old_dtype, d.new_dtype, d.changed) for d in found.drifts} == {
        ("half", "float32", "float16", 0),
        ("mask", "bool", "bool", 0),
        ("same", "float32", "float32", 0),
    }
    assert [entry.tensor for entry in found.not_compared] == ["wave"]
    assert found.exit_code is ExitCode.INCOMPLETE


def test_a_turned_unit_has_a_distance_and_no_drift(pair):
    """Norms alone would call a permuted layer unchanged."""
    paths = pair({"w": np.eye(4, dtype=np.float32)}, {"w": np.eye(4, dtype=np.float32)[::-1]})
    (found,) = compare_checkpoints(*paths).drifts
    assert found.norm_drift == 0
    assert found.distance == pytest.approx(math.sqrt(2))
    assert compare_checkpoints(*paths, max_drift=0.0).exit_code is ExitCode.OK
    assert compare_checkpoints(*paths, max_distance=1.0).exit_code is ExitCode.VIOLATIONS


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_fails_every_gate(pair, value):
    """A comparison with NaN is false, so it must be asked for."""
    old = np.ones((2, 2), np.float32)
    new = old.copy()
    new[1, 1] = value
    paths = pair({"w": old}, {"w": new})
    (found,) = compare_checkpoints(*paths).drifts
    assert found.nonfinite == 1
    assert compare_checkpoints(*paths).exit_code is ExitCode.OK
    assert compare_checkpoints(*paths, max_drift=1e9).exit_code is ExitCode.VIOLATIONS
    assert compare_checkpoints(*paths, max_distance=1e9).exit_code is ExitCode.VIOLATIONS


def test_a_norm_that_float64_cannot_hold_passes_no_gate(pair):
    """Infinite norms of finite weights have no drift, and that must not read as a small one."""
    old, new = pair(
        {"w": np.full((1, 9), 1e308)},
        {"w": np.full((1, 9), 1.1e308)},
    )
    compared = compare_checkpoints(old, new, max_drift=0.01)
    assert compared.drifts[0].nonfinite == 1
    assert compared.exit_code is ExitCode.VIOLATIONS


def test_growth_from_zero_is_infinite(pair):
    """Nothing can be relative to a norm of 0, and a gate must not forgive it."""
    paths = pair({"w": np.zeros((2, 2), np.float32)}, {"w": np.ones((2, 2), np.float32)})
    compared = compare_checkpoints(*paths, max_drift=1e300)
    assert compared.drifts[0].norm_drift == math.inf
    assert compared.exit_code is ExitCode.VIOLATIONS


@pytest.mark.parametrize("change", ["added", "removed", "reshaped"])
def test_a_gate_fails_on_what_has_no_counterpart(pair, change):
    """A tensor without a counterpart has no drift that could be small."""
    one = {"w": np.ones((2, 2), np.float32)}
    more = one | {"v": np.ones((2, 2), np.float32)}
    old, new = {
        "added": (one, more),
        "removed": (more, one),
        "reshaped": (more, one | {"v": np.ones(4, np.float32)}),
    }[change]
    paths = pair(old, new)
    assert compare_checkpoints(*paths).exit_code is ExitCode.OK
    assert compare_checkpoints(*paths, max_drift=0.5).exit_code is ExitCode.VIOLATIONS


def test_renames_bring_names_together(pair):
    """The same layers under a new prefix are the same layers."""
    old = {f"encoder.{i}.w": np.full((2, 2), i + 1.0, np.float32) for i in range(2)}
    new = {f"model.block{i}.weight": np.full((2, 2), i + 1.0, np.float32) for i in range(2)}
    paths = pair(old, new)
    assert compare_checkpoints(*paths).exit_code is ExitCode.NOTHING_EVALUATED
    found = compare_checkpoints(*paths, renames=["encoder.*.w=>model.block*.weight"], max_drift=0.0)
    assert found.exit_code is ExitCode.OK
    assert {(d.old_name, d.tensor) for d in found.drifts} == {
        ("encoder.0.w", "model.block0.weight"),
        ("encoder.1.w", "model.block1.weight"),
    }


@pytest.mark.parametrize(
    "rename",
    ["encoder", "=>x", "encoder.*=>model", "nothing=>x", "encoder.*.w=>*.w=>", "*=>one*two*"],
)
def test_renames_that_cannot_be_meant(pair, rename):
    """A rename that does nothing would compare less than its author thinks."""
    paths = pair({"encoder.0.w": np.ones(2, np.float32)}, {"w": np.ones(2, np.float32)})
    with pytest.raises(UsageError):
        compare_checkpoints(*paths, renames=[rename, "also.nothing=>x"])


def test_renames_that_make_two_names_one(pair):
    """Which of the two would be compared?"""
    old = {"a": np.ones(2, np.float32), "b": np.ones(2, np.float32)}
    with pytest.raises(UsageError, match="several tensors"):
        compare_checkpoints(*pair(old, old), renames=["a=>b"])


@pytest.mark.parametrize(
    "twin", ["builtin_constraints.h5", "chunked_gzip.h5", "deflated_zip.keras"]
)
def test_formats_of_one_model_are_the_same_weights(fixtures, twin):
    """A Keras layer is found under its name in whatever layout, contiguous or in chunks."""
    folder = fixtures / "conforming"
    found = compare_checkpoints(
        folder / "builtin_constraints.keras", folder / twin, max_distance=0.0
    )
    assert found.exit_code is ExitCode.OK
    assert len(found.drifts) >= 7


def test_the_command_gates_and_tells(run, save, folder):
    """Percent signs, exit codes and both formats, as a pipeline uses them."""
    save("old.safetensors", a=[1.0, 2.0])
    save("new.safetensors", a=[1.04, 2.0])
    files = ("diff", "old.safetensors", "new.safetensors")
    assert run(*files).returncode == 0
    assert run(*files, "--max-drift", "5%").returncode == 0
    far = run(*files, "--max-drift", "0.03")
    assert far.returncode == 1
    assert "EXCEEDS LIMIT" in far.stdout
    assert "largest drift 4 % of at most 3 %" in far.stdout
    document = json.loads(run(*files, "--max-drift", "3%", "-f", "json").stdout)
    assert document["exit_code"] == 1
    assert document["drifts"][0]["norm_drift"] == pytest.approx(0.04)
    assert run(*files, "--max-drift", "-1").returncode == 2
    assert run(*files, "--max-drift", "nan").returncode == 2
    assert run("diff", "old.safetensors", "missing.safetensors").returncode == 3


@given(st.lists(st.text("ab.", max_size=3), min_size=2, max_size=4), st.data())
def test_each_star_stands_for_the_same_text_on_both_sides(tmp_path_factory, parts, data):
    """Whatever stands between the stars, a renamed tensor is found under its new name."""
    texts = data.draw(
        st.lists(st.text("ab.", max_size=3), min_size=len(parts) - 1, max_size=len(parts) - 1)
    )
    name = "".join(p + t for p, t in zip(parts, [*texts, ""], strict=True))
    rename = "x" + "*".join(parts) + "=>x" + "*".join(parts)
    folder = tmp_path_factory.mktemp("rename")
    save_file({"x" + name: np.ones(2, np.float32)}, folder / "w")
    assert len(compare_checkpoints(folder / "w", folder / "w", renames=[rename]).drifts) == 1


def test_a_hostile_name_does_not_make_a_rename_slow(pair):
    """The time must not grow with a power of the name's length."""
    tensors = {"a" * 1000: np.ones(2, np.float32), "b": np.ones(2, np.float32)}
    renames = ["*a*a*a*a*a*c=>*a*a*a*a*a*c", "b=>b"]
    with pytest.raises(UsageError, match="fits no tensor"):
        compare_checkpoints(*pair(tensors, tensors), renames=renames)


def test_weights_in_parts_are_compared_as_the_model_computes_them(pair):
    """One scale of many, ten times as large, is little beside the others, and all of its row."""
    codes = np.arange(1, 33, dtype=np.int8).reshape(4, 8)
    scales = np.array([1e-3, 1, 1, 1], np.float32)
    moved = scales * np.array([10, 1, 1, 1], np.float32)
    old, new = ({"l.weight": codes, "l.weight_scale": s} for s in (scales, moved))
    (drift,) = compare_checkpoints(*pair(old, new), max_drift=0.05).drifts
    assert drift.tensor == "l.weight"
    assert (drift.changed, drift.unit) == (1, (0,))
    assert drift.norm_drift == pytest.approx(9, rel=1e-6)
    whole = {"l.weight": codes * scales[:, None].astype(np.float64)}
    assert compare_checkpoints(*pair(whole, old), max_drift=0).exit_code is ExitCode.OK


def test_a_gate_passes_no_weight_that_cannot_be_computed(pair):
    """Its parts are compared where there is no gate."""
    held = {"l.weight": np.ones((4, 8), np.int8), "l.weight_scales": np.ones(4, np.float32)}
    found = compare_checkpoints(*pair(held, held))
    assert {drift.tensor for drift in found.drifts} == {"l.weight", "l.weight_scales"}
    assert found.exit_code is ExitCode.OK
    gated = compare_checkpoints(*pair(held, held), max_drift=0.05)
    assert gated.exit_code is ExitCode.INCOMPLETE
    assert "not computed" in gated.not_compared[0].reason
