"""Runs the program as on a system that lacks some calls: ``python without.py LACKS WHAT DIRECTORY``.

`LACKS` names entries of `CALLS`, separated by commas. The HDF5 worker lacks them, too. In `DIRECTORY`
copies of fixtures, ``all`` or ``some``, are audited, fixed as files and as directories, and fixed in
place; the exit codes are printed.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 - what the standard library asks for is not tested
import ctypes  # noqa: F401
import json
import os
import shutil
import subprocess  # noqa: F401
import sys
import tempfile  # noqa: F401
from pathlib import Path

FIXTURES = Path(__file__).parents[2] / "fixtures"

CALLS = {
    "preadv": "vars(os).pop('preadv', None)",
    "pread": "vars(os).pop('preadv', None); vars(os).pop('pread', None)",
    "pwrite": "vars(os).pop('pwrite', None)",
    "memfd_create": "vars(os).pop('memfd_create', None)",
    "/proc/self/fd": "system.DESCRIPTORS = '/nowhere'",
    "copy_file_range": "vars(os).pop('copy_file_range', None)",
    "posix_fallocate": "vars(os).pop('posix_fallocate', None)",
    "listxattr": "vars(os).pop('listxattr', None)",
    "renameat2": "system._rename_with_flags = lambda flags: (None, 0)",
    "O_TMPFILE": "vars(os).pop('O_TMPFILE', None); tempfile._O_TMPFILE_WORKS = False",
    "O_NOFOLLOW": "vars(os).pop('O_NOFOLLOW', None)",
    "O_NONBLOCK": "vars(os).pop('O_NONBLOCK', None); shutil._use_fd_functions = False",
    "dir_fd": "vars(os).pop('O_DIRECTORY', None); os.supports_dir_fd.clear()",
    "link": "vars(os).pop('link', None); vars(os).pop('O_TMPFILE', None); "
    "tempfile._O_TMPFILE_WORKS = False",
    "fchmod": "vars(os).pop('fchmod', None); vars(os).pop('fchown', None)",
    "sched_getaffinity": "vars(os).pop('sched_getaffinity', None)",
    "geteuid": "vars(os).pop('geteuid', None)",
    "fcntl": "sys.modules['fcntl'] = None",
    "resource": "sys.modules['resource'] = None",
    "pthread_sigmask": "vars(signal).pop('pthread_sigmask', None); vars(signal).pop('SIGHUP', None)",
}
"""What a system may lack, and how it is taken away."""

COPIES = (
    ("transformer_bf16.safetensors", "transformer"),
    ("deflated_zip.keras", None),
    ("chunked_gzip.h5", None),
    ("unzipped_directory", None),
    ("sharded_transformer", "transformer"),
)
"""What is fixed, and by which spec; every second one is enough for some."""


def main() -> None:
    """Take the calls away, then run everything."""
    lacks = [CALLS[name] for name in sys.argv[1].split(",") if name]
    from ckptclamp.checkpoints.formats.hdf5 import sandbox

    taken = "; ".join(
        ["import os, shutil, signal, sys, tempfile", "from ckptclamp import system", *lacks]
    )
    exec(taken)
    there = sandbox._BOOTSTRAP.replace("from ckptclamp", f"{taken}; from ckptclamp", 1)
    vars(sandbox)["_BOOTSTRAP"] = there
    print(json.dumps(run(Path(sys.argv[3]), COPIES[:: 1 if sys.argv[2] == "all" else 2])))


def run(directory: Path, copies: tuple[tuple[str, str | None], ...]) -> list[int]:
    """Run what a user would; return the exit codes."""
    codes = []
    for name, spec in copies:
        source, out = FIXTURES / "violating" / name, directory / f"out-{name}"
        rules = ["--spec", str(FIXTURES / "specs" / f"{spec}.yaml")] if spec else []
        mine = directory / name
        if source.is_dir():
            for file in (path for path in source.rglob("*") if path.is_file()):
                place = mine / file.relative_to(source)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, place)
            (mine / "README.md").write_text("what comes along\n")
        else:
            shutil.copyfile(source, mine)
        codes += [
            ckptclamp("audit", mine, *rules),
            ckptclamp("apply", mine, *rules, "-o", out),
            ckptclamp("apply", mine, *rules, "-o", out, "--force"),
            ckptclamp("apply", mine, *rules, "--in-place"),
        ]
    return [*codes, ckptclamp("clean", directory)]


def ckptclamp(*arguments: object) -> int:
    """Run one command in this process; its exit code, with what it prints on stderr."""
    from ckptclamp import cli
    from ckptclamp.errors import CkptclampError

    try:
        with Path(os.devnull).open("w") as nowhere:
            kept, sys.stdout = sys.stdout, nowhere
            try:
                return int(cli.cli.main([str(a) for a in arguments], standalone_mode=False) or 0)
            finally:
                sys.stdout = kept
    except CkptclampError as error:
        print(arguments, error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    main()
