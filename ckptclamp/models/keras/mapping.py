"""From a Keras model and its tensors to where each layer's variables are, in either layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptclamp.checkpoints.tensor import KerasLayout
from ckptclamp.models.keras.legacy import bind_legacy
from ckptclamp.models.keras.tree import read_model
from ckptclamp.models.keras.v3 import bind_v3

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptclamp.checkpoints.tensor import KerasModel, Tensor
    from ckptclamp.models.keras.binding import Bindings
    from ckptclamp.models.keras.tree import Layer


def bind(model: KerasModel, tensors: Mapping[str, Tensor]) -> tuple[Layer | None, Bindings]:
    """The tree of the config's layers and a binding for each of them; no tree without a config.

    Raises:
        RefusedError: the config nests layers deeper than 64 levels.
    """
    if model.config is None:
        return None, {}
    root = read_model(model.config)
    bind_layout = bind_legacy if model.layout is KerasLayout.LEGACY else bind_v3
    return root, bind_layout(model, root, tensors)
