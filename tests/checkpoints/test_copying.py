"""Copies of files in which boxes are overwritten, whatever the system under them can do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ckptclamp import system
from ckptclamp.applying.publication import staged
from ckptclamp.checkpoints.checkpoint import Checkpoint
from ckptclamp.checkpoints.copying import FileCopy, copy_bytes
from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.checkpoints.source import Source
from ckptclamp.checkpoints.tensor import Box, Chunked, Constant, Contiguous, Tensor
from ckptclamp.errors import ChangedError, NotWrittenError
from tests.checkpoints.boxes import boxed_shapes, described
from tests.checkpoints.contract import as_slices, full, inner_box
from tests.checkpoints.safetensors_files import samples, serialised

TEN = np.full(10, -1.0, np.float32)


class OneFile:
    """A target that is one file, for tests that need no publication."""

    directory: Path | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = -1

    def keeps(self, name: str) -> bool:
        return False

    def create(self, name: str, size: int) -> int:
        """See `Target.create`."""
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        return self.fd


def no_reopening(_: object) -> Checkpoint:
    """For copies that are not opened again."""
    raise NotImplementedError


@pytest.fixture
def checkpoint(tmp_path: Path) -> Iterator[Checkpoint]:
    """An opened checkpoint with arrays of many ranks."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(serialised(samples()))
    with open_checkpoint(path) as opened:
        yield opened


@settings(max_examples=100, deadline=None)
@given(boxed_shapes(), st.integers(0, 9))
def test_any_box_lands_where_it_belongs(
    tmp_path_factory: pytest.TempPathFactory, shaped: tuple[tuple[int, ...], Box], before: int
):
    """Overwriting a box of a contiguous tensor is assigning to a slice, and changes no other byte."""
    shape, box = shaped
    array = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
    path = tmp_path_factory.getbasetemp() / "contiguous"
    path.write_bytes(bytes(before) + array.tobytes() + b"end")
    source = Source.open(path)
    target = OneFile(path.with_name("contiguous-copy"))
    copy = FileCopy([("", source)], target, no_reopening)
    values = -np.ones([stop - start for start, stop in box], np.float32)
    copy.write(Tensor("w", shape, DTYPES["float32"], Contiguous(0, before)), box, values)
    copy.finish()
    array[as_slices(box)] = values
    assert target.path.read_bytes() == bytes(before) + array.tobytes() + b"end"
    source.close()
    os.close(target.fd)


def test_values_need_not_be_contiguous(checkpoint: Checkpoint, tmp_path: Path):
    """A transposed or strided array is written by its values, not by its memory."""
    tensor = checkpoint.tensors["matrix"]
    values = np.arange(35.0).reshape(5, 7).T
    with staged(tmp_path / "out", like=checkpoint) as stage:
        copy = checkpoint.copy_to(stage)
        copy.write(tensor, full(tensor), values)
        np.testing.assert_array_equal(copy.read(tensor, full(tensor)), values)


def chunked_file(directory: Path, **options: Any) -> tuple[Source, Tensor, NDArray[Any]]:
    """A chunked dataset with one chunk left out, its description and its values."""
    path = directory / "chunks.h5"
    array = np.arange(63, dtype=np.float32).reshape(9, 7)
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("w", (9, 7), "f4", chunks=(4, 3), fillvalue=-1, **options)
        dataset[:8, :] = array[:8, :]
        tensor = described(dataset)
        values: NDArray[Any] = dataset[()]
    return Source.open(path), tensor, values


@pytest.mark.parametrize(
    "box", [((0, 8), (0, 7)), ((1, 7), (2, 6)), ((3, 5), (3, 4)), ((4, 8), (3, 6))]
)
def test_chunks_without_filters_are_overwritten(tmp_path: Path, box: Box):
    """A box that lies across chunks is written into each of them; HDF5 reads it back."""
    source, tensor, values = chunked_file(tmp_path)
    target = OneFile(tmp_path / "copy.h5")
    copy = FileCopy([("", source)], target, no_reopening)
    values[as_slices(box)] *= -2
    copy.write(tensor, box, values[as_slices(box)])
    copy.finish()
    np.testing.assert_array_equal(copy.read(tensor, full(tensor)), values)
    with h5py.File(target.path) as file:
        np.testing.assert_array_equal(file["w"][()], values)
    assert copy.changed == {"w": tensor}
    source.close()
    os.close(target.fd)


@pytest.mark.parametrize(
    ("options", "box", "reason"),
    [
        ({"compression": "gzip"}, ((0, 1), (0, 1)), "compressed or checksummed"),
        ({}, ((7, 9), (0, 7)), r"\[8, 0\] was never written"),
    ],
)
def test_what_cannot_be_overwritten_is_refused(
    tmp_path: Path, options: dict[str, str], box: Box, reason: str
):
    """A chunk that would have to move or to be made is never written over something else."""
    source, tensor, values = chunked_file(tmp_path, **options)
    target = OneFile(tmp_path / "copy.h5")
    copy = FileCopy([("", source)], target, no_reopening)
    assert isinstance(tensor.storage, Chunked)
    with pytest.raises(NotWrittenError, match=f"w: its .*{reason}"):
        copy.write(tensor, box, values[as_slices(box)])
    source.close()
    os.close(target.fd)


def test_a_fill_value_cannot_be_overwritten(checkpoint: Checkpoint, tmp_path: Path):
    """A tensor that has no bytes in the file is refused by name."""
    tensor = Tensor("w", (2,), DTYPES["float32"], Constant(0, bytes(4)))
    with staged(tmp_path / "out", like=checkpoint) as stage:
        copy = checkpoint.copy_to(stage)
        with pytest.raises(NotWrittenError, match="w: it has no bytes of its own"):
            copy.write(tensor, ((0, 2),), np.ones(2, np.float32))


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_copies_where_the_kernel_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int):
    """Between file systems that share nothing, the bytes are read and written instead."""

    def refuse(*_: object) -> int:
        raise OSError(code, "not here")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    content = os.urandom(2_500_000)
    (tmp_path / "from").write_bytes(content)
    source = Source.open(tmp_path / "from")
    with (tmp_path / "to").open("w+b") as file:
        copy_bytes(source, file.fileno())
    assert (tmp_path / "to").read_bytes() == content
    source.close()


def test_a_source_that_shrinks_is_an_error(tmp_path: Path):
    """A file that is cut short while it is copied never becomes a short or zero-filled copy."""
    path = tmp_path / "from"
    path.write_bytes(bytes(range(256)) * 100)
    source = Source.open(path)
    os.truncate(path, 1000)
    with (tmp_path / "to").open("w+b") as file, pytest.raises(ChangedError, match="became shorter"):
        copy_bytes(source, file.fileno())
    source.close()


def test_a_failing_flush_is_not_tried_again(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A second flush may report success for data that are lost, so the first failure is final."""
    calls: list[int] = []

    def fail(fd: int) -> None:
        calls.append(fd)
        raise OSError(errno.EIO, "Input/output error")

    with staged(tmp_path / "out", like=checkpoint) as stage:
        copy = checkpoint.copy_to(stage)
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(NotWrittenError, match="out: cannot be written: Input/output error"):
            copy.flush()
    assert len(calls) == 1
    assert not (tmp_path / "out").exists()


def test_the_original_is_never_written_to(checkpoint: Checkpoint, tmp_path: Path):
    """Whatever is written to a copy, the source keeps every byte and its times."""
    before = checkpoint.path.read_bytes()
    with staged(tmp_path / "out", like=checkpoint) as stage:
        copy = checkpoint.copy_to(stage)
        for tensor in checkpoint.tensors.values():
            values = checkpoint.read(tensor, full(tensor))
            box = inner_box(tensor.shape) if tensor.size else full(tensor)
            copy.write(tensor, box, np.zeros_like(values[as_slices(box)]))
        copy.finish()
        stage.publish()
    checkpoint.verify_unchanged()
    assert checkpoint.path.read_bytes() == before


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_byte_that_goes_astray_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    """A copy is refused if one byte outside of the written tensors differs, wherever it lies."""
    path = tmp_path_factory.getbasetemp() / "astray"
    size = data.draw(st.integers(100, 600_000), "size")
    content = np.arange(size, dtype=np.uint32).view(np.uint8)[:size]
    path.write_bytes(content.tobytes())
    begin = data.draw(st.integers(0, size - 40), "the tensor's place")
    at = data.draw(st.integers(0, size - 1), "the place of the stray byte")
    source = Source.open(path)
    target = OneFile(path.with_name("astray-copy"))
    copy = FileCopy([("", source)], target, no_reopening)
    copy.write(Tensor("w", (10,), DTYPES["float32"], Contiguous(0, begin)), ((0, 10),), TEN)
    os.pwrite(target.fd, bytes([content[at] ^ 1]), at)
    if begin <= at < begin + 40:
        copy.compare(jobs=2)
    else:
        with pytest.raises(NotWrittenError, match="differs from its original at byte"):
            copy.compare(jobs=2)
    source.close()
    os.close(target.fd)


@pytest.mark.parametrize("longer", [-1, 1])
def test_a_copy_of_another_length_is_refused(checkpoint: Checkpoint, tmp_path: Path, longer: int):
    """Bytes that are missing at the end, or came to it, are a difference as any other."""
    target = OneFile(tmp_path / "copy")
    copy = checkpoint.copy_to(target)
    os.truncate(target.fd, checkpoint.sources[0].size + longer)
    with pytest.raises(NotWrittenError, match="differs from its original at byte"):
        copy.compare(jobs=2)
    os.close(target.fd)


def test_an_original_that_changes_is_named_as_the_cause(checkpoint: Checkpoint, tmp_path: Path):
    """Where copy and original differ because the original was written to, that is what is said."""
    target = OneFile(tmp_path / "copy")
    copy = checkpoint.copy_to(target)
    with checkpoint.path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    with pytest.raises(ChangedError):
        copy.compare(jobs=2)
    os.close(target.fd)


def test_what_is_done_with_is_on_its_way_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A large tensor that was written to, and no other; what is in the file stays what it is."""
    path = tmp_path / "model.safetensors"
    arrays = {"large": np.zeros((512, 1024)), "other": np.zeros((512, 512)), "small": np.zeros(9)}
    path.write_bytes(serialised(arrays))
    begun: list[tuple[int, int]] = []
    begin = system.begin_write_back

    def told(fd: int, offset: int, length: int) -> None:
        begun.append((offset, length))
        begin(fd, offset, length)

    monkeypatch.setattr(system, "begin_write_back", told)
    with open_checkpoint(path) as opened, staged(tmp_path / "out", like=opened) as stage:
        copy = opened.copy_to(stage)
        assert isinstance(copy, FileCopy)
        large, other, small = (opened.tensors[name] for name in arrays)
        for one in (large, small):
            copy.write(one, full(one), np.ones(one.shape))
        for one in (large, other, small):
            copy.begin_write_back(one)
        np.testing.assert_array_equal(copy.read(large, full(large)), 1)
    assert begun == [(large.extents[0][0], large.nbytes)]
