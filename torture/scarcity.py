"""Writing where there is not enough: limits on file size, a disk that fills, writes that fall short.

    python -m torture.scarcity [--writer NAME] [--sizes N]

Prints one line of JSON for each kind and writer; ends with 1 if the output was ever neither the old
one nor the new one, or the exit code was 0 with nothing written.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from torture.applies import WRITERS, Apply, Expectation, Tree, load_everything, start
from torture.forking import warm_workers

_LOG_ROOM = 8192
"""Bytes that a program may always write, so that it can say what it lacked."""


@dataclass
class Told:
    """What came of one kind of scarcity for one writer."""

    scarce: str
    writer: str
    outcomes: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    skipped: str = ""

    def note(self, expected: Expectation, apply: Apply, code: int, what: str) -> None:
        """Judge one run."""
        state, problem = expected.judge(apply, code)
        self.outcomes[state] = self.outcomes.get(state, 0) + 1
        if problem:
            self.failures.append(f"{what}: {problem}")


def file_size(writer: str, sizes: int, directory: Path) -> Told:
    """No file may get longer than some number of bytes, up to more than is needed."""
    told = Told("file size", writer)
    expected = Expectation.of(writer, directory)
    longest = max(map(len, expected.new.values())) * 4  # unpacked weights are longer
    for size in _steps(_LOG_ROOM, longest, sizes):
        apply = Apply(writer, directory)
        code = _code(start(apply, partial(_limit, size)))
        told.note(expected, apply, code, f"{size} bytes")
    return told


def _limit(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def disk(writer: str, sizes: int, directory: Path) -> Told:
    """The disk of the output and of scratch files has less room than is needed, or just enough."""
    told = Told("room on the disk", writer)
    expected = Expectation.of(writer, directory)
    used, needed = (sum(map(len, files.values())) for files in (expected.old, expected.new))
    for room in _steps(needed // 2, needed * 12, sizes):
        apply = Apply(writer, directory)
        there = apply.output.parent
        mount = ["mount", "-t", "tmpfs", "-o", f"size={used + room}", "tmpfs", str(there)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            told.skipped = "no file system can be mounted here"
            return told
        try:
            _put(expected.old, apply.output)
            code = _code(start(apply, partial(_scratch_in, there)))
            told.note(expected, apply, code, f"{room} bytes of room")
        finally:
            subprocess.run(["umount", "-l", str(there)], check=True)
    return told


def _scratch_in(directory: Path) -> None:
    tempfile.tempdir = str(directory)


def _put(files: Tree, path: Path) -> None:
    for name, data in files.items():
        file = path / name if name else path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def short_writes(writer: str, _: int, directory: Path) -> Told:
    """Each write does half of what it was asked for, in the program and in its worker."""
    told = Told("length of a write", writer)
    if shutil.which("gcc") is None:
        told.skipped = "gcc is not installed"
        return told
    library = directory.with_suffix(".so")
    source = Path(__file__).with_suffix("").with_name("short_writes.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    expected = Expectation.of(writer, directory)
    apply = Apply(writer, directory)
    environment = os.environ | {"LD_PRELOAD": str(library)}
    command = [sys.executable, "-m", "ckptclamp", *apply.arguments]
    with apply.log.open("wb") as log:
        done = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False)
    told.note(expected, apply, done.returncode, "halved")
    if done.returncode or "old" in told.outcomes:
        told.failures.append(f"exit {done.returncode}: {apply.log.read_text()}")
    return told


KINDS: tuple[Callable[[str, int, Path], Told], ...] = (file_size, disk, short_writes)


def _steps(first: int, last: int, count: int) -> list[int]:
    return [first + (last - first) * step // max(count - 1, 1) for step in range(count)]


def _code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(arguments: list[str] | None = None) -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--writer", choices=WRITERS, action="append")
    parser.add_argument("--sizes", type=int, default=15)
    options = parser.parse_args(arguments)
    warm_workers()
    load_everything()
    failed = False
    for writer in options.writer or WRITERS:
        for kind in KINDS:
            with tempfile.TemporaryDirectory() as folder:
                told = kind(writer, options.sizes, Path(folder) / "run")
            failed |= bool(told.failures)
            print(json.dumps(vars(told)), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
