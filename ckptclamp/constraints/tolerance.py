"""How far outside a unit may lie and still conform, when nobody says."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptclamp.checkpoints.dtypes import StorageDType

FLOOR = 2e-6
"""What a float32 projection leaves behind at most, rounded up; see `auto_tolerance`."""


def auto_tolerance(dtype: StorageDType) -> float:
    """Return the relative tolerance that a storage dtype calls for: ``max(u, 2e-6)``.

    The larger of two errors that no conforming model can help:

    - Rounding to storage. Each weight moves by at most a relative u, the dtype's unit roundoff, so
      each of the norms that are judged moves by at most u too: ‖δ‖₂ ≤ u ‖w‖₂. For float16 that is
      4.9e-4, for bfloat16 3.9e-3, for float8_e4m3fn 6.25e-2.
    - Projecting in float32. Keras' formulas, run on TensorFlow, JAX, PyTorch and NumPy over units of
      several sizes, leave norms up to 2.3e-7 above a maximum, and up to 1.5e-6 away from 1 or below
      a minimum (their epsilon of 1e-7 pulls inward). Rounded up: 2e-6.

    Integers hold what they hold; the floor is all they get.
    """
    return max(dtype.unit_roundoff, FLOOR)
