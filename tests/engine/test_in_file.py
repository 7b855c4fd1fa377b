"""What a kernel reads by itself: the bits, and the failures, of reading box by box."""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.constraints.base import Statistic
from ckptclamp.engine.kernels import native
from ckptclamp.engine.measure import measure
from ckptclamp.engine.measure.requests import Batch, Failed, Request, Screened

EVERY = frozenset(statistic for statistic in Statistic if statistic.streams)
DTYPES = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "int8", "uint8", "int32")

compiled = pytest.mark.skipif(native.loaded() is None, reason="no compiled kernels here")


class BoxByBox:
    """Reads what a checkpoint does, and tells nobody where it lies."""

    def __init__(self, checkpoint):
        self.read = checkpoint.read


def answers(reader, request, **options):
    """The bits of every statistic of every unit, and how many of its weights are not finite."""
    kept = [request.tensor.shape[axis] for axis in request.kept]
    found = np.full((len(request.needs) + 1, *kept), -1, np.int64)
    for answer in measure(reader, [request], **options):
        assert isinstance(answer, Batch)
        place = (slice(None), *(slice(*span) for span in answer.units))
        values = [answer.statistics[key].view(np.int64) for key in sorted(request.needs)]
        found[place] = np.array([answer.statistics.nonfinite, *values]).reshape(found[place].shape)
    assert (found[0] >= 0).all()
    return found.tolist()


@st.composite
def tensors(draw):
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    axes = draw(st.sets(st.sampled_from(range(len(shape))), min_size=1))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    scale = draw(st.sampled_from([1.0, 100.0, 1e-160]))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    with np.errstate(all="ignore"):
        array = (rng.standard_normal(shape) * scale).astype(dtype)
    if dtype.kind not in "iu" and draw(st.booleans()):
        array.reshape(-1)[rng.integers(array.size)] = draw(st.sampled_from([np.nan, np.inf]))
    return array, tuple(sorted(axes))


@given(tensors(), st.sampled_from([1, 7, 32, 4096]), st.sampled_from([1, 2]))
@settings(max_examples=300, deadline=None)
def test_statistics_have_the_bits_of_those_of_boxes_that_are_read_one_by_one(made, block, jobs):
    array, axes = made
    path = Path("in_file.safetensors")
    save_file({"w": array}, path)
    with open_checkpoint(path) as checkpoint:
        request = Request(checkpoint.tensors["w"], axes, EVERY)
        options = {"block": block, "jobs": jobs}
        assert answers(checkpoint, request, **options) == answers(
            BoxByBox(checkpoint), request, **options
        )


@given(tensors(), st.sampled_from([1, 7, 32, 4096]), st.sampled_from([0.5, 3.0, math.inf]))
@settings(max_examples=300, deadline=None)
def test_requests_that_share_a_read_are_answered_as_each_alone_box_by_box(made, block, bound):
    array, axes = made
    save_file({"w": array}, "shared.safetensors")
    with open_checkpoint(Path("shared.safetensors")) as checkpoint:
        tensor = checkpoint.tensors["w"]
        asked = [
            Request(tensor, axes, frozenset({Statistic.NORM})),
            Request(tensor, (), frozenset({Statistic.MIN, Statistic.MAX}), (-bound, bound)),
            Request(tensor, axes, frozenset({Statistic.MAX_ABS, Statistic.SUM})),
        ]
        together = list(measure(checkpoint, asked, block=block))
        for place, request in enumerate(asked):
            alone = measure(BoxByBox(checkpoint), [request], block=block)
            mine = [answer for answer in together if answer.request == place]
            assert told(mine, request) == told(alone, request)


def told(measurements, request):
    """The bits of every statistic by unit, and what is known of units that were screened."""
    batches, count, least, most = [], 0, math.inf, -math.inf
    for answer in measurements:
        if isinstance(answer, Screened):
            count, least = count + answer.count, min(least, answer.minimum)
            most = max(most, answer.maximum)
            continue
        assert isinstance(answer, Batch)
        places = itertools.product(*(range(*span) for span in answer.units))
        values = [answer.statistics[key].tolist() for key in sorted(request.needs)]
        rows = zip(*values, answer.statistics.nonfinite.tolist(), strict=True)
        batches += [(place, *map(repr, row)) for place, row in zip(places, rows, strict=True)]
    return sorted(batches), count, least, most


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@compiled
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3fn", "int8"])
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_rows_and_columns_are_read_by_the_kernel(dtype, axes, tmp_path, monkeypatch):
    array = np.random.default_rng(3).standard_normal((900, 700)) * 9
    save_file({"w": array.astype(getattr(ml_dtypes, dtype, dtype))}, tmp_path / "w.safetensors")
    with open_checkpoint(tmp_path / "w.safetensors") as checkpoint:
        reads = []
        monkeypatch.setattr(checkpoint, "read", lambda *_: reads.append(1))
        request = Request(checkpoint.tensors["w"], axes, frozenset({Statistic.NORM}))
        assert len(list(measure(checkpoint, [request], block=70_000))) == 1
        assert not reads


def test_a_file_that_became_shorter_is_told_as_ever(tmp_path):
    path = tmp_path / "short.safetensors"
    save_file({"w": np.ones((64, 64), np.float32)}, path)
    with open_checkpoint(path) as checkpoint:
        os.truncate(path, path.stat().st_size - 4)
        request = Request(checkpoint.tensors["w"], (1,), EVERY)
        (answer,) = measure(checkpoint, [request])
        assert isinstance(answer, Failed)
        assert "4 bytes too early" in answer.reason


@compiled
def test_too_little_memory_for_several_boxes_is_enough_for_one(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save_file({"w": np.ones((8, 8), np.float32)}, path)

    def none_left(*_):
        raise MemoryError

    monkeypatch.setattr(native.Library, "file", none_left)
    with open_checkpoint(path) as checkpoint:
        request = Request(checkpoint.tensors["w"], (1,), frozenset({Statistic.NORM}))
        (answer,) = measure(checkpoint, [request])
        assert isinstance(answer, Batch)


def test_what_more_than_a_descriptor_is_needed_for_is_left_to_the_reader(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"w": np.ones((8, 8), np.float32)}, path)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.in_file(checkpoint.tensors["w"]) is not None
        if checkpoint.sources[0].leave_cache():
            assert checkpoint.in_file(checkpoint.tensors["w"]) is None
