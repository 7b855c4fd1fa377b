"""Kill an `apply` of a set at random moments and resume it, until it is done.

    python -m torture.resumes [--shards N] [--kills N] [--in-place] [--directory FOLDER]

The program is the real one, in a process of its own, and dies of SIGKILL. Between two runs the files
that the record says are done must lie there, and the next run must leave them as they are: what a kill
costs is the shard that the run was at. Prints counts as JSON; ends with 1 if the set that came out is
not the one of an undisturbed run, a shard was made twice, or anything was left behind.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ckptclamp.checkpoints.directories.unfinished import JOURNAL, RESUME, is_hidden
from tests.checkpoints.safetensors_files import write_set

_PROGRAM = [sys.executable, "-m", "ckptclamp"]
_RULE = ["--tensors", "**", "--max-norm", "1", "--axis", "1"]
_SHARE = 0.9
"""Kills fall into this part of the time that a run takes; later ones would meet finished runs."""
_ROUNDS = 5
"""How many applies there may be for each kill: some are over before."""


def write_shards(folder: Path, shards: int, rows: int) -> Path:
    """A set of float32 matrices, three a shard, of which one has large rows; return its index."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    return write_set(
        folder,
        {
            f"model-{number:05}.safetensors": {
                f"layer{number}.{part}": rng.normal(
                    scale=1 if part == 1 else 1e-4, size=(rows, 256)
                ).astype(np.float32)
                for part in range(3)
            }
            for number in range(shards)
        },
    )


def main(arguments: list[str] | None = None) -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=12)
    parser.add_argument("--rows", type=int, default=8192, help="of each of three matrices a shard")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--in-place", action="store_true")
    parser.add_argument("--directory", type=Path, help="on which disk; default the temporary one")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        told = run(
            Path(folder), options.shards, options.rows, options.kills, in_place=options.in_place
        )
    print(json.dumps(told))
    return 1 if told["problems"] else 0


def run(folder: Path, shards: int, rows: int, kills: int, *, in_place: bool) -> dict[str, object]:
    """Make the set, apply once undisturbed, then again and again disturbed; return what happened."""
    write_shards(folder / "set", shards, rows)
    whole = folder / "undisturbed"
    seconds, code = _run(_command(folder / "set", whole), None)
    problems = [] if code == 0 else [f"undisturbed: exit {code}"]
    clock = _Clock(random.Random(0), seconds)
    killed = rounds = redone = 0
    while killed < kills and rounds <= _ROUNDS * kills:
        rounds += 1
        more, again, found = _round(folder, whole, clock, in_place=in_place)
        killed, redone, problems = killed + more, max(redone, again), problems + found
    return {
        "shards": shards,
        "kills": killed,
        "seconds_undisturbed": round(seconds, 2),
        "applies": rounds,
        "shards_redone_at_most": redone,
        "problems": problems,
    }


@dataclass
class _Clock:
    """Tells when to kill: at random in the time that a run takes, which it learns."""

    rng: random.Random
    seconds: float

    def moment(self) -> float | None:
        """Seconds after the start, or never: so that each apply comes to its end."""
        return self.rng.random() * self.seconds * _SHARE if self.rng.random() < _SHARE else None

    def took(self, seconds: float) -> None:
        """Some run was over before it could be killed."""
        self.seconds = min(self.seconds, seconds)


def _round(
    folder: Path, whole: Path, clock: _Clock, *, in_place: bool
) -> tuple[int, int, list[str]]:
    """One apply, killed until it comes to its end: how often, what that cost at most, what is wrong."""
    work = folder / "work"
    work.mkdir()
    shutil.copytree(folder / "set", work / "set")
    output = work / "set" if in_place else work / "copy"
    place = output if in_place else work
    command = [*_command(work / "set", None if in_place else output), "--resume"]
    killed = redone = 0
    problems: list[str] = []
    done: dict[Path, int] = {}
    code = None
    while code != 0:
        moment = clock.moment()
        seconds, code = _run(command, moment)
        if code == 0:
            if moment is not None:
                clock.took(seconds)
            break
        if moment is None:
            problems.append(f"exit {code}")
            break
        killed += 1
        if any(is_hidden(path.name, JOURNAL) for path in place.iterdir()):
            subprocess.run([*_PROGRAM, "clean", str(output)], check=True, stdout=subprocess.DEVNULL)
        published = output.exists() and _content(output) == _content(whole)
        changed = [path.name for path, time_ns in done.items() if _changed(path) != time_ns]
        if changed and place.exists() and any(is_hidden(p.name, RESUME) for p in place.iterdir()):
            problems.append(f"made again: {changed}")
        before, done = len(done), _done(place)
        if not published:
            redone = max(redone, _begun(place) - len(done), before - len(done))
    there = _content(output)
    if there != _content(whole):
        problems.append("not the set of an undisturbed run")
    if left := [p.name for p in place.iterdir() if is_hidden(p.name)]:
        problems.append(f"left behind: {left}")
    if not in_place and _content(work / "set") != _content(folder / "set"):
        problems.append("the input changed")
    shutil.rmtree(work)
    return killed, redone, problems


def _command(source: Path, output: Path | None) -> list[str]:
    where = ["--in-place"] if output is None else ["-o", str(output)]
    return [*_PROGRAM, "apply", str(source), *where, "-q", "--no-settings", *_RULE]


def _run(command: list[str], seconds: float | None) -> tuple[float, int]:
    """Run the program, and kill it after so many seconds; how long it took, and its exit code."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    code = process.wait()
    return time.monotonic() - started, code


def _done(place: Path) -> dict[Path, int]:
    """The files that the record in `place` says are done, and when each was last written to."""
    found: dict[Path, int] = {}
    for record in place.iterdir():
        if is_hidden(record.name, RESUME):
            head, *steps = map(json.loads, record.read_text().splitlines())
            home = place / (head["directory"] or "")
            for step in steps:
                found |= {home / m["where"]: _changed(home / m["where"]) for m in step["files"]}
    return found


def _begun(place: Path) -> int:
    """How many shards hold bytes that were written, as far as directories show it."""
    homes = [path for path in place.iterdir() if path.is_dir() and is_hidden(path.name)]
    files = [file for home in homes for file in home.glob("*.safetensors")]
    return sum(_is_written(file) for file in files)


def _is_written(path: Path) -> bool:
    with path.open("rb") as file:
        return any(file.read(8))


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if not is_hidden(p.name)}


if __name__ == "__main__":
    sys.exit(main())
