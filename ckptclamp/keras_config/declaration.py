"""What a Keras model declares about its own weights, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ckptclamp.notices import Notice


@dataclass(frozen=True, slots=True)
class Declaration:
    """One ``*_constraint`` of one layer, and the tensors that it governs.

    `layer` is the path of layer names in the config (``outer/dense``), `argument` the constructor's
    argument (``kernel_constraint``), `serialised` the constraint as it stands in the config.
    `tensors` are full tensor names; `labels` the friendly name of each (``dense/kernel``), ``None``
    where another tensor has the same. When
    `not_evaluated` holds a reason there are no tensors to judge, and `hint` says what would help.
    A declaration that is known to govern nothing has neither tensors nor a reason, but a notice.
    """

    layer: str
    layer_class: str
    argument: str
    serialised: Mapping[str, Any] | str
    tensors: tuple[str, ...] = ()
    labels: tuple[str | None, ...] = ()
    not_evaluated: str | None = None
    hint: str | None = None
    notices: tuple[Notice, ...] = ()
