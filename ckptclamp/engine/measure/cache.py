"""Answers that are kept: what an audit measured, a projection need not measure again."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ckptclamp.checkpoints.tensor import one_run
from ckptclamp.constraints.base import UnitStatistics
from ckptclamp.engine.measure.requests import Batch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckptclamp.checkpoints.tensor import Box, Tensor
    from ckptclamp.engine.measure.requests import Measurement, Request

Key = tuple[str, str]
"""The names of a tensor and of a rule."""


class MeasurementCache:
    """What `measure` answered, up to `memory` bytes.

    A tensor of which one piece does not fit is forgotten, and so is one that was not answered unit
    by unit.
    """

    def __init__(self, memory: int) -> None:
        self._room = memory
        self._batches: dict[Key, list[Batch]] = {}
        self._forgotten: set[Key] = set()

    def add(self, tensor: Tensor, rule: str, answer: Measurement) -> None:
        """Keep `answer` about `tensor` under `rule`, if it may be of use."""
        key = (tensor.name, rule)
        if key in self._forgotten:
            return
        if isinstance(answer, Batch):
            self._room -= answer.statistics.nbytes
            self._batches.setdefault(key, []).append(answer)
        if not isinstance(answer, Batch) or self._room < 0:
            self._forgotten.add(key)
            self._remove(key)

    def take(self, tensor: Tensor, rule: str) -> Sequence[Batch]:
        """Return everything that was answered for a tensor and a rule, or nothing; once."""
        return self._remove((tensor.name, rule))

    def _remove(self, key: Key) -> list[Batch]:
        batches = self._batches.pop(key, [])
        self._room += sum(batch.statistics.nbytes for batch in batches)
        return batches


class KnownStatistics:
    """What kept answers say of the units of a request: of each of them once, or nothing."""

    def __init__(self, request: Request, answers: Sequence[Batch]) -> None:
        self._kept = request.kept
        self._shape = tuple(request.tensor.shape[axis] for axis in self._kept)
        self._by_box = {answer.units: answer.statistics for answer in answers}
        if len(self._by_box) < len(answers) or sum(map(len, self._by_box.values())) != math.prod(
            self._shape
        ):
            self._by_box = {}
        self._in_order = self._joined(answers) if self._by_box else None

    def of(self, box: Box) -> UnitStatistics | None:
        """The statistics of the units in `box` of the tensor, if they are known in one piece."""
        units = tuple(box[axis] for axis in self._kept)
        if self._in_order is not None and (run := one_run(self._shape, units, 1)) is not None:
            return self._in_order.part(slice(run[0], run[0] + run[1]))
        return self._by_box.get(units)

    def of_all(self, boxes: Iterable[Box]) -> UnitStatistics | None:
        """The statistics of the units in several boxes, one after another, if all are known."""
        parts = []
        for box in boxes:
            part = self.of(box)
            if part is None:
                return None
            parts.append(part)
        return parts[0] if len(parts) == 1 else UnitStatistics.joined(parts)

    def _joined(self, answers: Sequence[Batch]) -> UnitStatistics | None:
        """Join the answers if they come in C order of the units, as most do."""
        count = 0
        for answer in answers:
            if one_run(self._shape, answer.units, 1) != (count, len(answer.statistics)):
                return None
            count += len(answer.statistics)
        return UnitStatistics.joined([answer.statistics for answer in answers])
