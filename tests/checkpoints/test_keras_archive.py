"""The ``.keras`` archive: read in place or inflated, patched or packed again, never extracted."""

from __future__ import annotations

import io
import json
import os
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ckptclamp.applying.publication import staged
from ckptclamp.checkpoints.checkpoint import Checkpoint
from ckptclamp.checkpoints.formats.zip.directory import read_directory
from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.checkpoints.source import Source
from ckptclamp.errors import CkptclampError, NotACheckpointError, RefusedError, UnreadableError
from tests.checkpoints.contract import Arrays, CheckpointContract, full
from tests.checkpoints.keras_files import CONFIG, members, ones, pack, weights
from tests.checkpoints.zip_files import archive

CORPUS = os.environ.get("CKPTCLAMP_CORPUS")


class TestStoredArchive(CheckpointContract):
    """As Keras writes it: nothing is packed, weights are patched where they lie."""

    def arrays(self) -> Arrays:
        return {name: array for name, array in super().arrays().items() if array.size}

    def name(self, name: str) -> str:
        return f"layers/{name}/vars/0"

    def make(self, directory: Path, arrays: Arrays) -> Path:
        return pack(directory / "model.keras", members(weights(arrays)))

    def bookkeeping(self, path: Path) -> set[int]:
        """The two places of the checksum."""
        source = Source.open(path)
        found = {member.name: member for member in read_directory(source).members}
        source.close()
        places = found["model.weights.h5"].crc_places
        return {place + byte for place in places for byte in range(4)}


class TestDeflatedArchive(TestStoredArchive):
    """As other tools pack it again: the weights are inflated first, and packed after a change."""

    in_place = False

    def make(self, directory: Path, arrays: Arrays) -> Path:
        contents = members(weights(arrays))
        return pack(directory / "model.keras", contents, zipfile.ZIP_DEFLATED)


class TestCompressedInsideStored(TestStoredArchive):
    """Compressed chunks in a stored member: a change moves everything behind them."""

    in_place = False

    def arrays(self) -> Arrays:
        return {n: a for n, a in super().arrays().items() if a.ndim}

    def make(self, directory: Path, arrays: Arrays) -> Path:
        contents = members(weights(arrays, compression="gzip"))
        return pack(directory / "model.keras", contents)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test puts its archive."""
    return tmp_path / "model.keras"


def changed_copy(checkpoint: Checkpoint, target: Path) -> None:
    """A copy in which the first tensor is negated."""
    tensor = next(iter(checkpoint.tensors.values()))
    with staged(target, like=checkpoint) as stage:
        copy = checkpoint.copy_to(stage)
        copy.write(tensor, full(tensor), -checkpoint.read(tensor, full(tensor)))
        copy.finish()
        stage.publish()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_describes_the_model(path: Path, method: int) -> None:
    """Config, version and layer names come from the archive, whatever its packing."""
    pack(path, members(weights({"dense": ones(2, 3)})), method)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == "keras-zip"
        assert str(checkpoint.producer) == "keras 3.9.0"
        assert checkpoint.keras is not None
        assert checkpoint.keras.config is not None
        assert checkpoint.keras.config["config"]["limit"] == float("inf")
        assert checkpoint.keras.group_names == {"layers/dense": "dense"}
        assert [source.path for source in checkpoint.files] == [path]
        checkpoint.verify_integrity()


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_copy_keeps_all_but_the_weights(
    path: Path, tmp_path: Path, method: int, compression: str | None
) -> None:
    """Order, dates, rights, comments, extra fields and every other member are what they were."""
    data = weights({"dense": np.arange(600, dtype="f4")}, compression=compression)
    contents = members(data)
    order = ["model.weights.h5", "config.json", "assets/words/vocabulary.txt", "metadata.json"]
    pack(path, {name: contents[name] for name in order}, method)
    target = tmp_path / "copy.keras"
    with open_checkpoint(path) as checkpoint:
        changed_copy(checkpoint, target)
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(target) as after:
        assert after.testzip() is None
        assert after.comment == before.comment
        kept = ("filename", "date_time", "compress_type", "comment", "extra", "external_attr")
        for old, new in zip(before.infolist(), after.infolist(), strict=True):
            for attribute in (*kept, "create_system", "create_version", "flag_bits"):
                assert getattr(old, attribute) == getattr(new, attribute)
            same = old.filename != "model.weights.h5"
            assert (before.read(old) == after.read(new)) is same


@pytest.mark.parametrize("zip64", [True, False])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_copy_of_a_streamed_archive(path: Path, tmp_path: Path, method: int, zip64: bool) -> None:
    """Checksums and sizes in zip64 fields and data descriptors are brought up to date too."""
    content = members(weights({"dense": np.arange(500, dtype="f4")}))
    path.write_bytes(archive(content, method=method, zip64=zip64, streamed=True))
    target = tmp_path / "copy.keras"
    with open_checkpoint(path) as checkpoint:
        changed_copy(checkpoint, target)
    with zipfile.ZipFile(target) as after:
        assert after.testzip() is None
    with open_checkpoint(target) as again:
        again.verify_integrity()
        (tensor,) = again.tensors.values()
        assert np.array_equal(again.read(tensor, full(tensor)), -np.arange(500, dtype="f4"))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damaged_weights(path: Path, method: int) -> None:
    """A flipped bit in a weight is found by the archive's checksum, at opening or when asked."""
    data = weights({"dense": np.arange(4000, dtype="f4")})
    pack(path, members(data), method)
    damaged = bytearray(path.read_bytes())
    source = Source.open(path)
    found = {member.name: member for member in read_directory(source).members}
    source.close()
    member = found["model.weights.h5"]
    damaged[member.data + member.stored - 200] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UnreadableError, match=r"checksum|inflated|deflated|length"):
        verified(path)


def verified(path: Path) -> None:
    """Open an archive and check it as an audit does."""
    with open_checkpoint(path) as checkpoint:
        checkpoint.verify_integrity()


def without(*names: str) -> dict[str, bytes]:
    """An archive that lacks members."""
    contents = members(weights({"dense": ones(2)}))
    return {name: content for name, content in contents.items() if name not in names}


REFUSED = {
    "npz weights": (without() | {"model.weights.npz": b""}, RefusedError, "cannot reload"),
    "no config": (without("config.json"), NotACheckpointError, r"without config\.json"),
    "no weights": (without("model.weights.h5"), NotACheckpointError, r"without model\.weights"),
    "config is a list": (without() | {"config.json": b"[]"}, RefusedError, "no JSON object"),
    "config is cut": (without() | {"config.json": CONFIG[:-1]}, RefusedError, "not JSON"),
    "config says two things": (
        without() | {"config.json": b'{"a": 1, "a": 2}'},
        RefusedError,
        "twice",
    ),
    "weights are no HDF5": (
        without() | {"model.weights.h5": b"x" * 200},
        NotACheckpointError,
        "HDF5",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refuses(path: Path, what: str) -> None:
    """What is no whole ``.keras`` archive is said to be none, and why."""
    contents, error, reason = REFUSED[what]
    pack(path, contents)
    with pytest.raises(error, match=reason):
        open_checkpoint(path)


def test_config_bomb(path: Path) -> None:
    """A config that unpacks to far more than it takes is not unpacked."""
    contents = without() | {"config.json": json.dumps({"a": " " * (8 << 20)}).encode()}
    pack(path, contents, zipfile.ZIP_DEFLATED)
    with pytest.raises(RefusedError, match="unpacks from"):
        open_checkpoint(path)


def test_weights_bomb(path: Path) -> None:
    """Weights that unpack to a thousand times their size are not unpacked."""
    contents = without() | {"model.weights.h5": bytes(70 << 20)}
    pack(path, contents, zipfile.ZIP_DEFLATED)
    with pytest.raises(RefusedError, match="unpacks from"):
        open_checkpoint(path)


def test_strange_members_are_told(path: Path) -> None:
    """A member that Keras does not write is no reason to refuse, but to say so."""
    pack(path, without() | {"notes.txt": b"hello"})
    with open_checkpoint(path) as checkpoint:
        assert any("notes.txt" in note for note in checkpoint.notes)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_bit_flips(path: Path, method: int) -> None:
    """Damage is an error of ours, unless it is where nothing of the model is (dates, comments)."""
    data = pack(path, members(weights({"dense": ones(3, 3)})), method).read_bytes()
    intact = contents(path)
    rng = random.Random(11)
    caught = 0
    for _ in range(25):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            assert contents(path) == intact
        except CkptclampError:
            caught += 1
    assert caught


def contents(path: Path) -> tuple[object, ...]:
    """All that an audit of the archive looks at."""
    with open_checkpoint(path) as checkpoint:
        checkpoint.verify_integrity()
        values = {n: checkpoint.read(t, full(t)).tobytes() for n, t in checkpoint.tensors.items()}
        return checkpoint.keras, values


@pytest.mark.skipif(not CORPUS, reason="CKPTCLAMP_CORPUS names no folder of checkpoints")
def test_corpus() -> None:
    """Real archives open, are whole, and have the bytes that the zip reader sees."""
    import h5py

    paths = sorted(Path(CORPUS or "").rglob("*.keras"))
    assert paths
    for path in paths:
        with open_checkpoint(path) as checkpoint, zipfile.ZipFile(path) as packed:
            checkpoint.verify_integrity()
            assert checkpoint.keras is not None
            assert checkpoint.keras.config is not None
            with h5py.File(io.BytesIO(packed.read("model.weights.h5"))) as file:
                for name, tensor in checkpoint.tensors.items():
                    values = checkpoint.read(tensor, full(tensor))
                    assert values.tobytes() == file[name][()].tobytes()
