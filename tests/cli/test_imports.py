"""What a start imports: a small audit takes no longer than that, so nothing comes along unasked."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

LOADED = """
import sys
sys.argv[0] = "ckptclamp"
from ckptclamp.cli import main
try:
    main()
except SystemExit as left:
    print(left.code, *(name.partition(".")[0] for name in [*sys.modules]), file=sys.stderr)
"""
HEAVY = {"h5py", "jinja2", "ml_dtypes", "numpy", "obstore", "rich", "yaml", "zlib_ng"}
RULE = ["--tensors", "**", "--max-norm", "9", "--axis", "0"]


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (["--help"], set()),
        (["audit", "model.safetensors", *RULE], {"numpy"}),
        (["audit", "model.safetensors", "--spec", "spec.yaml"], {"numpy", "yaml"}),
        (["audit", "model.safetensors", *RULE, "-f", "json"], {"numpy"}),
        (["audit", "model.safetensors", *RULE, "-f", "html"], {"numpy", "jinja2"}),
    ],
    ids=["help", "rule", "spec", "json", "html"],
)
def test_only_what_is_needed_is_imported(arguments, needed, tmp_path):
    """NumPy where weights are read, PyYAML for a spec, Jinja2 for a page; nothing else."""
    save_file({"kernel": np.ones((2, 2), np.float32)}, tmp_path / "model.safetensors")
    rule = "{tensors: kernel, constraint: MaxNorm, max_value: 9, axis: 0}"
    (tmp_path / "spec.yaml").write_text(f"version: 1\nrules: [{rule}]\n")
    start = [sys.executable, "-c", LOADED, *arguments]
    done = subprocess.run(start, cwd=tmp_path, capture_output=True, text=True, check=True)
    code, *loaded = done.stderr.splitlines()[-1].split()
    assert code == "0"
    assert HEAVY & set(loaded) == needed
