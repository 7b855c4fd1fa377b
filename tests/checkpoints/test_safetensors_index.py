"""Sharded sets: the index and its shards must tell one story, and stay in their directory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.errors import NotACheckpointError, RefusedError, UnreadableError
from tests.checkpoints.contract import full
from tests.checkpoints.safetensors_files import serialised, write_set

ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
SHARDS: dict[str, dict[str, NDArray[Any]]] = {
    ONE: {"a": np.arange(4, dtype=np.float32), "b": np.arange(6, dtype=np.int16).reshape(2, 3)},
    TWO: {"c": np.arange(5, dtype=np.float64)},
}


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """The index of a good set of two shards."""
    return write_set(tmp_path, SHARDS)


def test_joins_the_shards(index: Path):
    """A set is one checkpoint: every tensor of every shard, each read from its own file."""
    with open_checkpoint(index) as checkpoint:
        assert checkpoint.format == "safetensors-sharded"
        assert [source.path.name for source in checkpoint.files] == [index.name, ONE, TWO]
        read = {n: checkpoint.read(t, full(t)).tolist() for n, t in checkpoint.tensors.items()}
        assert checkpoint.notes == ()
    assert read == {name: a.tolist() for arrays in SHARDS.values() for name, a in arrays.items()}


def test_a_directory_is_its_index(index: Path):
    """The directory of a set can be named instead of its index."""
    with open_checkpoint(index.parent) as checkpoint:
        assert list(checkpoint.tensors) == ["a", "b", "c"]


def rewrite(index: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the index in place."""
    document = json.loads(index.read_text())
    change(document)
    index.write_text(json.dumps(document))


@pytest.mark.parametrize(
    "name",
    [
        "../model.safetensors",
        "/etc/passwd.safetensors",
        "sub/model.safetensors",
        ".hidden.safetensors",
        "..safetensors",
        "model\0.safetensors",
        "a b.safetensors",
        "x" * 300 + ".safetensors",
        "\u202e.safetensors",
    ],
)
def test_a_shard_outside_of_the_directory_is_refused(index: Path, name: str):
    """A shard is a plain file name: an index cannot make the reader open anything else."""
    rewrite(index, lambda document: document["weight_map"].update(c=name))
    with pytest.raises(RefusedError, match=r"not a plain .safetensors file name"):
        open_checkpoint(index)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d["weight_map"].update(c=ONE), "c: is not in model-00001"),
        (lambda d: d["weight_map"].update(a=TWO), "a: lies in model-00001.*index says model-00002"),
        (lambda d: d["weight_map"].update(d=TWO), "d: is not in model-00002"),
    ],
)
def test_index_and_shards_must_agree(index: Path, change: Callable[[Any], object], reason: str):
    """A tensor that only one side knows, or puts elsewhere, is never audited by half."""
    rewrite(index, change)
    with pytest.raises(RefusedError, match=reason):
        open_checkpoint(index)


def test_a_tensor_in_two_shards_is_refused(index: Path):
    """Which of two copies is loaded is anyone's guess."""
    (index.parent / TWO).write_bytes(serialised({**SHARDS[TWO], "a": SHARDS[ONE]["a"]}))
    with pytest.raises(RefusedError, match=r"a: lies in model-00002.*index says model-00001"):
        open_checkpoint(index)


def test_a_missing_shard_is_named(index: Path):
    """An incomplete download ends in one line that names the file and says what to do."""
    (index.parent / TWO).unlink()
    with pytest.raises(UnreadableError, match=f"the shard {TWO} is missing .download all"):
        open_checkpoint(index)


def test_an_unlisted_shard_in_the_directory_is_refused(index: Path):
    """A directory with weights beside the set does not say what will be loaded."""
    (index.parent / "model.safetensors").write_bytes(serialised(SHARDS[TWO]))
    with pytest.raises(RefusedError, match=r"holds model.safetensors beside"):
        open_checkpoint(index.parent)
    with open_checkpoint(index) as checkpoint:
        assert len(checkpoint.tensors) == 3


def test_a_linked_shard_needs_permission(index: Path, tmp_path_factory: pytest.TempPathFactory):
    """A shard that is a symbolic link is opened only if the user says so, and is then reported."""
    blob = tmp_path_factory.mktemp("blobs") / "0123"
    (index.parent / TWO).rename(blob)
    (index.parent / TWO).symlink_to(blob)
    with pytest.raises(RefusedError, match=r"is a symbolic link .pass --follow-symlinks"):
        open_checkpoint(index)
    with open_checkpoint(index, follow_symlinks=True) as checkpoint:
        assert len(checkpoint.tensors) == 3
        assert any(str(blob) in note for note in checkpoint.notes)


def test_a_special_file_is_no_shard(index: Path):
    """A shard that is a FIFO is refused at once; nothing waits for a writer."""
    (index.parent / TWO).unlink()
    os.mkfifo(index.parent / TWO)
    with pytest.raises(NotACheckpointError, match=r"not a regular file"):
        open_checkpoint(index)


def test_a_wrong_total_size_is_told(index: Path):
    """An index that counts other bytes than the shards have gets a note: it may be another's."""
    rewrite(index, lambda document: document["metadata"].update(total_size=1))
    with open_checkpoint(index) as checkpoint:
        assert any("total_size 1" in note for note in checkpoint.notes)


def test_a_tensor_that_the_index_leaves_out_is_told_apart(index: Path):
    """It belongs to the set, and everybody can know that who goes by the index does not load it."""
    rewrite(index, lambda document: document["weight_map"].pop("b"))
    with open_checkpoint(index) as checkpoint:
        assert checkpoint.unlisted == ("b",)
        assert list(checkpoint.tensors) == ["a", "b", "c"]
        assert checkpoint.notes == ()
    rewrite(index, lambda document: document["metadata"].update(total_size=16 + 40))
    with open_checkpoint(index) as checkpoint:
        assert checkpoint.notes == ()


def test_an_unlisted_tensor_in_two_shards_is_refused(index: Path):
    """Leaving it out of the index does not make two tensors one."""
    (index.parent / TWO).write_bytes(serialised({**SHARDS[TWO], "a": SHARDS[ONE]["a"]}))
    rewrite(index, lambda document: document["weight_map"].pop("a"))
    with pytest.raises(RefusedError, match=r"a: lies in two shards"):
        open_checkpoint(index)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b'{"weight_map":{"a":"%s","a":"%s"}}' % (ONE.encode(), TWO.encode()), "the key 'a' twice"),
        (b'{"weight_map":{"a":"%s","b":1}}' % ONE.encode(), "not an object of file names"),
        (b'{"weight_map":{"a":' + b"[" * 100 + b"]" * 100 + b"}}", "nests deeper"),
        (b'{"weight_map":{"a":"%s"' % ONE.encode(), "not JSON"),
        (b'{"weight_map":{}}', "without a weight_map"),
        (b'{"weight_map":{"a":"model.bin"}}', "without a weight_map"),
        (b'{"weight_map":["a"]}', "without a weight_map"),
        (b"{}", "without a weight_map"),
    ],
)
def test_a_bad_index_is_refused(index: Path, content: bytes, error: str):
    """An index with two meanings, or none, ends in one clear line."""
    index.write_bytes(content)
    with pytest.raises(UnreadableError, match=error):
        open_checkpoint(index)


def test_an_index_of_too_many_bytes_is_not_read(index: Path):
    """A huge JSON file is refused before it is in memory."""
    os.truncate(index, (64 << 20) + 1)
    with pytest.raises(RefusedError, match=r"an index has at most"):
        open_checkpoint(index)


def test_a_change_of_any_file_is_noticed(index: Path):
    """The index, too, must be at the end what it was at the start."""
    for name in (index.name, TWO):
        with open_checkpoint(index) as checkpoint:
            checkpoint.verify_unchanged()
            path = index.parent / name
            path.write_bytes(path.read_bytes())
            with pytest.raises(UnreadableError, match=r"changed while"):
                checkpoint.verify_unchanged()


def test_everything_is_closed(index: Path):
    """Opening and refusing again and again leaves no descriptor open."""
    before = open_descriptors()
    with open_checkpoint(index):
        assert open_descriptors() == before + 3
    (index.parent / TWO).unlink()
    with pytest.raises(UnreadableError):
        open_checkpoint(index)
    rewrite(index, lambda document: document["weight_map"].update(a=1))
    with pytest.raises(UnreadableError):
        open_checkpoint(index)
    assert open_descriptors() == before


def open_descriptors() -> int:
    """How many file descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))
