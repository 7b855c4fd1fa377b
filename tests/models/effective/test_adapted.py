"""An adapter on a base that is itself stored in parts: what the base is computed to be, plus the update."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ckptclamp.auditing.audit import audit
from ckptclamp.auditing.options import AuditOptions
from ckptclamp.errors import RefusedError
from tests.checkpoints.safetensors_files import serialised
from tests.models.effective import families

BASES = ("blocks_of_float8", "rows_of_int8", "gptq", "compressed_tensors", "bitsandbytes", "nvfp4")


@pytest.mark.parametrize("family", BASES)
@pytest.mark.parametrize("dora", [False, True])
def test_the_merged_weight_of_a_quantised_base_is_judged(tmp_path, family, dora):
    """W as its family decodes it + alpha / r B·A; with DoRA the length that is stored for each row."""
    random = np.random.default_rng(8)
    made = getattr(families, family)(random, (32, 64))
    parts, weight, stated = made.parts, made.weight, made.quantisation
    base, folder = tmp_path / "base", tmp_path / "adapter"
    base.mkdir()
    folder.mkdir()
    (base / "model.safetensors").write_bytes(
        serialised({name: np.asarray(part) for name, part in parts.items()})
    )
    config = {} if stated is None else {"quantization_config": stated}
    (base / "config.json").write_text(json.dumps(config))
    down, up = (random.normal(size=s).astype(np.float32) for s in ((4, 64), (32, 4)))
    factors = {"lora_A.weight": down, "lora_B.weight": up}
    if dora:
        factors["lora_magnitude_vector"] = np.arange(1, 33, dtype=np.float32)
    adapter = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_dora": dora}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    (folder / "adapter_model.safetensors").write_bytes(
        serialised({f"base_model.model.l.{name}": array for name, array in factors.items()})
    )
    merged = weight + 2 * up.astype(np.float64) @ down.astype(np.float64)
    norms = np.arange(1, 33) if dora else np.linalg.norm(merged, axis=1)
    rule = {"id": "r", "tensors": "l.weight", "constraint": "MaxNorm", "max_value": 1e-9}
    spec = {"version": 1, "rules": [rule | {"unit_axis": 0}]}
    (result,) = audit(folder, spec, AuditOptions(base=base, worst=32)).results
    assert result.violating == 32
    found = {unit.index[0]: unit.measured for unit in result.worst}
    np.testing.assert_allclose([found[i] for i in range(32)], norms, rtol=1e-9)


def test_an_adapter_whose_base_cannot_be_computed_is_not_evaluated(tmp_path):
    """The reason is that of the base; the update alone is never taken for the weight."""
    random = np.random.default_rng(8)
    parts = families.blocks_of_float8(random, (32, 64)).parts
    parts["l.weight_scale_inv"] = -parts["l.weight_scale_inv"]
    parts |= {"l.lora_A.weight": np.ones((4, 64), np.float32)}
    parts |= {"l.lora_B.weight": np.ones((32, 4), np.float32)}
    path = tmp_path / "model.safetensors"
    path.write_bytes(serialised(parts))
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    rule = {"id": "r", "tensors": "**", "constraint": "MaxNorm", "max_value": 1e9}
    spec = {"version": 1, "rules": [rule | {"unit_axis": 0}]}
    (result,) = audit(path, spec).results
    assert result.verdict == "not-evaluated"
    assert "negative" in (result.reason or "")


def adapter_of(folder, kind, **names):
    """An adapter of peft of some `kind` that holds matrices of ones, by the names within a module."""
    tensors = {f"base_model.model.l.{n.replace('__', '.')}": a for n, a in names.items()}
    config = {"peft_type": kind, "r": 2, "lora_alpha": 2}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(serialised(tensors))
    rule = {"id": "r", "tensors": "**", "constraint": "MaxLInfNorm", "max_value": 1e9}
    return audit(folder, {"version": 1, "rules": [rule | {"unit_axis": 0}]}).results


@pytest.mark.parametrize(
    "names",
    [
        ("deft_P", "deft_R"),
        ("delora_A", "delora_B", "delora_lambda", "delora_w_norm"),
        ("glora_A.Xd", "glora_A.Xu"),
        ("gralora_A", "gralora_B"),
        ("hira_A", "hira_B"),
        ("lily_A.weight", "lily_B.weight", "lily_router.weight"),
        ("lora_A.weight", "lora_B.weight", "lora_E"),
        ("osf_svd_params.U_low", "osf_svd_params.S_low"),
        ("peanut_A.weight", "peanut_B.weight"),
        ("poly_lora_A", "poly_router.module_logits"),
        ("psoft_R",),
        ("supertuning_values",),
        ("tinylora_A", "tinylora_v"),
        ("of_next_year.A", "of_next_year.B"),
    ],
)
def test_what_other_adapters_hold_is_no_weight(tmp_path, names):
    """Names as peft 0.21 saves them; of a kind that is not known, whatever there is."""
    some = {name.replace(".", "__"): np.ones((4, 4), np.float32) for name in names}
    results = adapter_of(tmp_path, "NEW", **some)
    assert results
    assert {result.verdict for result in results} == {"not-evaluated"}


@pytest.mark.parametrize("kind", ["LN_TUNING", "PROMPT_TUNING"])
def test_what_is_trained_whole_is_a_weight(tmp_path, kind):
    """Layers that are tuned themselves, and prompts."""
    (result,) = adapter_of(tmp_path, kind, some__weight=np.ones((4, 4), np.float32))
    assert result.verdict == "pass"


def on_a_base(folder, kind, **names):
    """The same adapter on a base that has the weight `l.weight` of zeros."""
    adapter_of(folder, kind, **names)
    (base := folder / "base").mkdir()
    (base / "model.safetensors").write_bytes(serialised({"l.weight": np.zeros((4, 4), np.float32)}))
    rule = {"id": "r", "tensors": "**", "constraint": "MaxNorm", "max_value": 1, "axis": 0}
    spec = {"version": 1, "rules": [rule]}
    return audit(folder / "adapter_model.safetensors", spec, AuditOptions(base=base)).results


@pytest.mark.parametrize("kind", ["NEW", "LN_TUNING"])
def test_how_an_unknown_adapter_changes_its_base_is_not_guessed(tmp_path, kind):
    """Nor is the base judged as if there were none."""
    with pytest.raises(RefusedError, match="is not known here"):
        on_a_base(tmp_path, kind, of_next_year__weight=np.ones((4, 4), np.float32))


def test_an_adapter_that_holds_the_base_of_all_that_it_changes_is_one(tmp_path):
    """As peft saves embeddings; what it holds counts, and not what the base holds."""
    some = {"lora_A__weight": np.ones((2, 4), np.float32)}
    some |= {"lora_B__weight": np.zeros((4, 2), np.float32)}
    some |= {"base_layer__weight": np.ones((4, 4), np.float32)}
    (result,) = on_a_base(tmp_path, "LORA", **some)
    assert (result.tensor, result.measured_max) == ("l.weight", 2)
