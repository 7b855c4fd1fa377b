"""What is stored is not always the weight: such numbers are neither judged nor changed unasked."""

from __future__ import annotations

import json

import h5py
import ml_dtypes
import numpy as np
import pytest

from tests.checkpoints.safetensors_files import serialised

CODES = np.full((4, 4), 8, np.float32)


def floats(*shape):
    """Weights that are 1."""
    return np.ones(shape, np.float32)


def integers(dtype, *shape):
    """Codes of a dtype."""
    return np.full(shape, 3, dtype)


FILES = {
    "float8": {
        "l.weight": CODES.astype(ml_dtypes.float8_e4m3fn),
        "l.weight_scale_inv": floats(3, 3),
    },
    "gptq": {
        "l.qweight": integers("int32", 4, 4),
        "l.qzeros": integers("int32", 1, 4),
        "l.scales": floats(1, 4),
        "l.g_idx": integers("int32", 4),
    },
    "nf4": {
        "l.weight": integers("uint8", 8, 1),
        "l.weight.absmax": integers("uint8", 2),
        "l.weight.quant_map": floats(16),
        "l.weight.quant_state.bitsandbytes__nf4": integers("uint8", 9),
    },
    "mxfp4": {
        "x.proj_blocks": integers("uint8", 4, 4),
        "x.proj_scales": integers("uint8", 4, 1),
    },
    "integers": {"codes": integers("int16", 4, 4)},
}
RULE = ["--max-norm", 1, "--axis", "all", "--tensors", "**"]


@pytest.fixture(params=FILES, ids=str)
def model(request, tmp_path):
    """A file of nothing but the parts of one weight."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(serialised(FILES[request.param]))
    return path


def written(tmp_path, **arrays):
    """A safetensors file of these tensors."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(serialised({k.replace("__", "."): v for k, v in arrays.items()}))
    return path


@pytest.mark.parametrize("strict", [[], ["--strict"]])
def test_an_audit_does_not_pass_what_it_cannot_compute(run, model, strict):
    """Every part is not evaluated, with a reason and the way to judge it as stored."""
    answer = run("audit", model, *RULE, *strict, "-f", "json")
    assert answer.returncode == 3, answer.stderr
    results = json.loads(answer.stdout)["report"]["results"]
    assert {result["verdict"] for result in results} == {"not-evaluated"}
    assert all("storage: raw" in r["hint"] for r in results)
    words = ("is not computed: ", "nothing tells what weights")
    assert all(any(word in r["reason"] for word in words) for r in results)


@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--allow-remaining"]])
def test_apply_writes_nothing(run, model, tmp_path, more):
    """A projection of codes or factors would destroy the weight, so there is no copy."""
    before = model.read_bytes()
    out = tmp_path / "out.safetensors"
    answer = run("apply", model, *RULE, "-o", out, *more)
    assert answer.returncode == 5, answer.stderr
    assert "nothing was written" in answer.stderr
    assert "storage: raw" in answer.stderr
    assert not out.exists()
    assert model.read_bytes() == before


def test_stored_numbers_are_judged_where_a_rule_says_so(run, model, tmp_path):
    """`storage: raw` is the way out, in a spec as on the command line."""
    assert run("audit", model, *RULE, "--storage", "raw").returncode == 1
    spec = tmp_path / "spec.yaml"
    rule = "{tensors: '**', constraint: MaxNorm, max_value: 1, axis: null, storage: raw}"
    spec.write_text(f"version: 1\nrules:\n  - {rule}\n")
    assert run("audit", model, "--spec", spec).returncode == 1
    shown = run("explain", model, "--spec", spec)
    assert shown.returncode == 0
    assert "as stored (storage: raw)" in shown.stdout


def test_weights_beside_the_parts_are_judged_and_mended(run, tmp_path):
    """Only the parts are left as they are, and only where that is accepted."""
    path = written(tmp_path, **FILES["gptq"], bias=2 * floats(4), norm__weight=floats(4))
    answer = run("audit", path, "--max-norm", 3, "--tensors", "bias", "--tensors", "norm.*")
    assert answer.returncode == 1
    out = tmp_path / "out.safetensors"
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}')
    answer = run("apply", path, *RULE, "-o", out, "--allow-remaining")
    assert answer.returncode == 3, answer.stderr
    old, new = path.read_bytes(), out.read_bytes()
    codes = slice(len(old) - 4 * 8, None)
    assert old[: codes.start] == new[: codes.start]
    assert old[codes] != new[codes]


def test_single_weights_that_are_integers_are_judged_as_ever(run, tmp_path):
    """A bound on each number by itself means something where a norm does not."""
    path = written(tmp_path, table=integers("int8", 4, 4))
    assert run("audit", path, "--clip", 0, 2, "--tensors", "table").returncode == 1
    assert run("audit", path, "--non-neg", "--tensors", "table").returncode == 0
    assert run("audit", path, "--non-neg", "--unit-norm", "--tensors", "**").returncode == 3


def test_integers_of_hdf5_have_no_norm_either(run, tmp_path):
    """The question is what the numbers are, not what holds them."""
    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as file:
        file["codes"] = integers("int32", 4, 4)
    answer = run("audit", path, *RULE)
    assert answer.returncode == 3
    assert "int32" in answer.stdout
    assert run("apply", path, *RULE, "-o", tmp_path / "out.h5").returncode == 5
    assert run("audit", path, *RULE, "--storage", "raw").returncode == 1


@pytest.mark.parametrize(
    "where",
    ["quantization_config", "compression_config", "text_config", "llm_config", "thinker_config"],
)
def test_a_config_beside_the_file_tells_that_its_codes_are_no_weights(run, tmp_path, where):
    """Codes whose scales have no name that is known here are not judged as stored."""
    path = written(tmp_path, l__codes=integers("int8", 4, 4), b__weight=floats(2, 2))
    stated = {"quant_method": "eetq"}
    of_model = {"quantization_config": stated}
    content: dict[str, object] = {where: stated}
    if where.endswith(("text_config", "llm_config")):
        content = {where: of_model}
    if where == "thinker_config":
        content = {where: {"text_config": of_model}}
    clip = ["--clip", 0, 5, "--tensors", "**"]
    assert run("audit", path, *clip).returncode == 0
    (tmp_path / "config.json").write_text(json.dumps(content))
    answer = run("audit", path, *clip)
    assert answer.returncode == 3
    assert "eetq" in answer.stdout
    assert run("audit", tmp_path, *clip).returncode == 3
    assert run("apply", path, *clip, "-o", tmp_path / "o.safetensors").returncode == 5


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 100_000,
        b'{"a": 1, "a": 2}',
        b"\xff",
        b" " * (9 << 20),
        None,
        "link",
    ],
    ids=["empty", "cut", "list", "deep", "twice", "bytes", "large", "folder", "link"],
)
def test_a_config_that_cannot_be_read_is_a_warning(run, tmp_path, content):
    """A hostile config neither stops an audit nor passes a strict gate in silence."""
    path = written(tmp_path, l__codes=integers("int8", 4, 4))
    config = tmp_path / "config.json"
    if content is None:
        config.mkdir()
    elif content == "link":
        config.symlink_to("/etc/passwd")
    else:
        config.write_bytes(content)
    clip = ["--clip", 0, 5, "--tensors", "**"]
    answer = run("audit", path, *clip)
    assert answer.returncode == 0, answer.stderr
    assert "warning[config-not-read]" in answer.stdout
    assert "Traceback" not in answer.stderr
    assert run("audit", path, *clip, "--strict").returncode == 1


def test_a_config_is_not_read_where_no_codes_can_be(run, tmp_path):
    """An ordinary model is audited as ever, whatever lies beside it."""
    path = written(tmp_path, l__weight=floats(2, 2), ids=integers("int64", 3))
    (tmp_path / "config.json").write_text("{")
    answer = run("audit", path, "--max-norm", 5, "--axis", 1, "--tensors", "*.weight", "--strict")
    assert answer.returncode == 0, answer.stdout


def test_no_first_spec_and_no_norms_for_parts(run, tmp_path):
    """`init` leaves parts out with the reason, and `inspect` prints no norm of them."""
    path = written(tmp_path, **FILES["float8"], b__weight=floats(2, 2), i=integers("int64", 3))
    spec = tmp_path / "spec.yaml"
    assert run("init", path, "-o", spec, "--no-schema").returncode == 0
    text = spec.read_text()
    assert text.count("- id:") == 1
    assert "# " + "  l.weight: it is block-scaled float8, and what the model computes" in text
    assert run("audit", path, "--spec", spec).returncode == 0
    tensors = json.loads(run("inspect", path, "--norms", "-f", "json").stdout)["tensors"]
    norms = {tensor["name"]: tensor["norms"] for tensor in tensors}
    assert "it holds the scales" in norms["l.weight_scale_inv"]["failure"]
    assert norms["b.weight"]["failure"] is None


def test_storage_belongs_to_a_rule(run, tmp_path):
    """An option that would do nothing is refused."""
    answer = run("audit", written(tmp_path, w=floats(2, 2)), "--storage", "raw")
    assert answer.returncode == 2
    assert "--storage" in answer.stderr
