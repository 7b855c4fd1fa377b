"""An adapter together with the base checkpoint that it adapts, as one checkpoint to be read."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptclamp.checkpoints.tensor import Contiguous, Tensor
from ckptclamp.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from ckptclamp.checkpoints.checkpoint import Checkpoint

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


def _from(tensor: Tensor, first: int) -> Tensor:
    """The same tensor where the sources of its checkpoint are counted from `first`."""
    if not isinstance(tensor.storage, Contiguous):
        return tensor
    return replace(tensor, storage=replace(tensor.storage, source=tensor.storage.source + first))
