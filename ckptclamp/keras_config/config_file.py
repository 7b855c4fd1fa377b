"""The model config that a weights-only file lacks, read from a file beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptclamp.checkpoints.source import Source
from ckptclamp.checkpoints.strict_json import parse_strict
from ckptclamp.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

_LARGEST = 64 << 20
_DEEPEST = 200


def read_model_config(path: Path) -> Mapping[str, Any]:
    """Return the config in `path`: what ``model.to_json()`` gives, or inside a Keras checkpoint.

    Raises:
        UnreadableError: the file cannot be read, or is neither JSON nor a checkpoint.
        UsageError: it holds no model config.
    """
    source = Source.open(path)
    try:
        starts_as_json = source.read_at(0, min(1, source.size)) == b"{"
        config = _from_json(source) if starts_as_json else _from_checkpoint(path)
    finally:
        source.close()
    if not isinstance(config, dict) or not isinstance(config.get("config"), (dict, list)):
        raise UsageError(
            "holds no model config", path=path, hint="give what model.to_json() returns"
        )
    return config


def _from_json(source: Source) -> object:
    if source.size > _LARGEST:
        raise UsageError(f"is over {_LARGEST >> 20} MiB, too large for a config", path=source.path)
    return parse_strict(
        source.read_at(0, source.size),
        max_depth=_DEEPEST,
        max_bytes=_LARGEST,
        what=f"the model config {source.path}",
        allow_infinity=True,
    )


def _from_checkpoint(path: Path) -> object:
    from ckptclamp.checkpoints.registry import open_checkpoint

    with open_checkpoint(path) as checkpoint:
        return checkpoint.keras.config if checkpoint.keras else None
