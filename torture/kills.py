"""Kill `apply` at random moments, spread over all of its time, while it copies a large checkpoint.

    python -m torture.kills [--size MEBIBYTES] [--kills N] [--directory FOLDER]

The program is the real one, in a process of its own. Runs that were over before they could be
killed are counted apart. Prints counts as JSON; ends with 1 if the output was ever neither the old
one nor the new one, the input changed, or too few runs could be killed.
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
from statistics import median

import numpy as np

from tests.checkpoints.safetensors_files import encoded, entry

OLD = b"what was there before"

_ROWS, _COLUMNS = 1024, 1024
_UNDISTURBED = 3


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
    return 1 if told["broken"] or told["kills"] != options.kills else 0


def run(folder: Path, mebibytes: int, kills: int) -> dict[str, object]:
    """Make the checkpoint, measure undisturbed runs, then disturb others; return what happened."""
    source, output = folder / "model.safetensors", folder / "output.safetensors"
    write_checkpoint(source, mebibytes)
    rule = ["--tensors", "**", "--max-norm", "1", "--axis", "1"]
    program = [sys.executable, "-m", "ckptclamp", "apply", str(source), "-o", str(output)]
    command = [*program, "--force", "-q", *rule]
    before = digest(source)
    output.write_bytes(OLD)
    took = [_seconds(command) for _ in range(_UNDISTURBED)]
    new = digest(output)
    states: Counter[str] = Counter()
    rng = random.Random(0)
    killed = finished = 0
    while killed < kills and finished <= kills:
        # One in each equal part of the time that a run takes, so that no phase of it is left out.
        moment = (killed + rng.random()) / kills * median(took)
        output.write_bytes(OLD)
        seconds, code = _run_for(command, moment)
        found = "old" if _is(output, OLD) else "new" if digest(output) == new else "broken"
        if code == 0:
            finished += 1
            took.append(seconds)  # the machine is faster than it was
        else:
            killed += 1
        state = "broken" if code == 0 and found != "new" else found
        states[f"{'finished' if code == 0 else 'killed'}: {state}"] += 1
    leftovers = [path.name for path in folder.iterdir() if path not in (source, output)]
    broken = sum(count for state, count in states.items() if "broken" in state)
    return {
        "mebibytes": mebibytes,
        "kills": killed,
        "seconds_undisturbed": round(median(took), 2),
        "states": dict(states),
        "leftovers": len(leftovers),
        "broken": broken + (digest(source) != before),
    }


def _seconds(command: list[str]) -> float:
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def _run_for(command: list[str], seconds: float) -> tuple[float, int]:
    """Kill the program after so many seconds; how long it ran, and its exit code."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    code = process.wait()
    return time.monotonic() - started, code


def _is(path: Path, data: bytes) -> bool:
    return path.exists() and path.stat().st_size == len(data) and path.read_bytes() == data


if __name__ == "__main__":
    sys.exit(main())
