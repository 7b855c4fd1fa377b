"""What goes wrong on the way: repaired within the limit, or said in one line with exit code 3."""

from __future__ import annotations

import os
import shutil

import pytest

import ckptclamp
from ckptclamp.errors import ChangedError, MissingError, RefusedError, UnreadableError
from tests.remote.conftest import RULES
from tests.remote.servers import (
    Faults,
    FileServer,
    Repository,
    another_range,
    broken,
    moved,
    serving,
    silent,
    status,
    without_ranges,
    without_version,
)
from tests.remote.test_reading import COMMIT, audited

pytest.importorskip("obstore")

PASSING = {
    "503": status(503),
    "429": status(429),
    "reset in mid-range": broken(reset=True),
    "short body": broken(reset=False),
    "another range": another_range,
    "silence": silent(1.5),
}
LASTING = {
    "503": (status(503), "the server answers 503 Service Unavailable, 3 times"),
    "429": (status(429), "the server answers 429 Too Many Requests, 3 times"),
    "400": (status(400), "the server answers 400 Bad Request"),
    "401": (status(401), "the server wants credentials that are missing or have expired (401)"),
    "403": (status(403), "access is denied, or the credentials have expired (403)"),
    "reset in mid-range": (broken(reset=True), "the answer broke off, 3 times"),
    "short body": (broken(reset=False), "the answer broke off, 3 times"),
    "another range": (
        another_range,
        "the server sends another range than it was asked for, 3 times",
    ),
    "no ranges": (without_ranges, "the server does not serve ranges"),
    "silence": (silent(1.5), "the server was silent for too long, 3 times"),
}


@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.parametrize("skip", [1, 2], ids=["opening", "reading"])
def test_what_passes_is_not_noticed(web, single, fault, skip):
    """Once is no failure: the request is made again."""
    place = web.hold("a", single)
    web.faults.append(Faults(PASSING[fault], ".safetensors", skip, times=1))
    assert audited(place) == audited(single)
    assert web.faults[0].times == 0


@pytest.mark.parametrize("fault", LASTING)
def test_what_lasts_is_said(web, single, fault):
    """After the stated number of tries nothing is judged by what came so far."""
    answer, said = LASTING[fault]
    place = web.hold("a", single)
    web.faults.append(Faults(answer, ".safetensors", skip=1))
    with pytest.raises(UnreadableError) as raised:
        audited(place)
    assert raised.value.message == said
    assert raised.value.exit_code == 3


@pytest.mark.parametrize("fault", ["503", "reset in mid-range"])
def test_what_begins_in_the_middle_leaves_tensors_unjudged(web, single, fault):
    """The tensors whose bytes did not come are not evaluated, and what was read of others stands."""
    place = web.hold("a", single)
    web.faults.append(Faults(LASTING[fault][0], ".safetensors", skip=2, times=3))
    report = ckptclamp.audit(place, RULES)
    assert report.exit_code == 3
    unjudged = {result.reason for result in report.results if result.reason}
    assert unjudged == {LASTING[fault][1]}


def test_a_replaced_object(web, bucket, single, tmp_path, monkeypatch):
    """What was replaced since it was opened is not what was audited, whatever its weights are."""
    del bucket
    place = tmp_path / "model.safetensors"
    shutil.copy(single, place)
    address = web.hold("a", place)
    with ckptclamp.open_checkpoint(address) as checkpoint:
        changed = bytearray(place.read_bytes())
        changed[-1] ^= 1
        place.write_bytes(changed)
        with pytest.raises(ChangedError, match="changed while it was read"):
            checkpoint["layers.0.kernel"][...]
        with pytest.raises(ChangedError):
            checkpoint.verify_unchanged()


def test_an_object_that_is_gone(web, single):
    """It was there when it was opened."""
    address = web.hold("a", single)
    with ckptclamp.open_checkpoint(address) as checkpoint:
        web.files.clear()
        with pytest.raises(ChangedError, match="is gone"):
            checkpoint["layers.0.kernel"][...]


def test_a_bucket_whose_object_is_replaced(bucket, single):
    """The protocol's own precondition tells."""
    bucket.put_object(Bucket="models", Key="m.safetensors", Body=single.read_bytes())
    with ckptclamp.open_checkpoint("s3://models/m.safetensors") as checkpoint:
        bucket.put_object(
            Bucket="models", Key="m.safetensors", Body=single.read_bytes()[:-1] + b"x"
        )
        with pytest.raises(ChangedError):
            checkpoint["layers.0.kernel"][...]


def test_nothing_there(web, bucket, single):
    """A missing object, and a missing shard."""
    del bucket
    web.hold("a", single)
    with pytest.raises(MissingError, match="there is no such object"):
        audited(web.url + "/a/other.safetensors")
    with pytest.raises(MissingError, match=r"end the address of a directory with /"):
        audited("s3://models/other")


def test_a_missing_shard(web, sharded):
    """It is named."""
    place = web.hold("a", *sharded[:-1])
    with pytest.raises(UnreadableError, match=sharded[-1].name):
        audited(place)


def test_a_server_that_names_no_version(web, single):
    """Ranges of two versions could not be told apart."""
    place = web.hold("a", single)
    web.faults.append(Faults(without_version))
    with pytest.raises(UnreadableError, match="does not say which version"):
        audited(place)


def test_nobody_listens(single):
    """A port that nobody listens on."""
    del single
    with pytest.raises(UnreadableError, match="cannot be reached, 3 times"):
        audited("http://127.0.0.1:9/model.safetensors")


def test_a_redirect_carries_nothing_secret(web, single):
    """Neither a password nor a signature, nor the address that holds it, goes to the next host."""
    with serving(FileServer()) as other:
        target = other.hold("b", single).replace("127.0.0.1", "localhost")
        web.faults.append(Faults(moved(target), ".safetensors"))
        place = f"http://user:secret-password@127.0.0.1:{web.server_port}/a/model.safetensors?sig=secret"
        assert audited(place) == audited(single)
        assert web.seen[0].headers["authorization"].startswith("Basic ")
        assert other.seen
        for one in other.seen:
            assert "secret" not in one.path + str(one.headers)
            assert "authorization" not in one.headers


def test_a_redirect_to_what_is_not_encrypted(https, web, single):
    """From https to http nothing is followed."""
    https.faults.append(Faults(moved(web.hold("a", single))))
    with pytest.raises(RefusedError, match="redirects to an address that is not encrypted"):
        audited(https.hold("a", single))
    assert web.seen == []


def test_a_signature_of_a_redirect_that_expires(web, cdn, single):
    """The first address is asked again where the file is, once."""
    signed = cdn.hold("blobs", single)

    def signed_now(handler):
        return moved(f"{signed}?Signature={cdn.signature}")(handler)

    web.faults.append(Faults(signed_now))
    with ckptclamp.open_checkpoint(f"{web.url}/model.safetensors") as checkpoint:
        cdn.signature = "second"
        assert checkpoint["layers.0.kernel"][...].shape == (260, 500)
        cdn.files.clear()
        cdn.faults.append(Faults(status(403)))
        asked = len(web.seen)
        with pytest.raises(UnreadableError, match="credentials have expired"):
            checkpoint["layers.7.kernel"][...]
        assert len(web.seen) == asked + 1


def test_a_login_goes_to_the_host_it_is_for(web, single):
    """And it is shown nowhere."""
    web.hold("a", single)
    place = f"http://user:secret@127.0.0.1:{web.server_port}/a/model.safetensors?sig=hidden"
    report = ckptclamp.audit(place, RULES)
    assert all(one.headers.get("authorization") for one in web.seen)
    assert all(one.path.endswith("?sig=hidden") for one in web.seen)
    shown = str(report.to_dict())
    assert "secret" not in shown
    assert "hidden" not in shown


def test_an_error_shows_nothing_secret(web, single):
    """The library's own messages quote whole addresses."""
    web.hold("a", single)
    web.faults.append(Faults(status(500)))
    place = f"http://user:secret@127.0.0.1:{web.server_port}/a/model.safetensors?sig=secret"
    with pytest.raises(UnreadableError) as raised:
        audited(place)
    assert "secret" not in str(raised.value)


def test_the_hub_gives_its_token_to_nobody(hub, cdn, single):
    """Where large files lie is another host."""
    hub.repositories["org/model"] = Repository(COMMIT, {single.name: single}, private=True)
    assert audited("hf://org/model") == audited(single.parent)
    assert cdn.seen
    assert not any("authorization" in one.headers for one in cdn.seen)


def test_a_signature_that_expires(hub, cdn, single):
    """The hub is asked again where the file is."""
    hub.repositories["org/model"] = Repository(COMMIT, {single.name: single})
    with ckptclamp.open_checkpoint("hf://org/model") as checkpoint:
        cdn.signature = "second"
        assert checkpoint["layers.0.kernel"][...].shape == (260, 500)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("hf://org/other", "there is no such model, or it is private"),
        ("hf://org/closed", "there is no such model, or it is private"),
        ("hf://org/gated", "the model is gated"),
        ("hf://org/model@branch", "the model has no such revision"),
        ("hf://org/model/other.safetensors", "there is no such file in the model"),
        ("hf://org/empty", "there is nothing in it"),
    ],
)
def test_what_the_hub_refuses(hub, single, monkeypatch, place, said):
    """Each in its own words."""
    monkeypatch.setenv("HF_TOKEN", "hf_of_another")
    files = {single.name: single}
    hub.repositories["org/model"] = Repository(COMMIT, files)
    hub.repositories["org/closed"] = Repository(COMMIT, files, private=True)
    hub.repositories["org/gated"] = Repository(COMMIT, files, gated=True)
    hub.repositories["org/empty"] = Repository(COMMIT)
    with pytest.raises(UnreadableError) as raised:
        audited(place)
    assert raised.value.message == said
    assert os.environ["HF_TOKEN"] not in str(raised.value)
