"""`ckptclamp clean`: what killed runs left, what is at work, and what is somebody else's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckptclamp.applying.leftovers import Outcome, clean
from ckptclamp.checkpoints.directories.unfinished import hidden_name

AT_WORK = """
import sys
from pathlib import Path
from ckptclamp import system
from ckptclamp.applying.staging.files import NewFile
setattr(system.Folder, "create_unnamed", lambda _: -1)
file = NewFile(system.Folder(Path(sys.argv[1])), "model.safetensors")
file.open()
print("at work", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run that has a hidden file in `tmp_path`."""
    command = [sys.executable, "-c", AT_WORK, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"at work\n"
        yield process
        process.kill()


def test_only_what_is_nobodys_is_removed(worker, run, tmp_path):
    """While a run is at work its file stays; once it was killed, it goes."""
    (hidden,) = tmp_path.iterdir()
    answer = run("clean", tmp_path)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout == f"kept  {hidden}: a run is at work on it\n"
    worker.kill()
    worker.wait()
    dry = run("clean", tmp_path, "--dry-run")
    assert dry.stdout == f"would be removed  {hidden} (0 bytes)\n"
    assert hidden.exists()
    assert run("clean", tmp_path).stdout == f"removed  {hidden} (0 bytes)\n"
    assert run("clean", tmp_path).stdout == f"nothing was left at {tmp_path}\n"
    assert list(tmp_path.iterdir()) == []


def test_only_what_is_ours_is_removed(tmp_path: Path):
    """By the whole name; neither links nor pipes, and of a directory what lies beside it for its sake."""
    output = tmp_path / "out"
    output.mkdir()
    ours = tmp_path / hidden_name("out")
    (ours / "folder").mkdir(parents=True)
    (ours / "folder" / "file").write_bytes(bytes(7))
    strangers = [
        tmp_path / hidden_name("another"),
        tmp_path / hidden_name("ou"),
        tmp_path / "out.ckptclamp-tmp",
        tmp_path / ".out.ckptclamp-tmp",
        output / ".x.0123456.ckptclamp-tmp",
    ]
    for path in strangers:
        path.touch()
    link, pipe = output / hidden_name("link"), output / hidden_name("pipe")
    link.symlink_to(strangers[0])
    os.mkfifo(pipe)
    found = {cleaned.path: cleaned for cleaned in clean(output)}
    assert {path: cleaned.outcome for path, cleaned in found.items()} == {
        ours: Outcome.REMOVED,
        link: Outcome.KEPT,
        pipe: Outcome.KEPT,
    }
    assert found[ours].size == 7
    assert all(os.path.lexists(path) for path in (*strangers, link, pipe))
    assert not ours.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to someone else")
def test_what_another_user_left_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Who owns it may clean it, and root."""
    hidden = tmp_path / hidden_name("model")
    hidden.touch()
    os.chown(hidden, 1234, 1234)
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    (cleaned,) = clean(tmp_path)
    assert (cleaned.outcome, cleaned.reason) == (Outcome.KEPT, "it belongs to another user")
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    assert [cleaned.outcome for cleaned in clean(tmp_path)] == [Outcome.REMOVED]


def test_a_path_that_is_nowhere(run, tmp_path):
    """A typing error is one line and exit 3; an output that was never made may have leftovers."""
    answer = run("clean", tmp_path / "no" / "where")
    assert answer.returncode == 3
    assert answer.stderr.startswith("ckptclamp: error: ")
    hidden = tmp_path / hidden_name("out.h5")
    hidden.touch()
    assert run("clean", tmp_path / "out.h5").stdout == f"removed  {hidden} (0 bytes)\n"
