"""The base checkpoint that another was made from: seen as one with its adapter, or compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.checkpoints.tensor import Computed, Contiguous, Tensor
from ckptclamp.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import Checkpoint
    from ckptclamp.checkpoints.tensor import Box, Read

SAFETENSORS = "safetensors"


def add_base(checkpoint: Checkpoint, base: Checkpoint) -> None:
    """Give `checkpoint` the files and tensors of `base` as well; it then owns these files.

    Raises:
        UsageError: one of them is no safetensors checkpoint.
        RefusedError: both hold a tensor of one name.
    """
    for one in (checkpoint, base):
        if not one.format.startswith(SAFETENSORS):
            raise UsageError("an adapter and its base are safetensors files", path=one.path)
    twice = sorted(checkpoint.tensors.keys() & base.tensors.keys())
    if twice:
        raise RefusedError(
            f"its base {base.path} holds a tensor of this name, too",
            path=checkpoint.path,
            tensor=twice[0],
        )
    first = len(checkpoint.sources)
    added = {name: _from(tensor, first) for name, tensor in base.tensors.items()}
    for source in base.files:
        if source not in base.sources:
            source.close()
    checkpoint.sources += base.sources
    checkpoint.tensors = {**added, **checkpoint.tensors}
    checkpoint.unlisted += base.unlisted
    checkpoint.quantisation = checkpoint.quantisation or base.quantisation
    if checkpoint.config() is None:
        config = base.config()
        checkpoint.config = lambda: config
    checkpoint.configs = {**base.configs, **checkpoint.configs}
    checkpoint.base, checkpoint.merged = base, True


def compare_with(checkpoint: Checkpoint, base: Checkpoint) -> None:
    """Give `checkpoint` a `base` that it was made from; its files are then closed together."""
    checkpoint.base = base
    checkpoint.companions += (*base.files, *base.sources)


def _from(tensor: Tensor, first: int) -> Tensor:
    """The same tensor where the sources of its checkpoint are counted from `first`."""
    if not isinstance(tensor.storage, Contiguous):
        return tensor
    return replace(tensor, storage=replace(tensor.storage, source=tensor.storage.source + first))


@dataclass(frozen=True, slots=True, eq=False)
class Elsewhere(Computed):
    """Weights of another checkpoint in float64, whoever is asked for them."""

    tensor: Tensor
    read: Read

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """See `Computed.parts`."""
        return (self.tensor,)

    @property
    def stored_as(self) -> str:
        """See `Computed.stored_as`."""
        return f"{self.tensor.dtype_name} weights of another checkpoint"

    def compute(self, read: Read, tensor: Tensor, box: Box, out: NDArray[Any]) -> None:
        """See `Computed.compute`; `read` reads the wrong checkpoint."""
        del read, tensor
        out[...] = self.read(self.tensor, box)


def elsewhere(tensor: Tensor, checkpoint: Checkpoint) -> Tensor:
    """Return `tensor` of `checkpoint` as one that any other checkpoint reads, in float64."""
    storage = Elsewhere(tensor, checkpoint.read)
    return replace(tensor, dtype=DTYPES["float64"], dtype_name="float64", storage=storage)
