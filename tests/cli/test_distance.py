"""How far a fine-tune lies from its base, judged and brought back, as a user asks for it."""

from __future__ import annotations

import hashlib
import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from ckptclamp.applying.apply import ApplyOptions, apply
from ckptclamp.auditing.audit import audit
from ckptclamp.auditing.options import AuditOptions
from tests.checkpoints.safetensors_files import serialised
from tests.models.effective.test_random_parts import SOME

ROWS = ["--tensors", "*.weight", "--unit-axis", 0]


def written(path, **arrays):
    """A file of these tensors."""
    path.write_bytes(serialised({name.replace("_", "."): value for name, value in arrays.items()}))
    return path


@pytest.fixture
def pair(tmp_path):
    """A base of rows of norm 2, and a fine-tune of which row 1 moved by 1 and row 2 by 0.1."""
    base = np.full((3, 4), 1, np.float32)
    tuned = base.copy()
    tuned[1] += 0.5
    tuned[2, 0] += np.float32(0.1)
    return (
        written(tmp_path / "tuned.safetensors", q_weight=tuned, q_bias=np.ones(3, np.float32)),
        written(tmp_path / "base.safetensors", q_weight=base),
    )


def ruled(tmp_path, **more):
    """A spec that names the base beside it."""
    rule = {"tensors": "q.weight", "constraint": "Distance", "unit_axis": 0, **more}
    spec = tmp_path / "spec.yaml"
    spec.write_text(json.dumps({"version": 1, "base": "base.safetensors", "rules": [rule]}))
    return spec


def test_a_distance_is_absolute_or_a_share_of_the_base(run, tmp_path, pair):
    """Row 1 lies 1 away, half of its base's norm."""
    tuned, base = pair
    absolute = run("audit", tuned, "--spec", ruled(tmp_path, max_value=0.75))
    assert absolute.returncode == 1, absolute.stderr
    assert "1 of 3 units violates Distance(max_value=0.75)" in absolute.stdout
    assert "distance to the base 1 > 0.75" in absolute.stdout
    share = run("audit", tuned, "--spec", ruled(tmp_path, max_value=0.4, relative=True))
    assert "distance to the base 0.5 > 0.4" in share.stdout
    inline = run("audit", tuned, "--base", base, "--max-distance", "40%", *ROWS)
    assert inline.returncode == 1
    assert "0.5 > 0.4" in inline.stdout
    assert run("audit", tuned, "--base", base, "--max-distance", "0.5", *ROWS).returncode == 0


def test_the_base_of_a_spec_is_found_from_the_spec_and_overridden_by_the_option(
    run, tmp_path, pair
):
    """A spec may be used from any directory."""
    spec = ruled(tmp_path, max_value=0.75)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    assert run("audit", pair[0], "--spec", spec, cwd=folder).returncode == 1
    itself = run("audit", pair[0], "--spec", spec, "--base", pair[0], cwd=folder)
    assert itself.returncode == 0, itself.stderr


def test_a_copy_keeps_its_distance_and_every_other_byte(run, tmp_path, pair):
    """w0 + (w - w0) c / |w - w0|, of one row."""
    tuned, base = pair
    copy = tmp_path / "copy.safetensors"
    answer = run(
        "apply", tuned, "--base", base, "--max-distance", 0.25, *ROWS, "-o", copy, "-f", "json"
    )
    assert answer.returncode == 0, answer.stderr
    with safe_open(copy, "numpy") as file, safe_open(tuned, "numpy") as old:
        now, before = file.get_tensor("q.weight"), old.get_tensor("q.weight")
        np.testing.assert_array_equal(now[[0, 2]], before[[0, 2]])
        np.testing.assert_array_equal(now[1], np.full(4, 1.25, np.float32))
        np.testing.assert_array_equal(file.get_tensor("q.bias"), old.get_tensor("q.bias"))
    (change,) = json.loads(answer.stdout)["report"]["changes"]
    assert change["changed"] == 1
    again = run("audit", copy, "--base", base, "--max-distance", 0.25, *ROWS, "--tolerance", 0)
    assert again.returncode == 0


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ({"k_weight": np.ones((3, 4), np.float32)}, "holds no tensor of this name"),
        ({"q_weight": np.ones((4, 3), np.float32)}, "its shape is 3x4, and 4x3 in the base"),
        ({"q_weight": np.ones((3, 4), np.complex64)}, "complex64 weights are no real numbers"),
        ({"q_weight": np.ones((3, 4), np.int8)}, "nothing tells what weights they stand for"),
        (
            {"q_weight_packed": np.ones((3, 4), np.int32), "q_weight_scale": np.ones((3, 1))},
            "no tensor of this name",
        ),
    ],
)
def test_what_the_base_does_not_hold_is_not_evaluated(run, tmp_path, pair, base, words):
    """Neither is a pass, and no copy is written."""
    written(tmp_path / "base.safetensors", **base)
    spec = ruled(tmp_path, max_value=9)
    answer = run("audit", pair[0], "--spec", spec)
    assert answer.returncode == 3, answer.stdout
    assert words in answer.stdout
    copy = tmp_path / "copy.safetensors"
    assert run("apply", pair[0], "--spec", spec, "-o", copy).returncode in (3, 5)
    assert not copy.exists()


@pytest.mark.parametrize("where", ["tuned", "base"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_none_is_a_violation_on_either_side(run, tmp_path, pair, where, bad):
    """Infinity less infinity is no distance."""
    broken = np.ones((3, 4), np.float32)
    broken[2, 3] = bad
    written(tmp_path / f"{where}.safetensors", q_weight=broken)
    for relative in (False, True):
        spec = ruled(tmp_path, max_value=100, relative=relative)
        answer = run("audit", pair[0], "--spec", spec, "-f", "json")
        assert answer.returncode == 1, answer.stderr
        (result,) = json.loads(answer.stdout)["report"]["results"]
        assert result["nonfinite"] == 1
        assert result["worst"][0]["index"] == [2]


def test_a_rule_without_a_base_and_a_base_without_a_rule_are_errors(run, tmp_path, pair):
    """Nothing is compared in silence with nothing."""
    alone = run("audit", pair[0], "--max-distance", "1%", *ROWS)
    assert alone.returncode == 2
    assert "about a base checkpoint, and none is given" in alone.stderr
    assert "--base PATH" in alone.stderr
    idle = run("audit", pair[0], "--base", pair[1], "--max-norm", 1, *ROWS)
    assert idle.returncode == 2
    assert "no rule is about its distance to a base" in idle.stderr
    gone = run("audit", pair[0], "--base", tmp_path / "gone", "--max-distance", "1%", *ROWS)
    assert gone.returncode == 3
    assert "Traceback" not in gone.stderr


def test_explain_names_the_base(run, tmp_path, pair):
    """What a rule compares with is no secret."""
    shown = run("explain", pair[0], "--spec", ruled(tmp_path, max_value=1))
    assert shown.returncode == 0
    assert "compared with" in shown.stdout
    assert "base.safetensors" in shown.stdout


def test_a_report_and_a_statement_name_the_base_with_its_digest(run, tmp_path, pair):
    """The answer depends on those bytes as well."""
    tuned, base = pair
    statement = tmp_path / "statement.json"
    rule = ["--base", base, "--max-distance", 0.5, *ROWS]
    answer = run("audit", tuned, *rule, "-f", "json", "--attest", statement)
    digest = f"sha256:{hashlib.sha256(base.read_bytes()).hexdigest()}"
    stated = json.loads(statement.read_text())["predicate"]["parameters"]
    for parameters in (json.loads(answer.stdout)["report"]["parameters"], stated):
        assert parameters["base"] == "base.safetensors"
        assert parameters["base/base.safetensors"] == digest
    (subject,) = json.loads(statement.read_text())["subject"]
    assert subject["name"] == "tuned.safetensors"
    without = run("audit", tuned, *rule, "-f", "json", "--no-hash")
    parameters = json.loads(without.stdout)["report"]["parameters"]
    assert parameters["base"] == "base.safetensors"
    assert "base/base.safetensors" not in parameters


SAME = np.arange(12, dtype=np.float32).reshape(3, 4)
APART = ("--max-distance", "1%", *ROWS)


def equal_ones(tmp_path, one, other):
    """A fine-tune of two matrices with the same bytes, and a base of these two."""
    return (
        written(tmp_path / "tuned.safetensors", a_weight=SAME, b_weight=SAME.copy()),
        written(tmp_path / "base.safetensors", a_weight=one, b_weight=other),
    )


def test_every_tensor_is_compared_with_its_own_base(run, tmp_path):
    """Though a sibling has come to hold the same bytes, and has not moved at all."""
    tuned, base = equal_ones(tmp_path, SAME, SAME - 1)
    answer = run("audit", tuned, "--base", base, *APART, "-f", "json")
    assert answer.returncode == 1, answer.stdout
    results = json.loads(answer.stdout)["report"]["results"]
    assert {r["tensor"]: r["measured_max"] > 0 for r in results} == {
        "a.weight": False,
        "b.weight": True,
    }
    only = ["--base", base, "--max-distance", "1%", "--unit-axis", 0, "--tensors"]
    assert run("audit", tuned, *only, "a.weight").returncode == 0
    assert run("audit", tuned, *only, "b.weight").returncode == 1
    copy = tmp_path / "copy.safetensors"
    for extra in ((), ("--dry-run",)):
        refused = run("apply", tuned, "--base", base, *APART, "-o", copy, *extra)
        assert refused.returncode == 5, refused.stderr
        assert "b.weight" in refused.stderr
        assert "it is equal to a.weight, and the base does not hold them as equal" in refused.stderr
        assert not copy.exists()


@pytest.mark.parametrize("base", [SAME + 1, np.ones_like(SAME)])
@pytest.mark.parametrize("pattern", ["*.weight", "b.weight"])
def test_tensors_that_are_equal_in_the_base_too_stay_equal(run, tmp_path, base, pattern):
    """Also where the rule is about one of them, or the base holds one number throughout."""
    tuned, beside = equal_ones(tmp_path, base, base.copy())
    copy = tmp_path / "copy.safetensors"
    rule = ["--base", beside, "--max-distance", "1%", "--unit-axis", 0, "--tensors", pattern]
    assert run("apply", tuned, *rule, "-o", copy).returncode == 0
    with safe_open(copy, "numpy") as file:
        now = file.get_tensor("a.weight")
        assert not np.array_equal(now, SAME)
        np.testing.assert_array_equal(now, file.get_tensor("b.weight"))


def test_a_tie_that_the_config_states_is_kept_where_the_rule_is_about_one(run, tmp_path):
    """The other one has no distance of its own; where the rule is about both, each has."""
    named = ("model.embed_tokens.weight", "lm_head.weight")
    tuned = tmp_path / "tuned.safetensors"
    tuned.write_bytes(serialised({name: SAME.copy() for name in named}))
    base = tmp_path / "base.safetensors"
    base.write_bytes(serialised({named[0]: SAME + 1, named[1]: SAME}))
    (tmp_path / "config.json").write_text(json.dumps({"tie_word_embeddings": True}))
    copy = tmp_path / "copy.safetensors"
    rule = ["--base", base, "--max-distance", "1%", "--unit-axis", 0, "--tensors"]
    assert run("apply", tuned, *rule, named[0], "-o", copy).returncode == 0
    with safe_open(copy, "numpy") as file:
        now = file.get_tensor(named[0])
        assert not np.array_equal(now, SAME)
        np.testing.assert_array_equal(now, file.get_tensor(named[1]))
    assert run("audit", tuned, *rule, "**").returncode == 1
    assert run("apply", tuned, *rule, "**", "-o", tmp_path / "other").returncode == 5


def test_weights_in_parts_are_compared_as_the_model_computes_with_them(run, tmp_path):
    """float8 with scales against the float32 that it was made from, and the other way round."""
    wide = np.linspace(-1, 1, 64, dtype=np.float32).reshape(4, 16)
    parts = {
        "l.weight": (wide * 128).astype(ml_dtypes.float8_e4m3fn),
        "l.weight_scale": np.full(4, 1 / 128, np.float32),
    }
    coded, plain = tmp_path / "coded.safetensors", tmp_path / "plain.safetensors"
    coded.write_bytes(serialised(parts))
    plain.write_bytes(serialised({"l.weight": wide}))
    for one, other in ((coded, plain), (plain, coded)):
        near = ["--base", other, *ROWS, "--max-distance"]
        assert run("audit", one, *near, "4%").returncode == 0
        assert run("audit", one, *near, "0.1%").returncode == 1


def test_heads_and_parts_are_compared_with_the_same_part_of_the_base(run, tmp_path):
    """A unit by name is the same view of both."""
    base = np.zeros((4, 8), np.float32)
    tuned = base.copy()
    tuned[:, 4:] = 1
    files = (
        written(tmp_path / "tuned.safetensors", o_weight=tuned),
        written(tmp_path / "base.safetensors", o_weight=base),
    )
    spec = tmp_path / "spec.yaml"
    rule = {"constraint": "Distance", "max_value": 1, "id": "heads", "tensors": "o.weight"}
    rule |= {"units": "out (head dim) -> head", "head": 2}
    part = {"constraint": "Distance", "max_value": 1, "id": "part", "tensors": "o.weight.b"}
    split = {"tensors": "o.weight", "axis": 1, "sizes": [4, 4], "names": ["a", "b"]}
    whole = {"version": 1, "rules": [rule, part | {"axis": [0, 1]}], "split": [split]}
    spec.write_text(json.dumps(whole))
    answer = run("audit", files[0], "--spec", spec, "--base", files[1], "-f", "json")
    assert answer.returncode == 1, answer.stderr
    heads, part = json.loads(answer.stdout)["report"]["results"]
    assert (heads["violating"], heads["worst"][0]["index"]) == (1, [1])
    assert (part["violating"], part["measured_max"]) == (1, 4)
    copy = tmp_path / "copy.safetensors"
    assert run("apply", files[0], "--spec", spec, "--base", files[1], "-o", copy).returncode == 0
    with safe_open(copy, "numpy") as file:
        np.testing.assert_array_equal(file.get_tensor("o.weight")[:, 4:], np.full((4, 4), 0.25))


def test_a_damaged_base_is_no_base(run, tmp_path):
    """Its archive says so by a checksum; else the damage could lie nearer than what was there."""
    tuned, base = tmp_path / "tuned.npz", tmp_path / "base.npz"
    np.savez(tuned, w=np.ones((64, 64), np.float32))
    np.savez(base, w=np.full((64, 64), 1.5, np.float32))
    rule = ("--base", base, "--max-distance", 0.1, "--unit-axis", 0, "--tensors", "w")
    assert run("audit", tuned, *rule).returncode == 1
    data = base.read_bytes()
    old, new = (np.full((64, 64), value, np.float32).tobytes() for value in (1.5, 1))
    assert old in data
    base.write_bytes(data.replace(old, new))
    copy = tmp_path / "copy.npz"
    for call in (("audit", tuned), ("apply", tuned, "-o", copy)):
        answer = run(*call, *rule)
        assert answer.returncode == 3, answer.stdout
        assert "base.npz" in answer.stderr
        assert "checksum" in answer.stderr
    assert not copy.exists()


DTYPES = st.sampled_from([np.float32, np.float64, np.float16, ml_dtypes.bfloat16])


@SOME
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_random_distances_are_right_and_a_copy_is_about_as_near_as_can_be(tmp_path, data, seed):
    """Against NumPy; the copy conforms exactly, and lies hardly farther off than plain rounding does."""
    random = np.random.default_rng(seed)
    shape = data.draw(st.sampled_from([(6, 40), (40, 6), (5, 300)]))
    axis, relative = data.draw(st.integers(0, 1)), data.draw(st.booleans())
    kinds = data.draw(DTYPES), data.draw(DTYPES)
    base = random.normal(size=shape).astype(kinds[0])
    tuned = (base.astype(np.float64) + 0.3 * random.normal(size=shape)).astype(kinds[1])
    files = [tmp_path / "tuned.safetensors", tmp_path / "base.safetensors"]
    for path, array in zip(files, (tuned, base), strict=True):
        path.write_bytes(serialised({"w": array}))
    apart = tuned.astype(np.float64) - base.astype(np.float64)
    norms = np.linalg.norm(apart, axis=axis)
    if relative:
        norms /= np.linalg.norm(base.astype(np.float64), axis=axis)
    bound = float(np.median(norms)) * 0.9
    rule = {"id": "r", "tensors": "w", "constraint": "Distance", "axis": axis}
    rule |= {"max_value": bound, "relative": relative}
    spec = {"version": 1, "base": str(files[1]), "rules": [rule]}
    options = AuditOptions(tolerance=0, memory=1 << 22)
    (result,) = audit(files[0], spec, options).results
    assert result.measured_max == pytest.approx(norms.max(), rel=1e-12)
    assert result.worst[0].index == (int(norms.argmax()),)
    assert result.violating == int((norms > bound).sum())
    copy = tmp_path / "copy.safetensors"
    apply(files[0], copy, spec, ApplyOptions(audit=options, force=True))
    assert audit(copy, spec, options).results[0].verdict == "pass"
    with safe_open(copy, "numpy") as file:
        now = file.get_tensor("w").astype(np.float64)
    share = np.expand_dims(np.minimum(bound / norms, 1), axis)
    target = base.astype(np.float64) + apart * share
    plain = np.linalg.norm(target.astype(kinds[1]).astype(np.float64) - target)
    assert np.linalg.norm(now - target) <= 1.5 * plain + 1e-12 * np.linalg.norm(target)


@pytest.mark.parametrize("more", [{"max_value": 3}, {"max_value": 0.3, "relative": True}])
def test_a_copy_is_the_same_whatever_the_memory(tmp_path, more):
    """The norm of a column is added up in one order, however many columns lie in memory beside it."""
    random = np.random.default_rng(0)
    tuned = written(tmp_path / "tuned.safetensors", q_weight=random.normal(size=(64, 40)))
    base = written(tmp_path / "base.safetensors", q_weight=random.normal(size=(64, 40)))
    rule = {"id": "r", "tensors": "q.weight", "constraint": "Distance", "unit_axis": 1, **more}
    copies = set()
    for memory in (20_000, 50_000, 1 << 30):
        copy = tmp_path / "copy.safetensors"
        options = ApplyOptions(audit=AuditOptions(base=base, memory=memory), force=True)
        apply(tuned, copy, {"version": 1, "rules": [rule]}, options)
        copies.add(copy.read_bytes())
    assert len(copies) == 1


def test_a_unit_on_a_coarse_grid_comes_back_as_far_as_to_its_base(tmp_path):
    """Where no number lies between a weight and the base's, the base's conforms, however small both are."""
    step = 2.0**-9  # the smallest float8_e4m3fn
    weights, like = np.zeros((2, 4)), np.zeros((2, 4))
    weights[:, 0] = like[:, 0] = step
    weights[0, 1] = step
    tuned = written(
        tmp_path / "tuned.safetensors", q_weight=weights.astype(ml_dtypes.float8_e4m3fn)
    )
    base = written(tmp_path / "base.safetensors", q_weight=like.astype(ml_dtypes.float8_e4m3fn))
    rule = {"id": "r", "tensors": "q.weight", "constraint": "Distance", "unit_axis": 0}
    spec = {"version": 1, "rules": [rule | {"max_value": 0.76, "relative": True}]}
    copy = tmp_path / "copy.safetensors"
    apply(tuned, copy, spec, ApplyOptions(audit=AuditOptions(base=base)))
    assert copy.read_bytes() == base.read_bytes()


@pytest.mark.parametrize(("share", "warned"), [("5", True), ("500%", True), ("5%", False)])
def test_a_distance_of_the_whole_norm_is_a_warning(run, pair, share, warned):
    """Who writes 5 may mean 5 %, and would pass whatever was left of the base."""
    tuned, base = pair
    done = run("audit", tuned, "--base", base, "--max-distance", share, *ROWS)
    assert ("lie 500 % of the base's norm away" in done.stdout) is warned
    assert ("--max-distance 5%, or `max_value: 0.05`" in done.stdout) is warned


def test_a_wide_absolute_distance_is_none(run, tmp_path, pair):
    """Without `relative` the bound is a number in the weights' own unit."""
    done = run("audit", pair[0], "--spec", ruled(tmp_path, max_value=5), "--strict")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("how", ["itself", "symbolic link", "hard link", "copy"])
def test_a_checkpoint_is_not_its_own_base(run, tmp_path, pair, how):
    """It lies 0 away from itself; a copy is another file, and may rightly be equal."""
    tuned, _ = pair
    base = tuned if how == "itself" else tmp_path / "b.safetensors"
    if how == "symbolic link":
        base.symlink_to(tuned)
    elif how == "hard link":
        base.hardlink_to(tuned)
    elif how == "copy":
        base.write_bytes(tuned.read_bytes())
    gate = ("audit", tuned, "--base", base, "--max-distance", "5%", *ROWS)
    done = run(*gate)
    assert done.returncode == 0, done.stderr
    assert ("warning[base-is-itself]" in done.stdout) is (how != "copy")
    assert run(*gate, "--strict").returncode == (how != "copy")
