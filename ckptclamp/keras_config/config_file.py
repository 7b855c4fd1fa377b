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
_HEAD = 4096
"""Bytes in which a JSON document has begun, whatever white space comes before it."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_model_config(path: Path) -> Mapping[str, Any]:
    """Return the config in `path`: what ``model.to_json()`` gives, or inside a Keras checkpoint.

    ``json.dump(model.to_json(), file)`` writes that text as a JSON string; it is read as well.

    Raises:
        UnreadableError: the file cannot be read, or is neither JSON nor a checkpoint.
        UsageError: it holds no model config.
    """
    source = Source.open(path)
    try:
        config = _from_json(source) if _starts_as_json(source) else _from_checkpoint(path)
    finally:
        source.close()
    if not isinstance(config, dict) or not isinstance(config.get("config"), (dict, list)):
        raise UsageError(
            "holds no model config", path=path, hint="give what model.to_json() returns"
        )
    return config


def _starts_as_json(source: Source) -> bool:
    head = source.read_at(0, min(_HEAD, source.size))
    return head.removeprefix(_BYTE_ORDER_MARK).lstrip(b" \t\r\n").startswith((b"{", b'"'))


def _from_json(source: Source) -> object:
    if source.size > _LARGEST:
        raise UsageError(f"is over {_LARGEST >> 20} MiB, too large for a config", path=source.path)
    document = _parsed(source.read_at(0, source.size).removeprefix(_BYTE_ORDER_MARK), source.path)
    return _parsed(document.encode(), source.path) if isinstance(document, str) else document


def _parsed(data: bytes, path: Path) -> object:
    return parse_strict(
        data,
        max_depth=_DEEPEST,
        max_bytes=_LARGEST,
        what="model config",
        allow_infinity=True,
        path=path,
    )


def _from_checkpoint(path: Path) -> object:
    from ckptclamp.checkpoints.registry import open_checkpoint

    with open_checkpoint(path) as checkpoint:
        return checkpoint.keras.config if checkpoint.keras else None
