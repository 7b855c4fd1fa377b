"""Time and memory of the real program on checkpoints of very many tensors, units and violations.

    python -m torture.load [--tensors N] [--hdf5-tensors N] [--units N]

Prints one line of JSON for each case: seconds, the largest resident size of the program or of its
worker, and how many bytes were printed. Ends with 1 if the exit code was not what it must be.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from h5py import h5d, h5g, h5s, h5t

from tests.checkpoints.safetensors_files import encoded, entry
from torture.forking import forked

FORMATS = ("text", "json", "sarif", "junit", "markdown", "github", "gitlab", "html")
_LONGEST = 3600.0
_BOUND = ["--tensors", "**", "--max-norm", "1", "--axis", "0"]


def many_tensors(path: Path, count: int, value: float) -> None:
    """A safetensors file of `count` vectors of two."""
    names = (f"layers/block{number // 100}/dense{number % 100}/kernel" for number in range(count))
    entries = {
        name: entry("F32", [2], 8 * number, 8 * number + 8) for number, name in enumerate(names)
    }
    path.write_bytes(encoded(entries, np.full(2 * count, value, np.float32).tobytes()))


def many_datasets(path: Path, count: int) -> None:
    """An HDF5 file of `count` vectors of two, a hundred in each group."""
    space, values = h5s.create_simple((2,)), np.full(2, 0.1, np.float32)
    with h5py.File(path, "w", libver="latest") as file:
        for number in range(count):
            if number % 100 == 0:
                group = h5g.create(file.id, f"block{number // 100}".encode())
            dataset = h5d.create(group, f"dense{number % 100}".encode(), h5t.IEEE_F32LE, space)
            dataset.write(h5s.ALL, h5s.ALL, values)


def many_units(path: Path, count: int) -> None:
    """A safetensors file of one matrix with `count` units of four, all of them outside."""
    length = 16 * count
    header = encoded({"table": entry("F32", [4, count], 0, length)})
    with path.open("wb") as file:
        file.write(header)
        for _ in range(4):
            file.write(np.full(count, 0.9, np.float32).tobytes())


def measure(what: str, path: Path, code: int, *options: str) -> tuple[dict[str, object], bool]:
    """Run an audit in a process of its own; what it cost, and whether it answered `code`."""
    command = [sys.executable, "-m", "ckptclamp", "audit", str(path), *options]
    with tempfile.TemporaryFile() as printed:
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=printed)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        told: dict[str, object] = {
            "case": what,
            "seconds": round(time.monotonic() - started, 1),
            "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
            "mebibytes": usage.ru_maxrss >> 10,
            "printed_bytes": printed.seek(0, os.SEEK_END),
            "exit": process.returncode,
        }
    return told, process.returncode == code


def cases(
    folder: Path, tensors: int, datasets: int, units: int
) -> Iterator[tuple[dict[str, object], bool]]:
    """Every case, as it is measured.

    Files are made in forks: what a program's parent needs counts as the program's, too.
    """
    path = folder / "model.safetensors"
    forked(partial(many_tensors, path, tensors, 0.1), _LONGEST)
    yield measure(f"{tensors} tensors in safetensors", path, 0, *_BOUND)
    forked(partial(many_tensors, path, tensors, 9.0), _LONGEST)
    for name in FORMATS:
        yield measure(f"{tensors} violating tensors as {name}", path, 1, *_BOUND, "-f", name)
    forked(partial(many_units, path, units), _LONGEST)
    yield measure(f"{units} violating units in a tensor", path, 1, *_BOUND)
    path.unlink()
    for count in sorted({datasets // 5, datasets}):
        forked(partial(many_datasets, folder / "model.h5", count), _LONGEST)
        yield measure(f"{count} tensors in HDF5", folder / "model.h5", 0, *_BOUND)


def main(arguments: list[str] | None = None) -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tensors", type=int, default=100_000)
    parser.add_argument("--hdf5-tensors", type=int, default=100_000)
    parser.add_argument("--units", type=int, default=10_000_000)
    options = parser.parse_args(arguments)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for told, right in cases(
            Path(folder), options.tensors, options.hdf5_tensors, options.units
        ):
            failed |= not right
            print(json.dumps(told), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
