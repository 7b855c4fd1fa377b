"""HDF5 files: described by a worker, and read without the HDF5 library."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest
from h5py import h5d, h5t
from numpy.typing import NDArray

from ckptclamp.applying.publication import staged
from ckptclamp.checkpoints.checkpoint import Checkpoint
from ckptclamp.checkpoints.formats.hdf5 import sandbox
from ckptclamp.checkpoints.formats.hdf5.file import Answer, Hdf5Checkpoint, Place
from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.checkpoints.source import Source
from ckptclamp.checkpoints.tensor import (
    Chunked,
    Constant,
    Contiguous,
    KerasLayout,
    Role,
    Unreadable,
)
from ckptclamp.errors import (
    CkptclampError,
    NotACheckpointError,
    RefusedError,
    UnreadableError,
)
from tests.checkpoints.contract import Arrays, CheckpointContract, full
from tests.checkpoints.hdf5_files import REFUSED, low_level, with_shared_bytes, written

CORPUS = os.environ.get("CKPTCLAMP_CORPUS")
HOSTILE = os.environ.get("CKPTCLAMP_HOSTILE")


class TestCompressedHdf5(CheckpointContract):
    """Chunks through shuffle and gzip, which a write makes longer or shorter."""

    in_place = False

    def arrays(self) -> Arrays:
        return {n: a for n, a in super().arrays().items() if a.size and a.ndim}

    def make(self, directory: Path, arrays: Arrays) -> Path:
        path = directory / "model.h5"
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                chunks = tuple(max(1, extent // 2) for extent in array.shape)
                file.create_dataset(
                    name, data=array, chunks=chunks, compression="gzip", shuffle=True
                )
        return path


class TestPlainChunks(TestCompressedHdf5):
    """Chunks without a filter, the newest file format, and a checksum on some."""

    def make(self, directory: Path, arrays: Arrays) -> Path:
        path = directory / "model.h5"
        with h5py.File(path, "w", libver="latest") as file:
            for number, (name, array) in enumerate(arrays.items()):
                chunks = tuple(max(1, extent // 2) for extent in array.shape)
                file.create_dataset(name, data=array, chunks=chunks, fletcher32=number % 2 == 1)
        return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test puts its file."""
    return tmp_path / "model.h5"


def opened(path: Path) -> Checkpoint:
    """The checkpoint at `path`, which the test closes."""
    source = Source.open(path)
    try:
        return Hdf5Checkpoint(source)
    except BaseException:
        source.close()
        raise


def read(checkpoint: Checkpoint, name: str) -> NDArray[Any]:
    """All of one tensor."""
    tensor = checkpoint.tensors[name]
    return checkpoint.read(tensor, full(tensor))


@pytest.mark.parametrize("what", REFUSED)
def test_refuses_by_name(what: str, path: Path) -> None:
    """What leads elsewhere, or costs more than it stores, is refused, and the message says where."""
    make, name, reason = REFUSED[what]
    written(path, make)
    with pytest.raises(RefusedError, match=reason) as caught:
        open_checkpoint(path)
    assert caught.value.path == str(path)
    if name:
        assert caught.value.tensor == name


@pytest.mark.parametrize("shift", [0, 128])
def test_refuses_shared_bytes(path: Path, shift: int) -> None:
    """Two tensors on the same bytes cannot be changed apart, so they are not read as two."""
    with pytest.raises(RefusedError, match="shares its bytes"):
        opened(with_shared_bytes(path, shift))


def test_hard_links_are_one_tensor(path: Path) -> None:
    """A dataset with several names is one tensor that knows them all, also through group links."""

    def make(file: h5py.File) -> None:
        file["a/w"] = np.arange(4, dtype="f4")
        file["b/v"] = file["a/w"]
        file["c"] = file["b"]

    written(path, make)
    with opened(path) as checkpoint:
        (tensor,) = checkpoint.tensors.values()
        assert {tensor.name, *tensor.aliases} == {"a/w", "b/v", "c/v"}
        assert any("second name" in note for note in checkpoint.notes)


DTYPES = ["<f2", ">f4", "<f8", "i1", "u1", ">i2", "<u4", "<i8", ">u8", "?"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_numeric_dtypes(path: Path, dtype: str) -> None:
    """Every width, sign and byte order comes back as it lies in the file."""
    values = np.arange(6).reshape(2, 3).astype(dtype)
    written(path, lambda file: file.create_dataset("w", data=values))
    with opened(path) as checkpoint:
        again = read(checkpoint, "w")
        assert again.dtype == values.dtype
        assert again.tobytes() == values.tobytes()


@pytest.mark.parametrize("marked", [True, False])
def test_bfloat16_as_keras_stores_it(path: Path, marked: bool) -> None:
    """Two opaque bytes are bfloat16, with Keras' attribute or without."""
    values = np.linspace(-2, 2, 8).astype(ml_dtypes.bfloat16)

    def make(file: h5py.File) -> None:
        dataset = file.create_dataset("w", data=values.view("V2"))
        if marked:
            dataset.attrs["dtype"] = "bfloat16"

    written(path, make)
    with opened(path) as checkpoint:
        assert read(checkpoint, "w").dtype == ml_dtypes.bfloat16
        assert read(checkpoint, "w").tobytes() == values.tobytes()


def unusual_float(file: h5py.File) -> None:
    """A float of 24 bits."""
    datatype = h5t.IEEE_F32LE.copy()
    datatype.set_fields(23, 15, 8, 0, 15)
    datatype.set_size(3)
    datatype.set_precision(24)
    low_level(file, "w", (3,), datatype=datatype)


def null_space(file: h5py.File) -> None:
    """A dataset with a type but no extent."""
    file["w"] = h5py.Empty("f4")


def compact(file: h5py.File) -> None:
    """Values inside the object header."""
    low_level(file, "w", (3,), change=lambda created: created.set_layout(h5d.COMPACT))


def lying_bfloat16(file: h5py.File) -> None:
    """Two opaque bytes that say they are something else."""
    file.create_dataset("w", data=np.zeros(3, "V2")).attrs["dtype"] = "float8"


UNREADABLE = {
    "string": lambda f: f.create_dataset("w", data=["a", "b"]),
    "fixed string": lambda f: f.create_dataset("w", data=np.array([b"ab"])),
    "compound": lambda f: f.create_dataset("w", data=np.zeros(2, "f4,i4")),
    "complex": lambda f: f.create_dataset("w", data=np.zeros(2, "c8")),
    "variable length": lambda f: f.create_dataset("w", (2,), h5py.vlen_dtype("f4")),
    "reference": lambda f: f.create_dataset("w", (2,), h5py.ref_dtype),
    "enumeration": lambda f: f.create_dataset("w", (2,), h5py.enum_dtype({"A": 0, "B": 5})),
    "one opaque byte": lambda f: f.create_dataset("w", data=np.zeros(3, "V1")),
    "lying bfloat16": lying_bfloat16,
    "unusual float": unusual_float,
    "no extent": null_space,
    "compact": compact,
    "named datatype": lambda f: f.__setitem__("w", np.dtype("f4")),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_what_is_no_number_is_named(path: Path, what: str) -> None:
    """A dataset that cannot be judged stays in the list with its reason, and does not read as zeros."""
    written(path, UNREADABLE[what])
    with opened(path) as checkpoint:
        tensor = checkpoint.tensors["w"]
        assert isinstance(tensor.storage, Unreadable)
        assert tensor.storage.reason
        with pytest.raises(UnreadableError):
            checkpoint.read(tensor, full(tensor))


def test_kinds_of_storage(path: Path) -> None:
    """Scalars, empty tensors, fill values and missing chunks give what the HDF5 library gives."""

    def make(file: h5py.File) -> None:
        file["scalar"] = np.float32(3.5)
        file["empty"] = np.zeros((0, 3), "f4")
        file.create_dataset("filled", (2, 3), "f8", fillvalue=1.5)
        sparse = file.create_dataset("sparse", (10,), "f4", chunks=(4,), fillvalue=2)
        sparse[0:2] = 7

    written(path, make)
    with opened(path) as checkpoint, h5py.File(path) as file:
        kinds = {name: type(tensor.storage) for name, tensor in checkpoint.tensors.items()}
        assert kinds == {
            "scalar": Contiguous,
            "empty": Constant,
            "filled": Constant,
            "sparse": Chunked,
        }
        for name in kinds:
            assert np.array_equal(read(checkpoint, name), file[name][()])


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("compression", ["gzip", "lzf", None])
def test_library_reads_what_was_rewritten(
    path: Path, tmp_path: Path, libver: str, compression: str | None
) -> None:
    """The HDF5 library sees the new values, and everything else as it was, attributes too."""
    values = np.arange(2000, dtype="f4").reshape(40, 50)
    other = np.random.default_rng(3).normal(size=300)

    def make(file: h5py.File) -> None:
        options = {"compression": compression, "fletcher32": True, "shuffle": True}
        file.create_dataset("w", data=values, chunks=(16, 16), **options)
        file.create_dataset("other", data=other, chunks=(64,), **options)
        file.create_dataset("sparse", (100,), "f4", chunks=(10,), fillvalue=2, **options)
        file["w"].attrs["note"] = "kept"
        file["plain"] = other

    written(path, make, libver=libver)
    target = tmp_path / "copy.h5"
    with opened(path) as checkpoint, staged(target, like=checkpoint) as stage:
        copy = checkpoint.copy_to(stage)
        copy.write(checkpoint.tensors["w"], ((5, 35), (10, 20)), -values[5:35, 10:20])
        copy.write(checkpoint.tensors["sparse"], ((42, 44),), np.array([7, 8], "f4"))
        copy.finish()
        stage.publish()
    values[5:35, 10:20] *= -1
    with h5py.File(target) as file:
        assert np.array_equal(file["w"][()], values)
        assert np.array_equal(file["other"][()], other)
        assert np.array_equal(file["plain"][()], other)
        assert file["sparse"][()].tolist() == [2] * 42 + [7, 8] + [2] * 56
        assert file["w"].attrs["note"] == "kept"
        assert (file["w"].compression, file["w"].fletcher32) == (compression, True)


def test_truncated(path: Path) -> None:
    """A file that was cut short is unreadable: the library would give zeros for what is missing."""
    written(path, lambda file: file.create_dataset("w", data=np.ones(1000, "f4")))
    os.truncate(path, path.stat().st_size - 100)
    with pytest.raises(UnreadableError, match="truncated"):
        opened(path)


def test_user_block(path: Path) -> None:
    """Bytes before the signature can be a second file."""
    written(path, lambda file: file.create_dataset("w", data=np.ones(3)), userblock_size=512)
    with pytest.raises(RefusedError, match="user block"):
        opened(path)


def test_trailing_bytes(path: Path) -> None:
    """Bytes after the end are told of; a zip archive there is a second checkpoint."""
    written(path, lambda file: file.create_dataset("w", data=np.ones(3)))
    data = path.read_bytes()
    path.write_bytes(data + b"\n" * 6)
    with opened(path) as checkpoint:
        assert any("6 bytes follow" in note for note in checkpoint.notes)
    path.write_bytes(data + b"PK\x05\x06" + bytes(18))
    with pytest.raises(RefusedError, match="zip archive"):
        opened(path)


def test_not_hdf5(path: Path) -> None:
    """Another kind of file is not handed to the HDF5 library at all."""
    path.write_bytes(b"hello" * 100)
    with pytest.raises(NotACheckpointError):
        opened(path)


def test_shuffled_chunks_at_the_edge(path: Path) -> None:
    """Where HDF5 does not say whether a chunk is shuffled, nothing is read."""
    written(path, lambda f: f.create_dataset("w", data=np.ones(10), chunks=(4,), shuffle=True))
    with opened(path) as checkpoint:
        assert isinstance(checkpoint.tensors["w"].storage, Unreadable)


def test_legacy_names(path: Path) -> None:
    """The legacy layout's attributes are read, split or not, and weights know their Keras names."""

    def make(file: h5py.File) -> None:
        file.attrs["keras_version"] = "2.15.0"
        file.attrs["backend"] = "tensorflow"
        file.attrs["model_config"] = '{"class_name": "Sequential", "config": {"limit": Infinity}}'
        root = file.create_group("model_weights")
        root.attrs["layer_names0"] = np.array([b"dense"])
        root.attrs["layer_names1"] = np.array(["déjà".encode()])
        root.create_group("déjà").attrs["weight_names"] = np.zeros(0)
        root.create_group("dense").attrs["weight_names"] = ["dense/kernel:0"]
        root["dense/dense/kernel:0"] = np.ones((2, 2), "f4")
        file["optimizer_weights/m"] = np.ones(2, "f4")

    written(path, make)
    with opened(path) as checkpoint:
        model = checkpoint.keras
        assert checkpoint.format == "keras-h5"
        assert str(checkpoint.producer) == "keras 2.15.0 (tensorflow)"
        assert model is not None
        assert (model.layout, model.weights_root) == (KerasLayout.LEGACY, "model_weights")
        assert model.layer_names == ("dense", "déjà")
        assert model.weight_names == {"dense": ("dense/kernel:0",), "déjà": ()}
        assert model.config is not None
        assert model.config["config"]["limit"] == float("inf")
        kernel = checkpoint.tensors["model_weights/dense/dense/kernel:0"]
        assert kernel.aliases == ("dense/dense/kernel:0", "dense/kernel:0")
        assert checkpoint.tensors["optimizer_weights/m"].role is Role.OPTIMIZER


def test_ambiguous_legacy_name(path: Path) -> None:
    """A weight name that two layers use is no alias of either: a rule would take the wrong one."""

    def make(file: h5py.File) -> None:
        file.attrs["layer_names"] = ["a", "b"]
        for layer in "ab":
            file.create_group(layer).attrs["weight_names"] = ["kernel"]
            file[f"{layer}/kernel"] = np.ones(2, "f4")

    written(path, make)
    with opened(path) as checkpoint:
        assert checkpoint.format == "keras-h5-weights"
        assert [tensor.aliases for tensor in checkpoint.tensors.values()] == [(), ()]


@pytest.mark.parametrize("root", ["", "model_weights/"])
def test_layers_named_like_groups_of_keras(path: Path, root: str) -> None:
    """In a legacy file a layer may be called anything; its weights are weights."""
    layers = ["metrics", "optimizer", "optimizer_weights", "seed_generator"]

    def make(file: h5py.File) -> None:
        owner = file.require_group(root or "/")
        owner.attrs["layer_names"] = layers
        for layer in layers:
            owner.create_group(layer).attrs["weight_names"] = ["vars/kernel"]
            owner[f"{layer}/vars/kernel"] = np.full((2, 2), -5, "f4")
        if root:
            file["optimizer_weights/m"] = np.ones(2, "f4")

    written(path, make)
    with opened(path) as checkpoint:
        roles = {name: tensor.role for name, tensor in checkpoint.tensors.items()}
    expected = {f"{root}{layer}/vars/kernel": Role.WEIGHT for layer in layers}
    assert roles == expected | ({"optimizer_weights/m": Role.OPTIMIZER} if root else {})


def test_seeds_are_told_from_weights_by_their_form(path: Path) -> None:
    """A user's layer called SeedGenerator has a group of the same name as Keras' own state."""

    def make(file: h5py.File) -> None:
        file.create_group("layers/seed_generator/vars").attrs["name"] = "mine"
        file["layers/seed_generator/vars/0"] = np.full((2, 2), -1, "f4")
        file["layers/seed_generator/vars/1"] = np.full(2, -1, "f4")
        file["layers/dropout/seed_generator_1/vars/0"] = np.ones(2, "i8")

    written(path, make)
    with opened(path) as checkpoint:
        roles = [tensor.role for tensor in checkpoint.tensors.values()]
    assert roles == [Role.STATE, Role.WEIGHT, Role.WEIGHT]


def test_a_weight_that_lies_among_optimizer_state_too_is_a_weight(path: Path) -> None:
    """Keras loads it by the one path, whatever the other one says; no rule passes it by."""

    def make(file: h5py.File) -> None:
        file["optimizer/vars/0"] = np.full((2, 2), -1, "f4")
        file.create_group("z_head/vars")["0"] = file["optimizer/vars/0"]

    written(path, make)
    with opened(path) as checkpoint:
        (tensor,) = checkpoint.tensors.values()
    assert (tensor.name, tensor.role) == ("optimizer/vars/0", Role.WEIGHT)


def test_v3_names(path: Path) -> None:
    """Each group with variables tells its layer's name, or that it has none."""

    def make(file: h5py.File) -> None:
        file.create_group("layers/dense/vars").attrs["name"] = "head"
        file["layers/dense/vars/0"] = np.ones((2, 2), "f4")
        file["layers/dropout/seed_generator/vars/0"] = np.ones(2, "u4")
        file["layers/random_flip/generator/vars/0"] = np.ones(2, "u4")
        file.create_group("vars")
        file["optimizer/vars/0"] = np.int64(3)

    written(path, make)
    with opened(path) as checkpoint:
        assert checkpoint.format == "keras-weights-h5"
        assert checkpoint.keras is not None
        assert checkpoint.keras.group_names == {
            "": None,
            "layers/dense": "head",
            "layers/dropout/seed_generator": None,
            "layers/random_flip/generator": None,
            "optimizer": None,
        }
        roles = {name: tensor.role for name, tensor in checkpoint.tensors.items()}
        assert roles["layers/dense/vars/0"] is Role.WEIGHT
        assert roles["layers/dropout/seed_generator/vars/0"] is Role.STATE
        assert roles["layers/random_flip/generator/vars/0"] is Role.STATE
        assert roles["optimizer/vars/0"] is Role.OPTIMIZER


def test_config_without_layer_names(path: Path) -> None:
    """A config still declares its constraints where the names of the layers are gone."""
    written(path, lambda file: file.attrs.update(model_config='{"class_name": "Sequential"}'))
    with opened(path) as checkpoint:
        assert checkpoint.keras is not None
        assert checkpoint.keras.config == {"class_name": "Sequential"}


@pytest.mark.parametrize(
    "value",
    [np.void(b"{}"), np.array([b"{}", b"{}"]), 3, np.array([], "S5"), h5py.Empty("S5")],
    ids=["opaque", "two texts", "a number", "no text", "nothing"],
)
def test_config_that_is_no_text(path: Path, value: object) -> None:
    """A config that is there and cannot be read is not the same as none."""
    written(path, lambda file: file.attrs.update(layer_names=["dense"], model_config=value))
    with pytest.raises(RefusedError, match="'model_config' is no text"):
        opened(path)


def test_two_layouts(path: Path) -> None:
    """A file that loaders read differently, by its name, has two sets of weights."""

    def make(file: h5py.File) -> None:
        file.attrs["layer_names"] = ["dense"]
        file.create_group("dense").attrs["weight_names"] = ["kernel"]
        file["dense/kernel"] = np.zeros(2, "f4")
        file["layers/dense/vars/0"] = np.ones(2, "f4")

    written(path, make)
    with pytest.raises(RefusedError, match="both as a legacy file"):
        opened(path)


def test_duplicate_key_in_config(path: Path) -> None:
    """A config that says two things is not audited by either."""
    written(path, lambda f: f.attrs.update(layer_names=["a"], model_config='{"a": 1, "a": 2}'))
    with pytest.raises(RefusedError, match="twice"):
        opened(path)


def row(**fields: Any) -> dict[str, Any]:
    """What a worker might say of a dataset of three float32."""
    plain = {"name": "w", "aliases": [], "shape": [3], "dtype": "float32", "order": "<"}
    return plain | {"layout": "contiguous", "offset": 100, "stored": 12} | fields


LIES = {
    "outside": row(offset=995),
    "inside the superblock": row(offset=0),
    "negative": row(offset=-1),
    "no integer": row(offset=True),
    "float": row(offset=100.0),
    "larger than stored": row(shape=[1 << 40]),
    "overflow": row(shape=[1 << 62, 1 << 62], stored=0),
    "dtype": row(dtype="object"),
    "order": row(order="="),
    "layout": row(layout="elsewhere"),
    "shape": row(shape="3"),
    "rank": row(shape=[1] * 40),
    "name": row(name=3),
    "aliases": row(aliases=[3]),
    "fill": row(layout="constant", fill="zz"),
    "chunk rank": row(layout="chunked", chunk_shape=[1, 1], filters=[], chunks=[], fill=None),
    "chunk outside": row(
        layout="chunked", chunk_shape=[3], filters=[], chunks=[[[3], 100, 12, 0]], fill=None
    ),
    "chunk twice": row(
        layout="chunked",
        chunk_shape=[3],
        filters=[],
        chunks=[[[0], 100, 12, 0], [[0], 200, 12, 0]],
        fill=None,
    ),
    "filter": row(layout="chunked", chunk_shape=[3], filters=[["x", 1]], chunks=[], fill=None),
}


@pytest.mark.parametrize("what", LIES)
def test_worker_is_not_believed(what: str) -> None:
    """A worker that a file took over cannot make the parent read elsewhere, or too much."""
    answer = Answer({"datasets": [LIES[what]]}, Path("m.h5"), Place(0, 0, 1000))
    with pytest.raises(RefusedError):
        answer.tensors()


def test_worker_is_believed_when_it_makes_sense() -> None:
    """The lies above differ from an honest answer in one field each."""
    answer = Answer({"datasets": [row()]}, Path("m.h5"), Place(2, 50, 1000))
    assert answer.tensors()["w"].storage == Contiguous(2, 150)


def test_slow_worker(path: Path) -> None:
    """A file that stalls the library is given up, in a plain sentence."""
    written(path, lambda file: file.create_dataset("w", data=np.ones(3)))
    with closing(Source.open(path)) as source:
        task = sandbox.Task("describe", source.fd, path, 0, source.size, seconds=0.0)
        with pytest.raises(UnreadableError, match="did not finish within 0 s"):
            sandbox.run(task)


def test_environment_does_not_reach_the_worker(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither modules nor library settings that lie about can change how a file is read."""
    written(path, lambda file: file.create_dataset("w", data=np.ones(3)))
    (tmp_path / "h5py.py").write_text("raise SystemExit('planted')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("HDF5_DRIVER", "nonsense")
    monkeypatch.setenv("HDF5_PLUGIN_PATH", str(tmp_path))
    with opened(path) as checkpoint:
        assert list(checkpoint.tensors) == ["w"]


def test_the_library_stays_in_the_worker(path: Path) -> None:
    """The process that judges and writes never loads the HDF5 library."""
    written(path, lambda file: file.create_dataset("w", data=np.ones(3)))
    program = (
        "import sys; from ckptclamp.checkpoints.opening import open_checkpoint; "
        "checkpoint = open_checkpoint(sys.argv[1]); assert checkpoint.tensors; "
        "sys.exit('h5py' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == 0


def test_bit_flips(path: Path) -> None:
    """Damage anywhere in the metadata gives an error of ours or a checkpoint, nothing else."""

    def make(file: h5py.File) -> None:
        file.attrs["model_config"] = '{"class_name": "Sequential", "config": {}}'
        file.attrs["layer_names"] = ["dense"]
        file.create_group("dense").attrs["weight_names"] = ["kernel", "bias"]
        file["dense/kernel"] = np.ones((2, 2), "f4")
        file.create_dataset("dense/bias", data=np.ones(8, "f4"), chunks=(4,), compression="gzip")

    data = written(path, make).read_bytes()
    places = [at for at, byte in enumerate(data) if byte]
    rng = random.Random(5)
    outcomes = {True: 0, False: 0}
    for _ in range(30):
        flipped = bytearray(data)
        flipped[rng.choice(places)] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            with opened(path) as checkpoint:
                for name, tensor in checkpoint.tensors.items():
                    if not isinstance(tensor.storage, Unreadable):
                        read(checkpoint, name)
            outcomes[True] += 1
        except CkptclampError:
            outcomes[False] += 1
    assert outcomes[True]
    assert outcomes[False]


def corpus_files() -> list[Path]:
    """HDF5 files that public projects committed."""
    paths = sorted(Path(CORPUS).rglob("*")) if CORPUS else []
    return [path for path in paths if path.suffix in (".h5", ".hdf5")]


@pytest.mark.skipif(not CORPUS, reason="CKPTCLAMP_CORPUS names no folder of checkpoints")
def test_corpus() -> None:
    """Real files open, and every tensor has the bytes that h5py reads."""
    assert corpus_files()
    for path in corpus_files():
        with opened(path) as checkpoint, h5py.File(path) as file:
            found: list[str] = []
            file.visititems(
                lambda name, item, found=found: (
                    found.append(name) if isinstance(item, h5py.Dataset) else None
                )
            )
            assert set(checkpoint.tensors) == set(found), path
            for name in found:
                assert read(checkpoint, name).tobytes() == file[name][()].tobytes(), (path, name)


@pytest.mark.skipif(not HOSTILE, reason="CKPTCLAMP_HOSTILE names no folder of malformed files")
def test_hostile() -> None:
    """Malformed files are refused or opened; none brings the program down."""
    paths = [path for path in sorted(Path(HOSTILE or "").rglob("*")) if path.is_file()]
    outcomes = [outcome(path) for path in paths]
    assert None in outcomes
    for path, error in zip(paths, outcomes, strict=True):
        assert error is None or error.path == str(path)


def outcome(path: Path) -> CkptclampError | None:
    """What opening `path` raises."""
    try:
        open_checkpoint(path).close()
    except CkptclampError as error:
        return error
    return None
