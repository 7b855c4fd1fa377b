"""How near a projected copy comes, by dtype: the table of `docs/numbers.md`.

    python benchmarks/nearest.py

For each dtype a file of normally distributed weights goes through ``ckptclamp apply --max-norm``; the
copy is compared with the exact projection, with rounding this to the nearest (which conforms for every
other unit only), and with a lower bound that no stored unit within the maximum can beat.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np

DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}
UNITS = 500
SIZES = (64, 256, 2048)


def main() -> None:
    """Print one row for each dtype and size of a unit."""
    print("| dtype | weights | shortfall, median | worst | distance / plain | distance / bound |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, dtype in DTYPES.items():
        for size in SIZES:
            print(row(name, np.dtype(dtype), size), flush=True)


def row(name: str, dtype: np.dtype, size: int) -> str:
    """Project one file and compare."""
    weights = np.random.default_rng(size).standard_normal((UNITS, size)).astype(dtype)
    target = 0.37 * size**0.5
    exact, stored = wide(weights), wide(projected(name, weights, target))
    exact *= (np.longdouble(target) / norm(exact))[:, None]
    near = wide(rounded(exact, dtype))
    short = 1 - norm(stored) / target
    plain, mine = norm(near - exact), norm(stored - exact)
    to_plain, to_bound = rms(mine) / rms(plain), rms(mine) / rms(bound(exact, target, dtype))
    return (
        f"| {dtype.name} | {size} | {np.median(short):.1e} | {short.max():.1e} "
        f"| {to_plain:.3f} | {to_bound:.3f} |"
    )


def projected(name: str, weights: np.ndarray, target: float) -> np.ndarray:
    """Write a safetensors file, apply, and read what came out."""
    entry = {"dtype": name, "shape": weights.shape, "data_offsets": [0, weights.nbytes]}
    header = json.dumps({"w": entry}).encode()
    head = len(header).to_bytes(8, "little") + header
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "w.safetensors"), Path(folder, "out.safetensors")
        before.write_bytes(head + weights.tobytes())
        options = ["--tensors", "w", "--axis", "1", "--max-norm", repr(target), "--tolerance", "0"]
        command = [sys.executable, "-m", "ckptclamp", "apply", str(before), "-o", str(after)]
        command += [*options, "--no-settings", "--quiet"]
        subprocess.run(command, check=True, cwd=folder, capture_output=True)
        data = after.read_bytes()[len(head) :]
    return np.frombuffer(data, weights.dtype).reshape(weights.shape)


def bound(exact: np.ndarray, target: float, dtype: np.dtype) -> np.ndarray:
    """How near any stored unit within the maximum can come at least: the Lagrangian dual."""
    low, high = np.zeros(len(exact), np.longdouble), np.ones(len(exact), np.longdouble)
    for _ in range(64):
        middle = (low + high) / 2
        fits = norm(wide(rounded(exact * middle[:, None], dtype))) <= target
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    near = wide(rounded(exact * low[:, None], dtype))
    room = np.longdouble(target) ** 2 - norm(near) ** 2
    plain = norm(wide(rounded(exact, dtype)) - exact) ** 2
    return np.sqrt(np.maximum(norm(near - exact) ** 2 - (1 / low - 1) * room, plain))


def rounded(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return (values if dtype == np.float64 else values.astype(np.float64)).astype(dtype)


def wide(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float64).astype(np.longdouble)


def norm(values: np.ndarray) -> np.ndarray:
    return np.sqrt((values * values).sum(axis=-1))


def rms(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))


if __name__ == "__main__":
    main()
