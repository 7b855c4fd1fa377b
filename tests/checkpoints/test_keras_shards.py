"""Keras weights in several files under one index."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.errors import CkptclampError, RefusedError, UnreadableError
from tests.checkpoints.contract import Arrays, CheckpointContract
from tests.checkpoints.keras_files import indexed, ones, sharded, weights

FIRST, SECOND = "m_00000.weights.h5", "m_00001.weights.h5"


class TestShards(CheckpointContract):
    """Three shards and their index."""

    def arrays(self) -> Arrays:
        return {name: array for name, array in super().arrays().items() if array.size}

    def name(self, name: str) -> str:
        return f"layers/{name}/vars/0"

    def make(self, directory: Path, arrays: Arrays) -> Path:
        items = sorted(arrays.items())
        names = [f"m_{number:05}.weights.h5" for number in range(3)]
        cuts = [0, 2, 4, len(items)]
        return sharded(
            directory, {n: dict(items[cuts[k] : cuts[k + 1]]) for k, n in enumerate(names)}
        )


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Two shards of one layer each."""
    return sharded(tmp_path, {FIRST: {"a": ones(2)}, SECOND: {"b": ones(3)}})


def test_one_layer_over_two_shards(tmp_path: Path) -> None:
    """Variables of one group may be in several files, its name in the first of them only."""
    (tmp_path / FIRST).write_bytes(weights({"a": ones(2)}))
    with h5py.File(tmp_path / SECOND, "w") as file:
        file["layers/a/vars/1"] = ones(3)
    with open_checkpoint(indexed(tmp_path, {"/layers/a/vars": [FIRST, SECOND]})) as checkpoint:
        assert checkpoint.format == "keras-weights-shards"
        assert list(checkpoint.tensors) == ["layers/a/vars/0", "layers/a/vars/1"]
        assert checkpoint.keras is not None
        assert checkpoint.keras.group_names == {"layers/a": "a"}


def test_a_name_instead_of_a_list(tmp_path: Path) -> None:
    """Keras writes one shard as a string in some versions."""
    (tmp_path / FIRST).write_bytes(weights({"a": ones(2)}))
    with open_checkpoint(indexed(tmp_path, {"/layers/a/vars": FIRST})) as checkpoint:
        assert len(checkpoint.tensors) == 1


MAPS: dict[str, dict[str, object]] = {
    "a shard outside": {"/layers/a/vars": "../m.weights.h5"},
    "an absolute shard": {"/layers/a/vars": "/m.weights.h5"},
    "a hidden shard": {"/layers/a/vars": ".m.weights.h5"},
    "a backslash": {"/layers/a/vars": "x\\m.weights.h5"},
    "a number": {"/layers/a/vars": [FIRST, 3]},
    "a group that no shard has": {
        "/layers/a/vars": FIRST,
        "/layers/b/vars": SECOND,
        "/layers/c/vars": FIRST,
    },
    "a group in the wrong shard": {"/layers/a/vars": SECOND, "/layers/b/vars": FIRST},
    "a group that is left out": {"/layers/a/vars": [FIRST, SECOND]},
    "a group by two names": {
        "/layers/a/vars": FIRST,
        "layers/a/vars": FIRST,
        "/layers/b/vars": SECOND,
    },
}


@pytest.mark.parametrize("what", MAPS)
def test_index_that_lies(index: Path, what: str) -> None:
    """An index that says anything else than the shards do is refused."""
    indexed(index.parent, MAPS[what])
    with pytest.raises(RefusedError):
        open_checkpoint(index)


def test_missing_shard(index: Path) -> None:
    """A shard that is not there makes the set unreadable, and is named."""
    (index.parent / SECOND).unlink()
    with pytest.raises(UnreadableError, match=f"the shard {SECOND} is missing .download all"):
        open_checkpoint(index)


def test_the_same_tensor_twice(index: Path) -> None:
    """A tensor in two shards has two values."""
    (index.parent / SECOND).write_bytes(weights({"a": ones(2), "b": ones(3)}))
    indexed(index.parent, {"/layers/a/vars": [FIRST, SECOND], "/layers/b/vars": SECOND})
    with pytest.raises(RefusedError, match="two shards"):
        open_checkpoint(index)


def test_two_names_of_one_layer(index: Path) -> None:
    """Shards that name a layer differently cannot be joined."""
    with h5py.File(index.parent / SECOND, "a") as file:
        file.create_group("layers/a/vars").attrs["name"] = "other"
    with pytest.raises(RefusedError, match="named differently"):
        open_checkpoint(index)


def test_symbolic_links(index: Path, tmp_path: Path) -> None:
    """A shard that is a link is read only if links are to be followed."""
    real = tmp_path / "real"
    (index.parent / FIRST).rename(real)
    (index.parent / FIRST).symlink_to(real)
    with pytest.raises(RefusedError, match="symbolic link"):
        open_checkpoint(index)
    with open_checkpoint(index, follow_symlinks=True) as checkpoint:
        assert len(checkpoint.tensors) == 2
        assert any(str(real) in note for note in checkpoint.notes)


def test_damage_in_one_shard(index: Path) -> None:
    """One damaged shard makes the whole set unreadable."""
    shard = index.parent / SECOND
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(CkptclampError, match="truncated"):
        open_checkpoint(index)


def test_compressed_shard_is_rewritten(tmp_path: Path) -> None:
    """Chunks of a shard that is not the first are put into that shard."""
    from ckptclamp.applying.publication import staged
    from tests.checkpoints.contract import full

    values = np.arange(400, dtype="f4")
    (tmp_path / FIRST).write_bytes(weights({"a": ones(2)}))
    (tmp_path / SECOND).write_bytes(weights({"b": values}, compression="gzip", chunks=(100,)))
    index = indexed(tmp_path, {"/layers/a/vars": FIRST, "/layers/b/vars": SECOND})
    with open_checkpoint(index) as checkpoint:
        tensor = checkpoint.tensors["layers/b/vars/0"]
        with staged(tmp_path / "copy", like=checkpoint) as stage:
            copy = checkpoint.copy_to(stage)
            copy.write(tensor, ((150, 250),), -values[150:250])
            copy.finish()
            stage.publish()
    values[150:250] *= -1
    with open_checkpoint(tmp_path / "copy" / index.name) as again:
        tensor = again.tensors["layers/b/vars/0"]
        assert np.array_equal(again.read(tensor, full(tensor)), values)
    assert (tmp_path / "copy" / FIRST).read_bytes() == (tmp_path / FIRST).read_bytes()
