"""A model to be judged in several ways, and its report without what differs between two runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from ckptclamp import AuditReport
from ckptclamp.reports import RenderOptions
from ckptclamp.reports.formats.json import render
from tests.checkpoints.safetensors_files import write_set

NORMS = {"id": "norms", "tensors": "*", "constraint": "MaxNorm", "max_value": 5.5, "axis": 0}
RULES: dict[str, Any] = {
    "version": 1,
    "rules": [
        NORMS,
        {
            "id": "whole",
            "tensors": "t0*",
            "constraint": "SpectralNorm",
            "max_value": 9,
            "axis": [0, 1],
        },
        {"id": "signs", "tensors": "t1*", "constraint": "NonNeg"},
    ],
}
SHARDS = 12


def saved(folder: Path, *, shards: bool) -> Path:
    """Save matrices of which some violate, one with a NaN: as one file, or as a set of shards."""
    random = np.random.default_rng(3)
    tensors = {
        f"t{i:02}": random.normal(size=(32, 40)).astype(np.float32) for i in range(2 * SHARDS)
    }
    tensors["t07"][3, 3] = np.nan
    if not shards:
        save_file(tensors, folder / "model.safetensors")
        return folder / "model.safetensors"
    names = list(tensors)
    return write_set(
        folder,
        {
            f"model-{n + 1:05}-of-{SHARDS:05}.safetensors": {
                name: tensors[name] for name in names[2 * n : 2 * n + 2]
            }
            for n in range(SHARDS)
        },
    )


def told(report: AuditReport) -> Any:
    """A report as JSON, without the time that it took."""
    document = json.loads(render(report, RenderOptions()))
    document["report"]["seconds"] = None
    return document
