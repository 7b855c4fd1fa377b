"""Which tensors are found to hold the same bytes, and what is read to find it."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptclamp import open_checkpoint
from ckptclamp.auditing.audit import as_spec
from ckptclamp.checkpoints.source import Source
from ckptclamp.plan import ties
from ckptclamp.plan.build import build_plan
from tests.checkpoints.safetensors_files import write_set

EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"
NAMES = (EMBEDDING, HEAD, "a", "b", "c")
MATRIX = np.arange(1024, dtype=np.float32).reshape(32, 32)
LATE = MATRIX.copy()
LATE[-1, -1] = -1
NEARLY = np.zeros_like(MATRIX)
NEARLY[-1, -1] = 1
KINDS = (MATRIX, LATE, np.zeros_like(MATRIX), NEARLY)
SUBSETS = st.sets(st.sampled_from(NAMES), min_size=1)


def planned(folder, rules, *, copied):
    """What is judged: the name of each tensor with the rule, in order."""
    spec = {
        "version": 1,
        "rules": [
            {
                "id": f"r{n}",
                "tensors": sorted(some),
                "constraint": "MaxNorm",
                "max_value": 1,
                "axis": 1,
            }
            for n, some in enumerate(rules)
        ],
    }
    with open_checkpoint(folder) as checkpoint:
        plan = build_plan(checkpoint, as_spec(spec, frozenset()), copied=copied)
    return [(a.tensor.name, a.rule) for a in plan.assignments]


def expected(kinds, rules, *, tied):
    """Each pair, where all that is tied, directly or by way of others, has the rules of all."""
    group = {name: {name} for name in NAMES}
    for one, other in combinations(NAMES, 2):
        equal = kinds[one] == kinds[other] and len(np.unique(KINDS[kinds[one]])) > 1
        if equal or (tied and {one, other} == {EMBEDDING, HEAD}):
            joined = group[one] | group[other]
            group |= dict.fromkeys(joined, joined)
    return {(name, f"r{n}") for name in NAMES for n, some in enumerate(rules) if group[name] & some}


@settings(deadline=None)
@given(
    kinds=st.fixed_dictionaries(dict.fromkeys(NAMES, st.integers(0, len(KINDS) - 1))),
    rules=st.lists(SUBSETS, min_size=1, max_size=3),
    tied=st.booleans(),
)
def test_what_governs_one_governs_its_like(kinds, rules, tied):
    """For an audit, which compares no more than it must, as for a copy, in blocks of any size."""
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ties, "_BLOCK", 1536)
        arrays = {name: KINDS[kind] for name, kind in kinds.items()}
        path = write_set(Path(folder), {"m-0.safetensors": arrays})
        (path.parent / "config.json").write_text(json.dumps({"tie_word_embeddings": tied}))
        audited, copied = (planned(path, rules, copied=each) for each in (False, True))
    assert audited == copied
    assert set(audited) == expected(kinds, rules, tied=tied)
    assert len(audited) == len(set(audited))


def read_by_plan(path, rules, monkeypatch):
    """How many bytes beyond the header a plan reads."""
    read = []
    fill = Source.read_at

    def counted(self, offset, length):
        read.append(length)
        return fill(self, offset, length)

    with monkeypatch.context() as patch:
        patch.setattr(Source, "read_at", counted)
        with open_checkpoint(path) as checkpoint:
            read.clear()
            spec = as_spec({"version": 1, "rules": rules}, frozenset())
            build_plan(checkpoint, spec)
    return sum(read)


@pytest.mark.parametrize(
    ("tensors", "most"),
    [
        pytest.param("**", 0, id="the same rule for all"),
        pytest.param("a", 4 * 256, id="other beginnings"),
        pytest.param("z1", 4 * 256 + 4 * (1 << 20), id="alike for a block"),
    ],
)
def test_a_plan_reads_weights_only_where_equal_ones_would_be_judged_otherwise(
    tmp_path, monkeypatch, tensors, most
):
    """Every part of an audit makes the whole plan."""
    rng = np.random.default_rng(5)
    big = {name: rng.normal(size=(1024, 1024)).astype(np.float32) for name in "ab"}
    zeros = np.zeros((1024, 1024), np.float32)
    zeros[300:] = 1
    big |= {"z1": zeros, "z2": zeros * 2}
    path = write_set(tmp_path, {"m-0.safetensors": big})
    rule = {"id": "r", "tensors": tensors, "constraint": "MaxNorm", "max_value": 1, "axis": 1}
    assert read_by_plan(path, [rule], monkeypatch) <= most
