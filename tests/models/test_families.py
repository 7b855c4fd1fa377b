"""Which names, dtypes and shapes are parts of a weight, and which are ordinary weights."""

from __future__ import annotations

import pytest

from ckptclamp.models.families import find_parts
from tests.plan.checkpoints import tensor


def parts(quantisation=None, /, **dtypes):
    """What is found in tensors of these dtypes; ``__`` in a keyword stands for a dot."""
    return named({key.replace("__", "."): dtype for key, dtype in dtypes.items()}, quantisation)


def named(dtypes, quantisation=None):
    """Family, role and weight of every part among tensors of these names and dtypes."""
    tensors = {name: tensor(name, 4, 4, dtype=dtype) for name, dtype in dtypes.items()}
    found = find_parts(tensors, quantisation)
    return {name: (p.family, str(p.role), p.weight) for name, p in found.items()}


FAMILIES = {
    "float8 whose inputs are multiplied, as ModelOpt does for AWQ": (
        {
            "l.weight": "float8_e4m3fn",
            "l.weight_scale": "float32",
            "l.pre_quant_scale": "float32",
        },
        "scaled float8",
        ("codes", "scales", "quantisation state"),
        "l.weight",
    ),
    "int16 with a scale": (
        {"l.weight": "int16", "l.weight_scale": "float32"},
        "scaled codes",
        ("codes", "scales"),
        "l.weight",
    ),
    "MXFP4 as OpenAI names it": (
        {"m.mlp1_weight.blocks": "uint8", "m.mlp1_weight.scales": "uint8"},
        "MXFP4 (OpenAI)",
        ("codes", "scales"),
        "m.mlp1_weight",
    ),
    "float8 in blocks": (
        {"l.weight": "float8_e4m3fn", "l.weight_scale_inv": "float32"},
        "block-scaled float8",
        ("codes", "scales"),
        "l.weight",
    ),
    "float8 experts without a last name": (
        {"x.gate_up_proj": "float8_e4m3fn", "x.gate_up_proj_scale_inv": "float32"},
        "block-scaled float8",
        ("codes", "scales"),
        "x.gate_up_proj",
    ),
    "float8 with one scale and that of its input": (
        {
            "l.weight": "float8_e4m3fn",
            "l.weight_scale": "float32",
            "l.input_scale": "float32",
        },
        "scaled float8",
        ("codes", "scales", "activation scale"),
        "l.weight",
    ),
    "float8 as ComfyUI spells it": (
        {"l.weight": "float8_e5m2", "l.scale_weight": "float32", "l.scale_input": "float32"},
        "scaled float8",
        ("codes", "scales", "activation scale"),
        "l.weight",
    ),
    "float8 as DeepSeek's inference code spells it": (
        {"l.weight": "float8_e4m3fn", "l.scale": "float8_e8m0fnu"},
        "scaled float8",
        ("codes", "scales"),
        "l.weight",
    ),
    "directions in float8": (
        {"l.weight_v": "float8_e4m3fn", "l.weight_g": "float32"},
        "weight-normalised",
        ("directions", "norms"),
        "l.weight",
    ),
    "int8": (
        {"l.weight": "int8", "l.weight_scale": "bfloat16", "l.weight_zero_point": "int8"},
        "scaled int8",
        ("codes", "scales", "zero points"),
        "l.weight",
    ),
    "packed": (
        {
            "l.weight_packed": "int32",
            "l.weight_shape": "int64",
            "l.weight_scale": "bfloat16",
            "l.weight_zero_point": "int32",
            "l.weight_g_idx": "int32",
        },
        "packed (compressed-tensors)",
        ("codes", "shape", "scales", "zero points", "index"),
        "l.weight",
    ),
    "GPTQ": (
        {"l.qweight": "int32", "l.qzeros": "int32", "l.scales": "float16", "l.g_idx": "int32"},
        "GPTQ or AWQ",
        ("codes", "zero points", "scales", "index"),
        "l.weight",
    ),
    "bitsandbytes int8": (
        {"l.weight": "int8", "l.SCB": "float32", "l.weight_format": "uint8"},
        "bitsandbytes int8",
        ("codes", "scales", "quantisation state"),
        "l.weight",
    ),
    "bitsandbytes nf4": (
        {
            "l.weight": "uint8",
            "l.weight.absmax": "uint8",
            "l.weight.quant_map": "float32",
            "l.weight.nested_absmax": "float32",
            "l.weight.nested_quant_map": "float32",
            "l.weight.quant_state.bitsandbytes__nf4": "uint8",
        },
        "bitsandbytes 4-bit",
        (
            "codes",
            "scales",
            "table of values",
            "scales",
            "table of values",
            "quantisation state",
        ),
        "l.weight",
    ),
    "MXFP4": (
        {"x.down_proj_blocks": "uint8", "x.down_proj_scales": "uint8"},
        "MXFP4",
        ("codes", "scales"),
        "x.down_proj",
    ),
    "NVFP4": (
        {
            "l.weight": "uint8",
            "l.weight_scale": "float8_e4m3fn",
            "l.weight_scale_2": "float32",
            "l.input_scale": "float32",
        },
        "NVFP4",
        ("codes", "scales", "scales", "activation scale"),
        "l.weight",
    ),
    "2:4 sparse": (
        {"l.weight.compressed": "bfloat16", "l.weight.bitmask": "uint8"},
        "sparse, compressed",
        ("values that are not zero", "mask"),
        "l.weight",
    ),
    "weight norm": (
        {"c.weight_g": "float32", "c.weight_v": "float32"},
        "weight-normalised",
        ("norms", "directions"),
        "c.weight",
    ),
    "weight norm of a recurrent weight": (
        {"r.weight_hh_l0_g": "float32", "r.weight_hh_l0_v": "float32"},
        "weight-normalised",
        ("norms", "directions"),
        "r.weight_hh_l0",
    ),
    "weight norm as a parametrisation": (
        {
            "c.parametrizations.weight.original0": "float32",
            "c.parametrizations.weight.original1": "float32",
        },
        "weight-normalised",
        ("norms", "directions"),
        "c.weight",
    ),
    "spectral norm": (
        {"c.weight_orig": "float32", "c.weight_u": "float32", "c.weight_v": "float32"},
        "spectrally normalised",
        ("original", "singular vectors", "singular vectors"),
        "c.weight",
    ),
    "spectral norm as a parametrisation": (
        {
            "parametrizations.weight.original": "float32",
            "parametrizations.weight.0._u": "float32",
            "parametrizations.weight.0._v": "float32",
        },
        "spectrally normalised",
        ("original", "singular vectors", "singular vectors"),
        "weight",
    ),
    "any other parametrisation": (
        {
            "c.parametrizations.weight.original": "float32",
            "c.parametrizations.weight.0.b": "float32",
        },
        "parametrised",
        ("original", "quantisation state"),
        "c.weight",
    ),
    "pruned": (
        {"c.weight_orig": "float32", "c.weight_mask": "float32"},
        "pruned",
        ("original", "mask"),
        "c.weight",
    ),
    "MLX": (
        {"l.weight": "uint32", "l.scales": "bfloat16", "l.biases": "bfloat16"},
        "MLX",
        ("codes", "scales", "zero points"),
        "l.weight",
    ),
    "HQQ": (
        {"l.W_q": "uint8", "l.scale": "float16", "l.zero": "float16", "l.nbits": "int32"},
        "HQQ",
        ("codes", "scales", "zero points", "quantisation state"),
        "l.weight",
    ),
    "AQLM": (
        {"l.codes": "int8", "l.codebooks": "float16", "l.scales": "float16"},
        "AQLM",
        ("codes", "table of values", "scales"),
        "l.weight",
    ),
    "EXL2": (
        {"l.q_weight": "int32", "l.q_scale": "int32", "l.q_scale_max": "float16"},
        "EXL2",
        ("codes", "scales", "scales"),
        "l.weight",
    ),
    "EXL3": (
        {"l.trellis": "int16", "l.suh": "float16", "l.svh": "float16"},
        "EXL3",
        ("codes", "quantisation state", "quantisation state"),
        "l.weight",
    ),
    "quanto": (
        {"l.weight._data": "int8", "l.weight._scale": "float32"},
        "quanto",
        ("codes", "scales"),
        "l.weight",
    ),
    "torchao": (
        {"l._weight_qdata": "int8", "l._weight_scale": "float32"},
        "torchao",
        ("codes", "scales"),
        "l.weight",
    ),
    "torchao, as it was first": (
        {"l.weight:qdata": "int8", "l.weight:scale": "float32"},
        "torchao",
        ("codes", "scales"),
        "l.weight",
    ),
    "LoRA of peft": (
        {"q.lora_A.default.weight": "float32", "q.lora_B.default.weight": "float32"},
        "low-rank adapted (LoRA)",
        ("factor", "factor"),
        "q.delta_weight",
    ),
    "DoRA beside its base": (
        {
            "q.lora_A.weight": "float32",
            "q.lora_B.weight": "float32",
            "q.lora_magnitude_vector": "float32",
            "q.base_layer.weight": "bfloat16",
        },
        "low-rank adapted (LoRA)",
        ("factor", "factor", "norms", "base weight"),
        "q.weight",
    ),
    "LoRA of an embedding": (
        {"e.lora_embedding_A.default": "float32", "e.lora_embedding_B": "float32"},
        "low-rank adapted (LoRA)",
        ("factor", "factor"),
        "e.delta_weight",
    ),
    "LoRA of kohya": (
        {
            "lora_unet_q.lora_down.weight": "float16",
            "lora_unet_q.lora_up.weight": "float16",
            "lora_unet_q.alpha": "float16",
        },
        "low-rank adapted (LoRA)",
        ("factor", "factor", "scaling"),
        "lora_unet_q.delta_weight",
    ),
}


@pytest.mark.parametrize(("dtypes", "family", "roles", "weight"), FAMILIES.values(), ids=FAMILIES)
def test_a_family_is_told_whole_and_nothing_besides(dtypes, family, roles, weight):
    """Each part has its role and the weight that it stands for; its neighbours are weights."""
    neighbours = {"l.bias": "float16", "norm.weight": "float32", "ids": "int64"}
    assert named({**dtypes, **neighbours}) == {
        name: (family, role, weight) for name, role in zip(dtypes, roles, strict=True)
    }


CACHES = ("k_scale", "v_scale", "kv_scale", "q_scale", "prob_scale", "input_scale_ub")


@pytest.mark.parametrize("name", CACHES)
def test_what_scales_a_cache_or_an_input_changes_no_weight(name):
    """Though it lies in a module whose weight is in codes."""
    dtypes = {"k.weight": "float8_e4m3fn", "k.weight_scale": "float32"}
    assert named({**dtypes, f"k.{name}": "float32"}) == named(dtypes)


def test_a_scale_of_no_codes_where_those_of_others_have_some_is_no_pass():
    """What is multiplied by it, or whether anything is, nobody can tell."""
    codes = {"l.weight": "float8_e4m3fn", "l.weight_scale": "float32"}
    found = named({**codes, "m.weight": "bfloat16", "m.weight_scale": "float32"})
    assert found["m.weight_scale"] == ("scaled float8", "scales", "m.weight")


@pytest.mark.parametrize("held", ["m.B", "m.indices", "m.Qidxs"])
def test_codes_of_a_method_that_is_not_known_stand_for_the_weight_of_their_module(held):
    """A rule about weights must meet them, whatever they are called."""
    found = named({held: "int32", "norm.weight": "float16"}, {"quant_method": "new"})
    assert found == {held: ("new (by the config beside it)", "codes", "m.weight")}
    beside = named({held: "int32", "m.weight": "float16"}, {"quant_method": "new"})
    assert beside[held] == ("new (by the config beside it)", "codes", held)


ORDINARY = {
    "a module that is called scales": {"scales.weight": "float32", "m.scales": "float32"},
    "batch norm": {"b.weight": "float32", "b.running_var": "float32", "b.running_mean": "float32"},
    "scales of a model's own": {"logit_scale": "float32", "b.layer_scale": "float32"},
    "a float weight with a scale of its own": {"l.weight": "float32", "l.weight_scale": "float32"},
    "an input scale of a plain layer": {"l.weight": "bfloat16", "l.input_scale": "float32"},
    "a length without a direction": {"c.weight_g": "float32"},
    "a direction without a length": {"c.weight_v": "float32"},
    "mixing weights of RWKV": {"a.time_mix_g": "float32", "a.time_mix_v": "float32"},
    "rotary positions": {"r.inv_freq": "float32", "r.position_ids": "int64"},
    "gates and values": {"m.g": "float32", "m.v": "float32", "m._g": "float32"},
    "no adapter": {"lora.weight": "float32", "explora_A.weight": "float32"},
    "float8 alone": {"l.weight": "float8_e4m3fn", "m.weight": "float8_e5m2"},
    "blocks of floats": {"m.q_blocks": "float32", "m.q_scales": "float32"},
    "counters": {"b.num_batches_tracked": "int64", "b.mask": "bool"},
    "a network that is named by its bits": {"bitmask": "uint8", "m.shape": "int64"},
    "scales and shapes of no HQQ": {"l.scale": "float32", "l.zero": "float32", "l.axis": "int64"},
    "codes of a tokenizer": {"vq.codes": "int64", "vq.scales": "float32"},
    "empty names": {"": "float32", ".": "float32", "_scale": "float32", "_g": "float32"},
}


@pytest.mark.parametrize("dtypes", ORDINARY.values(), ids=ORDINARY)
def test_ordinary_weights_are_no_parts(dtypes):
    """A name that only looks like a part must not keep a model from being audited."""
    assert named(dtypes) == {}


@pytest.mark.parametrize(
    ("dtypes", "lacks"),
    [
        ({"l.weight_scale_inv": "float32"}, "its codes"),
        ({"l.weight_scale_inv": "float32", "l.weight": "bfloat16"}, "its codes"),
        ({"l.qweight": "int32"}, "its scales"),
        ({"l.qzeros": "int32"}, "its codes"),
        ({"l.weight_packed": "int32"}, "its scales"),
        ({"l.SCB": "float32"}, "its codes"),
        ({"l.weight.absmax": "uint8"}, "its codes"),
        ({"l.weight.quant_state.bitsandbytes__fp4": "uint8"}, "its codes"),
        ({"l.weight_scale_2": "float32"}, "its codes"),
    ],
)
def test_a_part_without_its_family_is_still_a_part(dtypes, lacks):
    """What can only be a part is not judged as a weight because a file lost the rest."""
    found = find_parts({name: tensor(name, 4, dtype=dtype) for name, dtype in dtypes.items()})
    (first, *_) = dtypes
    assert set(found) == {first}
    assert found[first].lacks == lacks


@pytest.mark.parametrize(
    ("others", "alone", "lacks"),
    [
        ({"a.weight_g": "float32", "a.weight_v": "float32"}, "b.weight_v", "its norms"),
        ({"a.weight_g": "float32", "a.weight_v": "float32"}, "b.weight_g", "its directions"),
        ({"a.weight_orig": "float32", "a.weight_mask": "float32"}, "b.weight_orig", "its mask"),
    ],
)
def test_a_part_alone_is_one_where_others_are_whole(others, alone, lacks):
    """A name that may mean anything means what it means in the rest of the file."""
    assert named({alone: "float32"}) == {}
    dtypes = {**others, alone: "float32"}
    found = find_parts({name: tensor(name, 4, dtype=dtype) for name, dtype in dtypes.items()})
    assert found[alone].lacks == lacks


def test_a_part_may_be_called_by_its_ending_alone():
    """A file of one layer has no modules before its names."""
    dtypes = {"qweight": "int32", "qzeros": "int32", "scales": "float16"}
    assert set(named(dtypes)) == set(dtypes)
    assert {weight for _, _, weight in named(dtypes).values()} == {"weight"}


@pytest.mark.parametrize("name", ["q.lora_A.weight", "c.parametrizations.weight.original0"])
def test_adapters_and_parametrisations_are_told_by_name(name):
    """One half of a pair shows the family as well as both."""
    assert set(named({name: "float32"})) == {name}


def test_float8_without_the_scale_that_others_have_is_no_weight():
    """A dropped scale is the mistake that loads without a word and computes nonsense."""
    found = find_parts(
        {
            name: tensor(name, 4, 4, dtype=dtype)
            for name, dtype in {
                "a.weight": "float8_e4m3fn",
                "a.weight_scale_inv": "float32",
                "b.weight": "float8_e4m3fn",
                "c.weight": "bfloat16",
            }.items()
        }
    )
    assert set(found) == {"a.weight", "a.weight_scale_inv", "b.weight"}
    assert "without the scale that other float8 weights have" in found["b.weight"].reason


@pytest.mark.parametrize("stated", [{"quant_method": "eetq"}, {}, {"quant_method": 3}])
def test_the_config_tells_of_codes_that_no_name_tells_of(stated):
    """Integers of a model that says that it is quantised are codes; its floats are weights."""
    found = parts(stated, l__weight="int8", m__weight="float8_e5m2", n__weight="float16", i="int64")
    assert set(found) == {"l.weight", "m.weight"}
    assert parts(None, l__weight="int8", n__weight="float16") == {}
    if "eetq" in stated.values():
        assert "eetq" in found["l.weight"][0]


def test_many_names_take_no_time_that_anybody_notices():
    """A stranger's header of long names is searched in linear time."""
    names = [f"{'a.' * 20_000}weight_scale", "lora" * 50_000, "parametrizations." * 10_000]
    names += [f"m{i}.weight_scale" for i in range(20_000)]
    assert named(dict.fromkeys(names, "float32")).keys() <= set(names)


def test_a_reason_names_the_family_and_the_weight_and_hides_nothing():
    """Names come from strangers, so control characters never reach a terminal."""
    (part, _) = find_parts(
        {
            name: tensor(name, 2, dtype=dtype)
            for name, dtype in {"\x1b.weight": "int8", "\x1b.SCB": "float32"}.items()
        }
    ).values()
    assert "the codes of bitsandbytes int8" in part.reason
    assert "\x1b" not in part.reason


@pytest.mark.parametrize(
    ("weight", "scale"),
    [
        ("l.weight", "l.weight_scales"),
        ("l.weight", "l.weight.scale"),
        ("l.weight", "l.weight_quantizer._amax"),
        ("l.weight", "l.descale"),
        ("l.weight", "l.weights_scaling_factor"),
        ("l.weight", "l._extra_state"),
        ("x.gate_up", "x.gate_up_scales"),
        ("weight", "qscale"),
    ],
)
@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "int8", "uint8", "uint32"])
def test_codes_beside_a_scale_of_an_unknown_name_are_no_weight(weight, scale, dtype):
    """Whatever the scale is, the codes alone are not what the model computes with."""
    found = named({weight: dtype, scale: "float32"})
    assert found == {
        weight: ("scaled codes", "codes", weight),
        scale: ("scaled codes", "scales", weight),
    }


def test_scales_of_something_else_leave_float8_weights_alone():
    """A norm within a module, and an outer module's own temperature."""
    assert not named(
        {
            "m.weight": "float8_e4m3fn",
            "m.norm.scale": "float32",
            "n.k.weight": "float8_e4m3fn",
            "n.logit_scale": "float32",
            "scale_net.weight": "int8",
            "scale_net.bias": "float32",
            "scaled.weight": "uint8",
        }
    )


@pytest.mark.parametrize(
    ("held", "weight"),
    [
        ({"l.weight_scale": "float32"}, "l.weight"),
        ({"l.weight": "uint8", "l.weight.quant_map": "float32"}, "l.weight"),
        ({"x.gate_up_proj_blocks": "uint8"}, "x.gate_up_proj"),
        ({"x.down_proj_scales": "uint8"}, "x.down_proj"),
    ],
)
def test_what_can_only_be_a_part_shows_that_the_others_are_missing(held, weight):
    """Also where no other weight of the file has all of its parts."""
    others = {"sound.weight": "float32"}
    tensors = {n: tensor(n, 4, 4, dtype=dtype) for n, dtype in {**others, **held}.items()}
    found = find_parts(tensors)
    assert found
    assert {part.weight for part in found.values()} == {weight}
    assert all(part.lacks for part in found.values())


def test_a_scale_may_have_a_dtype_of_codes_itself():
    """Exponents in bytes."""
    found = named({"l.weight": "uint32", "l.scales": "uint8"})
    assert found["l.weight"] == ("scaled codes", "codes", "l.weight")
    assert found["l.scales"] == ("scaled codes", "scales", "l.weight")
