"""What others do for the same answer, each a program for a process of its own.

Each takes a file and prints nothing; the norm of every row is what is computed.
"""

from __future__ import annotations

import subprocess

TORCH = """
import sys, torch
from safetensors import safe_open
torch.set_num_threads(2)
with safe_open(sys.argv[1], "pt") as f:
    for name in f.keys():
        torch.linalg.vector_norm(f.get_tensor(name), dim=1).max().item()
"""

NUMPY = """
import sys, numpy as np
from safetensors import safe_open
with safe_open(sys.argv[1], "np") as f:
    for name in f.keys():
        np.linalg.norm(f.get_tensor(name), axis=1).max()
"""

H5PY = """
import sys, h5py, numpy as np
with h5py.File(sys.argv[1]) as f:
    for name in f:
        np.linalg.norm(f[name]["kernel"][()], axis=1).max()
"""


def installed(python: str, *modules: str) -> bool:
    """Whether `python` can import all of `modules`."""
    done = subprocess.run(
        [python, "-c", f"import {', '.join(modules)}"], capture_output=True, check=False
    )
    return done.returncode == 0
