"""Publication of sets: a directory appears whole, and replaces one only where nothing is lost."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ckptclamp.applying.apply import ApplyOptions, apply
from ckptclamp.applying.leftovers import Outcome, clean, find_leftovers
from ckptclamp.applying.publication import staged
from ckptclamp.auditing.audit import audit
from ckptclamp.checkpoints.checkpoint import Checkpoint
from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.errors import NotWrittenError, UsageError
from ckptclamp.system import Folder
from tests.applying.publishing import names, publish
from tests.checkpoints.contract import contents
from tests.checkpoints.safetensors_files import write_set

SHARDS: dict[str, dict[str, NDArray[Any]]] = {
    "model-1.safetensors": {"a": np.ones(3, np.float32)},
    "model-2.safetensors": {"b": np.zeros((2, 2), np.int8)},
}


@pytest.fixture
def sharded(tmp_path: Path) -> Iterator[Checkpoint]:
    """An opened set of two shards, in a directory of its own."""
    (tmp_path / "set").mkdir()
    with open_checkpoint(write_set(tmp_path / "set", SHARDS)) as opened:
        yield opened


def test_a_set_appears_as_a_directory(sharded: Checkpoint, tmp_path: Path):
    """All files of a set are published together under one new directory."""
    target = tmp_path / "copy"
    with staged(target, like=sharded) as stage:
        copy = sharded.copy_to(stage)
        copy.finish()
        with copy.reopen() as again:
            assert list(again.tensors) == list(sharded.tensors)
        assert not target.exists()
        stage.publish()
    assert contents(target) == contents(tmp_path / "set")
    assert names(tmp_path) == ["copy", "set"]


def test_the_report_names_the_files_that_appeared(sharded: Checkpoint, tmp_path: Path):
    """Not those in which the copy was made, which are gone."""
    rule = {"tensors": "a", "constraint": "MaxNorm", "max_value": 1, "axis": 0}
    target = tmp_path / "copy"
    report = apply(sharded.path, target, {"version": 1, "rules": [rule]})
    assert report.after is not None
    told = {Path(file.path): file.sha256 for file in report.after.checkpoint.files}
    there = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in target.iterdir()}
    assert told == there


def test_a_set_is_not_published_under_the_name_of_an_index(sharded: Checkpoint, tmp_path: Path):
    """Who names an index gets no directory that is called like one."""
    with (
        pytest.raises(UsageError, match="is a directory"),
        staged(tmp_path / "copy.index.json", like=sharded),
    ):
        pass
    assert names(tmp_path) == ["set"]


def test_an_unpublished_set_leaves_nothing(sharded: Checkpoint, tmp_path: Path):
    """An error removes the staged directory with all that is in it."""
    with pytest.raises(RuntimeError), staged(tmp_path / "copy", like=sharded) as stage:  # noqa: PT012
        sharded.copy_to(stage)
        assert len(find_leftovers(tmp_path)) == 1
        raise RuntimeError
    assert names(tmp_path) == ["set"]


def test_a_signal_does_not_stop_the_removal(
    sharded: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A run that is told to stop while it tidies up does that to its end first."""
    remove = shutil.rmtree

    def interrupted(*arguments: Any, **options: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        remove(*arguments, **options)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(SystemExit), staged(tmp_path / "copy", like=sharded) as stage:
        sharded.copy_to(stage)
    assert names(tmp_path) == ["set"]


def test_a_set_replaces_a_directory_only_whole(sharded: Checkpoint, tmp_path: Path):
    """A directory is replaced with `force` only if nothing in it would be lost."""
    target = tmp_path / "copy"
    publish(sharded, target)
    with pytest.raises(UsageError, match="exists already"):
        publish(sharded, target)
    (target / "model-1.safetensors").write_bytes(b"old")
    publish(sharded, target, force=True)
    assert contents(target) == contents(tmp_path / "set")
    (target / "tokenizer.json").write_text("{}")
    with pytest.raises(NotWrittenError, match=r"also holds tokenizer\.json, which would be lost"):
        publish(sharded, target, force=True)
    assert (target / "tokenizer.json").exists()
    assert names(tmp_path) == ["copy", "set"]


def test_a_link_to_a_folder_is_something_to_lose(sharded: Checkpoint, tmp_path: Path):
    """A directory that holds a symbolic link to another is not replaced, either."""
    target = tmp_path / "copy"
    publish(sharded, target)
    (target / "cache").symlink_to(tmp_path / "set")
    with pytest.raises(NotWrittenError, match="also holds cache, which would be lost"):
        publish(sharded, target, force=True)
    assert (target / "cache").is_symlink()


def test_what_comes_at_the_last_moment_is_kept(
    sharded: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A file that somebody adds while the directories change places is not removed with the old one."""
    target = tmp_path / "copy"
    publish(sharded, target)

    exchange = Folder.exchange

    def late(parent: Folder, one: str, other: str) -> bool:
        (target / "late.txt").write_text("precious")
        return exchange(parent, one, other)

    monkeypatch.setattr(Folder, "exchange", late)
    assert publish(sharded, target, force=True) == {"leftover"}
    (kept,) = find_leftovers(tmp_path)
    assert (kept / "late.txt").read_text() == "precious"
    assert contents(target) == contents(tmp_path / "set")


def modes(directory: Path) -> dict[str, int]:
    """The permissions of a directory and of everything in it."""
    places = (directory, *directory.rglob("*"))
    return {p.relative_to(directory).as_posix(): stat.S_IMODE(p.stat().st_mode) for p in places}


def test_a_private_set_stays_private(sharded: Checkpoint, tmp_path: Path):
    """A new directory is no more open than the input's; a replaced one is as open as it was."""
    source, target = tmp_path / "set", tmp_path / "copy"
    source.chmod(0o700)
    publish(sharded, target)
    assert modes(target)["."] == 0o700
    target.chmod(0o750)
    (target / "model-1.safetensors").chmod(0o640)
    before = modes(target)
    publish(sharded, target, force=True)
    assert modes(target) == before
    source.chmod(0o711)
    publish(sharded, source, in_place=True)
    assert modes(source)["."] == 0o711


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="Python knows no attributes here")
def test_attributes_of_a_replaced_set_are_kept(sharded: Checkpoint, tmp_path: Path):
    """What a user attached to the files of the output, or to its directory, is there afterwards."""
    target = tmp_path / "copy"
    publish(sharded, target)
    for path in (target, target / "model-1.safetensors"):
        try:
            os.setxattr(path, "user.origin", b"here")
        except OSError as error:
            pytest.skip(f"no extended attributes here: {error.strerror}")
    publish(sharded, target, force=True)
    for path in (target, target / "model-1.safetensors"):
        assert os.getxattr(path, "user.origin") == b"here"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to someone else")
def test_the_owner_of_a_replaced_set_is_kept(sharded: Checkpoint, tmp_path: Path):
    """A directory that root replaces still belongs to its owner, with all that is in it."""
    target = tmp_path / "copy"
    publish(sharded, target)
    for path in (target, *target.iterdir()):
        os.chown(path, 1234, 4321)
    assert publish(sharded, target, force=True) == set()
    for path in (target, *target.iterdir()):
        assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)


@pytest.mark.parametrize("index", [True, False])
def test_a_set_in_place(sharded: Checkpoint, tmp_path: Path, index: bool):
    """In place, a set's directory is exchanged, by whichever name the user gives the set."""
    target = sharded.path if index else sharded.path.parent
    before = contents(tmp_path / "set")
    with pytest.raises(UsageError):
        publish(sharded, target, force=True)
    publish(sharded, target, in_place=True)
    assert contents(tmp_path / "set") == before
    assert names(tmp_path) == ["set"]


def test_files_of_a_set_stay_in_their_directory(sharded: Checkpoint, tmp_path: Path):
    """A file's place inside a copy cannot lead out of it, and folders are made."""
    with staged(tmp_path / "copy", like=sharded) as stage:
        for name in ("../out", "/out", "", "a/../../out"):
            with pytest.raises(ValueError, match="no place inside"):
                stage.create(name, 0)
        stage.create("assets/words/list.txt", 3)
        with pytest.raises(NotWrittenError):
            stage.create("assets/words/list.txt", 3)
        stage.publish()
    assert (tmp_path / "copy" / "assets" / "words" / "list.txt").stat().st_size == 3


def refuse(monkeypatch: pytest.MonkeyPatch, step: str, name: str, times: int) -> None:
    """Let the system refuse to link or to replace a file of that name, as often as `times`."""
    real = getattr(Folder, step)
    refused: list[str] = []

    def refusing(folder: Folder, old: str, new: str) -> None:
        if name == (old if step == "link" else new) and len(refused) < times:
            refused.append(name)
            raise PermissionError(1, "Operation not permitted")
        real(folder, old, new)

    monkeypatch.setattr(Folder, step, refusing)


@pytest.mark.parametrize("first", ["linked", "not linked", "not put back"])
def test_what_was_replaced_is_put_back_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
):
    """A set that cannot be put back keeps what is new, and all that its journal needs."""
    rule = {"tensors": "*", "constraint": "MaxNorm", "max_value": 1, "axis": 0}
    spec = {"version": 1, "rules": [rule]}
    shards = {f"{letter}.safetensors": {letter: np.ones(3, np.float32)} for letter in "abc"}
    write_set(tmp_path, shards)
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        refuse(patch, "move", "c.safetensors", 1)
        if first == "not linked":
            refuse(patch, "link", "a.safetensors", 1)
        if first == "not put back":
            replace = Folder.move

            def move(folder: Folder, old: str, new: str) -> None:
                if new == "a.safetensors" and contents(tmp_path)[new] != before[new]:
                    raise PermissionError(1, "Operation not permitted")
                replace(folder, old, new)

            patch.setattr(Folder, "move", move)
        with pytest.raises(NotWrittenError) as caught:
            apply(tmp_path, None, spec, ApplyOptions(in_place=True))
    if first == "linked":
        assert contents(tmp_path) == before
        return
    replaced = 2 if first == "not linked" else 1
    assert f"{replaced} of 3 files were replaced, the next cannot be" in caught.value.message
    lost = {"a.safetensors"} if first == "not linked" else set()
    assert {before[name] for name in before.keys() - lost} <= set(contents(tmp_path).values())
    assert {cleaned.outcome for cleaned in clean(tmp_path)} <= {Outcome.FINISHED, Outcome.REMOVED}
    assert contents(tmp_path).keys() == before.keys()
    assert audit(tmp_path, spec).exit_code == 0
