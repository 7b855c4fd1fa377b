"""What the files of a checkpoint are called."""

from __future__ import annotations

from collections.abc import Mapping

from ckptclamp.checkpoints.keras_documents import CONFIG, METADATA, WEIGHTS

SHARDS: Mapping[str, str] = {
    ".safetensors.index.json": ".safetensors",
    ".weights.json": ".weights.h5",
}
"""How the names of indexes end, and those of their shards."""

KERAS_DIRECTORY = frozenset({CONFIG, WEIGHTS})
"""The files that make a directory an unzipped Keras archive."""

CHECKPOINTS = (".safetensors", ".h5", ".keras", *SHARDS)
"""How the names of files with weights, and of indexes, end."""

PARTS = (CONFIG, METADATA, *CHECKPOINTS)
"""How the names of files end that belong to a directory that is a checkpoint."""
