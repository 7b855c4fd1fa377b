"""Publication: the target is what it was, or the new copy whole; nothing else is left."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckptclamp.applying.leftovers import find_leftovers
from ckptclamp.applying.publication import staged
from ckptclamp.checkpoints.checkpoint import Checkpoint
from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.errors import NotWrittenError, UsageError
from ckptclamp.system import Folder
from tests.applying.publishing import names, publish
from tests.checkpoints.safetensors_files import samples, serialised

CONTENT = serialised(samples())


@pytest.fixture
def checkpoint(tmp_path: Path) -> Iterator[Checkpoint]:
    """An opened single file, in a directory of its own."""
    (tmp_path / "input").mkdir()
    path = tmp_path / "input" / "model.safetensors"
    path.write_bytes(CONTENT)
    with open_checkpoint(path) as opened:
        yield opened


@pytest.fixture(params=["unnamed", "named"])
def naming(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to stage a file: without a name, and where the file system cannot do that."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    return str(request.param)


@pytest.mark.usefixtures("naming")
def test_a_new_file_appears_whole(checkpoint: Checkpoint, tmp_path: Path):
    """The target has its name only after `publish`, and nothing else is left beside it."""
    out = tmp_path / "out"
    out.mkdir()
    with staged(out / "copy", like=checkpoint) as stage:
        checkpoint.copy_to(stage).finish()
        assert not (out / "copy").exists()
        assert stage.publish() == ()
        assert (out / "copy").read_bytes() == CONTENT
    assert names(out) == ["copy"]


@pytest.mark.usefixtures("naming")
def test_an_error_leaves_nothing(checkpoint: Checkpoint, tmp_path: Path):
    """An exception inside the block, Ctrl-C among them, removes what was staged."""
    for error in (RuntimeError, KeyboardInterrupt, SystemExit):
        out = tmp_path / error.__name__
        out.mkdir()
        with pytest.raises(error), staged(out / "copy", like=checkpoint) as stage:  # noqa: PT012
            checkpoint.copy_to(stage)
            raise error
        assert names(out) == []


@pytest.mark.usefixtures("naming")
def test_leaving_without_publishing_leaves_nothing(checkpoint: Checkpoint, tmp_path: Path):
    """A copy that nobody published does not appear."""
    with staged(tmp_path / "copy", like=checkpoint) as stage:
        checkpoint.copy_to(stage).finish()
    assert names(tmp_path) == ["input"]


@pytest.mark.usefixtures("naming")
def test_force_replaces(checkpoint: Checkpoint, tmp_path: Path):
    """An existing file is refused, and stays; with `force` it is replaced in one step."""
    target = tmp_path / "copy"
    target.write_bytes(b"old")
    with pytest.raises(UsageError, match=r"exists already .--force"):
        publish(checkpoint, target)
    assert target.read_bytes() == b"old"
    with target.open("rb") as reader:
        assert publish(checkpoint, target, force=True) == set()
        assert reader.read() == b"old"
    assert target.read_bytes() == CONTENT
    assert names(tmp_path) == ["copy", "input"]


@pytest.mark.usefixtures("naming")
def test_in_place_replaces_the_input(checkpoint: Checkpoint):
    """The input's name moves to the new file; who has the input open still reads the old one."""
    path = checkpoint.path
    with pytest.raises(UsageError, match=r"is the input itself .--in-place"):
        publish(checkpoint, path, force=True)
    inode = path.stat().st_ino
    publish(checkpoint, path, in_place=True)
    assert path.stat().st_ino != inode
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == [path.name]


def test_in_place_is_no_force(checkpoint: Checkpoint, tmp_path: Path):
    """Leave to replace the input is no leave to replace another file."""
    (tmp_path / "other").write_bytes(b"old")
    with pytest.raises(UsageError, match="exists already"):
        publish(checkpoint, tmp_path / "other", in_place=True)


def test_a_hard_link_to_the_input_is_the_input(checkpoint: Checkpoint, tmp_path: Path):
    """Another name of the same file does not get around the rule."""
    (tmp_path / "alias").hardlink_to(checkpoint.path)
    with pytest.raises(UsageError, match="is the input itself"):
        publish(checkpoint, tmp_path / "alias", force=True)
    assert publish(checkpoint, tmp_path / "alias", in_place=True) == {"hard-links"}
    assert checkpoint.path.read_bytes() == CONTENT


@pytest.mark.usefixtures("naming")
def test_a_file_that_appears_meanwhile_is_kept(checkpoint: Checkpoint, tmp_path: Path):
    """Without `force` the last step replaces nothing, even what came after the first look."""
    with staged(tmp_path / "copy", like=checkpoint) as stage:
        checkpoint.copy_to(stage).finish()
        (tmp_path / "copy").write_bytes(b"theirs")
        with pytest.raises(NotWrittenError, match="made by someone else meanwhile"):
            stage.publish()
    assert (tmp_path / "copy").read_bytes() == b"theirs"
    assert names(tmp_path) == ["copy", "input"]


def test_a_file_that_is_replaced_meanwhile_is_kept(checkpoint: Checkpoint, tmp_path: Path):
    """With `force`, only the file that was seen at the start may be replaced."""
    target = tmp_path / "copy"
    target.write_bytes(b"old")
    with staged(target, like=checkpoint, force=True) as stage:
        checkpoint.copy_to(stage).finish()
        (tmp_path / "theirs").write_bytes(b"theirs")
        (tmp_path / "theirs").replace(target)
        with pytest.raises(NotWrittenError, match="replaced by someone else"):
            stage.publish()
    assert target.read_bytes() == b"theirs"


def test_targets_that_make_no_sense(checkpoint: Checkpoint, tmp_path: Path):
    """Links, directories, pipes, devices and missing directories are refused before any work."""
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "fifo")
    for target, reason in [
        (tmp_path / "link", "is a symbolic link"),
        (tmp_path / "dangling", "is a symbolic link"),
        (tmp_path / "input", "exists, and is not a file"),
        (tmp_path / "fifo", "exists, and is not a file"),
        (Path("/dev/null"), "exists, and is not a file"),
        (Path("/"), "is no name"),
        (tmp_path / "missing" / "copy", "directory cannot be found"),
        (tmp_path / "file" / "copy", "Not a directory"),
    ]:
        with pytest.raises(UsageError, match=reason):
            publish(checkpoint, target, force=True)
    assert (tmp_path / "file").read_bytes() == b"old"


def test_modes_follow_the_input_or_the_replaced_file(checkpoint: Checkpoint, tmp_path: Path):
    """A private input makes a private copy; a replaced file keeps its own permissions."""
    old = os.umask(0o027)
    try:
        for mode, expected in [(0o600, 0o600), (0o644, 0o640), (0o777, 0o750), (0o444, 0o440)]:
            checkpoint.path.chmod(mode)
            target = tmp_path / f"copy-{mode:o}"
            publish(checkpoint, target)
            assert stat.S_IMODE(target.stat().st_mode) == expected
        replaced = tmp_path / "replaced"
        replaced.write_bytes(b"old")
        replaced.chmod(0o666)
        publish(checkpoint, replaced, force=True)
        assert stat.S_IMODE(replaced.stat().st_mode) == 0o666
    finally:
        os.umask(old)


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="Python knows no attributes here")
def test_extended_attributes_of_a_replaced_file_are_kept(checkpoint: Checkpoint, tmp_path: Path):
    """What a user attached to the output is there after it was replaced."""
    target = tmp_path / "copy"
    target.write_bytes(b"old")
    try:
        os.setxattr(target, "user.origin", b"here")
    except OSError as error:
        pytest.skip(f"no extended attributes here: {error.strerror}")
    publish(checkpoint, target, force=True)
    assert os.getxattr(target, "user.origin") == b"here"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to someone else")
def test_the_owner_of_a_replaced_file_is_kept(checkpoint: Checkpoint, tmp_path: Path):
    """A file that root replaces still belongs to its owner."""
    target = tmp_path / "copy"
    target.write_bytes(b"old")
    os.chown(target, 1234, 4321)
    assert publish(checkpoint, target, force=True) == set()
    assert (target.stat().st_uid, target.stat().st_gid) == (1234, 4321)


def test_a_long_name_can_be_staged(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The hidden name fits wherever the final name does."""
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    target = tmp_path / ("é" * 120 + "x" * 15)
    publish(checkpoint, target)
    assert target.read_bytes() == CONTENT


@pytest.mark.usefixtures("naming")
def test_no_room_is_found_at_the_start(checkpoint: Checkpoint, tmp_path: Path):
    """A limit on file sizes or a full disk ends the work before it begins, and leaves nothing."""
    with (
        staged(tmp_path / "copy", like=checkpoint) as stage,
        pytest.raises(NotWrittenError, match="bytes are needed"),
    ):
        stage.create("copy", 1 << 60)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(CONTENT) - 1, hard))
    try:
        with pytest.raises(NotWrittenError, match="copy: cannot be written: File too large"):
            publish(checkpoint, tmp_path / "copy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["input"]


@pytest.mark.parametrize("call", ["fsync", "link", "fchmod"])
@pytest.mark.usefixtures("naming")
def test_a_failing_call_leaves_the_target(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
):
    """Where the system refuses a step before the name is given, nothing has changed."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with staged(tmp_path / "copy", like=checkpoint) as stage:
        checkpoint.copy_to(stage).finish()
        monkeypatch.setattr(os, call, fail)
        if call == "link":
            monkeypatch.setattr(Folder, "_move_without_links", fail)
        with pytest.raises(NotWrittenError, match="copy: cannot be written: Input/output error"):
            stage.publish()
    assert names(tmp_path) == ["input"]


def test_an_unconfirmed_directory_is_told(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """When only the last flush fails the copy is there, and the user is told what is not sure."""
    flush = os.fsync

    def fail_for_directories(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        flush(fd)

    monkeypatch.setattr(os, "fsync", fail_for_directories)
    assert publish(checkpoint, tmp_path / "copy") == {"durability-unconfirmed"}
    assert (tmp_path / "copy").read_bytes() == CONTENT


PROGRAM = """
import os, signal, sys
# What `nohup` or `&` of a shell started ignores these, and so do its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.applying.publication import staged
if sys.argv[3] == "named":
    vars(os).pop("O_TMPFILE", None)
with open_checkpoint(sys.argv[1]) as checkpoint:
    with staged(sys.argv[2], like=checkpoint, force=True) as stage:
        checkpoint.copy_to(stage).finish()
        if len(sys.argv) > 4:
            print("staged", flush=True)
            sys.stdin.read()
        stage.publish()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_signals_clean_up(
    checkpoint: Checkpoint, tmp_path: Path, number: signal.Signals, naming: str
):
    """A run that is told to stop removes what it staged; a killed one leaves only what is known."""
    target = tmp_path / "copy"
    target.write_bytes(b"old")
    command = [sys.executable, "-c", PROGRAM, str(checkpoint.path), str(target), naming, "wait"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"staged\n"
        process.send_signal(number)
        process.wait(timeout=60)
    assert process.returncode != 0
    assert target.read_bytes() == b"old"
    leftovers = find_leftovers(tmp_path)
    assert len(leftovers) == (number == signal.SIGKILL and naming == "named")
    assert names(tmp_path) == sorted(["copy", "input", *(path.name for path in leftovers)])


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_flushes_come_in_order(checkpoint: Checkpoint, tmp_path: Path, naming: str):
    """The file is flushed after its last write and before its name, the directory after that."""
    log = tmp_path / "log"
    calls = "fsync,rename,renameat,renameat2,link,linkat,pwrite64,copy_file_range,fchmod"
    command = [
        "strace",
        "-f",
        "-e",
        f"trace={calls}",
        "-o",
        str(log),
        sys.executable,
        "-c",
        PROGRAM,
    ]
    target = tmp_path / "copy"
    target.write_bytes(b"old")
    done = subprocess.run([*command, str(checkpoint.path), str(target), naming], check=False)
    if done.returncode:
        pytest.skip("strace may not trace here")
    order = [line.split()[1].split("(")[0] for line in log.read_text().splitlines() if "(" in line]
    order = [name for name in order if name[0].isalpha()]
    renamed = next(i for i, name in enumerate(order) if name.startswith("rename"))
    assert order[renamed + 1 :] == ["fsync"]
    linked = ["linkat"] if naming == "unnamed" else []
    assert order[renamed - 2 - len(linked) : renamed] == ["fchmod", "fsync", *linked]


def test_leftovers_are_known_by_name(tmp_path: Path):
    """Only names that this program gives are taken for its leftovers."""
    ours = tmp_path / ".model.h5.0123abcd.ckptclamp-tmp"
    for path in (ours, tmp_path / "model.ckptclamp-tmp", tmp_path / ".x.ckptclamp-tmp"):
        path.touch()
    (tmp_path / ".dir.89abcdef.ckptclamp-tmp").mkdir()
    assert find_leftovers(tmp_path) == [tmp_path / ".dir.89abcdef.ckptclamp-tmp", ours]
