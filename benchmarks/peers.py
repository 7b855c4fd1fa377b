"""What others do for the same answer, each a program for a process of its own.

Each takes files and prints nothing. The scripts compute the norm of every row.
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

SCRIPTS = {"torch": TORCH, "numpy": NUMPY}

# It only reads: that is what an audit has to do at least.
H5PY = """
import sys, h5py
with h5py.File(sys.argv[1]) as f:
    for name in f:
        f[name]["kernel"][()]
"""

KERAS_MODEL = """
import sys, keras
layers = [keras.Input((2048,))]
for i in range(31):
    layers.append(keras.layers.Dense(2048, use_bias=False, kernel_constraint=keras.constraints.MaxNorm(1.0)))
keras.Sequential(layers).save(sys.argv[1])
"""

KERAS = """
import sys, keras
model = keras.saving.load_model(sys.argv[1], compile=False)
for layer in model.layers:
    layer.kernel.assign(layer.kernel_constraint(layer.kernel))
model.save(sys.argv[2])
"""


def installed(python: str, *modules: str) -> bool:
    """Whether `python` can import all of `modules`."""
    done = subprocess.run(
        [python, "-c", f"import {', '.join(modules)}"], capture_output=True, check=False
    )
    return done.returncode == 0
