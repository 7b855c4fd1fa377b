"""Byte mutations of real files: nothing may crash, hang, swell, or pass that does not conform.

    python -m torture.mutations --count 100000 --jobs 2 [--seconds N] [--corpus FOLDER]
        [--keep FOLDER]

Prints what happened as JSON; ends with 1 if anything did that must not. A mutant is made of its
number alone, so a run that `--seconds` ended goes on with `--first` and the number that it printed.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ckptclamp import audit
from ckptclamp.auditing.options import AuditOptions
from ckptclamp.auditing.results import AuditReport
from ckptclamp.errors import CkptclampError
from torture import reference
from torture.forking import Outcome, forked, in_parallel, warm_workers
from torture.mutating import Seed, mutant, seeds

SECONDS = 10.0
MEMORY = 512 << 20

Row = tuple[str, tuple[int, ...], tuple[float | None, float | None], float]
"""Of one judged tensor: name, axes, bound, tolerance."""


@dataclass
class Tally:
    """Counts, and everything that must not have happened."""

    codes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    largest: int = 0
    failures: list[str] = field(default_factory=list)
    following: float = math.inf
    """The number of the first case that was not run, if time was over."""

    def __iadd__(self, other: Tally) -> Tally:
        self.codes += other.codes
        self.slowest = max(self.slowest, other.slowest)
        self.largest = max(self.largest, other.largest)
        self.failures += other.failures
        self.following = min(self.following, other.following)
        return self


@dataclass(frozen=True)
class Subject:
    """A seed under one of two kinds of rule.

    With a `bound`, every weight must be of at most this magnitude; ``None`` stands for what the file
    itself declares. Of the sound file `judged` names the tensors that were, `state` the folders in
    which no weights lie (the optimizer's, the metrics'), `config` is the model config.
    """

    seed: Seed
    bound: float | None
    judged: frozenset[str] = frozenset()
    state: frozenset[str] = frozenset()
    config: Any = None

    @property
    def spec(self) -> Mapping[str, Any] | None:
        """The rule for an audit."""
        if self.bound is None:
            return None
        limits = {"low": -self.bound, "high": self.bound}
        rule = {"id": "all", "tensors": "**", "constraint": "Clip", "tolerance": 0, **limits}
        return {"version": 1, "rules": [rule]}


def subjects(directory: Path, corpus: str | None) -> Iterator[Subject]:
    """Each seed under a bound that it just keeps, and under what it declares."""
    for seed in seeds(corpus):
        path = directory / f"seed{seed.suffix}"
        path.write_bytes(seed.data)
        arrays = forked(partial(reference.arrays, path), 60).value
        largest = max((float(abs(values).max()) for values in (arrays or {}).values()), default=0)
        if 0 < largest < float("inf"):
            code, rows, _ = judged(path, Subject(seed, largest))
            if code == 0:
                names = frozenset(name for name, *_ in rows)
                state = frozenset(name.split("/")[0] for name in arrays.keys() - names)
                yield Subject(seed, largest, names, state)
        code, rows, _ = judged(path, Subject(seed, None))
        if code in (0, 1) and seed.suffix != ".safetensors":
            config = forked(partial(reference.model_config, path), 60).value
            yield Subject(seed, None, frozenset(name for name, *_ in rows), config=config)


def judged(path: Path, subject: Subject) -> tuple[int, list[Row], str]:
    """Exit code, judged tensors, and what was said, of an audit."""
    try:
        report = audit(path, subject.spec, AuditOptions(jobs=1))
    except CkptclampError as error:
        return error.exit_code, [], str(error)
    return int(report.exit_code), rows_of(report), ""


def rows_of(report: AuditReport) -> list[Row]:
    """What was judged."""
    return [(r.tensor, r.axes, r.bound, r.tolerance) for r in report.results]


def false_pass(path: Path, subject: Subject, rows: list[Row]) -> str:
    """Why the file should not have passed, by an independent reader; empty if it should."""
    names = {name for name, *_ in rows}
    if subject.bound is None:
        arrays = reference.arrays(path, names.__contains__)
    else:
        arrays = reference.arrays(path, lambda name: name.split("/")[0] not in subject.state)
    if names != set(arrays):
        return f"judged, or there, but not both: {sorted(names ^ set(arrays))[:3]}"
    same_config = subject.bound is None and reference.model_config(path) == subject.config
    if same_config and names != subject.judged:
        return f"declared but not judged: {sorted(subject.judged - names)[:3]}"
    for name, axes, bound, tolerance in rows:
        if reference.outside(arrays[name], axes, bound, tolerance + 1e-9):
            return f"{name} lies outside {bound}"
    return ""


def run(subject: Subject, number: int, path: Path) -> tuple[str, str, Outcome]:
    """Audit one mutant: its kind and exit code, what must not be, and the outcome."""
    data, rezipped = mutant(subject.seed, number)
    path.write_bytes(data)
    outcome = forked(lambda: judged(path, subject), SECONDS + 5)
    kind = subject.seed.suffix + (" re-zipped" if rezipped else "")
    if outcome.failure:
        return f"{kind}: failed", outcome.failure, outcome
    code, rows, said = outcome.value
    problem = ""
    if outcome.seconds > SECONDS:
        problem = f"took {outcome.seconds:.1f} s"
    elif outcome.memory > MEMORY:
        problem = f"took {outcome.memory >> 20} MiB"
    elif code == 0:
        checked = forked(lambda: false_pass(path, subject, rows), SECONDS)
        problem = checked.value or checked.failure
    crashed = " (its reader crashed)" if "crashed" in said else ""
    return f"{kind}: exit {code}{crashed}", problem, outcome


def shard(todo: list[Subject], numbers: range, keep: Path | None, deadline: float) -> Tally:
    """Run the cases of these numbers, each with a subject in turn, until the time is over."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as directory:
        for number in numbers:
            if time.monotonic() > deadline:
                tally.following = number
                break
            subject = todo[number % len(todo)]
            path = Path(directory) / f"mutant{subject.seed.suffix}"
            label, problem, outcome = run(subject, number, path)
            tally.codes[label] += 1
            tally.slowest = max(tally.slowest, outcome.seconds)
            tally.largest = max(tally.largest, outcome.memory)
            if problem:
                tally.failures.append(f"{subject.seed.name} #{number}: {problem}")
                if keep is not None:
                    shutil.move(path, keep / f"{number}-{subject.seed.name}")
    return tally


def main(arguments: list[str] | None = None) -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="after which no case begins"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--corpus", default=os.environ.get("CKPTCLAMP_CORPUS"))
    parser.add_argument("--keep", type=Path, help="where mutants go that did what they must not")
    options = parser.parse_args(arguments)
    warm_workers()
    with tempfile.TemporaryDirectory() as directory:
        todo = list(subjects(Path(directory), options.corpus))
    started = time.monotonic()
    stop, deadline = options.first + options.count, started + options.seconds
    gc.freeze()  # a collection in a fork would copy every page of what was loaded
    tally = Tally()
    for part in in_parallel(
        [
            partial(shard, todo, range(start, stop, options.jobs), options.keep, deadline)
            for start in range(options.first, options.first + options.jobs)
        ]
    ):
        tally += part
    print(json.dumps(summary(tally, todo, time.monotonic() - started), indent=2))
    return 1 if tally.failures else 0


def summary(tally: Tally, todo: list[Subject], seconds: float) -> dict[str, Any]:
    """What is printed."""
    unfinished = {} if tally.following == math.inf else {"go_on_with_first": tally.following}
    return {
        **unfinished,
        "seconds": round(seconds),
        "cases": tally.codes.total(),
        "subjects": len(todo),
        "seeds": len({subject.seed.name for subject in todo}),
        "answers": dict(sorted(tally.codes.items())),
        "slowest_seconds": round(tally.slowest, 2),
        "largest_mebibytes": tally.largest >> 20,
        "failures": tally.failures,
    }


if __name__ == "__main__":
    sys.exit(main())
