"""Fetching ahead: the right bytes, whatever is planned and in whichever order it is asked for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptclamp.checkpoints.remote import ahead, as_path
from ckptclamp.checkpoints.source import Source
from ckptclamp.engine.executors import in_order
from tests.remote.servers import FileServer, serving

pytest.importorskip("obstore")

DATA = np.random.default_rng(3).bytes(400_000)
SLICE = 10_000


@pytest.fixture(scope="module")
def source():
    """`DATA` on a web server."""
    with serving(FileServer()) as server:
        server.files["/data"] = DATA
        with closing(Source.open(as_path(f"{server.url}/data"))) as opened:
            yield opened


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    """Slices of a few kilobytes, so that a few hundred are much."""
    monkeypatch.setattr(ahead, "_SLICE", SLICE)
    monkeypatch.setattr(ahead, "_GAP", 100)


RANGES = st.lists(
    st.tuples(
        st.integers(0, len(DATA)), st.sampled_from([0, 1, 90, 3_000, 9_999, 40_000, 150_000])
    ),
    min_size=1,
    max_size=25,
)


def read(opened, span):
    """The bytes of a range, as who measures asks for them: in memory already, or to be copied."""
    start, stop = span
    view = opened.view(start, stop - start)
    return bytes(view) if view is not None else opened.read_at(start, stop - start)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(RANGES, st.booleans(), st.integers(1, 4), st.sampled_from([1, 2, 8]))
def test_what_is_read_is_what_is_there(source, ranges, in_a_row, jobs, room):
    """Ranges that touch, overlap, go back, or are longer than there is room for; several readers."""
    if in_a_row:
        ranges.sort()
    spans = [(start, min(start + length, len(DATA))) for start, length in ranges]
    plan = (((number,), source, *span) for number, span in enumerate(spans))
    with (
        ahead.ReadAhead(plan, room * SLICE, [source]) as fetching,
        ThreadPoolExecutor(jobs) as pool,
    ):
        results = in_order(lambda span: read(source, span), spans, pool, jobs + 1)
        for number, (span, data) in enumerate(results):
            assert data == DATA[slice(*span)]
            fetching.passed((number,))


def test_a_range_is_one_request_and_is_fetched_once(source):
    """As long as it is no longer than half of the memory."""
    before = source.requests, source.fetched
    spans = [(at, at + 5_000) for at in range(100_000, 180_000, 5_000)]
    plan = (((number,), source, *span) for number, span in enumerate(spans))
    with ahead.ReadAhead(plan, 160_000, [source]) as fetching:
        for number, span in enumerate(spans):
            assert read(source, span) == DATA[slice(*span)]
            fetching.passed((number,))
    assert (source.requests, source.fetched) == (before[0] + 1, before[1] + 80_000)


def test_no_more_is_held_than_there_is_room_for(source):
    """However little is read: what comes is left to wait in the network."""
    before = source.fetched
    plan = (((at,), source, at, at + 5_000) for at in range(0, len(DATA), 5_000))
    with ahead.ReadAhead(plan, 40_000, [source]):
        assert read(source, (20_000, 25_000)) == DATA[20_000:25_000]
    most = 40_000 + 2 * 256 * 1024  # of each answer, what was on its way
    assert source.fetched - before <= most
