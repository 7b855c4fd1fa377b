"""Files told by their bytes, and a helpful word for what is no checkpoint."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from ckptclamp.checkpoints.opening import open_checkpoint, open_source
from ckptclamp.checkpoints.source import Source
from ckptclamp.errors import CkptclampError, NotACheckpointError, RefusedError, UnreadableError
from tests.checkpoints.safetensors_files import framed, samples, serialised

GOOD = serialised(samples())


def zipped(*names: str) -> bytes:
    """A zip archive with members of these names."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return out.getvalue()


def tarred() -> bytes:
    """A tar archive with one member."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.safetensors"))
    return out.getvalue()


def saved(array: NDArray[Any]) -> bytes:
    """An ``.npy`` file."""
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "an empty file"),
        (bytes(4096), "all zeros"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (pickle.dumps({"w": [1.0]}, protocol=2), "a Python pickle"),
        (pickle.dumps({"w": [1.0]}, protocol=5), "a Python pickle"),
        (zipped("archive/data.pkl", "archive/data/0"), "a Python pickle"),
        (saved(np.zeros(3)), "a NumPy array without a name"),
        (b"GGUF\x03\0\0\0" + bytes(64), "a GGUF file"),
        (b"<!DOCTYPE html><html>404</html>", "a web page or XML"),
        (b"\n  <html lang=en>", "a web page or XML"),
        (gzip.compress(GOOD), "a compressed file or a tar archive"),
        (tarred(), "a compressed file or a tar archive"),
        (b'{"error": "Invalid username or password."}', "JSON without a weight_map"),
        (b"Entry not found", "text"),
        (framed(b" {}"), "a safetensors file whose header does not begin with '{'"),
        (b"\x7fELF" + bytes(60), "bytes that begin with 7f 45 4c 46"),
    ],
)
def test_what_is_no_checkpoint_is_told(tmp_path: Path, content: bytes, what: str):
    """A wrong file gets one line that says what it is and what to do, whatever it is called."""
    for name in ("model.safetensors", "model.keras", "model"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(NotACheckpointError) as caught:
            open_checkpoint(path)
        assert what in caught.value.message
        assert caught.value.hint
        assert caught.value.path == str(path)


@pytest.mark.parametrize("length", [0x280, 0x580, 0x8B1F])
def test_a_length_that_looks_like_another_format(tmp_path: Path, length: int):
    """A safetensors file whose length reads as the start of a pickle or gzip is still one."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(framed(b"{}".ljust(length)))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == "safetensors"


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("model.safetensors", None),
        ("0123abcd", None),
        ("model.bin", None),
        ("model.h5", "named .h5 but holds safetensors"),
        ("model.KERAS", "named .keras but holds safetensors"),
    ],
)
def test_a_misleading_name_is_told(tmp_path: Path, name: str, note: str | None):
    """The bytes decide; a name that promises another format is worth a word."""
    path = tmp_path / name
    path.write_bytes(GOOD)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == "safetensors"
        assert checkpoint.notes == (() if note is None else (note,))


@pytest.mark.parametrize("name", ["model.h5", "model.keras", "model.safetensors"])
def test_hdf5_by_its_signature(tmp_path: Path, name: str):
    """Old versions of Keras wrote HDF5 under any name; it opens, with a note."""
    path = tmp_path / name
    with h5py.File(path, "w") as file:
        file["w"] = np.ones((2, 2), np.float32)
    with open_checkpoint(path) as checkpoint:
        assert list(checkpoint.tensors) == ["w"]
        assert any(note.endswith("but holds HDF5") for note in checkpoint.notes) == (
            name != "model.h5"
        )


def test_a_user_block_is_no_safetensors(tmp_path: Path):
    """HDF5 behind a user block can be two files in one, and is refused as such."""
    path = tmp_path / "model.h5"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["w"] = np.ones(2)
    with pytest.raises(UnreadableError, match="user block"):
        open_checkpoint(path)


def test_a_directory_with_one_file_is_that_file(tmp_path: Path):
    """A directory of one model can be named by itself, whatever else is in it."""
    (tmp_path / "model.safetensors").write_bytes(GOOD)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.path == tmp_path / "model.safetensors"


def test_a_directory_must_not_be_ambiguous(tmp_path: Path):
    """No weights, or two models: the user is asked to name one."""
    with pytest.raises(NotACheckpointError, match="directory without weights"):
        open_checkpoint(tmp_path)
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).write_bytes(GOOD)
    with pytest.raises(
        NotACheckpointError, match=r"2 checkpoints .name one of them: a.safetensors, b"
    ):
        open_checkpoint(tmp_path)


def test_a_linked_file_in_a_directory_needs_permission(tmp_path: Path):
    """Naming a directory does not mean to follow links out of it; naming the link does."""
    (tmp_path / "blob").write_bytes(GOOD)
    directory = tmp_path / "snapshot"
    directory.mkdir()
    link = directory / "model.safetensors"
    link.symlink_to(tmp_path / "blob")
    with pytest.raises(RefusedError, match="symbolic link"):
        open_checkpoint(directory)
    for path, follow in ((directory, True), (link, False)):
        with open_checkpoint(path, follow_symlinks=follow) as checkpoint:
            assert checkpoint.path == link


def test_files_that_are_not_there_or_not_files(tmp_path: Path):
    """A missing path, a FIFO and a device end at once in one line."""
    with pytest.raises(UnreadableError, match="No such file"):
        open_checkpoint(tmp_path / "missing.safetensors")
    os.mkfifo(tmp_path / "fifo.safetensors")
    for path in (tmp_path / "fifo.safetensors", Path("/dev/zero")):
        with pytest.raises(NotACheckpointError, match="not a regular file"):
            open_checkpoint(path)


def test_an_opened_file_needs_no_name(tmp_path: Path):
    """A copy can be opened through its descriptor, before it has a name."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(GOOD)
    fd = os.open(path, os.O_RDWR)
    path.unlink()
    source = Source.from_fd(fd, tmp_path / "later.safetensors")
    with open_source(source) as checkpoint:
        assert len(checkpoint.tensors) == len(samples())
        checkpoint.verify_unchanged()


def test_a_refused_source_is_closed(tmp_path: Path):
    """Opening takes over the descriptor, also where it ends in a refusal."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(GOOD[:-1])
    source = Source.open(path)
    with pytest.raises(RefusedError, match="truncated"):
        open_source(source)
    assert source.fd == -1


def test_a_name_that_leads_elsewhere_is_a_change(tmp_path: Path):
    """A file that was replaced while it was audited was not what will be loaded."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(GOOD)
    with open_checkpoint(path) as checkpoint:
        checkpoint.verify_unchanged()
        path.rename(tmp_path / "old")
        with pytest.raises(UnreadableError, match="is gone"):
            checkpoint.verify_unchanged()
        path.write_bytes(GOOD)
        with pytest.raises(UnreadableError, match="changed while"):
            checkpoint.verify_unchanged()


def test_a_small_safetensors_needs_few_imports(tmp_path: Path):
    """Opening a safetensors file loads none of the libraries that it does not need."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(GOOD)
    code = (
        "import sys; from ckptclamp.checkpoints.opening import open_checkpoint as o; "
        f"c = o({str(path)!r}); [c.read(t, tuple((0, n) for n in t.shape)) for t in c.tensors.values()]; "
        "print(*sorted({'h5py', 'yaml', 'rich', 'ml_dtypes', 'subprocess'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.skipif(
    "CKPTCLAMP_HOSTILE" not in os.environ,
    reason="CKPTCLAMP_HOSTILE names no directory of bad files",
)
def test_hostile_files_never_do_harm():
    """Every file that others found trouble with is opened, or refused by one of our own errors."""
    files = [path for path in Path(os.environ["CKPTCLAMP_HOSTILE"]).rglob("*") if path.is_file()]
    refused = 0
    for path in files:
        if path.suffix in (".h5", ".hdf5", ".keras", ".zip"):
            continue
        try:
            open_checkpoint(path).close()
        except CkptclampError as error:
            refused += error.exit_code == 3
    assert refused


_TABLE_END = bytes.fromhex("57fb808b247547db")


@pytest.mark.parametrize(
    ("name", "data", "what", "way_out"),
    [
        ("m.tflite", b"\x1c\0\0\0TFL3" + bytes(64), "TensorFlow Lite", "Keras model"),
        ("m.npy", saved(np.ones(2)), "NumPy", "numpy.savez"),
        (
            "model.json",
            json.dumps({"format": "layers-model", "modelTopology": [[[[[[[[[[1]]]]]]]]]]}).encode(),
            "TensorFlow.js",
            "tensorflowjs.converters",
        ),
        ("checkpoint", b'model_checkpoint_path: "checkpoint"\n', "TensorFlow", "save_weights"),
        ("c.index", bytes(64) + _TABLE_END, "TensorFlow checkpoint", "save_weights"),
        ("saved_model.pb", b"\x08\x01\x12\xcc\x80" + bytes(64), "SavedModel", "load_model"),
        ("m.pt", b"\x80\x02}q\0.", "pickle", "safetensors.torch.save_file"),
    ],
)
def test_other_formats_are_named_with_a_way_out(tmp_path, name, data, what, way_out):
    """Whoever has a file of another framework learns which it is, and the line that converts it."""
    (tmp_path / name).write_bytes(b"\1" * 8 + data if name == "c.index" else data)
    with pytest.raises(NotACheckpointError, match=what) as refusal:
        open_checkpoint(tmp_path / name)
    assert way_out in (refusal.value.hint or "")


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["saved_model.pb", "variables"], "SavedModel"),
        (["checkpoint", "c.index", "c.data-00000-of-00001"], "TensorFlow checkpoint"),
        (["model.json", "group1-shard1of1.bin"], "TensorFlow.js"),
        (["manifest.ocdbt", "d"], "Orbax"),
        (["0", "100"], "numbered checkpoints"),
        (["checkpoint-500", "runs"], "numbered checkpoints"),
        (["pytorch_model.bin", "config.json"], "pickles"),
        (["flax_model.msgpack"], "Flax"),
    ],
)
def test_directories_of_other_formats_are_named_with_a_way_out(tmp_path, names, what):
    """A directory is told by the files in it; none of them is opened."""
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(NotACheckpointError, match=what) as refusal:
        open_checkpoint(tmp_path)
    assert refusal.value.hint
