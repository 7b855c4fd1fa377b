"""Whole model directories: copied with all that lies in them, or fixed in place, file by file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ckptclamp import system
from ckptclamp.applying import journal
from ckptclamp.applying.apply import ApplyOptions, apply
from ckptclamp.applying.leftovers import Outcome, clean
from ckptclamp.auditing.audit import audit
from ckptclamp.auditing.options import AuditOptions
from ckptclamp.checkpoints.directories.unfinished import hidden_name, is_hidden, journals
from ckptclamp.errors import NotWrittenError, UsageError
from ckptclamp.system import Folder
from tests.applying.publishing import names
from tests.checkpoints.contract import contents
from tests.checkpoints.safetensors_files import write_set

SPEC = {
    "version": 1,
    "rules": [{"tensors": "w*", "constraint": "MaxNorm", "max_value": 1.0, "axis": 1}],
}
IN_PLACE = ApplyOptions(in_place=True)
LARGE, SMALL = np.full((4, 3), 5, np.float32), np.zeros((4, 3), np.float32)
SHARDS = {
    "model-1.safetensors": {"w1": LARGE},
    "model-2.safetensors": {"w2": SMALL},
    "model-3.safetensors": {"w3": LARGE + 1, "b": SMALL},
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory as `save_pretrained` makes it, in which two of three shards violate."""
    directory = tmp_path / "model"
    directory.mkdir()
    write_set(directory, SHARDS)
    return dressed(directory)


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """A directory with one file of weights."""
    directory = tmp_path / "alone"
    directory.mkdir()
    save_file({"w": LARGE}, directory / "model.safetensors")
    return dressed(directory)


def dressed(directory: Path) -> Path:
    """Put there what comes with weights."""
    (directory / "config.json").write_text('{"model_type": "none"}')
    (directory / "tokenizer.json").write_text("{}")
    (directory / "tokenizer.json").chmod(0o640)
    (directory / "custom" / "empty").mkdir(parents=True)
    (directory / "custom" / "code.py").write_text("# never run\n")
    (directory / "custom" / "code.py").chmod(0o755)
    (directory / hidden_name("model.safetensors")).write_text("left by a killed run")
    return directory


@pytest.mark.parametrize("which", ["model", "alone"])
def test_everything_comes_along(which: str, request: pytest.FixtureRequest, tmp_path: Path):
    """Config, tokenizer and folders, with their permissions; but no leftovers of other runs."""
    source, target = request.getfixturevalue(which), tmp_path / "copy"
    before = contents(source)
    report = apply(source, target, SPEC)
    assert report.exit_code == 0
    assert contents(source) == before
    kept = {name: data for name, data in before.items() if not is_hidden(name)}
    found = contents(target)
    assert found.keys() == kept.keys()
    changed = {name for name, data in found.items() if data != kept[name]}
    assert (
        changed
        == {
            "model": {"model-1.safetensors", "model-3.safetensors"},
            "alone": {"model.safetensors"},
        }[which]
    )
    assert (target / "custom" / "empty").is_dir()
    assert (target / "custom" / "code.py").read_text() == "# never run\n"
    for place in ("tokenizer.json", "custom/code.py"):
        assert (target / place).stat().st_mode == (source / place).stat().st_mode
    assert audit(target, SPEC).exit_code == 0


def test_other_weights_are_named(alone: Path, tmp_path: Path):
    """Who loads another file of the directory loads what nobody judged."""
    (alone / "pytorch_model.bin").write_bytes(b"\x80\x02")
    (alone / "custom" / "old.keras").write_bytes(b"")
    (alone / hidden_name("model.keras")).write_bytes(b"")
    for report in (audit(alone, SPEC), apply(alone, tmp_path / "copy", SPEC).after):
        assert report is not None
        (notice,) = report.notices
        assert (notice.code, notice.informational) == ("unjudged-weights", False)
        assert "also holds custom/old.keras (and 1 more): its weights" in notice.message
    conforming = {"version": 1, "rules": [{"tensors": "w", "constraint": "NonNeg"}]}
    assert audit(alone, conforming).exit_code == 0
    assert audit(alone, conforming, AuditOptions(strict=True)).exit_code == 1
    assert not audit(alone / "model.safetensors", conforming).notices


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("training_args.bin", False),
        ("optimizer.pt", False),
        ("scheduler.pt", False),
        ("rng_state_3.pth", False),
        ("adapter_model.bin", True),
        ("my_optimizer.pt", True),
    ],
)
def test_what_trainers_keep_beside_the_weights_is_none(alone: Path, name: str, told: bool):
    """Nobody loads a model from it; a warning that is always there is read by nobody."""
    (alone / name).write_bytes(b"")
    assert [notice.code for notice in audit(alone, SPEC).notices] == ["unjudged-weights"] * told


def test_a_set_is_no_other_weights(model: Path):
    """Shards are what is judged; a folder that cannot be looked into may hold anything."""
    assert not audit(model, SPEC).notices
    closed = model / "closed"
    closed.mkdir(mode=0)
    if os.access(closed, os.R_OK):
        pytest.skip("may read everything")
    (notice,) = audit(model, SPEC).notices
    assert "also holds closed/:" in notice.message


def test_an_index_is_only_the_set(model: Path, tmp_path: Path):
    """Who names the index gets the shards, and is told what stayed behind."""
    report = apply(model / "model.safetensors.index.json", tmp_path / "copy", SPEC)
    assert names(tmp_path / "copy") == [*SHARDS, "model.safetensors.index.json"]
    (notice,) = (n for n in report.notices if n.code == "not-copied")
    assert "config.json (and 2 more) beside the index is not in the copy" in notice.message


def refused(path: Path, output: Path | None, match: str, **how: Any) -> None:
    """In earnest and as a dry run, with nothing written."""
    folder = path.parent if output is None else output.parent
    before = names(folder)
    for dry_run in (True, False):
        with pytest.raises((NotWrittenError, UsageError), match=match):
            apply(path, output, SPEC, ApplyOptions(dry_run=dry_run, **how))
    assert names(folder) == before


def test_refusals_come_before_the_first_byte(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Room for all files, what would be lost, and where the copy lies; a dry run says the same."""
    target = tmp_path / "copy"
    refused(model, model / "fixed", "lies inside the directory that is copied")
    target.mkdir()
    (target / "notes.txt").write_text("precious")
    refused(model, target, r"also holds notes\.txt, which would be lost", force=True)
    monkeypatch.setattr(Folder, "create_unnamed", lambda _: pytest.fail("a file was made"))
    largest = max(path.stat().st_size for path in model.iterdir() if path.is_file())
    monkeypatch.setattr(system, "free_bytes", lambda _: largest)
    refused(model, tmp_path / "new", rf"\d+ bytes are needed, {largest} are free")
    refused(model, None, rf"\d+ bytes are needed, {largest} are free", in_place=True)


def test_what_cannot_be_copied_is_refused(model: Path, tmp_path: Path):
    """A pipe, a link to a directory, and a link that leads out of it, before anything is made."""
    os.mkfifo(model / "pipe")
    refused(model, tmp_path / "copy", "pipe: is no regular file")
    (model / "pipe").unlink()
    (model / "more").symlink_to(tmp_path)
    refused(model, tmp_path / "copy", "more: is a symbolic link to a directory")
    (model / "more").unlink()
    (tmp_path / "elsewhere.txt").write_text("secret")
    (model / "vocab.txt").symlink_to(tmp_path / "elsewhere.txt")
    refused(model, tmp_path / "copy", r"vocab\.txt: is a symbolic link .pass --follow-symlinks")
    follow = ApplyOptions(audit=AuditOptions(follow_symlinks=True))
    apply(model, tmp_path / "copy", SPEC, follow)
    assert not (tmp_path / "copy" / "vocab.txt").is_symlink()
    assert (tmp_path / "copy" / "vocab.txt").read_text() == "secret"


@pytest.mark.parametrize("named", ["directory", "index"])
def test_in_place_replaces_what_changes(model: Path, named: str):
    """The shards that violate become new files; every other file stays the very same one."""
    inodes = {path.name: path.stat().st_ino for path in model.iterdir()}
    (model / "model-1.safetensors").chmod(0o604)
    path = model if named == "directory" else model / "model.safetensors.index.json"
    assert apply(path, None, SPEC, ApplyOptions(in_place=True, dry_run=True)).exit_code == 0
    assert {path.name: path.stat().st_ino for path in model.iterdir()} == inodes
    assert apply(path, None, SPEC, IN_PLACE).exit_code == 0
    now = {path.name: path.stat().st_ino for path in model.iterdir()}
    assert now.keys() == inodes.keys()
    replaced = {name for name, inode in now.items() if inode != inodes[name]}
    assert replaced == {"model-1.safetensors", "model-3.safetensors"}
    assert (model / "model-1.safetensors").stat().st_mode & 0o777 == 0o604
    assert audit(model, SPEC, AuditOptions(tolerance=0)).exit_code == 0
    again = {path.name: path.stat().st_ino for path in model.iterdir()}
    assert apply(path, None, SPEC, IN_PLACE).changes == ()
    assert {path.name: path.stat().st_ino for path in model.iterdir()} == again


def test_hard_links_keep_the_old_content(model: Path, tmp_path: Path):
    """Another name of a shard is not written to, and the report says so."""
    other = tmp_path / "other"
    other.hardlink_to(model / "model-1.safetensors")
    before = other.read_bytes()
    assert "hard-links" in {notice.code for notice in apply(model, None, SPEC, IN_PLACE).notices}
    assert other.read_bytes() == before


PROGRAM = """
import json, os, signal, sys
from ckptclamp.applying.apply import ApplyOptions, apply
from ckptclamp.system import Folder
left, call = int(sys.argv[2]), getattr(Folder, sys.argv[3])
def counted(*arguments):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return call(*arguments)
setattr(Folder, sys.argv[3], counted)
apply(sys.argv[1], None, json.loads(sys.argv[4]), ApplyOptions(in_place=True))
"""


def killed(model: Path, call: str, after: int) -> bool:
    """Apply in place, and kill it when it makes the call once more than `after` times."""
    command = [sys.executable, "-c", PROGRAM, str(model), str(after), call, json.dumps(SPEC)]
    done = subprocess.run(command, check=False)
    assert done.returncode in (0, -signal.SIGKILL)
    return done.returncode != 0


@pytest.mark.parametrize("call", ["move", "flush", "link", "name", "remove"])
def test_a_kill_at_any_step_loses_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
):
    """Every file is the old one or the new one, and `clean` makes all of them the one or the other."""
    old = {name: (model / name).read_bytes() for name in SHARDS}
    apply(model, tmp_path / "fixed", SPEC)
    new = {name: (tmp_path / "fixed" / name).read_bytes() for name in SHARDS}
    step = 0
    while killed(model, call, step):
        found = {name: (model / name).read_bytes() for name in SHARDS}
        assert all(found[name] in (old[name], new[name]) for name in SHARDS)
        report = audit(model, SPEC)
        interrupted = bool(journals(model))
        assert interrupted == ("interrupted-apply" in {n.code for n in report.notices})
        assert found in (old, new) or interrupted
        if interrupted:
            with pytest.raises(NotWrittenError, match=r"was interrupted .`ckptclamp clean"):
                apply(model, None, SPEC, ApplyOptions(in_place=True, dry_run=True))
        assert all(cleaned.outcome is not Outcome.FAILED for cleaned in clean(model))
        settled = {name: (model / name).read_bytes() for name in SHARDS}
        assert settled == (new if interrupted else found)
        assert not [name for name in names(model) if is_hidden(name)]
        for name, data in old.items():
            (model / name).write_bytes(data)
        step += 1
    assert step > 0


def failing_after(moves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the system refuse to replace a shard once `moves` were replaced."""
    real, done = Folder.move, []

    def move(folder: Folder, old: str, new: str) -> None:
        if new.endswith(".safetensors"):
            done.append(new)
            if len(done) == moves + 1:
                raise OSError(5, "Input/output error")
        real(folder, old, new)

    monkeypatch.setattr(Folder, "move", move)


@pytest.mark.parametrize("moves", [0, 1])
def test_a_failure_is_undone(model: Path, monkeypatch: pytest.MonkeyPatch, moves: int):
    """Where the second shard cannot be replaced, the first is put back, and nothing is left."""
    before = contents(model)
    failing_after(moves, monkeypatch)
    with pytest.raises(NotWrittenError, match="cannot be written: Input/output error"):
        apply(model, None, SPEC, IN_PLACE)
    assert contents(model) == before


def test_what_cannot_be_undone_can_be_finished(model: Path, monkeypatch: pytest.MonkeyPatch):
    """On a file system without hard links the journal stays, and says what is left to do."""

    def no_links(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "link", no_links)
        failing_after(1, patch)
        with pytest.raises(NotWrittenError, match="1 of 2 files were replaced, the next cannot be"):
            apply(model, None, SPEC, IN_PLACE)
    assert audit(model, SPEC).exit_code == 1
    outcomes = [cleaned.outcome for cleaned in clean(model)]
    assert outcomes == [Outcome.FINISHED, Outcome.REMOVED]  # the latter was there before
    assert audit(model, SPEC).exit_code == 0


def test_a_journal_overwrites_nothing_newer(model: Path, monkeypatch: pytest.MonkeyPatch):
    """What somebody saved after the interruption is not replaced by what was to be there before."""
    assert killed(model, "move", 1)
    save_file({"w3": SMALL, "b": SMALL}, model / "model-3.safetensors")
    before = contents(model)
    (cleaned,) = clean(model)
    assert cleaned.outcome is Outcome.FAILED
    assert "model-3.safetensors: is neither what was there before" in cleaned.reason
    assert contents(model) == before


def test_a_journal_of_what_is_gone_is_given_up(model: Path):
    """Where nothing was replaced yet, and what was to be there is lost, the old files are the set."""
    assert killed(model, "move", 0)
    for name in names(model):
        if is_hidden(name, ".ckptclamp-tmp"):
            (model / name).unlink()
    (cleaned,) = clean(model)
    assert (cleaned.outcome, cleaned.reason) == (Outcome.FINISHED, "0 put in place")
    assert apply(model, None, SPEC, IN_PLACE).exit_code == 0


@pytest.mark.parametrize("failing", range(4))
def test_a_flush_that_fails_is_undone(model: Path, monkeypatch: pytest.MonkeyPatch, failing: int):
    """Before the first name moves; after the last one it is told that nobody knows of the disk."""
    before = contents(model)
    real, flushed = Folder.flush, []

    def flush(folder: Folder) -> None:
        flushed.append(folder)
        if len(flushed) == failing + 1:
            raise OSError(5, "Input/output error")
        real(folder)

    monkeypatch.setattr(Folder, "flush", flush)
    if failing < 2:
        with pytest.raises(NotWrittenError, match="cannot be written: Input/output error"):
            apply(model, None, SPEC, IN_PLACE)
        assert contents(model) == before
    else:
        report = apply(model, None, SPEC, IN_PLACE)
        assert "durability-unconfirmed" in {notice.code for notice in report.notices}
        assert audit(model, SPEC).exit_code == 0
        assert contents(model).keys() == before.keys()


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../config.json"},
        {"name": ".."},
        {"temporary": "config.json"},
        {"temporary": "../.model.0123abcd.ckptclamp-tmp"},
        {"new": "12"},
        {"new": [1.5, 2]},
        {"more": 1},
    ],
)
def test_a_journal_from_a_stranger_reaches_nothing(
    model: Path, tmp_path: Path, change: dict[str, object]
):
    """It names files beside itself, new ones by hidden names, or it is refused."""
    move = {"temporary": hidden_name("a"), "name": "config.json", "new": [1, 2], "former": []}
    document = {"version": 1, "moves": [{**move, **change}]}
    path = model / hidden_name("model", ".ckptclamp-journal")
    path.write_text(json.dumps(document))
    before = contents(tmp_path)
    (cleaned,) = clean(model)
    assert cleaned.outcome is Outcome.FAILED
    assert contents(tmp_path) == before


def test_a_directory_without_exchange(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where two directories cannot change places at once, a journal stands for that."""
    monkeypatch.setattr(Folder, "exchange", lambda *_: False)
    target = tmp_path / "copy"
    apply(model, target, SPEC)
    first = target.stat().st_ino
    apply(model, target, SPEC, ApplyOptions(force=True))
    assert target.stat().st_ino != first
    assert names(tmp_path) == ["copy", "model"]
    real = Folder.move

    def dies(folder: Folder, old: str, new: str) -> None:
        if new == "copy":
            raise OSError(5, "Input/output error")
        real(folder, old, new)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "move", dies)
        with pytest.raises(journal.HalfReplacedError, match="could not be replaced"):
            apply(model, target, SPEC, ApplyOptions(force=True))
    assert not target.exists()
    assert [cleaned.outcome for cleaned in clean(target)] == [Outcome.FINISHED, Outcome.REMOVED]
    assert audit(target, SPEC).exit_code == 0
    assert names(tmp_path) == ["copy", "model"]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which files are open")
def test_where_open_files_cannot_be_renamed(
    model: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As on Windows: copies are closed before they get their names, and the input stays."""
    monkeypatch.setattr(system, "moves_open_files", lambda: False)
    move = Folder.move

    def closed(folder: Folder, old: str, new: str) -> None:
        real = str(folder.path / old)
        opened = [os.path.realpath(fd) for fd in Path("/proc/self/fd").iterdir()]
        assert not [path for path in opened if path.startswith(real)]
        move(folder, old, new)

    monkeypatch.setattr(Folder, "move", closed)
    monkeypatch.setattr(Folder, "create_unnamed", lambda _: -1)
    file = alone / "model.safetensors"
    for source, copy in ((model, "directory"), (file, "file.safetensors")):
        apply(source, tmp_path / copy, SPEC)
        apply(source, tmp_path / copy, SPEC, ApplyOptions(force=True))
        assert audit(tmp_path / copy, SPEC).exit_code == 0
        refused(source, None, "cannot be replaced on this system while it is read", in_place=True)
