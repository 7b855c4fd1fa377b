"""One number a unit, laid out so that it broadcasts over a block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Spread:
    """Spreads numbers of the units of a block of `shape` over its part at `place`."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    place: tuple[slice, ...]

    def __call__(self, per_unit: Any) -> NDArray[Any]:  # noqa: ANN401 - a number or an array
        """Return something that broadcasts with the part of the block."""
        value = np.asarray(per_unit)
        if value.ndim == 0:
            return value
        value = value.reshape([1 if i in self.axes else n for i, n in enumerate(self.shape)])
        return value[
            tuple(slice(None) if i in self.axes else part for i, part in enumerate(self.place))
        ]
