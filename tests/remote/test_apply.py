"""Copies of remote checkpoints, and copies that go to a bucket."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import ckptclamp
from ckptclamp.applying.apply import ApplyOptions
from ckptclamp.checkpoints.remote import writing
from ckptclamp.errors import NotWrittenError, UsageError
from tests.remote.conftest import RULES
from tests.remote.servers import Repository
from tests.remote.test_reading import COMMIT, put

pytest.importorskip("obstore")

FIXTURES = Path(__file__).parents[2] / "fixtures" / "violating"


@pytest.fixture
def local(single, tmp_path):
    """What an apply of the single file makes of it on a disk."""
    path = tmp_path / "local.safetensors"
    ckptclamp.apply(single, path, RULES)
    return path


def names(client):
    """The objects in the bucket."""
    return sorted(one["Key"] for one in client.list_objects_v2(Bucket="models").get("Contents", ()))


def content(client, key):
    """What an object holds."""
    return client.get_object(Bucket="models", Key=key)["Body"].read()


def test_a_remote_file_is_copied_to_a_local_one(web, single, local, tmp_path):
    """The bytes of the copy are those that a local input gives."""
    copy = tmp_path / "copy.safetensors"
    report = ckptclamp.apply(web.hold("a", single), copy, RULES)
    assert report.exit_code == 0
    assert copy.read_bytes() == local.read_bytes()


@pytest.mark.parametrize(
    "name", ["builtin_constraints.keras", "deflated_zip.keras", "chunked_gzip.h5"]
)
def test_keras(web, name, tmp_path):
    """The same of what Keras writes."""
    ckptclamp.apply(web.hold("a", FIXTURES / name), tmp_path / "remote")
    ckptclamp.apply(FIXTURES / name, tmp_path / "local")
    assert (tmp_path / "remote").read_bytes() == (tmp_path / "local").read_bytes()


def test_a_repository_is_copied_with_all_that_it_holds(hub, sharded, tmp_path):
    """Config, tokenizer and licence come along, from folders too."""
    extra = tmp_path / "tokenizer.json"
    extra.write_text("{}")
    files = {**{path.name: path for path in sharded}, "inner/tokenizer.json": extra}
    hub.repositories["org/model"] = Repository(COMMIT, files)
    ckptclamp.apply("hf://org/model", tmp_path / "copy", RULES)
    ckptclamp.apply(sharded[0].parent, tmp_path / "local", RULES)
    made = {p.name: p.read_bytes() for p in (tmp_path / "copy").iterdir() if p.is_file()}
    assert made == {p.name: p.read_bytes() for p in (tmp_path / "local").iterdir()}
    assert (tmp_path / "copy" / "inner" / "tokenizer.json").read_text() == "{}"


def test_a_set_is_copied_by_its_index(web, sharded, tmp_path):
    """Without what lies beside it, which a web server does not tell."""
    report = ckptclamp.apply(web.hold("a", *sharded), tmp_path / "copy", RULES)
    assert report.exit_code == 0
    assert len(list((tmp_path / "copy").iterdir())) == len(sharded)


def test_a_copy_goes_to_a_bucket(bucket, single, local):
    """It is there whole, and nothing else is."""
    report = ckptclamp.apply(single, "s3://models/a/fixed.safetensors", RULES)
    assert report.output == "s3://models/a/fixed.safetensors"
    assert report.after is not None
    assert report.after.checkpoint.files[0].path == report.output
    assert names(bucket) == ["a/fixed.safetensors"]
    assert content(bucket, "a/fixed.safetensors") == local.read_bytes()


def test_from_a_bucket_to_a_bucket(bucket, single, local):
    """The input stays as it is."""
    there = put(bucket, "a", single)
    ckptclamp.apply(there, "s3://models/b/fixed.safetensors", RULES)
    assert content(bucket, "b/fixed.safetensors") == local.read_bytes()
    assert content(bucket, "a/model.safetensors") == single.read_bytes()


def test_what_is_there_is_replaced_only_by_force(bucket, single, local):
    """As on a disk."""
    there = put(bucket, "a", single)
    with pytest.raises(UsageError, match="exists already"):
        ckptclamp.apply(local, there, RULES)
    ckptclamp.apply(local, there, RULES, ApplyOptions(force=True))
    assert content(bucket, "a/model.safetensors") == local.read_bytes()


def test_who_is_first_wins(bucket, single, monkeypatch):
    """An object that appears meanwhile is not overwritten, and nothing of ours is left."""
    sent = writing._sent

    def raced(source, address):
        sent(source, address)
        bucket.put_object(Bucket="models", Key="a/fixed.safetensors", Body=b"of another")

    monkeypatch.setattr(writing, "_sent", raced)
    with pytest.raises(NotWrittenError, match="by someone else meanwhile"):
        ckptclamp.apply(single, "s3://models/a/fixed.safetensors", RULES)
    assert names(bucket) == ["a/fixed.safetensors"]
    assert content(bucket, "a/fixed.safetensors") == b"of another"


def test_the_index_of_a_set_comes_last(bucket, sharded, monkeypatch):
    """So that nobody opens a set of which shards are missing."""
    order = []
    upload = writing.upload

    def noted(source, address, *, replace):
        order.append(address.name)
        upload(source, address, replace=replace)

    monkeypatch.setattr(writing, "upload", noted)
    ckptclamp.apply(sharded[0].parent, "s3://models/set", RULES)
    assert order[-1] == sharded[0].name
    assert names(bucket) == sorted(f"set/{path.name}" for path in sharded)
    weight_map = json.loads(content(bucket, f"set/{sharded[0].name}"))["weight_map"]
    assert set(weight_map.values()) == set(order[:-1])
    with ckptclamp.open_checkpoint("s3://models/set/") as checkpoint:
        assert len(checkpoint.sources) == len(sharded) - 1


def test_a_set_that_breaks_off_is_removed(bucket, sharded, monkeypatch):
    """And the place is as it was."""
    upload = writing.upload

    def full(source, address, *, replace):
        if address.name.startswith("model-00005"):
            raise NotWrittenError("the server answers 507 Insufficient Storage", path=address)
        upload(source, address, replace=replace)

    monkeypatch.setattr(writing, "upload", full)
    with pytest.raises(NotWrittenError):
        ckptclamp.apply(sharded[0].parent, "s3://models/set", RULES)
    assert names(bucket) == []


def test_a_set_wants_an_empty_place(bucket, sharded):
    """A set that lies there would be mixed with this one for a while."""
    bucket.put_object(Bucket="models", Key="set/config.json", Body=b"{}")
    with pytest.raises(UsageError, match="holds something already"):
        ckptclamp.apply(sharded[0].parent, "s3://models/set", RULES, ApplyOptions(force=True))


def test_nothing_is_written_where_nothing_can_be(web, bucket, single):
    """Web servers and the hub, a directory for a file, the input, and in place."""
    place = web.hold("a", single)
    for output in (place, "hf://org/model/model.safetensors"):
        with pytest.raises(UsageError, match="cannot be written to"):
            ckptclamp.apply(single, output, RULES)
    with pytest.raises(UsageError, match="names a directory"):
        ckptclamp.apply(single, "s3://models/a/", RULES)
    there = put(bucket, "a", single)
    with pytest.raises(UsageError, match="is the input itself"):
        ckptclamp.apply(there, there, RULES, ApplyOptions(force=True))
    with pytest.raises(UsageError, match="not changed in place"):
        ckptclamp.apply(there, None, RULES, ApplyOptions(in_place=True))
    with pytest.raises(UsageError, match="without --resume"):
        ckptclamp.apply(single, place, RULES, ApplyOptions(resume=True))
    assert names(bucket) == ["a/model.safetensors"]


def test_a_dry_run_writes_nothing(bucket, single):
    """And says what would be refused."""
    options = ApplyOptions(dry_run=True)
    assert ckptclamp.apply(single, "s3://models/a/x.safetensors", RULES, options).changes
    assert names(bucket) == []
    there = put(bucket, "a", single)
    with pytest.raises(UsageError, match="exists already"):
        ckptclamp.apply(single, there, RULES, options)


def test_on_the_command_line(run, bucket, single, tmp_path):
    """As a user types it."""
    del bucket
    spec = tmp_path / "spec.yaml"
    spec.write_text(json.dumps(RULES))
    answer = run("apply", single, "-o", "s3://models/fixed.safetensors", "--spec", spec)
    assert answer.returncode == 0, answer.stderr
    assert "copy: s3://models/fixed.safetensors" in answer.stdout
    again = run("apply", single, "-o", "s3://models/fixed.safetensors", "--spec", spec)
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
