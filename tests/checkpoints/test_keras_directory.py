"""A Keras model that was saved as a directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ckptclamp.applying.publication import staged
from ckptclamp.applying.staging.companions import bring, companions_in
from ckptclamp.applying.staging.directories import DirectoryStage
from ckptclamp.checkpoints.checkpoint import Checkpoint
from ckptclamp.checkpoints.formats.zip.archive import open_keras_directory
from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.errors import NotWrittenError, RefusedError
from tests.checkpoints.contract import Arrays, CheckpointContract
from tests.checkpoints.keras_files import ones, unpacked, weights


class TestDirectory(CheckpointContract):
    """As Keras saves it."""

    def arrays(self) -> Arrays:
        return {name: array for name, array in super().arrays().items() if array.size}

    def name(self, name: str) -> str:
        return f"layers/{name}/vars/0"

    def make(self, directory: Path, arrays: Arrays) -> Path:
        path = unpacked(directory / "model", weights(arrays))
        (path / "assets/words/vocabulary.txt").unlink()
        return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory with a model of one layer, and an asset."""
    return unpacked(tmp_path / "model", weights({"dense": ones(2, 3)}))


def copied(checkpoint: Checkpoint, target: Path) -> None:
    """Publish an unchanged copy."""
    assert checkpoint.folder is not None
    known = {source.path.name for source in checkpoint.files}
    others = companions_in(checkpoint.folder, known, follow_symlinks=False)
    with staged(target, like=checkpoint) as stage:
        checkpoint.copy_to(stage).finish()
        assert isinstance(stage, DirectoryStage)
        bring(stage, others, follow_symlinks=False)
        stage.publish()


def test_describes_the_model(model: Path) -> None:
    """The documents beside the weights say what those of an archive do."""
    with open_checkpoint(model) as checkpoint:
        assert checkpoint.format == "keras-directory"
        assert str(checkpoint.producer) == "keras 3.9.0"
        assert checkpoint.keras is not None
        assert checkpoint.keras.config is not None
        assert {source.path.name for source in checkpoint.files} == {
            "config.json",
            "metadata.json",
            "model.weights.h5",
        }


def test_assets_are_copied(model: Path, tmp_path: Path) -> None:
    """A copy has every file of the directory, folders and all."""
    with open_checkpoint(model) as checkpoint:
        copied(checkpoint, tmp_path / "copy")
    names = {path.relative_to(model): path.read_bytes() for path in model.rglob("*.*")}
    found = {path: (tmp_path / "copy" / path).read_bytes() for path in names}
    assert found == names


def test_without_metadata(model: Path) -> None:
    """A missing version is unknown, not an error."""
    (model / "metadata.json").unlink()
    with open_checkpoint(model) as checkpoint:
        assert str(checkpoint.producer) == "keras"


@pytest.mark.parametrize("name", ["model.weights.h5", "config.json", "metadata.json"])
def test_symbolic_links(model: Path, tmp_path: Path, name: str) -> None:
    """A file that is a link is read only if links are to be followed."""
    real = tmp_path / "elsewhere"
    (model / name).rename(real)
    (model / name).symlink_to(real)
    with pytest.raises(RefusedError, match="symbolic link"):
        open_keras_directory(model)
    with open_keras_directory(model, follow_symlinks=True) as checkpoint:
        assert str(checkpoint.producer) == "keras 3.9.0"


def test_linked_folder_is_not_copied(model: Path, tmp_path: Path) -> None:
    """A copy does not gather what lies outside of the directory."""
    (model / "more").symlink_to(tmp_path)
    with open_checkpoint(model) as checkpoint:
        with pytest.raises(NotWrittenError, match="symbolic link"):
            copied(checkpoint, tmp_path / "copy")
        assert not (tmp_path / "copy").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_cannot_be_read_is_not_left_out(model: Path, tmp_path: Path) -> None:
    """A copy has every file of the directory or is not made."""
    closed = model / "assets"
    closed.chmod(0)
    with open_checkpoint(model) as checkpoint:
        with pytest.raises(NotWrittenError, match="assets: cannot be copied"):
            copied(checkpoint, tmp_path / "copy")
        assert not (tmp_path / "copy").exists()
    closed.chmod(0o700)


def test_config_of_another_kind(model: Path) -> None:
    """A config that is no JSON object is refused with its file's name."""
    (model / "config.json").write_text("[1, 2]")
    with pytest.raises(RefusedError, match="no JSON object") as caught:
        open_checkpoint(model)
    assert caught.value.path == str(model / "config.json")
