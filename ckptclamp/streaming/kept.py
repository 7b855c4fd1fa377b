"""Measurements that are kept from one pass for the next, as far as memory allows.

What an audit has measured need not be measured again before weights are moved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptclamp.streaming.requests import Batch, Measurement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptclamp.checkpoints.description import Tensor

Key = tuple[str, str]
"""The names of a tensor and of a rule."""


class Kept:
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
        if not isinstance(answer, Batch):
            self._forget(key)
            return
        self._room -= _bytes(answer)
        self._batches.setdefault(key, []).append(answer)
        if self._room < 0:
            self._forget(key)

    def take(self, tensor: Tensor, rule: str) -> Sequence[Batch]:
        """Return everything that was answered for a tensor and a rule, or nothing; once."""
        return self._remove((tensor.name, rule))

    def _remove(self, key: Key) -> list[Batch]:
        batches = self._batches.pop(key, [])
        self._room += sum(map(_bytes, batches))
        return batches

    def _forget(self, key: Key) -> None:
        self._forgotten.add(key)
        self._remove(key)


def _bytes(batch: Batch) -> int:
    statistics = batch.statistics
    return statistics.nonfinite.nbytes + sum(value.nbytes for value in statistics.values.values())
