"""What a ``config.json`` next to a safetensors checkpoint says of the quantisation of its weights."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

from ckptclamp.checkpoints.documents import parse_strict
from ckptclamp.checkpoints.dtypes import CODE_DTYPES
from ckptclamp.checkpoints.source import Source
from ckptclamp.checkpoints.tensor import Unreadable
from ckptclamp.errors import RefusedError, UnreadableError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ckptclamp.checkpoints.checkpoint import Checkpoint

_NAME: Final = "config.json"
_LARGEST: Final = 8 << 20
_DEEPEST: Final = 64
_KEYS: Final = ("quantization_config", "compression_config")


def stated_quantisation(
    checkpoint: Checkpoint, *, follow_symlinks: bool
) -> Mapping[str, Any] | Unreadable | None:
    """Return what the config in the directory of `checkpoint` says; ``None`` where it says nothing.

    It is read only where a tensor has a dtype that codes have. A config that cannot be read is
    `Unreadable`, with the reason.
    """
    path = checkpoint.path.parent / _NAME
    dtypes = {tensor.dtype.name for tensor in checkpoint.tensors.values() if tensor.dtype}
    if dtypes.isdisjoint(CODE_DTYPES) or not os.path.lexists(path):
        return None
    try:
        config = _read(path, follow_symlinks=follow_symlinks)
    except UnreadableError as error:
        return Unreadable(f"{_NAME}: {error.message}")
    return _quantisation(config)


def _read(path: Path, *, follow_symlinks: bool) -> Mapping[str, Any]:
    with closing(Source.open(path, follow_symlinks=follow_symlinks)) as source:
        if source.size > _LARGEST:
            raise RefusedError(f"is over {_LARGEST >> 20} MiB, too large for a config", path=path)
        config = parse_strict(
            source.read_at(0, source.size),
            max_depth=_DEEPEST,
            max_bytes=_LARGEST,
            what="config",
            allow_infinity=True,
            path=path,
        )
    if not isinstance(config, dict):
        raise RefusedError("is no JSON object", path=path)
    return config


def _quantisation(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The first mapping that states a quantisation: of the model, or of its language model."""
    inner = config.get("text_config")
    for place in (config, inner if isinstance(inner, dict) else {}):
        for key in _KEYS:
            stated = place.get(key)
            if stated is not None:
                return stated if isinstance(stated, dict) else {}
    return None
