"""Wherever the bytes are and whoever measures them: the same report."""

from __future__ import annotations

import pytest

import ckptclamp
from ckptclamp.auditing.options import AuditOptions
from ckptclamp.auditing.parts import elsewhere
from ckptclamp.auditing.parts.part import audit_part
from ckptclamp.auditing.parts.partial import merge
from ckptclamp.errors import UsageError
from tests.remote.conftest import RULES
from tests.remote.servers import Repository
from tests.remote.test_reading import COMMIT, audited, known_of, put

pytest.importorskip("obstore")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the clusters' own


@pytest.fixture(params=["single", "sharded"])
def files(request, single, sharded):
    """One file, or a set of twelve shards with its index first."""
    return [single] if request.param == "single" else sharded


@pytest.fixture(params=["disk", "https", "bucket", "hub"])
def place(request, files):
    """Where these files are."""
    if request.param == "disk":
        return str(files[0])
    server = request.getfixturevalue(request.param)
    if request.param == "https":
        return server.hold("a", *files)
    if request.param == "bucket":
        return put(server, "a", *files)
    server.repositories["org/model"] = Repository(COMMIT, {path.name: path for path in files})
    return f"hf://org/model/{files[0].name}"


@pytest.fixture
def _small_items(monkeypatch):
    """Items of work of which the files of these tests have several."""
    monkeypatch.setattr(elsewhere, "ITEM", 1 << 20)
    monkeypatch.setattr(elsewhere, "REMOTE_ITEM", 1 << 20)


@pytest.mark.usefixtures("_small_items")
@pytest.mark.parametrize("executor", ["threads", "processes", "dask", "ray"])
def test_the_same_report_from_anywhere_by_anyone(place, files, executor):
    """Workers open what is elsewhere themselves, and say the same of it as one thread of a local file."""
    pytest.importorskip({"dask": "distributed", "ray": "ray"}.get(executor, "obstore"))
    assert audited(place, executor=executor, jobs=2) == audited(files[0], jobs=1)


def test_parts_of_what_is_anywhere_are_merged(place, files):
    """Each is bound to the version that it read, and the same part again is the same."""
    options = AuditOptions(hash=False)
    parts = [audit_part(place, f"{n}/5", RULES, options) for n in range(1, 6)]
    assert known_of(merge(parts)) == audited(files[0])
    assert audit_part(place, "2/5", RULES, options) == parts[1]


@pytest.mark.usefixtures("_small_items")
def test_what_workers_fetch_is_counted(web, single):
    """The report says how much came over the network, whoever fetched it."""
    place = web.hold("a", single)
    report = ckptclamp.audit(place, RULES, AuditOptions(hash=False, executor="processes", jobs=2))
    assert report.checkpoint.fetched is not None
    assert report.checkpoint.fetched.bytes >= single.stat().st_size - 4096


def test_parts_of_an_object_that_was_replaced_are_refused(web, single):
    """Its version is another one, whatever its length."""
    place = web.hold("a", single)
    options = AuditOptions(hash=False)
    before = audit_part(place, "1/2", RULES, options)
    data = bytearray(single.read_bytes())
    data[-1] ^= 1
    web.files[f"/a/{single.name}"] = bytes(data)
    after = audit_part(place, "2/2", RULES, options)
    with pytest.raises(UsageError, match="read another version"):
        merge([before, after])
