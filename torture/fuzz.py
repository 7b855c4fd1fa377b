"""Coverage-guided fuzzing of every parser of ours: it answers, or refuses in one of its own words.

    python -m torture.fuzz TARGET … [--seconds N] [--jobs N]

Needs `atheris`. Each target runs in a process of its own, `--jobs` at a time; one line of JSON tells
of each. One that met an exception of another kind is told of with the traceback and the input.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ckptclamp"]):
    from ckptclamp.checkpoints import documents
    from ckptclamp.checkpoints.formats.safetensors import parse_header
    from ckptclamp.checkpoints.formats.zip.directory import read_directory
    from ckptclamp.checkpoints.opening import open_checkpoint, open_source
    from ckptclamp.checkpoints.source import Source
    from ckptclamp.checkpoints.tensor import KerasModel, Tensor
    from ckptclamp.errors import CkptclampError
    from ckptclamp.models.keras.model import BoundModel
    from ckptclamp.spec.loader import load_spec

from torture.mutating import FIXTURES  # after what it loads of ckptclamp was instrumented

PLACE = Path("fuzzed")
_RUNS = re.compile(r"^Done (\d+) runs", re.MULTILINE)
_TAIL = 20_000


def source(data: bytes) -> Source:
    """A file in memory with these bytes."""
    fd = os.memfd_create("fuzzed")
    os.write(fd, data)
    return Source.from_fd(fd, PLACE)


def header(data: bytes) -> None:
    """The header of a safetensors file, and how many bytes follow it."""
    parse_header(data[2:], int.from_bytes(data[:2]), limit=1 << 20, path=PLACE)


def zip_directory(data: bytes) -> None:
    """The directory of an archive."""
    opened = source(data)
    try:
        read_directory(opened)
    finally:
        opened.close()


def index(data: bytes) -> None:
    """The index of a sharded set, whose shards are not there."""
    open_source(source(b"{" + data)).close()


def spec(data: bytes) -> None:
    """A spec."""
    SPEC.write_bytes(data)
    load_spec(SPEC)


def config(data: bytes) -> None:
    """A model config, beside the weights of a sound archive."""
    document = documents.parse_document(data, "config.json", PLACE)
    keras, tensors = weights()
    assert isinstance(BoundModel(replace(keras, config=document), tensors).declarations, tuple)


@cache
def weights() -> tuple[KerasModel, Mapping[str, Tensor]]:
    """What the configs are read beside."""
    with open_checkpoint(FIXTURES / "conforming" / "unzipped_directory") as checkpoint:
        assert checkpoint.keras is not None
        return checkpoint.keras, checkpoint.tensors


def json_text(data: bytes) -> None:
    """Any JSON."""
    documents.parse_strict(data, max_depth=9, max_bytes=1 << 20, what="text", path=PLACE)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "header": header,
    "zip": zip_directory,
    "index": index,
    "spec": spec,
    "config": config,
    "json": json_text,
}
SPEC = Path(tempfile.gettempdir()) / f"ckptclamp-fuzzed-{os.getpid()}.yaml"


def seeds(target: str) -> list[bytes]:
    """Sound inputs to begin with."""
    conforming = FIXTURES / "conforming"
    if target == "header":
        data = (conforming / "dtypes.safetensors").read_bytes()
        length = int.from_bytes(data[:8], "little")
        return [(len(data) - 8 - length).to_bytes(2) + data[8 : 8 + length]]
    paths = {
        "zip": [conforming / "custom_clip.keras", conforming / "deflated_zip.keras"],
        "spec": sorted((FIXTURES / "specs").glob("*.yaml")),
        "config": [conforming / "unzipped_directory" / "config.json"],
        "index": [conforming / "sharded_transformer" / "model.safetensors.index.json"],
        "json": [conforming / "sharded_keras" / "model.weights.json"],
    }
    cut = 1 if target == "index" else 0
    return [path.read_bytes()[cut:] for path in paths[target]]


def fuzz(target: str, seconds: int) -> None:
    """Never returns: libFuzzer ends the process when the time is over, or at the first failure."""
    parse = TARGETS[target]

    def one(data: bytes) -> None:
        try:
            parse(data)
        except CkptclampError as error:
            if "\n" in str(error) and target != "spec":
                raise RuntimeError("an error of more than one line") from error

    with tempfile.TemporaryDirectory() as corpus:
        for number, data in enumerate(seeds(target)):
            (Path(corpus) / str(number)).write_bytes(data)
        limits = [f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048"]
        atheris.Setup([sys.argv[0], *limits, "-max_len=65536", corpus], one)
        atheris.Fuzz()


def in_a_process(target: str, seconds: int) -> bool:
    """Fuzz one target, tell of it, and return whether all was well."""
    command = [sys.executable, "-m", "torture.fuzz", target, "--seconds", str(seconds), "--here"]
    done = subprocess.run(command, capture_output=True, check=False)
    said = (done.stderr + done.stdout).decode(errors="replace")
    runs = _RUNS.findall(said)
    well = done.returncode == 0 and bool(runs)
    told = {"target": target, "seconds": seconds, "runs": int(runs[-1]) if runs else 0}
    print(json.dumps(told if well else {**told, "failed": said[-_TAIL:]}), flush=True)
    return well


def main() -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", choices=TARGETS, nargs="+", metavar="target")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--here", action="store_true", help="in this process, the first one only")
    options = parser.parse_args()
    if options.here:
        fuzz(options.targets[0], options.seconds)
    with ThreadPoolExecutor(options.jobs) as pool:
        well = list(pool.map(partial(in_a_process, seconds=options.seconds), options.targets))
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
