"""The JSON documents that Keras puts beside its weights: read strictly, never acted upon."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ckptclamp.checkpoints.description import KerasLayout, KerasModel
from ckptclamp.checkpoints.strict_json import parse_strict
from ckptclamp.errors import RefusedError

CONFIG = "config.json"
METADATA = "metadata.json"
WEIGHTS = "model.weights.h5"
MAX_BYTES = 64 << 20

_MAX_DEPTH = 256


def parse_document(data: bytes, what: str, path: Path) -> dict[str, Any]:
    """Parse a config or its metadata. ``Infinity`` and ``NaN`` are read: Keras writes them.

    Raises:
        RefusedError: it is no JSON object, is too large or deep, or repeats a key.
    """
    document = parse_strict(
        data, max_depth=_MAX_DEPTH, max_bytes=MAX_BYTES, what=what, allow_infinity=True, path=path
    )
    if not isinstance(document, dict):
        raise RefusedError(f"the {what} is no JSON object", path=path)
    return document


def join_documents(
    path: Path,
    weights: KerasModel | None,
    config: Mapping[str, Any],
    metadata: Mapping[str, Any] | None,
) -> KerasModel:
    """Join what the documents say of a model with what its weights file does.

    Raises:
        RefusedError: the weights are laid out as no version of Keras lays them out beside a config.
    """
    model = weights or KerasModel(KerasLayout.V3)
    if model.layout is not KerasLayout.V3:
        raise RefusedError(f"{WEIGHTS} is laid out as a legacy file", path=path)
    version = (metadata or {}).get("keras_version")
    return replace(model, config=config, version=version if isinstance(version, str) else None)
