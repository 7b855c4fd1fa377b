"""What a checkpoint may unpack to, and how that is set."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.checkpoints.source import Limits
from ckptclamp.errors import RefusedError
from tests.checkpoints.keras_files import members, pack, weights

ZEROS = 70 << 20
"""Bytes, over the 64 MiB under which no ratio matters."""


def compressed(path: Path) -> Path:
    """A file of zeros, packed to a thousandth."""
    with h5py.File(path, "w") as file:
        shape = (ZEROS // 4,)
        file.create_dataset("w", shape, "f4", chunks=(1 << 18,), compression="gzip")
        file["w"][...] = 0
    return path


def archive(path: Path) -> Path:
    """An archive with an asset that unpacks to a thousand times its size."""
    contents = members(weights({"dense": np.ones(4, np.float32)}))
    return pack(path, contents | {"assets/zeros": bytes(ZEROS)}, zipfile.ZIP_DEFLATED)


@pytest.fixture(params=["hdf5", "archive"])
def bomb(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file that unpacks to a thousand times what it takes."""
    if request.param == "hdf5":
        return compressed(tmp_path / "model.h5")
    return archive(tmp_path / "model.keras")


def test_a_bomb_is_refused_unless_it_is_meant(bomb: Path):
    """What unpacks to too much is not read, and the message says what allows it."""
    with pytest.raises(RefusedError, match="--expansion-limit"):
        open_checkpoint(bomb)
    open_checkpoint(bomb, limits=Limits(expansion=2000)).close()


def test_the_absolute_limit(bomb: Path):
    """Whatever the ratio, there is a size beyond which nothing is read."""
    limits = Limits(expansion=2000, unpacked=ZEROS - 1)
    with pytest.raises(RefusedError, match="--unpacked-limit"):
        open_checkpoint(bomb, limits=limits)


def test_many_small_bombs_are_one(tmp_path: Path):
    """Each dataset is too small to matter, all together are not."""
    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as file:
        for number in range(100):
            file.create_dataset(f"w{number}", ((60 << 20) // 4,), "f4", chunks=(1 << 20,))
    with pytest.raises(RefusedError, match="declares 6291456000 bytes of weights"):
        open_checkpoint(path, limits=Limits(expansion=50))
    open_checkpoint(path, limits=Limits(expansion=10_000_000)).close()


def test_what_is_stored_as_it_is_counts_for_nothing(tmp_path: Path):
    """Bytes that lie in the file cost whoever sent them as much as whoever reads them."""
    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as file:
        file["w"] = np.zeros(4096, np.float32)
        file.create_dataset("c", data=np.zeros(4096, np.float32), chunks=(1024,))
    open_checkpoint(path, limits=Limits(expansion=1, unpacked=0)).close()


def test_the_command_line_sets_both(tmp_path: Path):
    """Both limits reach the reader."""
    path = compressed(tmp_path / "model.h5")
    command = [sys.executable, "-m", "ckptclamp", "audit", str(path), "--non-neg", "--tensors", "*"]
    for options, code in (
        ([], 3),
        (["--expansion-limit", "2000"], 0),
        (["--expansion-limit", "2000", "--unpacked-limit", "1MiB"], 3),
    ):
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
