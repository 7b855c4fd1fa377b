"""Parts of any dtype, shape and content: an answer every time, and never a pass by accident."""

from __future__ import annotations

import json
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptclamp.auditing.audit import audit
from ckptclamp.auditing.options import AuditOptions
from ckptclamp.auditing.results import Verdict
from ckptclamp.models.parts import FAMILIES
from tests.checkpoints.safetensors_files import serialised
from tests.models.effective import families

ANY = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
DTYPES = st.sampled_from(
    ["float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e8m0fnu", "int8", "uint8", "int32"]
)
EXTENTS = st.sampled_from([1, 1, 2, 4, 8, 16, 32, 64])
SHAPES = st.lists(EXTENTS, max_size=4).map(tuple)
STATES = st.fixed_dictionaries(
    {
        "quant_type": st.sampled_from(["nf4", "fp4", "x"]),
        "blocksize": st.sampled_from([64, 1, 0, -1, None, 1 << 40]),
        "shape": st.sampled_from([[4, 8], [0], [-1], [1 << 40, 2], [2] * 9, "x"]),
        "nested_blocksize": st.sampled_from([256, True]),
        "nested_offset": st.sampled_from([0.5, None]),
    }
)


def numpy_dtype(name):
    """A dtype by its name."""
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def random_part(data, ending, dtypes, base):
    """Bytes of anything, more often than not in a shape and a dtype that may fit."""
    if "quant_state" in ending:
        return np.frombuffer(json.dumps(data.draw(STATES)).encode(), np.uint8)
    fitting = sorted(dtypes - {"float64"})
    name = data.draw(st.sampled_from(fitting) if fitting else DTYPES)
    divided = [max(1, extent // data.draw(EXTENTS)) for extent in base]
    shape = tuple(divided) if data.draw(st.booleans()) else data.draw(SHAPES)
    dtype = numpy_dtype(name)
    size = int(np.prod(shape)) * dtype.itemsize
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    return random.integers(0, 256, size, dtype=np.uint8).view(dtype).reshape(shape)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@ANY
@given(data=st.data())
def test_any_parts_get_an_answer(tmp_path, family, data):
    """Neither a traceback nor a part that is judged beside the weight that it belongs to."""
    base = data.draw(SHAPES)
    arrays = {}
    for ending, (_, dtypes) in family.parts.items():
        stem = "l.weight" if not ending or ending[0] in "._:" else "l."
        arrays[f"{stem}{ending}"] = random_part(data, ending, dtypes, base)
    path = tmp_path / "model.safetensors"
    path.write_bytes(serialised(arrays))
    config = data.draw(st.sampled_from([{}, {"quant_method": "gptq"}, {"quant_method": "awq"}]))
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": config}))
    rule = {"id": "r", "tensors": "**", "constraint": "MaxNorm", "max_value": 1e30, "axis": None}
    report = audit(path, {"version": 1, "rules": [rule]}, AuditOptions(memory=1 << 22))
    assert report.results
    weights = {result.tensor for result in report.results}
    passed = [result for result in report.results if result.verdict is Verdict.PASS]
    assert all(result.dtype == "float64" for result in passed), "a part was judged as a weight"
    assert passed == [] or len(weights) == 1


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32"])
@pytest.mark.parametrize("constraint", ["NonNeg", "Clip", "MaxNorm", "Finite"])
@pytest.mark.parametrize("name", ["l.weight", "layers/dense/vars/0"])
def test_bounds_are_not_held_against_integers_that_are_called_a_weight(
    tmp_path, dtype, constraint, name
):
    """SmoothQuant calls the scale of its codes `a`; that they are finite is true whatever they mean."""
    path = tmp_path / "model.safetensors"
    codes = np.ones((4, 4), dtype)
    path.write_bytes(serialised({name: codes, "l.a": np.ones((), np.float32)}))
    bounds = {"Clip": {"low": -200, "high": 200}, "MaxNorm": {"max_value": 99, "unit_axis": 0}}
    rule = {"id": "r", "tensors": name, "constraint": constraint} | bounds.get(constraint, {})
    (result,) = audit(path, {"version": 1, "rules": [rule]}).results
    assert result.verdict == ("pass" if constraint == "Finite" else "not-evaluated")
    (result,) = audit(path, {"version": 1, "rules": [rule | {"storage": "raw"}]}).results
    assert result.verdict == "pass"


def test_weights_that_the_model_turns_are_not_computed(tmp_path):
    """compressed-tensors applies rotations to inputs and outputs, which no part of a weight tells of."""
    made = families.compressed_tensors(np.random.default_rng(0), (32, 64))
    turned = replace(
        made, quantisation={**made.quantisation, "transform_config": {"config_groups": {}}}
    )
    rule = {"id": "r", "tensors": "l.weight", "constraint": "MaxNorm", "max_value": 1e9, "axis": 1}
    for one, verdict in ((made, "pass"), (turned, "not-evaluated")):
        (result,) = audit(one.write(tmp_path), {"version": 1, "rules": [rule]}).results
        assert result.verdict == verdict
    assert "transforms" in str(result.reason)


@pytest.mark.parametrize("names", [("table", "l.weight"), ("l.weight", "table")])
def test_integers_that_are_called_a_weight_are_told_from_others_of_their_shape(tmp_path, names):
    """What a rule means for one is not what it means for the other."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(serialised({name: np.ones((4, 4), np.int8) for name in names}))
    rule = {"id": "r", "tensors": "**", "constraint": "NonNeg"}
    found = audit(path, {"version": 1, "rules": [rule]}).results
    assert {r.tensor: str(r.verdict) for r in found} == {
        "table": "pass",
        "l.weight": "not-evaluated",
    }
