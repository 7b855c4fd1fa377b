"""A first spec passes on the checkpoint it was made from, and hides no name."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from ckptclamp.auditing.audit import audit
from ckptclamp.auditing.inspection import inspect
from ckptclamp.auditing.results import Verdict
from ckptclamp.auditing.starting_spec import (
    StartingRule,
    StartingSpec,
    quoted,
    render_spec,
    rounded_up,
    starting_spec,
)
from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.constraints.sets.norms import MaxNorm
from ckptclamp.errors import ExitCode, NothingEvaluatedError
from ckptclamp.plan import Origin
from ckptclamp.plan.tensors import computed_tensors, exact_pattern, parts_of
from ckptclamp.spec.patterns import TensorPatterns

FIXTURES = Path(__file__).parents[2] / "fixtures"
CONFORMING = sorted((FIXTURES / "conforming").iterdir())
_ROOTS = [
    FIXTURES,
    *([Path(os.environ["CKPTCLAMP_CORPUS"])] if "CKPTCLAMP_CORPUS" in os.environ else []),
]
CHECKPOINTS = sorted(
    path
    for root in _ROOTS
    for path in root.rglob("*")
    if path.name.endswith((".h5", ".keras", ".safetensors", ".index.json", ".weights.json"))
    or (path / "model.weights.h5").exists()
)

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@pytest.fixture
def save_tensors(folder):
    """Save ``model.safetensors`` with these tensors and return its path."""

    def call(tensors):
        save_file(
            {k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / "model.safetensors"
        )
        return folder / "model.safetensors"

    return call


def first_spec(path, folder, **options):
    """Write the first spec for `path` and return its path."""
    target = folder / "first.yaml"
    target.write_text(render_spec(starting_spec(path, **options)), encoding="utf-8")
    return target


def of_rules(report):
    """The results of rules, without those of the preset."""
    return [result for result in report.results if not result.rule.startswith("health/")]


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.name)
def test_the_spec_passes_on_its_checkpoint(path, tmp_path):
    """A first spec that fails at once, or governs nothing, would be no start.

    It governs what it was made of and no more, and fails only where the model violates what it
    declares, or holds weights that are not finite.
    """
    try:
        spec = first_spec(path, tmp_path)
    except NothingEvaluatedError:
        return
    report = audit(path, spec)
    assert not report.unmatched
    declared = [r for r in audit(path).results if r.verdict is not Verdict.NOT_EVALUATED]
    assert "declared: audit" in spec.read_text()
    if declared:
        judged = [r for r in of_rules(report) if r.verdict is not Verdict.NOT_EVALUATED]
        assert {r.tensor for r in judged} == {r.tensor for r in declared}
        assert {r.tensor for r in judged if r.violating} == {
            result.tensor for result in declared if result.violating
        }
    else:
        assert report.exit_code is ExitCode.OK


@pytest.mark.parametrize("name", ["transformer_bf16.safetensors", "bfloat16.weights.h5"])
def test_bounds_without_declarations_hold_without_headroom(name, tmp_path):
    """Rounding a bound must never put the largest unit outside."""
    path = FIXTURES / "violating" / name
    assert audit(path, first_spec(path, tmp_path, headroom=0.0)).exit_code is ExitCode.OK


def test_declared_constraints_are_kept_as_they_are(tmp_path):
    """A spec from a model that violates what it declares must fail, not learn the violation."""
    path = FIXTURES / "violating" / "builtin_constraints.keras"
    assert audit(path, first_spec(path, tmp_path)).exit_code is ExitCode.VIOLATIONS


def test_a_model_that_lost_its_constraints_still_fails(tmp_path):
    """The reason for writing declared constraints down: weights-only files do not carry them."""
    spec = first_spec(FIXTURES / "conforming" / "builtin_constraints.keras", tmp_path)
    twin = FIXTURES / "violating" / "builtin_constraints.h5"
    judged = [r for r in audit(twin, spec).results if r.origin is Origin.SPEC]
    assert sum(result.violating for result in judged) > 0


def test_a_model_that_declares_more_is_followed(tmp_path):
    """The first spec of an earlier model must not stop the gate from judging what a later one declares."""
    path = FIXTURES / "violating" / "builtin_constraints.keras"
    text = first_spec(path, tmp_path).read_text()
    assert "declared: audit" in text
    document = yaml.safe_load(text)
    first, *_ = document["rules"]
    fewer = {**document, "rules": [first], "preset": "health"}
    origins = Counter(r.origin for r in of_rules(audit(path, fewer)))
    assert origins[Origin.DECLARED] == len(audit(path).results) - origins[Origin.SPEC] > 0


def test_layers_share_a_rule_and_nothing_else_slips_in(tmp_path):
    """Numbers fold to `*`, unless that would catch a tensor of another kind."""
    path = tmp_path / "model.safetensors"
    tensors = {f"layers.{i}.w": np.full((2, 3), i + 1.0, np.float32) for i in range(3)}
    tensors["layers.a.w"] = np.full((2, 2, 2), 9.0, np.float32)
    tensors["conv2d.w"] = np.full((2, 2), 1.0, np.float32)
    save_file(tensors, path)
    rules = {rule.tensors: rule for rule in starting_spec(path).rules}
    assert set(rules) == {
        ("layers.0.w", "layers.1.w", "layers.2.w"),
        ("layers.a.w",),
        ("conv2d.w",),
    }
    del tensors["layers.a.w"]
    save_file(tensors, path)
    assert {rule.tensors for rule in starting_spec(path).rules} == {("layers.*.w",), ("conv2d.w",)}


def test_the_bound_is_the_largest_norm_and_the_headroom(tmp_path):
    """The option says by how much."""
    path = tmp_path / "model.safetensors"
    save_file({"w": np.array([[3.0, 4.0], [0.0, 1.0]], np.float32)}, path)
    (rule,) = starting_spec(path, headroom=0.2).rules
    assert rule.constraint.get_config() == {"max_value": 6.0}
    assert rule.axes == (1,)


def test_what_gets_no_rule_is_told(tmp_path):
    """Weights that no bound can be read off are listed, so that nobody thinks them governed."""
    path = tmp_path / "model.safetensors"
    save_file(
        {
            "fine": np.ones((2, 2), np.float32),
            "broken": np.array([[np.nan, 1.0]], np.float32),
            "zeros": np.zeros((2, 2), np.float32),
            "scalar": np.array(1.0, np.float32),
        },
        path,
    )
    spec = starting_spec(path)
    assert {name for name, _ in spec.left_out} == {"broken", "zeros", "scalar"}
    assert "broken: 1 units hold non-finite weights" in render_spec(spec)
    save_file({"zeros": np.zeros((2, 2), np.float32)}, path)
    with pytest.raises(NothingEvaluatedError):
        starting_spec(path)


alike = st.builds(
    lambda root, name, suffix: root + name + suffix,
    st.sampled_from(["", "model_weights/", "model_weights/model_weights/"]),
    st.sampled_from(["x", "x/0", "x/1", "x.1", "0", "null", "a*", "a?", "!x", "re:x", "[x]"]),
    st.sampled_from(["", ":0", ":0:0", ":1"]),
)


@settings(deadline=None)
@example(["x", "x:0", "model_weights/x"])
@example(["0", "null"])
@given(st.lists(names | alike, min_size=1, max_size=6, unique=True))
def test_hostile_names_survive_the_yaml(tmp_path_factory, found):
    """A name cannot break out of its quotes, begin a comment's next line or match another name."""
    folder = tmp_path_factory.mktemp("names")
    path = folder / "model.safetensors"
    save_file({name: np.full((2, 2), 2.0**i, np.float32) for i, name in enumerate(found)}, path)
    spec = first_spec(path, folder, headroom=0.0)
    text = spec.read_text(encoding="utf-8")
    assert all(char == "\n" or char.isprintable() for char in text)
    assert set(yaml.safe_load(text)) == {"version", "declared", "rules"}
    assert "preset: health` (every" in text
    report = audit(path, spec)
    assert report.exit_code is ExitCode.OK
    assert sorted(result.tensor for result in report.results) == sorted(load_file(path))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("weight", [5e-324, 1e-310, 1e-200, 1e200, 1.7e308])
def test_weights_at_the_ends_of_float64_have_bounds(tmp_path, weight):
    """Four digits of a number that has no other digits, and headroom where there is none."""
    path = tmp_path / "model.safetensors"
    save_file({"w": np.full((2, 1), weight)}, path)
    for headroom in (0.0, 0.1):
        spec = first_spec(path, tmp_path, headroom=headroom)
        assert audit(path, spec).exit_code is ExitCode.OK
    (tensor,) = inspect(path, norms=True).tensors
    assert tensor.norms is not None
    assert tensor.norms.mean == weight


def test_norms_beyond_float64_show_no_bound(tmp_path):
    """A bound of infinity would be no bound."""
    path = tmp_path / "model.safetensors"
    save_file({"w": np.full((2, 4), 1.7e308), "fine": np.ones((2, 2))}, path)
    spec = starting_spec(path)
    assert [name for name, _ in spec.left_out] == ["w"]
    assert audit(path, first_spec(path, tmp_path)).exit_code is ExitCode.OK


@given(st.text(max_size=20))
def test_quoting_is_undone_by_yaml(text):
    """What is written is what is read, for every character that YAML can hold."""
    assert yaml.safe_load(quoted(text)) == text
    assert "\n" not in quoted(text)


@given(names, names)
def test_an_exact_pattern_means_one_name(name, other):
    """Signs of globs in a name are meant literally."""
    matching = TensorPatterns([[exact_pattern(name)]])
    assert matching.matching([name])
    without = other.removeprefix("model_weights/")
    if name not in {other, without, other.removesuffix(":0"), without.removesuffix(":0")}:
        assert not matching.matching([other])


@given(st.floats(1e-300, 1.7e308))
def test_rounding_a_bound_never_lowers_it(value):
    """Four digits are for reading; the bound must still hold."""
    assert value <= rounded_up(value) <= value * 1.0011


@pytest.mark.parametrize("path", CONFORMING, ids=lambda path: path.name)
def test_nothing_is_judged_twice(path, tmp_path):
    """A rule that states what the model declares takes its place; else findings would come in two."""
    judged = Counter(r.tensor for r in of_rules(audit(path, first_spec(path, tmp_path))))
    assert set(judged.values()) == {1}
    declared = audit(path).results
    assert {r.tensor for r in declared if r.verdict is not Verdict.NOT_EVALUATED} <= set(judged)


def test_a_declaration_without_a_rule_is_told(run, folder, fixtures):
    """A constraint of which no rule could be made is named, with the reason."""
    path = fixtures / "conforming" / "custom_clip.keras"
    done = run("init", path, "-o", "first.yaml", "--quiet")
    assert done.returncode == 0
    assert "2 declared constraints got no rule" in done.stderr
    text = (folder / "first.yaml").read_text()
    for result in audit(path).results:
        assert f"#   {result.rule}: {result.reason}" in text


def test_a_declaration_that_no_rule_can_state_is_told(run, folder, fixtures):
    """Orders among the weights of a layer are judged as declared only; `init` says so."""
    path = fixtures / "third_party" / "lattice.h5"
    assert run("init", path, "-o", "first.yaml").returncode == 0
    text = (folder / "first.yaml").read_text()
    assert "no spec can state RowSigns(" in text
    assert "constraint: NonNeg" in text


DECODER = np.random.default_rng(3).normal(size=(6, 4))
ROWS = (DECODER / np.linalg.norm(DECODER, axis=1, keepdims=True)).astype(np.float32)
SQUARE = np.eye(4, dtype=np.float32)


@pytest.mark.parametrize(
    ("name", "weights", "axis"),
    [
        ("W_dec", ROWS, 1),
        ("W_dec", ROWS.T, 0),
        ("decoder.weight", ROWS.T, 0),
        ("decoder.weight", ROWS, 1),
        ("W_dec", SQUARE, 1),
        ("decoder.weight", SQUARE, 0),
        ("layers.3/W_dec", np.stack([ROWS, ROWS]), 2),
    ],
)
def test_decoder_rows_of_norm_1_are_recognised(save_tensors, folder, name, weights, axis):
    """The norms decide along which axis they are 1; the usual layout where they are along both."""
    path = save_tensors({name: weights, "W_enc": np.ones((4, 6), np.float32)})
    spec = first_spec(path, folder)
    rules = {
        rule["id"]: rule for rule in yaml.safe_load((folder / "first.yaml").read_text())["rules"]
    }
    decoder = next(rule for rule in rules.values() if rule["tensors"] == name)
    assert (decoder["constraint"], decoder["axis"]) == ("UnitNorm", axis)
    assert rules["w_enc"]["constraint"] == "MaxNorm"
    assert audit(path, spec).exit_code is ExitCode.OK


def test_a_name_alone_makes_no_unit_norm(save_tensors):
    """A decoder whose rows have other norms gets a bound as any matrix does, and one layer its own."""
    path = save_tensors(
        {"l.0.W_dec": ROWS, "l.1.W_dec": ROWS, "l.2.W_dec": ROWS * np.float32(1.01)}
    )
    rules = {rule.tensors: str(rule.constraint) for rule in starting_spec(path, headroom=0).rules}
    assert rules == {
        ("l.0.W_dec", "l.1.W_dec"): "UnitNorm()",
        ("l.2.W_dec",): "MaxNorm(max_value=1.011)",
    }


@pytest.mark.parametrize(("scale", "known"), [(np.log(100), True), (2.5, True), (4.7, False)])
def test_a_logit_scale_is_at_most_ln_100(save_tensors, folder, scale, known):
    """What CLIP keeps; a model whose scale is beyond was trained otherwise."""
    path = save_tensors(
        {"clip.logit_scale": np.array(scale, np.float32), "w": DECODER.astype(np.float32)}
    )
    spec = starting_spec(path)
    assert [str(rule.constraint) for rule in spec.rules if "logit" in rule.id] == (
        [f"Clip(low=-inf, high={math.log(100)!r})"] if known else []
    )
    assert ("clip.logit_scale" in dict(spec.left_out)) is not known
    assert audit(path, first_spec(path, folder)).exit_code is ExitCode.OK


def test_a_running_variance_has_a_lower_bound_only(save_tensors, folder):
    """It grows with the data, so no norm bounds it; a negative one is told, and gets no rule."""
    names = ("bn.0.running_var", "bn.1.running_var", "bn.2.running_var")
    variances = np.array([[1, 900], [0, 2], [1, -1]], np.float32)
    path = save_tensors(dict(zip(names, variances, strict=True)))
    spec = starting_spec(path)
    assert [(r.tensors, str(r.constraint)) for r in spec.rules] == [(names[:2], "NonNeg()")]
    assert "negative" in dict(spec.left_out)[names[2]]
    assert audit(path, first_spec(path, folder)).exit_code is ExitCode.OK


def test_a_sound_checkpoint_gets_the_health_preset(run, save_tensors, folder):
    """A later model with a NaN in what no bound governs fails; an unsound one is told what is wrong."""
    save_tensors({"w": DECODER, "steps": np.array(3.0)})
    assert run("init", "model.safetensors", "-o", "first.yaml").returncode == 0
    assert yaml.safe_load((folder / "first.yaml").read_text())["preset"] == "health"
    save_tensors({"w": DECODER, "steps": np.array(np.nan)})
    assert run("audit", "model.safetensors", "--spec", "first.yaml").returncode == 1
    assert run("init", "model.safetensors", "-o", "second.yaml").returncode == 0
    text = (folder / "second.yaml").read_text()
    assert "preset" not in yaml.safe_load(text)
    assert "would fail now:\n#   steps: health/weights" in text


@pytest.mark.parametrize(
    "name", ["fp8_blocks", "gptq", "mxfp4_experts", "weight_norms", "bitsandbytes_4bit"]
)
def test_effective_weights_are_what_rules_name(fixtures, name):
    """Codes, scales and directions are no weights; a spec for a model names what it computes with."""
    with open_checkpoint(fixtures / "effective" / name) as checkpoint:
        weights, parts = set(computed_tensors(checkpoint)), parts_of(checkpoint)
    assert weights
    spec = starting_spec(fixtures / "effective" / name)
    text = render_spec(spec)
    with_rules = {
        r.tensor for r in audit(fixtures / "effective" / name, yaml.safe_load(text)).results
    }
    assert weights <= with_rules
    assert set(parts) - weights <= {tensor for tensor, _ in spec.left_out}


def test_warnings_about_declarations_are_kept(tmp_path):
    """What an audit of the declarations would warn of can be read in the spec."""
    rule = StartingRule("r", ("w",), MaxNorm(max_value=1.0), (0,), "A remark.")
    spec = StartingSpec("m.keras", True, (rule,), warnings=("a bias that is not there\n- id: x",))
    text = render_spec(spec)
    assert "#   a bias that is not there" in text
    assert len(yaml.safe_load(text)["rules"]) == 1


def test_editors_find_the_schema_unasked(run, save, folder):
    """The first line names a file that exists, wherever the spec goes; one that is there stays."""
    save(a=[0.5])
    (folder / "specs").mkdir()
    schema = folder / "specs" / "ckptclamp.schema.json"
    assert run("init", "model.safetensors", "-o", "specs/first.yaml").returncode == 0
    text = (folder / "specs" / "first.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=ckptclamp.schema.json\n")
    assert json.loads(schema.read_text()) == json.loads(run("schema").stdout)
    schema.write_text("{}")
    assert run("init", "model.safetensors", "-o", "specs/second.yaml").returncode == 0
    assert schema.read_text() == "{}"
    assert run("init", "model.safetensors", "-o", "specs/first.yaml", "--force").returncode == 0
    assert schema.read_text() != "{}"


@pytest.mark.parametrize("option", ["-o", "--schema"])
def test_a_spec_never_replaces_a_checkpoint(run, save, folder, option):
    """Not even by force: a file name that is typed twice must not cost the model."""
    model = save(a=[0.5])
    before = model.read_bytes()
    done = run("init", "model.safetensors", option, "./model.safetensors", "--force")
    assert done.returncode == 2
    assert model.read_bytes() == before
    twice = run("init", "model.safetensors", "-o", "x.yaml", "--schema", "x.yaml", "--force")
    assert twice.returncode == 2


def test_a_spec_without_a_schema(run, save, folder):
    """Who wants one file gets one file; on stdout nothing is written beside."""
    save(a=[0.5])
    shown = run("init", "model.safetensors")
    assert shown.stdout.startswith("# yaml-language-server: ")
    assert run("init", "model.safetensors", "--no-schema", "-o", "first.yaml").returncode == 0
    assert (folder / "first.yaml").read_text().startswith("# A first spec for model.safetensors")
    assert not (folder / "ckptclamp.schema.json").exists()
    assert run("init", "model.safetensors", "--no-schema", "--schema", "s.json").returncode == 2


def test_the_command_writes_the_spec_and_its_schema(run, save, folder):
    """An editor finds the schema by the path in the first line."""
    save(a=[0.5])
    (folder / "specs").mkdir()
    done = run("init", "model.safetensors", "-o", "specs/first.yaml", "--schema", "schema.json")
    assert done.returncode == 0, done.stderr
    text = (folder / "specs" / "first.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=../schema.json\n")
    assert json.loads((folder / "schema.json").read_text()) == json.loads(run("schema").stdout)
    assert run("init", "model.safetensors", "-o", "specs/first.yaml").returncode == 2
    assert run("init", "model.safetensors", "-o", "specs/first.yaml", "--force").returncode == 0
    assert run("audit", "model.safetensors", "--spec", "specs/first.yaml").returncode == 0
    assert run("init", "model.safetensors").stdout == (folder / "specs" / "first.yaml").read_text()
    assert not (folder / "ckptclamp.schema.json").exists()
