"""A model that conforms, and the ways in which it can be damaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tests.cli.conftest import fixtures, run  # noqa: F401 - the same program, the same files

Model = Mapping[str, NDArray[Any]]
Save = Callable[..., Path]

SPEC = """\
version: 1
rules:
  - id: bounded
    tensors: "*.weight"
    constraint: MaxNorm
    max_value: 1.0
    axis: 1
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a spec in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(SPEC)
    return tmp_path


@pytest.fixture
def save(folder: Path) -> Save:
    """Save a checkpoint whose tensors have rows of the given norms: ``save(a=[0.5, 2.0])``."""

    def call(file: str = "model.safetensors", **rows: list[float]) -> Path:
        tensors = {}
        for name, norms in rows.items():
            weights = np.zeros((len(norms), 4), np.float32)
            weights[:, 0] = norms
            tensors[f"{name}.weight"] = weights
        save_file(tensors, folder / file)
        return folder / file

    return call
