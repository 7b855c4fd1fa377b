"""Digests are those of the whole files, cost no second read, and leave nothing behind."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ckptclamp.auditing import verdicts
from ckptclamp.auditing.audit import audit
from ckptclamp.auditing.options import AuditOptions
from ckptclamp.checkpoints import source as module
from ckptclamp.checkpoints.source import Digests, Source, sha256
from ckptclamp.engine.measure import measure
from ckptclamp.errors import ChangedError, UnreadableError

LARGE = 3 * (1 << 20) + 17
SIZES = (0, 1, 1 << 20, (1 << 20) + 1, LARGE)


@pytest.fixture
def sources(tmp_path):
    """Files of every kind of size, opened."""
    opened = []
    for size in SIZES:
        path = tmp_path / f"{size}.bin"
        path.write_bytes(os.urandom(size))
        opened.append(Source.open(path))
    yield opened
    for source in opened:
        source.close()


def hashing():
    """The threads that hash."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("sha256")]


@pytest.mark.parametrize("jobs", [None, 1, 8])
def test_the_digest_is_that_of_the_whole_file(sources, jobs):
    """Every byte counts once and in order, whatever the size and the number of threads."""
    with Digests(sources, jobs) as taken:
        found = taken.result()
    assert found == {s.path: hashlib.sha256(s.path.read_bytes()).hexdigest() for s in sources}
    assert [sha256(source) for source in sources] == list(found.values())
    assert not hashing()


def test_small_files_pay_no_thread(sources):
    """An audit of a small model is over before a thread has started."""
    with Digests(sources[:3]) as taken:
        assert not hashing()
        assert len(taken.result()) == 3


def test_an_error_in_a_thread_is_raised_where_the_digests_are_asked_for(sources):
    """A file that cannot be hashed has no digest, and the run says why."""
    source = sources[-1]
    os.truncate(source.path, LARGE - 1)
    with Digests([source]) as taken:
        taken.result()  # as long as it is now: that it was longer is for `verify_unchanged` to tell
    with pytest.raises(ChangedError):
        source.verify_unchanged()
    source.close()
    source.fd = os.open(source.path, os.O_WRONLY)
    with Digests([source]) as taken, pytest.raises(UnreadableError, match="Bad file descriptor"):
        taken.result()
    assert not hashing()


def test_leaving_early_ends_the_threads(monkeypatch, sources):
    """An audit that fails or is interrupted does not wait for gigabytes to be hashed."""
    begun, go = threading.Event(), threading.Event()

    def slow(source, buffer, offset):
        begun.set()
        go.wait(10)

    monkeypatch.setattr(Source, "_fill", slow)
    started = time.monotonic()
    with suppress(KeyboardInterrupt), Digests([sources[-1]]):
        assert begun.wait(10)
        threading.Timer(0.05, go.set).start()
        raise KeyboardInterrupt
    assert time.monotonic() - started < 5
    assert not hashing()


def test_an_audit_hashes_while_it_measures(monkeypatch, tmp_path):
    """The digests are begun before the first weight is measured, and waited for after the last."""
    path = tmp_path / "model.safetensors"
    save_file({"w": np.ones((1024, 1024), np.float32)}, path)
    alive = []

    def watched(*arguments, **options):
        alive.append(len(hashing()))
        yield from measure(*arguments, **options)

    monkeypatch.setattr(verdicts, "measure", watched)
    rules = [{"id": "r", "tensors": "w", "constraint": "MaxNorm", "max_value": 99.0, "axis": 1}]
    spec = {"version": 1, "rules": rules}
    report = audit(path, spec, AuditOptions(hash=True))
    assert report.checkpoint.files[0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert alive == [1]
    assert not hashing()
    audit(path, spec, AuditOptions(hash=False))
    assert alive == [1, 0]


def test_a_file_that_changes_meanwhile_gets_no_digest(monkeypatch, tmp_path):
    """A statement is about the bytes that were measured, or there is none."""
    path = tmp_path / "model.safetensors"
    save_file({"w": np.ones((4, 4), np.float32)}, path)

    def touching(source, stop=None):
        os.utime(source.path, ns=(1, 1))
        return "0" * 64

    monkeypatch.setattr(module, "sha256", touching)
    rules = [{"id": "r", "tensors": "w", "constraint": "NonNeg"}]
    with pytest.raises(ChangedError):
        audit(Path(path), {"version": 1, "rules": rules}, AuditOptions(hash=True))
