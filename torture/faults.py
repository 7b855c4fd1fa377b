"""A fault at every system call of `apply`, from its first temporary file to its exit.

    python -m torture.faults [--writer NAME] [--every N] [--offset N] [--jobs N]

Each run is a fork of a process that has loaded everything, with `strace` attached when it begins to
write: at the k-th call of a kind the process is killed, gets SIGTERM, or the call fails. Prints
counts as JSON; ends with 1 if the output was ever neither the old one nor the new one, the input
changed, or the exit code was 0 with nothing written.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ckptclamp.system import Folder
from torture.applies import IN_PLACE, WRITERS, Apply, Expectation, load_everything, start, stop_self
from torture.forking import WarmWorker, in_parallel, warm_workers

_CALL = re.compile(r"^(\w+)\(", re.MULTILINE)
_IMPORTED = re.compile(r"[^/\"]+/__pycache__/[^\"]+")
_FALLIBLE = frozenset(
    [
        "open",
        "openat",
        "close",
        "read",
        "pread64",
        "preadv",
        "write",
        "pwrite64",
        "pwritev",
        "fsync",
        "fdatasync",
        "ftruncate",
        "fallocate",
        "copy_file_range",
        "link",
        "linkat",
        "rename",
        "renameat",
        "renameat2",
        "unlink",
        "unlinkat",
        "mkdir",
        "mkdirat",
        "rmdir",
        "chmod",
        "fchmod",
        "fchmodat",
        "fchown",
        "stat",
        "fstat",
        "lstat",
        "newfstatat",
        "statx",
        "fstatfs",
        "statfs",
        "lseek",
        "dup",
        "fcntl",
        "getdents64",
        "memfd_create",
        "flistxattr",
        "llistxattr",
        "fsetxattr",
        "lgetxattr",
        "readlink",
        "pipe2",
    ]
)
"""Calls on files; that others fail is nothing that a disk does."""
FAULTS = {
    "SIGKILL": "signal=SIGKILL",
    "SIGTERM": "signal=SIGTERM",
    "EIO": "error=EIO",
    "ENOSPC": "error=ENOSPC",
}
_PATIENCE = 60.0


@dataclass(frozen=True)
class Point:
    """One fault: at call number `nth` of `call`, counted from when writing begins.

    `place` is the process that it meets: the program, or the worker that writes compressed chunks.
    """

    writer: str
    place: str
    call: str
    nth: int
    fault: str
    named: bool

    @property
    def injection(self) -> str:
        """As `strace` wants it."""
        return f"inject={self.call}:{FAULTS[self.fault]}:when={self.nth}"

    def __str__(self) -> str:
        naming = ", named" if self.named else ""
        return f"{self.writer}{naming}: {self.fault} at {self.place} {self.call} {self.nth}"


def traced(apply: Apply, place: str, named: bool, *options: str) -> int:
    """Run `apply` under `strace` with these options and return its exit code as a shell's."""

    def prepare() -> None:
        if named:
            Folder.create_unnamed = lambda self: -1  # type: ignore[method-assign]
        if place == "program":
            stop_self()
        else:
            WarmWorker.at_start = staticmethod(_stop_if_writing)

    child = start(apply, prepare)
    target = child if place == "program" else _stopped_child(child)
    tracer = None
    if target is not None:
        _wait_for(target, "State:\tT")
        tracer = subprocess.Popen(
            ["strace", "-qq", "-p", str(target), *options], stderr=subprocess.DEVNULL
        )
        _wait_for(target, f"TracerPid:\t{tracer.pid}")
        os.kill(target, signal.SIGCONT)
    code = _code_of(child)
    if tracer is not None:
        tracer.wait(_PATIENCE)
    return code


def _stop_if_writing() -> None:
    if "write-chunks" in sys.argv:
        stop_self()


def _code_of(child: int) -> int:
    deadline = time.monotonic() + _PATIENCE
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.001)


def _wait_for(pid: int, words: str) -> None:
    """Wait until the kernel says `words` of a process, or it is gone."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            if words in Path(f"/proc/{pid}/status").read_text():
                return
        except OSError:
            return
        time.sleep(0.0005)


def _stopped_child(parent: int) -> int | None:
    """The worker that waits to be traced; ``None`` if the program ends without one."""
    children = Path(f"/proc/{parent}/task/{parent}/children")
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            for pid in children.read_text().split():
                if "State:\tT" in Path(f"/proc/{pid}/status").read_text():
                    return int(pid)
            if "State:\tZ" in Path(f"/proc/{parent}/status").read_text():
                return None
        except OSError:
            pass
        time.sleep(0.0005)
    return None


def points(writer: str, place: str, named: bool, directory: Path) -> Iterator[Point]:
    """Every call that an undisturbed run makes, with every fault that can meet it."""
    log = directory.with_suffix(".strace")
    traced(Apply(writer, directory), place, named, "-o", str(log))
    calls = log.read_text(errors="replace")
    if imported := _IMPORTED.findall(calls):
        raise RuntimeError(f"{writer} imports {imported} while it writes: `load_everything` must")
    counts: Counter[str] = Counter()
    for call in _CALL.findall(calls):
        counts[call] += 1
        for fault in FAULTS:
            if fault.startswith("SIG") or call in _FALLIBLE:
                yield Point(writer, place, call, counts[call], fault, named)


def disturb(point: Point, expected: Expectation, directory: Path) -> tuple[str, str]:
    """Meet `point`; return what it came to and what must not be."""
    apply = Apply(point.writer, directory)
    options = ("-o", "/dev/null", "-e", f"trace={point.call}", "-e", point.injection)
    code = traced(apply, point.place, point.named, *options)
    state, problem = expected.judge(apply, code)
    left = " and a leftover" if apply.strays() else ""
    return f"{point.fault}: {state}{left}", problem


Tally = tuple[Counter[str], list[str]]
"""Counts of outcomes, and failures."""


def run(writer: str, every: int, offset: int = 0, jobs: int = 1) -> Tally:
    """Meet every point of `writer`, or each one in `every`, `jobs` at a time."""
    met: list[Point] = []
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "run"
        expected = Expectation.of(writer, directory)
        for place, named in variants(writer):
            found = list(points(writer, place, named, directory))
            random.Random(0).shuffle(found)
            met += found[offset::every]
    parts = [met[job::jobs] for job in range(jobs)]
    told = in_parallel([partial(meet, part, expected) for part in parts])
    return (
        sum((counts for counts, _ in told), Counter()),
        [problem for _, failures in told for problem in failures],
    )


def meet(met: list[Point], expected: Expectation) -> Tally:
    """Meet these points one after the other."""
    counts: Counter[str] = Counter()
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for point in met:
            label, problem = disturb(point, expected, Path(folder) / "run")
            counts[label] += 1
            if problem:
                failures.append(f"{point}: {problem}")
    return counts, failures


def variants(writer: str) -> list[tuple[str, bool]]:
    """Which process is met, and whether its temporary file has a name."""
    kinds = [("program", False)]
    if writer == "compressed HDF5":
        kinds.append(("worker", False))
    if writer in ("safetensors", "stored archive", IN_PLACE):
        kinds.append(("program", True))
    return kinds


def main(arguments: list[str] | None = None) -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--writer", choices=WRITERS, action="append")
    parser.add_argument("--every", type=int, default=1, help="meet one in N points")
    parser.add_argument("--offset", type=int, default=0, help="begin with this point")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    if shutil.which("strace") is None:
        print("skipped: strace is not installed", file=sys.stderr)
        return 0
    warm_workers()
    load_everything()
    gc.freeze()  # a collection in a fork would copy every page of what was loaded
    failed = False
    for writer in options.writer or WRITERS:
        started = time.monotonic()
        counts, failures = run(writer, options.every, options.offset, options.jobs)
        failed |= bool(failures)
        told = {
            "writer": writer,
            "points": counts.total(),
            "outcomes": dict(sorted(counts.items())),
            "failures": failures,
            "seconds": round(time.monotonic() - started),
        }
        print(json.dumps(told), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
