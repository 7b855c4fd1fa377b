"""Indexes of sharded sets that lie, or lead out of their directory."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.checkpoints.keras_files import sharded
from tests.checkpoints.safetensors_files import encoded, entry, serialised
from torture.hostile.case import REFUSED, VIOLATED, Make, cases

INDEX = "model.safetensors.index.json"
SHARD = "model-00001-of-00001.safetensors"
LARGE = {"w": np.full(2, 1e6, np.float32)}


def index(content: bytes | Any) -> Make:
    """A good shard, and an index with this content."""

    def make(directory: Path) -> Path:
        (directory / SHARD).write_bytes(serialised(LARGE))
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (directory / INDEX).write_bytes(data)
        return directory / INDEX

    return make


def weight_map(**names: Any) -> Make:
    """An index with this map."""
    return index({"metadata": {}, "weight_map": names})


def beside(change: Callable[[Path], object]) -> Make:
    """A good set that `change` then changed."""

    def make(directory: Path) -> Path:
        path = weight_map(w=SHARD)(directory)
        change(directory)
        return path

    return make


def linked(directory: Path) -> None:
    """The shard becomes a link to a file elsewhere."""
    shard = directory / SHARD
    (directory / "elsewhere").mkdir()
    shard.rename(directory / "elsewhere" / SHARD)
    shard.symlink_to(directory / "elsewhere" / SHARD)


def piped(directory: Path) -> None:
    """The shard becomes a pipe that nobody writes to."""
    (directory / SHARD).unlink()
    os.mkfifo(directory / SHARD)


def whole_directory(make: Make) -> Make:
    """The same, named by its directory."""
    return lambda directory: make(directory).parent


def twin(directory: Path) -> None:
    """A second shard that holds the same tensor."""
    other = {"weight_map": {"w": SHARD, "v": "b.safetensors"}}
    (directory / "b.safetensors").write_bytes(serialised({"v": LARGE["w"]} | LARGE))
    (directory / INDEX).write_text(json.dumps(other))


def keras(change: Callable[[dict[str, Any], Path], object]) -> Make:
    """Keras' sharded weights, whose index `change` changed."""

    def make(directory: Path) -> Path:
        path = sharded(directory, {"model_00000.weights.h5": LARGE})
        content = json.loads(path.read_text())
        change(content, directory)
        path.write_text(json.dumps(content))
        return path

    return make


def point(name: str) -> Callable[[dict[str, Any], Path], object]:
    """Every entry leads to `name`."""

    def change(content: dict[str, Any], _: Path) -> None:
        content["weight_map"] = {key: [name] for key in content["weight_map"]}

    return change


CASES = cases(
    "index",
    (
        ("sound", weight_map(w=SHARD), VIOLATED, "w"),
        ("shard above", weight_map(w="../model.safetensors"), REFUSED, "plain"),
        ("shard below", weight_map(w="a/model.safetensors"), REFUSED, "plain"),
        ("shard absolute", weight_map(w="/etc/model.safetensors"), REFUSED, "plain"),
        ("shard hidden", weight_map(w=".model.safetensors"), REFUSED, "plain"),
        ("shard with NUL", weight_map(w="a\0.safetensors"), REFUSED, "plain"),
        ("shard with new line", weight_map(w="a\n.safetensors"), REFUSED, "plain"),
        ("shard of another alphabet", weight_map(w="\u0430.safetensors"), REFUSED, "plain"),
        ("shard of 5000 characters", weight_map(w="a" * 5000 + ".safetensors"), REFUSED, "plain"),
        ("shard is the index", weight_map(w=INDEX), REFUSED, "weight_map"),
        ("shard is missing", weight_map(w="b.safetensors"), REFUSED, "missing"),
        ("shard is linked", beside(linked), REFUSED, "symbolic link"),
        ("shard is a pipe", beside(piped), REFUSED, "regular"),
        ("shard is no checkpoint", beside(lambda d: (d / SHARD).write_bytes(b"x")), REFUSED, SHARD),
        ("shard is a number", weight_map(w=1), REFUSED, "weight_map"),
        ("some shards are numbers", weight_map(w=SHARD, v=1), REFUSED, "file names"),
        ("shard of two kinds", weight_map(w=SHARD, v="b.weights.h5"), REFUSED, "weight_map"),
        ("tensor missing", weight_map(w=SHARD, v=SHARD), REFUSED, "is not in"),
        ("tensor unlisted", weight_map(v=SHARD), REFUSED, "says"),
        ("tensor in two shards", beside(twin), REFUSED, "lies in"),
        ("no map", index({}), REFUSED, "weight_map"),
        ("empty map", weight_map(), REFUSED, "weight_map"),
        ("map is a list", index({"weight_map": [SHARD]}), REFUSED, "weight_map"),
        (
            "name twice",
            index(b'{"weight_map":{"w":"%s","w":"b"}}' % SHARD.encode()),
            REFUSED,
            "twice",
        ),
        ("no JSON", index(b'{"weight_map":'), REFUSED, "JSON"),
        ("deep", index(b'{"a":' * 3000 + b"1" + b"}" * 3000), REFUSED, "deeper"),
        ("lone surrogate", index(b'{"weight_map":{"\\ud800":"a"}}'), REFUSED, "surrogate"),
        (
            "too many shards",
            weight_map(**{f"w{n}": f"{n}.safetensors" for n in range(10_001)}),
            REFUSED,
            "over",
        ),
        (
            "unlisted shard beside it",
            whole_directory(beside(lambda d: (d / "b.safetensors").write_bytes(serialised(LARGE)))),
            REFUSED,
            "beside",
        ),
        (
            "shard of no tensors",
            beside(lambda d: (d / SHARD).write_bytes(encoded({}))),
            REFUSED,
            "is not in",
        ),
        (
            "shard with not a number",
            beside(
                lambda d: (d / SHARD).write_bytes(
                    encoded({"w": entry("F32", [1], 0, 4)}, struct.pack("<f", float("nan")))
                )
            ),
            VIOLATED,
            "w",
        ),
        ("keras sound", keras(lambda content, _: content), VIOLATED, "w"),
        ("keras shard above", keras(point("../model_00000.weights.h5")), REFUSED, "weights.h5"),
        ("keras shard absolute", keras(point("/model_00000.weights.h5")), REFUSED, "weights.h5"),
        ("keras shard is missing", keras(point("model_00001.weights.h5")), REFUSED, "model_0000"),
        (
            "keras shard is no HDF5",
            keras(lambda _, d: (d / "model_00000.weights.h5").write_bytes(b"x" * 99)),
            REFUSED,
            "HDF5",
        ),
    ),
)
