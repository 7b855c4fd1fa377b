"""Real checkpoints: every constraint that they declare is mapped to the tensor it governs."""

from __future__ import annotations

import ast
import csv
import os
from pathlib import Path

import pytest

from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.models.keras.model import BoundModel

CORPUS = Path(os.environ.get("CKPTCLAMP_CORPUS", ""))

pytestmark = pytest.mark.skipif(
    not CORPUS.name, reason="CKPTCLAMP_CORPUS names no directory of real checkpoints"
)


def expected():
    """Rows of EXPECTED.tsv by file."""
    rows: dict[str, list[dict[str, str]]] = {}
    if CORPUS.name:
        with (CORPUS / "EXPECTED.tsv").open(newline="") as table:
            for row in csv.DictReader(table, delimiter="\t"):
                rows.setdefault(row["path"], []).append(row)
    return sorted(rows.items())


@pytest.mark.parametrize(("path", "rows"), expected(), ids=lambda value: str(value)[:60])
def test_declared_constraints_of_real_files(path, rows):
    """No declaration of a real file is missed, invented or mapped to another tensor."""
    with open_checkpoint(CORPUS / path) as checkpoint:
        assert checkpoint.keras is not None
        declarations = BoundModel(checkpoint.keras, checkpoint.tensors).declarations
        found = {}
        for declaration in declarations:
            assert declaration.not_evaluated is None
            (name,) = declaration.tensors
            shape = checkpoint.tensors[name].shape
            found[declaration.layer, declaration.argument] = (name, shape)
    wanted = {(row["layer"], row["field"]): row for row in rows}
    assert found.keys() == wanted.keys()
    for key, (name, shape) in found.items():
        assert name.endswith("/" + wanted[key]["tensor"])
        assert shape == ast.literal_eval(wanted[key]["shape"])
