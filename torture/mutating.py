"""Seed files, and how a mutant is made of one."""

from __future__ import annotations

import io
import os
import random
import struct
import zipfile
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.checkpoints.tensor import Chunked, Contiguous

FIXTURES = Path(__file__).parents[1] / "fixtures"
LARGEST = 1 << 20
"""Bytes; larger files of a corpus are left out."""

_BOUNDARIES = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0xFFFFFFFF,
    1 << 40,
    1 << 63,
    (1 << 64) - 1,
)


@dataclass(frozen=True)
class Seed:
    """A sound file; `metadata` are the places of the bytes in it that are no weights."""

    name: str
    data: bytes
    metadata: array[int]

    @property
    def suffix(self) -> str:
        """What the name of a mutant ends in."""
        return ".keras" if self.data.startswith(b"PK") else "." + self.name.rpartition(".")[2]


def seeds(corpus: str | None = None) -> list[Seed]:
    """The fixtures that are one file, and those of a corpus."""
    folders = [FIXTURES / "conforming", FIXTURES / "violating", *([Path(corpus)] if corpus else [])]
    paths = [path for folder in folders for path in sorted(folder.rglob("*"))]
    wanted = (".h5", ".keras", ".safetensors")
    return [
        Seed(f"{path.parent.name}-{path.name}", path.read_bytes(), _metadata(path))
        for path in paths
        if path.is_file() and path.suffix in wanted and path.stat().st_size <= LARGEST
    ]


def _metadata(path: Path) -> array[int]:
    with open_checkpoint(path) as checkpoint:
        data = bytearray(checkpoint.sources[0].read_at(0, checkpoint.sources[0].size))
        weights = bytearray(len(data))
        for tensor in checkpoint.tensors.values():
            storage = tensor.storage
            extents: Iterable[tuple[int, int]] = ()
            if isinstance(storage, Contiguous):
                extents = [(storage.offset, tensor.nbytes)]
            elif isinstance(storage, Chunked):
                extents = [(chunk.offset, chunk.stored) for chunk in storage.chunks]
            for offset, length in extents:
                weights[offset : offset + length] = b"\1" * length
    # Padding is most of a small HDF5 file; what is not zero says something.
    return array("I", (at for at, byte in enumerate(data) if byte and not weights[at]))


def mutant(seed: Seed, number: int) -> tuple[bytes, bool]:
    """Mutant number `number` of `seed`, the same on every machine; and whether it was re-zipped."""
    rng = random.Random(f"{seed.name}/{number}")
    if seed.suffix == ".keras" and number % 2:
        return _rezipped(seed.data, rng), True
    return _mutated(seed.data, seed.metadata, rng), False


def _rezipped(data: bytes, rng: random.Random) -> bytes:
    """Mutate one member and pack all again, so that no checksum tells."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        contents = {info: archive.read(info) for info in archive.infolist()}
    chosen = rng.choice(["model.weights.h5"] * 3 + ["config.json"])
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for info, content in contents.items():
            if info.filename == chosen:
                places = array("I", (at for at, byte in enumerate(content) if byte))
                archive.writestr(info, _mutated(content, places, rng))
            else:
                archive.writestr(info, content)
    return packed.getvalue()


def _mutated(data: bytes, metadata: array[int], rng: random.Random) -> bytes:
    """One to eight edits, two in three of them in the metadata; at times the file is cut."""
    copy = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.choice(metadata) if rng.random() < 0.67 else rng.randrange(len(data))
        _edit(copy, min(at, len(copy) - 1), rng)
    if rng.random() < 0.05:
        del copy[rng.randrange(1, len(copy)) :]
    return bytes(copy)


def _edit(copy: bytearray, at: int, rng: random.Random) -> None:
    match rng.randrange(7):
        case 0 | 1:
            copy[at] ^= 1 << rng.randrange(8)
        case 2:
            copy[at] = rng.randrange(256)
        case 3:
            width = rng.choice((1, 2, 4, 8))
            number = rng.choice(_BOUNDARIES) & ((1 << 8 * width) - 1)
            copy[at : at + width] = number.to_bytes(width, "little")
        case 4:
            length, start = rng.randrange(1, 64), rng.randrange(len(copy))
            copy[at : at + length] = copy[start : start + length]
        case 5:
            copy[at : at + 4] = struct.pack("<f", rng.choice((float("nan"), float("inf"), 1e30)))
        case 6:
            if rng.random() < 0.5:
                copy[at:at] = rng.randbytes(rng.randrange(1, 9))
            else:
                del copy[at : at + rng.randrange(1, 9)]
    if not copy:
        copy += os.urandom(1)
