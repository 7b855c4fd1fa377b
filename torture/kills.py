"""Kill `apply` at random moments, again and again, while it copies a large checkpoint.

    python -m torture.kills [--size MEBIBYTES] [--kills N] [--directory FOLDER]

The program is the real one, in a process of its own. Prints counts as JSON; ends with 1 if the
output was ever neither the old one nor the new one, or the input changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from tests.checkpoints.safetensors_files import encoded, entry

_ROWS, _COLUMNS = 1024, 1024


def write_checkpoint(path: Path, mebibytes: int) -> None:
    """A safetensors file of float32 matrices of 4 MiB, of which every second one has large rows."""
    length = _ROWS * _COLUMNS * 4
    count = max(mebibytes // 4, 1)
    entries = {
        f"layer{number:05}/kernel": entry(
            "F32", [_ROWS, _COLUMNS], number * length, (number + 1) * length
        )
        for number in range(count)
    }
    matrix = np.random.default_rng(1).normal(size=(_ROWS, _COLUMNS)).astype(np.float32)
    with path.open("wb") as file:
        file.write(encoded(entries))
        for number in range(count):
            file.write((matrix * np.float32(0.01 if number % 2 else 1)).tobytes())


def digest(path: Path) -> str:
    """The sha256 of a file, or why there is none."""
    if not path.exists():
        return "missing"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024, help="of the checkpoint, in MiB")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument(
        "--directory", type=Path, help="on which disk; default is the temporary one"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        told = run(Path(folder), options.size, options.kills)
    print(json.dumps(told))
    return 1 if told["broken"] else 0


def run(folder: Path, mebibytes: int, kills: int) -> dict[str, object]:
    """Make the checkpoint, measure an undisturbed run, then disturb it; return what happened."""
    source, output = folder / "model.safetensors", folder / "output.safetensors"
    write_checkpoint(source, mebibytes)
    rule = ["--tensors", "**", "--max-norm", "1", "--axis", "1"]
    program = [sys.executable, "-m", "ckptclamp", "apply", str(source), "-o", str(output)]
    command = [*program, "--force", "-q", *rule]
    before = digest(source)
    output.write_bytes(b"what was there before")
    old = digest(output)
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    took = time.monotonic() - started
    new = digest(output)
    states: Counter[str] = Counter()
    rng = random.Random(0)
    for _ in range(kills):
        output.write_bytes(b"what was there before")
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            process.wait(rng.uniform(0, took * 1.1))
        except subprocess.TimeoutExpired:
            process.kill()
        code = process.wait()
        found = digest(output)
        state = {old: "old", new: "new"}.get(found, "broken")
        if code == 0 and state != "new":
            state = "broken"
        states[f"{'finished' if code == 0 else 'killed'}: {state}"] += 1
    leftovers = [path.name for path in folder.iterdir() if path not in (source, output)]
    broken = sum(count for state, count in states.items() if "broken" in state)
    return {
        "mebibytes": mebibytes,
        "kills": kills,
        "seconds_undisturbed": round(took, 2),
        "states": dict(states),
        "leftovers": len(leftovers),
        "broken": broken + (digest(source) != before),
    }


if __name__ == "__main__":
    sys.exit(main())
