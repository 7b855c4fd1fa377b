"""The same report from wherever the bytes come, and no more bytes than it takes."""

from __future__ import annotations

import json
import re

import pytest

import ckptclamp
from ckptclamp.auditing.options import AuditOptions
from tests.remote.conftest import RULES
from tests.remote.servers import Repository

pytest.importorskip("obstore")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def audited(place, rules=RULES, **options):
    """The report about a checkpoint, as the JSON report holds it, without places and times."""
    return known_of(ckptclamp.audit(str(place), rules, AuditOptions(hash=False, **options)))


def known_of(report):
    """A report as the JSON report holds it, without places and times."""
    known = report.to_dict()["report"]
    known["seconds"] = 0
    known["checkpoint"]["path"] = ""
    known["checkpoint"].pop("fetched", None)
    for file in known["checkpoint"]["files"]:
        file["path"] = re.sub(r".*/", "", file["path"])
        file.pop("version", None)
    return known


def put(client, folder, *paths):
    """Store files in the bucket; return the address of the first."""
    for path in paths:
        client.put_object(Bucket="models", Key=f"{folder}/{path.name}", Body=path.read_bytes())
    return f"s3://models/{folder}/{paths[0].name}"


def test_a_web_server(web, single):
    """A file on a web server is judged as it is on a disk."""
    assert audited(web.hold("a", single)) == audited(single)


def test_a_set_on_a_web_server(web, sharded):
    """The shards are found beside the index."""
    assert audited(web.hold("a", *sharded)) == audited(sharded[0])


def test_a_bucket(bucket, single):
    """A file in a bucket is judged as it is on a disk."""
    assert audited(put(bucket, "a", single)) == audited(single)


def test_a_set_in_a_bucket(bucket, sharded):
    """A set is judged by its index, and by the folder that holds it."""
    place = put(bucket, "deep/er", *sharded)
    assert audited(place) == audited(sharded[0])
    assert audited("s3://models/deep/er/") == audited(sharded[0].parent)


@pytest.mark.parametrize(
    "place", ["hf://org/model", "hf://org/model@main", f"hf://org/model@{COMMIT}"]
)
def test_a_hub(hub, single, place):
    """A repository is judged as the directory that a download would make."""
    hub.repositories["org/model"] = Repository(COMMIT, {single.name: single})
    assert audited(place) == audited(single.parent)
    assert audited(f"{place}/{single.name}") == audited(single)


def test_a_set_on_a_hub(hub, sharded):
    """Its shards are read at one commit, which is asked for once."""
    hub.repositories["org/model"] = Repository(COMMIT, {path.name: path for path in sharded})
    assert audited("hf://org/model") == audited(sharded[0].parent)
    assert sum(one.path.startswith("/api/") for one in hub.seen) == 1
    resolved = [one.path for one in hub.seen if "/resolve/" in one.path]
    assert all(f"/resolve/{COMMIT}/" in path for path in resolved)


def test_only_what_is_governed_is_fetched(web, single, tensors):
    """The header, the governed tensor, and a byte to see that nothing changed."""
    name = "layers.3.kernel"
    rule = {"tensors": name, "constraint": "MaxNorm", "max_value": 17, "axis": 0}
    audited(web.hold("a", single), {"version": 1, "rules": [rule]})
    ranges = [
        one for one in web.seen if "range" in one.headers and one.path.endswith("safetensors")
    ]
    fetched = sum(one.length for one in ranges)
    assert fetched <= tensors[name].nbytes + 65536 + 10
    assert len(ranges) == 3 + 1  # and one that looks for redirects


def test_every_range_is_bound_to_the_version_that_was_opened(web, single):
    """But for the first, whose answer says which version it is."""
    audited(web.hold("a", single))
    bound = [one for one in web.seen if one.path.endswith("safetensors")][2:]
    assert bound
    assert all("if-match" in one.headers for one in bound)


def test_the_config_beside_is_read(web, bucket, fixtures_of_ties):
    """What lies beside a checkpoint says of it what it says on a disk."""
    model, config = fixtures_of_ties
    assert audited(web.hold("a", model, config)) == audited(model)
    assert audited(put(bucket, "a", model, config)) == audited(model)


@pytest.fixture
def fixtures_of_ties(tmp_path):
    """A model whose config ties two matrices."""
    import numpy as np
    from safetensors.numpy import save_file

    matrix = np.ones((20, 30), np.float32)
    model, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    save_file({"lm_head.weight": matrix, "model.embed_tokens.weight": matrix * 30}, model)
    config.write_text(json.dumps({"tie_word_embeddings": True, "architectures": ["X"]}))
    return model, config


def test_equal_tensors_are_looked_for_where_a_copy_is_made(web, tmp_path):
    """An audit makes no request for a tensor that no rule is about; a copy keeps equal what is equal."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    matrix = np.random.default_rng(5).normal(size=(300, 400)).astype(np.float32)
    others = {f"c{i:02}": np.roll(matrix, i + 1) for i in range(20)}
    model, copy = tmp_path / "model.safetensors", tmp_path / "copy.safetensors"
    save_file({"a": matrix, "b": matrix, **others}, model)
    rules = {
        "version": 1,
        "rules": [{"tensors": "a", "constraint": "MaxNorm", "max_value": 15, "axis": 0}],
    }
    place = web.hold("a", model)
    assert [result["tensor"] for result in audited(place, rules)["results"]] == ["a"]
    assert sum("if-match" in one.headers for one in web.seen) == 2  # the tensor, and the last byte
    ckptclamp.apply(place, copy, rules)
    made = load_file(copy)
    assert made["a"].tobytes() == made["b"].tobytes() != matrix.tobytes()
