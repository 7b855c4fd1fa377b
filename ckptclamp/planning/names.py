"""The names by which a spec may mean a tensor: its own, its aliases, its label."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptclamp.checkpoints.checkpoint import Checkpoint
    from ckptclamp.checkpoints.description import Tensor


def labels_of(checkpoint: Checkpoint) -> Mapping[str, str]:
    """The friendlier names that Keras gives weights, by the full name."""
    if checkpoint.keras is None:
        return {}
    from ckptclamp.keras_config import variable_labels

    return variable_labels(checkpoint.keras, checkpoint.tensors)


def names_of(tensor: Tensor, label: str | None) -> tuple[str, ...]:
    """Every name of one tensor; `label` is its own of `labels_of`, if it has one."""
    own = (tensor.name, *tensor.aliases)
    return own if label is None or label in own else (*own, label)


def all_names(checkpoint: Checkpoint) -> Mapping[str, tuple[str, ...]]:
    """Every name of every tensor, by the full name."""
    labels = labels_of(checkpoint)
    return {name: names_of(tensor, labels.get(name)) for name, tensor in checkpoint.tensors.items()}
