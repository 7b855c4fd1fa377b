"""The walls around the process that reads untrusted bytes, tried from inside."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ESCAPES = {
    "open a file": "os.open('/etc/passwd', os.O_RDONLY)",
    "write a file": "os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)",
    "open a socket": "socket.socket(socket.AF_INET)",
    "run a program": "os.execv('/bin/true', ['true'])",
    "make a process": "os.fork()",
    "signal a process": "os.kill(os.getppid(), 0)",
    "list a directory": "os.listdir('/')",
    "remove a file": "os.unlink(sys.argv[2])",
    "grow a file": "os.pwrite(opened, b'x', 4096)",
    "take much memory": "bytearray(1 << 30)",
    "lift a limit": "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))",
}

PROGRAM = """
import os, resource, socket, sys
from ckptclamp.checkpoints.formats.hdf5.isolation import lock_down
opened = os.open(sys.argv[2], os.O_RDWR)
walls = lock_down(memory=64 << 20, file_size=1024)
print(*walls, flush=True)
assert os.pread(opened, 4, 0) == b"data"
try:
    {escape}
except (OSError, MemoryError, ValueError) as error:
    print("stopped", flush=True)
else:
    print("escaped", flush=True)
os._exit(0)
"""


def run(escape: str, directory: Path) -> tuple[list[str], str]:
    """The walls that stood in a locked-down process, and what became of its attempt."""
    existing = directory / "existing"
    existing.write_bytes(b"data")
    program = textwrap.dedent(PROGRAM).format(escape=escape)
    done = subprocess.run(
        [sys.executable, "-c", program, str(directory / "new"), str(existing)],
        capture_output=True,
        text=True,
        check=True,
    )
    layers, outcome = done.stdout.splitlines()
    return layers.split(), outcome


@pytest.mark.skipif(sys.platform != "linux", reason="the walls are those of Linux")
@pytest.mark.parametrize("escape", ESCAPES)
def test_escape(escape: str, tmp_path: Path) -> None:
    """What the process holds open can be read on; nothing else can be reached from there."""
    layers, outcome = run(ESCAPES[escape], tmp_path)
    assert "rlimits" in layers
    assert outcome == "stopped"
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "existing").read_bytes() == b"data"


@pytest.mark.skipif(sys.platform != "linux", reason="the walls are those of Linux")
def test_work_goes_on(tmp_path: Path) -> None:
    """A locked-down process still computes, and writes to what it was given."""
    _, outcome = run("os.pwrite(opened, b'more', 0)", tmp_path)
    assert outcome == "escaped"
    assert (tmp_path / "existing").read_bytes() == b"more"
