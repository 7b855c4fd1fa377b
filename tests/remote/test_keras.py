"""Keras' files: their parser sees a remote file through a window, and the walls stay as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

import ckptclamp
from ckptclamp.errors import ChangedError, UnreadableError
from tests.remote.servers import Faults, Repository, status
from tests.remote.test_reading import COMMIT, audited, put

pytest.importorskip("obstore")

FIXTURES = Path(__file__).parents[2] / "fixtures" / "violating"
FILES = (
    "builtin_constraints.keras",
    "deflated_zip.keras",
    "builtin_constraints.weights.h5",
    "builtin_constraints_tf_keras.h5",
    "chunked_gzip.h5",
    "big_endian.h5",
)
RULES = {
    "version": 1,
    "rules": [
        {"tensors": "**", "constraint": "MaxNorm", "max_value": 1, "axis": 0, "required": False}
    ],
}


@pytest.mark.parametrize("name", FILES)
def test_the_same_report(web, name):
    """Of every container that Keras writes, isolation included."""
    path = FIXTURES / name
    assert audited(web.hold("a", path), RULES) == audited(path, RULES)
    assert audited(web.hold("a", path), None) == audited(path, None)


def test_in_a_bucket(bucket):
    """And in a bucket, and with digests."""
    path = FIXTURES / FILES[0]
    assert audited(put(bucket, "a", path), None) == audited(path, None)


def test_shards_of_keras(web):
    """The shards of a large model."""
    index, *shards = sorted((FIXTURES / "sharded_keras").iterdir())
    index, shards = next(
        (p, [q for q in (index, *shards) if q != p])
        for p in (index, *shards)
        if p.suffix == ".json"
    )
    assert audited(web.hold("a", index, *shards), RULES) == audited(index, RULES)


def test_an_unzipped_directory(hub):
    """A repository that holds what a .keras archive holds."""
    folder = FIXTURES / "unzipped_directory"
    files = {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()
    }
    hub.repositories["org/model"] = Repository(COMMIT, files)
    assert audited("hf://org/model", None) == audited(folder, None)


def test_a_parser_whose_bytes_do_not_come(web):
    """It is said what the server did, not what the parser made of it."""
    place = web.hold("a", FIXTURES / "builtin_constraints_tf_keras.h5")
    size = (FIXTURES / "builtin_constraints_tf_keras.h5").stat().st_size
    assert size > 0
    web.faults.append(Faults(status(503), ".h5", skip=2))
    with pytest.raises(UnreadableError) as raised:
        ckptclamp.audit(place)
    assert raised.value.message == "the server answers 503 Service Unavailable, 3 times"


def test_a_model_that_is_replaced_while_it_is_parsed(web, tmp_path):
    """The window shows one version."""
    path = tmp_path / "model.h5"
    path.write_bytes((FIXTURES / "builtin_constraints_tf_keras.h5").read_bytes())
    place = web.hold("a", path)

    def replaced(handler) -> bool:
        path.write_bytes(path.read_bytes() + b"\0")
        return False

    web.faults.append(Faults(replaced, ".h5", skip=2, times=1))
    with pytest.raises(ChangedError):
        ckptclamp.audit(place)


def test_a_config_that_is_elsewhere(web, tmp_path):
    """--config may be an address, too."""
    weights, model = (
        FIXTURES / "builtin_constraints.weights.h5",
        FIXTURES / "builtin_constraints.keras",
    )
    del tmp_path
    from ckptclamp.checkpoints.remote import as_path
    from ckptclamp.models.keras.config import read_model_config

    there = read_model_config(as_path(web.hold("a", model)))
    assert audited(weights, None, config=there) == audited(
        weights, None, config=read_model_config(model)
    )
