"""The same answers and the same bytes on systems that lack calls which Linux has."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.without import CALLS

PROGRAM = Path(__file__).with_name("without.py")


def run(lacks: str, what: str, directory: Path, *before: str) -> dict[str, str]:
    """Run the program without some calls; the digest of each file that it leaves."""
    directory.mkdir()
    command = [*before, sys.executable, str(PROGRAM), lacks, what, str(directory)]
    environment = {**os.environ, "TMPDIR": str(directory.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    codes = json.loads(done.stdout)
    assert (codes, done.stderr) == ([1, 0, 0, 0] * (len(codes) // 4) + [0], "")
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is left where the system lacks nothing."""
    return run("", "all", tmp_path_factory.mktemp("complete") / "work")


@pytest.mark.parametrize("lacks", CALLS)
def test_nothing_changes_without(lacks: str, complete: dict[str, str], tmp_path: Path):
    """Files, directories and in place, with one call missing; nothing else is left."""
    assert run(lacks, "some", tmp_path / "work").items() <= complete.items()
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


def test_nothing_changes_without_any(complete: dict[str, str], tmp_path: Path):
    """All together are missing."""
    assert run(",".join(CALLS), "all", tmp_path / "work") == complete
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not installed")
def test_without_proc(complete: dict[str, str], tmp_path: Path):
    """A chroot may have no /proc at all."""
    hidden = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    script = 'mount -t tmpfs none /proc && exec "$@"'
    able = subprocess.run([*hidden, script, "sh", "true"], capture_output=True, check=False)
    if able.returncode:
        pytest.skip("nothing may be mounted here")
    found = run("", "some", tmp_path / "work", *hidden, script, "sh")
    assert found.items() <= complete.items()
