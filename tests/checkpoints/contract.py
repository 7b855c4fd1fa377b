"""What every format must keep, whatever its bytes look like: subclass `CheckpointContract`.

A subclass names itself ``Test…``, and says in `make` how a checkpoint is made from arrays.
"""

from __future__ import annotations

import itertools
import threading
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ckptclamp.applying.publication import staged
from ckptclamp.checkpoints.checkpoint import Checkpoint
from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.checkpoints.tensor import Box, Chunked, Contiguous, Tensor
from tests.checkpoints.safetensors_files import samples

Arrays = Mapping[str, NDArray[Any]]


class CheckpointContract:
    """The tests; `in_place` says whether a write may change nothing but the box's own bytes."""

    in_place = True

    @abstractmethod
    def make(self, directory: Path, arrays: Arrays) -> Path:
        """Write a checkpoint with `arrays` in `directory` and return what a user would name."""

    def arrays(self) -> Arrays:
        """What the checkpoint holds; a format that cannot hold all samples overrides this."""
        return samples()

    def name(self, name: str) -> str:
        """The full name in the checkpoint of the array `name`."""
        return name

    def bookkeeping(self, path: Path) -> set[int]:
        """Offsets in the file `path` that a write may change beside the weights (checksums)."""
        return set()

    @pytest.fixture
    def opened(self, tmp_path: Path) -> Iterator[Checkpoint]:
        """The checkpoint, open."""
        with open_checkpoint(self.make(tmp_path, self.arrays())) as checkpoint:
            yield checkpoint

    def test_describes_every_tensor(self, opened: Checkpoint) -> None:
        """Nothing that was written is missing from the description, and nothing is made up."""
        described = {t.name: (t.shape, t.dtype and t.dtype.numpy) for t in opened.tensors.values()}
        assert described == {self.name(n): (a.shape, a.dtype) for n, a in self.arrays().items()}
        assert list(opened.tensors) == [tensor.name for tensor in opened.tensors.values()]

    def test_reads_whole_tensors(self, opened: Checkpoint) -> None:
        """Every element comes back bit for bit."""
        for name, array in self.arrays().items():
            assert_same(opened.read(*whole(opened, self.name(name))), array)

    def test_reads_boxes(self, opened: Checkpoint) -> None:
        """Any part of a tensor is what slicing the whole gives, into a buffer or not."""
        for name, array in self.arrays().items():
            tensor = opened.tensors[self.name(name)]
            for box in boxes(array.shape):
                expected = array[as_slices(box)]
                buffer = memoryview(bytearray(max(1, expected.nbytes)))
                assert_same(opened.read(tensor, box), expected)
                assert_same(opened.read(tensor, box, buffer), expected)

    def test_reads_from_threads(self, opened: Checkpoint) -> None:
        """Threads that read at once do not disturb each other."""
        name, array = max(self.arrays().items(), key=lambda item: item[1].nbytes)
        tensor = opened.tensors[self.name(name)]
        wrong: list[Box] = []

        def read_all() -> None:
            buffer = memoryview(bytearray(array.nbytes))
            wrong.extend(
                box
                for box in list(boxes(array.shape)) * 10
                if opened.read(tensor, box, buffer).tobytes() != array[as_slices(box)].tobytes()
            )

        threads = [threading.Thread(target=read_all) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    def test_copy_is_identical(self, opened: Checkpoint, tmp_path: Path) -> None:
        """A copy in which nothing is written is the same, byte for byte and file by file."""
        target = tmp_path / "copy"
        with staged(target, like=opened) as stage:
            copy = opened.copy_to(stage)
            copy.finish()
            stage.publish()
        assert contents(target) == originals(opened)
        opened.verify_unchanged()

    @pytest.mark.parametrize("parity", [0, 1])
    def test_write_changes_only_the_boxes(
        self, opened: Checkpoint, tmp_path: Path, parity: int
    ) -> None:
        """Written boxes read back from the copy and after reopening; all else is what it was."""
        changed = {name: array.copy() for name, array in self.arrays().items() if array.size}
        written = list(changed)[parity::2]
        target = tmp_path / "written"
        with staged(target, like=opened) as stage:
            copy = opened.copy_to(stage)
            for name in written:
                box = inner_box(changed[name].shape)
                changed[name][as_slices(box)] = other_values(changed[name])[as_slices(box)]
                values = changed[name][as_slices(box)]
                copy.write(opened.tensors[self.name(name)], box, values)
                assert_same(copy.read(*whole(opened, self.name(name))), changed[name])
            copy.finish()
            with copy.reopen() as again:
                again.verify_integrity()
                assert list(again.tensors) == list(opened.tensors)
                for name, array in changed.items():
                    assert_same(again.read(*whole(again, self.name(name))), array)
            stage.publish()
        if self.in_place:
            self._check_bytes(opened, target, [opened.tensors[self.name(n)] for n in written])
        opened.verify_unchanged()

    def _check_bytes(self, opened: Checkpoint, target: Path, written: Sequence[Tensor]) -> None:
        """Refuse a difference outside of the written tensors' own bytes."""
        before, after = originals(opened), contents(target)
        assert before.keys() == after.keys()
        for number, source in enumerate(opened.sources):
            name = source.path.name if opened.several_files else ""
            own = [own_bytes(tensor) for tensor in written if stored_in(tensor, number)]
            old, new = before.pop(name), after.pop(name)
            assert len(old) == len(new)
            different = {i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b}
            assert all(different & own_one for own_one in own)
            assert different <= self.bookkeeping(source.path).union(*own)
        assert before == after

    def test_write_refuses_another_shape_or_dtype(self, opened: Checkpoint, tmp_path: Path) -> None:
        """Values that are not the box's own kind are a mistake of the caller, and write nothing."""
        name, array = max(self.arrays().items(), key=lambda item: item[1].nbytes)
        tensor = opened.tensors[self.name(name)]
        with staged(tmp_path / "refused", like=opened) as stage:
            copy = opened.copy_to(stage)
            with pytest.raises(ValueError, match="shape"):
                copy.write(tensor, full(tensor), array[..., :1])
            with pytest.raises(ValueError, match="holds"):
                copy.write(tensor, full(tensor), array.astype(np.complex128))
            assert_same(copy.read(tensor, full(tensor)), array)
        assert not (tmp_path / "refused").exists()


def assert_same(actual: NDArray[Any], expected: NDArray[Any]) -> None:
    """Equal in shape, dtype and every bit."""
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    assert actual.tobytes() == expected.tobytes()


def other_values(array: NDArray[Any]) -> NDArray[Any]:
    """Values of the same dtype that all differ from `array`'s: the last bit of each byte flipped."""
    flipped: NDArray[Any] = np.frombuffer(bytes(b ^ 1 for b in array.tobytes()), array.dtype)
    return flipped.reshape(array.shape)


def full(tensor: Tensor) -> Box:
    """The box that is the whole tensor."""
    return tuple((0, extent) for extent in tensor.shape)


def whole(checkpoint: Checkpoint, name: str) -> tuple[Tensor, Box]:
    """A tensor and the box that is all of it."""
    tensor = checkpoint.tensors[name]
    return tensor, full(tensor)


def stored_in(tensor: Tensor, source: int) -> bool:
    """Whether a tensor's bytes lie in one of the checkpoint's sources."""
    return isinstance(tensor.storage, Contiguous | Chunked) and tensor.storage.source == source


def own_bytes(tensor: Tensor) -> set[int]:
    """The offsets of a stored tensor's bytes in its file."""
    if isinstance(tensor.storage, Contiguous):
        return set(range(tensor.storage.offset, tensor.storage.offset + tensor.nbytes))
    assert isinstance(tensor.storage, Chunked)
    chunks = tensor.storage.chunks
    return {byte for c in chunks for byte in range(c.offset, c.offset + c.stored)}


def as_slices(box: Box) -> tuple[Any, ...]:
    """The box as an index that gives an array, of no axes too."""
    return (*(slice(start, stop) for start, stop in box), ...)


def inner_box(shape: tuple[int, ...]) -> Box:
    """A box of at least one element that leaves something out along every longer axis."""
    starts = [min(1, extent - 1) for extent in shape]
    return tuple((s, max(s + 1, extent - 1)) for s, extent in zip(starts, shape, strict=True))


def boxes(shape: tuple[int, ...]) -> Iterator[Box]:
    """The whole, the inside, rows, columns, single elements and nothing, along every axis."""
    parts = [
        sorted({(0, n), (min(1, n), max(min(1, n), n - 1)), (0, min(1, n)), (n // 2, n), (n, n)})
        for n in shape
    ]
    return itertools.product(*parts)


def contents(path: Path) -> dict[str, bytes]:
    """Every file's bytes by its name; a single file has none."""
    if path.is_file():
        return {"": path.read_bytes()}
    return {file.name: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def originals(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The bytes of the files that the user would call the checkpoint."""
    if not checkpoint.several_files:
        return {"": checkpoint.path.read_bytes()}
    return {source.path.name: source.path.read_bytes() for source in checkpoint.files}
