"""What else lies in a model's directory that other loaders would take weights from."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ckptclamp.checkpoints.directories.unfinished import is_hidden
from ckptclamp.checkpoints.remote.path import RemotePath

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptclamp.checkpoints.checkpoint import Checkpoint

_MOST = 100_000
"""How many files are looked at, by name."""

_WEIGHTS = re.compile(
    r".+\.(?:bin|ckpt|gguf|h5|keras|msgpack|npz|onnx|pb|pth?|safetensors|tflite)", re.DOTALL
)
"""The names of files in which other loaders find weights."""

_NO_WEIGHTS = re.compile(
    r"training_args\.bin|(?:optimizer|scheduler|scaler)\.(?:bin|pth?)|rng_state(?:_\d+)?\.pth"
)
"""What trainers keep beside the weights under such a name: arguments and states of their own."""


def other_weights(checkpoint: Checkpoint) -> list[str]:
    """The files in the directory of `checkpoint` that may hold weights and are none of its own.

    By their names, and in order. A folder that cannot be looked into is named as well, and so is what
    lies behind very many files; where no directory was named, nothing is.
    """
    if checkpoint.folder is None:
        return []
    own = {source.path for source in checkpoint.files}
    found: list[str] = []
    for looked, (place, path) in enumerate(_files(checkpoint.folder, found)):
        if looked == _MOST:
            return [*sorted(found), f"what lies behind {_MOST:,} files"]
        named = _WEIGHTS.fullmatch(path.name) and not _NO_WEIGHTS.fullmatch(path.name)
        if named and path not in own:
            found.append(place)
    return sorted(found)


def _files(directory: Path, unread: list[str]) -> Iterator[tuple[str, Path]]:
    """Each file in `directory`, but those in the making; `unread` gets folders that cannot be read."""

    def place_of(path: Path) -> str:
        return path.relative_to(directory).as_posix()

    def keep(error: OSError) -> None:
        unread.append(f"{place_of(Path(error.filename))}/")

    if isinstance(directory, RemotePath):
        yield from ((name, directory / name) for name in sorted(directory.files() or ()))
        return
    for folder, folders, files in os.walk(directory, onerror=keep):
        folders[:] = [name for name in folders if not is_hidden(name)]
        for name in files:
            if not is_hidden(name):
                path = Path(folder) / name
                yield place_of(path), path
