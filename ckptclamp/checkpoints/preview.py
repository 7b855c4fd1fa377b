"""A copy that is never made: for showing what a projection would change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptclamp.checkpoints.copying import NO_BYTES
from ckptclamp.checkpoints.description import Constant
from ckptclamp.errors import NotWrittenError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import Checkpoint
    from ckptclamp.checkpoints.description import Box, Tensor


class Preview:
    """Reads from the checkpoint and forgets what is written. Stands where a `Copy` stands."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def read(self, tensor: Tensor, box: Box, buffer: memoryview | None = None) -> NDArray[Any]:
        """Return the box as the checkpoint has it."""
        return self._checkpoint.read(tensor, box, buffer)

    def write(self, tensor: Tensor, box: Box, values: NDArray[Any]) -> None:
        """Forget `values`.

        Raises:
            NotWrittenError: a copy could not hold them either.
        """
        if isinstance(tensor.storage, Constant):
            raise NotWrittenError(NO_BYTES, path=self._checkpoint.path, tensor=tensor.name)

    files = ()

    def finish(self) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""

    def compare(self, jobs: int) -> None:
        """Do nothing."""

    def reopen(self) -> Checkpoint:
        """There is nothing to open."""
        raise NotImplementedError
