"""What real training leaves outside of a constraint, as a user meets it."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest

from ckptclamp.reports import REPORTERS
from tests.checkpoints.safetensors_files import encoded, entry, serialised

ROWS = ["--tensors", "w", "--unit-axis", 0]


@pytest.fixture(scope="module")
def trained(fixtures):
    """Models straight out of `fit`."""
    return fixtures / "tolerance"


@pytest.fixture
def half(tmp_path):
    """A function that writes rows of 768 weights in bfloat16 whose norms it is given."""

    def write(*norms):
        weights = np.random.default_rng(0).normal(size=(len(norms), 768))
        weights *= np.array(norms)[:, None] / np.linalg.norm(weights, axis=1, keepdims=True)
        path = tmp_path / "model.safetensors"
        path.write_bytes(serialised({"w": weights.astype(ml_dtypes.bfloat16)}))
        return path

    return write


def results(done):
    """The results of a JSON report."""
    return json.loads(done.stdout)["report"]["results"]


def test_minima_straight_out_of_training_are_no_alarm(run, trained):
    """Keras divides by norm + 1e-7, which is 0.1 % of a minimum of 0.0001."""
    done = run("audit", trained / "minima.keras")
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].endswith("40 units within tolerance; exit 0")


def test_a_stated_number_is_exact_and_the_finding_explains_it(run, trained):
    """Tolerance 0 means the bound; that all lies as far below as the epsilon takes it is said."""
    done = run("audit", trained / "minima.keras", "--tolerance", 0)
    assert done.returncode == 1
    assert done.stdout.count("an epsilon of 1e-07 explains these") == 5
    assert done.stdout.count("say `tolerance: trained`") == 5


def test_a_raised_epsilon_is_told_and_can_be_said(run, trained, tmp_path):
    """`keras.config.set_epsilon(1e-5)` is in no file, but in the size and side of every violation."""
    model = trained / "raised_epsilon.keras"
    done = run("audit", model)
    assert done.returncode == 1
    assert done.stdout.count("an epsilon of 1e-05 explains these") == 5
    assert run("audit", model, "--epsilon", 1e-5).returncode == 0
    spec = tmp_path / "spec.yaml"
    spec.write_text("version: 1\nepsilon: 1e-5\n")
    assert run("audit", model, "--spec", spec).returncode == 0
    assert run("audit", model, "--spec", spec, "--epsilon", 1e-7).returncode == 1


def test_the_epsilon_of_one_rule(run, trained, tmp_path):
    """A rule's own epsilon is no other rule's."""
    spec = tmp_path / "spec.yaml"
    rule = "{{tensors: min_{0}/kernel, constraint: MinMaxNorm, min_value: {0}, max_value: 2{1}}}"
    rules = [rule.format(0.01, ", epsilon: 1e-5"), rule.format(0.001, "")]
    spec.write_text(f"version: 1\ndeclared: ignore\nrules: [{', '.join(rules)}]\n")
    done = run("audit", trained / "raised_epsilon.keras", "--spec", spec, "-f", "json")
    assert [result["verdict"] for result in results(done)] == ["pass", "violation"]


def test_kerass_own_projection_succeeds(run, trained, tmp_path):
    """It leaves units short of their minima, as training does, and that is no failure."""
    for model, more in ("minima.keras", []), ("raised_epsilon.keras", ["--epsilon", 1e-5]):
        copy = tmp_path / model
        done = run("apply", trained / model, "-o", copy, "--projection", "keras", *more)
        assert done.returncode == 0, done.stderr
        assert run("audit", copy, *more).returncode == 0


def test_kerass_own_projection_says_why_it_is_not_enough(run, trained, tmp_path):
    """Where the bound itself is asked for, the epsilon is to blame, and not a rate of 1."""
    arguments = ("-o", tmp_path / "copy.keras", "--projection", "keras", "--tolerance", 0)
    done = run("apply", trained / "minima.keras", *arguments)
    assert done.returncode == 5
    assert "Keras divides by norm + 1e-07" in done.stderr
    assert "rate of" not in done.stderr
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "version: 1\ndeclared: ignore\nrules: [{tensors: min_0.5/kernel, constraint: MinMaxNorm, "
        "min_value: 1, max_value: 2, rate: 0.5}]\n"
    )
    done = run("apply", trained / "minima.keras", "--spec", spec, *arguments)
    assert done.returncode == 5
    assert "a part of the way, 0.5" in done.stderr


def test_the_exact_projection_reaches_the_minima(run, trained, tmp_path):
    """A copy is forgiven no epsilon."""
    copy = tmp_path / "copy.keras"
    assert run("apply", trained / "minima.keras", "-o", copy).returncode == 0
    assert run("audit", copy, "--tolerance", 0).returncode == 0


def test_zero_vectors_are_called_by_name(run, trained, tmp_path):
    """A violation by default, in words, with the rows, and with the way out; apply says the same."""
    model = trained / "zero_rows.keras"
    done = run("audit", model)
    assert done.returncode == 1
    assert "worst is unit 0: zero vector (+100 %); 6 zero vectors: 0, 15 to 19" in done.stdout
    assert "`zero_units: allow`" in done.stdout
    done = run("apply", model, "-o", tmp_path / "copy.keras")
    assert done.returncode == 5
    assert "6 of 20 units are beyond fixing (zero vectors" in done.stderr
    assert "`zero_units: allow`" in done.stderr


RULE = "rules: [{tensors: skill/embeddings, constraint: UnitNorm, unit_axis: 0, zero_units: allow}]"


@pytest.mark.parametrize("text", ["zero_units: allow", f"declared: ignore\n{RULE}"])
def test_zero_vectors_can_be_excepted_and_are_left_alone(run, trained, tmp_path, text):
    """By the spec for a declaration, or by a rule; a broken row is mended beside them."""
    spec = tmp_path / "spec.yaml"
    spec.write_text(f"version: 1\n{text}\n")
    done = run("audit", trained / "zero_rows.keras", "--spec", spec)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].endswith("6 zero units allowed; exit 0")
    again = run("audit", trained / "zero_rows.keras", "--spec", spec, "--zero-units", "violation")
    assert again.returncode == 1


@pytest.mark.parametrize("projection", ["exact", "keras"])
@pytest.mark.parametrize(
    "rule", [["--unit-norm"], ["--min-max-norm", 0.5, 1], ["--clip", 0.5, 4], ["--center", 1]]
)
def test_apply_leaves_allowed_zeros(run, tmp_path, rule, projection):
    """Whatever the constraint would make of them."""
    model, copy = tmp_path / "model.safetensors", tmp_path / "copy.safetensors"
    weights = np.zeros((3, 8), np.float32)
    weights[1] = 5.0
    model.write_bytes(serialised({"w": weights}))
    given = ["--tensors", "w", *rule, "--zero-units", "allow", "--tolerance", 1e-6]
    if rule != ["--clip", 0.5, 4]:
        given += ["--unit-axis", 0]
    assert run("audit", model, *given).returncode == 1
    done = run("apply", model, "-o", copy, *given, "--projection", projection)
    assert done.returncode == 0, done.stderr
    stored = np.frombuffer(copy.read_bytes()[-weights.nbytes :], np.float32).reshape(3, 8)
    assert not stored[[0, 2]].any()
    assert (stored[1] < 5).all()
    assert "allowed" in done.stdout.splitlines()[-2 if "sha256" not in done.stdout else -3]


@pytest.mark.parametrize("format_", REPORTERS)
def test_every_format_counts_what_lies_outside_and_passes(run, trained, format_):
    """Nobody should have to ask for another format to learn it."""
    done = run("audit", trained / "zero_rows.keras", "--zero-units", "allow", "-f", format_)
    assert done.returncode == 0
    if format_ == "json":
        census = json.loads(done.stdout)["census"]
        assert (census["within_tolerance"], census["zero_allowed"]) == (14, 6)
        return
    assert "14 units within tolerance; 6 zero units allowed" in done.stdout


def test_a_drift_in_what_was_cast_is_seen(run, half):
    """Nothing says that PyTorch's file was trained in bfloat16: 1 % is a drift, 0.05 % a rounding."""
    model = half(1.0, 1.0005, 0.9)
    done = run("audit", model, "--max-norm", 1, *ROWS)
    assert done.returncode == 0, done.stdout
    model = half(1.0, 1.01)
    done = run("audit", model, "--max-norm", 1, *ROWS)
    assert done.returncode == 1
    assert (
        "training in bfloat16 leaves units as far outside: say `tolerance: trained`" in done.stdout
    )
    done = run("audit", model, "--max-norm", 1, *ROWS, "--tolerance", "trained", "-v")
    assert done.returncode == 0
    assert "tolerance: 0.0117 (trained); 1 unit outside by no more than that" in done.stdout
    assert "1 unit within tolerance; exit 0" in done.stdout
    assert run("audit", half(1.0, 1.02), "--max-norm", 1, *ROWS).returncode == 1


def test_what_keras_trained_in_half_precision_passes(run, fixtures):
    """Its config says which dtype its variables had; as a mere cast it would not pass."""
    model = fixtures / "conforming" / "bfloat16.keras"
    assert run("audit", model).returncode == 0
    assert run("audit", model, "--tolerance", "cast").returncode == 1


def test_explain_says_what_will_be_forgiven(run, trained):
    """Before any weight is read."""
    arguments = ("explain", "-v", trained / "minima.keras")
    done = run(*arguments, "--epsilon", 1e-6, "--zero-units", "allow")
    assert "tolerance: 2e-06 (relative; below a minimum 0.02; trained); zero units" in done.stdout
    done = run(*arguments, "--tolerance", 0.25)
    assert "tolerance: 0.25 (relative)\n" in done.stdout


@pytest.mark.parametrize(
    "bad",
    [
        ("--tolerance", "casst"),
        ("--tolerance", "auto"),
        ("--tolerance", 1),
        ("--epsilon", -1),
        ("--epsilon", "nan"),
        ("--epsilon", 1),
        ("--zero-units", "yes"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(run, trained, bad):
    """One clear line, and nothing is judged."""
    done = run("audit", trained / "minima.keras", *bad)
    assert (done.returncode, done.stdout) == (2, "")
    assert bad[0].strip("-") in done.stderr


@pytest.mark.parametrize(("dtype", "bits"), [("F4", 4), ("F6_E2M3", 6), ("F6_E3M2", 6)])
def test_inspect_shows_what_packed_tensors_take(run, tmp_path, dtype, bits):
    """Not 0 bytes: what the file holds for them."""
    model = tmp_path / "model.safetensors"
    model.write_bytes(encoded({"w": entry(dtype, [32, 32], 0, 128 * bits)}, bytes(128 * bits)))
    done = run("inspect", model)
    assert done.returncode == 0
    assert f"{128 * bits} B" in done.stdout.splitlines()[5]
    assert f"1 tensor, {128 * bits} B" in done.stdout


def test_half_is_no_unit_norm_among_powers_of_two(run, tmp_path):
    """float8_e8m0fnu holds scales; rounding to a power of two is no excuse."""
    model = tmp_path / "model.safetensors"
    model.write_bytes(serialised({"w": np.array([[1], [0.5]]).astype(ml_dtypes.float8_e8m0fnu)}))
    done = run("audit", model, "--unit-norm", *ROWS, "-f", "json")
    (result,) = results(done)
    assert (result["violating"], result["worst"][0]["measured"]) == (1, 0.5)
