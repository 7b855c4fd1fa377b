"""How far outside a unit may lie and still conform, when nobody says."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptclamp.checkpoints.dtypes import StorageDType

FLOOR = 2e-6
"""What a float32 projection leaves behind at most, rounded up; see `auto_tolerance`."""


_TRAINED = frozenset({"float16", "bfloat16"})
"""The narrow dtypes in which models are trained, not only stored."""


def auto_tolerance(dtype: StorageDType) -> float:
    """Return the relative tolerance that a storage dtype calls for: ``max(k u, 2e-6)``.

    The largest of the errors that no conforming model can help; u is the dtype's unit roundoff:

    - Rounding to storage. Each weight moves by at most a relative u, so each of the norms that are
      judged moves by at most u too: ‖δ‖₂ ≤ u ‖w‖₂. Hence k = 1: 6.25e-2 for float8_e4m3fn.
    - Projecting in float16 or bfloat16, as Keras does where a model is trained in them. The norm,
      the factor and the product are each rounded, so k = 3: 1.5e-3 and 1.2e-2. (Seen: 2.97 u in
      float16, 1.6 u in bfloat16.)
    - Projecting in float32. Keras' formulas, run on TensorFlow, JAX, PyTorch and NumPy over units of
      several sizes, leave norms up to 2.3e-7 above a maximum, and up to 1.5e-6 away from 1 or below
      a minimum (their epsilon of 1e-7 pulls inward). Rounded up, the floor of all dtypes: 2e-6.

    - Quantising to int8 or int4. The weights that such integers stand for have a u of half a step,
      relative to the largest weight that shares their scale: 1/254 and 1/14.

    Integers that are judged as they are hold what they hold; the floor is all they get.
    """
    roundings = 3 if dtype.name in _TRAINED else 1
    return max(roundings * dtype.unit_roundoff, FLOOR)
