"""Tensors of which more is known than their norms, by their names and by their weights.

A name only proposes. What is proposed is judged as an audit would judge it, and counts where all of
the weights conform; so no bound is ever written that the checkpoint does not keep.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final

from ckptclamp.auditing.options import Reporting
from ckptclamp.auditing.results import Verdict
from ckptclamp.auditing.verdicts import judge
from ckptclamp.constraints.sets.linear import Clip, NonNeg
from ckptclamp.constraints.sets.norms import UnitNorm
from ckptclamp.frozen import frozen
from ckptclamp.plan import Assignment, Origin
from ckptclamp.plan.tensors import keras_model, stored
from ckptclamp.plan.tolerances import Histories, forgiving
from ckptclamp.spec.model import Leeway

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptclamp.auditing.options import Running
    from ckptclamp.checkpoints.checkpoint import Checkpoint
    from ckptclamp.checkpoints.tensor import Tensor
    from ckptclamp.constraints.base import Constraint

_DICTIONARY: Final = re.compile(r"(?:^|[./])(?:W_dec|decoder\.weight)$")
_SCALE: Final = re.compile(r"(?:^|[./])logit_scale$")
_VARIANCE: Final = re.compile(r"(?:^|[./])(?:running_var|moving_variance)$")

LARGEST_LOGIT_SCALE: Final = math.log(100)
"""CLIP keeps the factor of its logits, e to the power of this, at most 100 (Radford et al., 2021)."""


@frozen
class Recognised:
    """What is known of a tensor. `axes` are the reduced ones, ``None`` where there is none to state.

    `otherwise` is why its norms show no bound even if its weights do not conform.
    """

    constraint: Constraint
    axes: tuple[int, ...] | None
    why: str
    otherwise: str | None = None


def recognise(
    checkpoint: Checkpoint, named: Mapping[str, Tensor], running: Running
) -> tuple[dict[str, Recognised], dict[str, str]]:
    """Return what is known of some tensors of `checkpoint`, and why others have no bound, by full name.

    `named` are the tensors by the names that tell what they are for. Of several proposals for one
    tensor the first that its weights keep counts.
    """
    proposed = [(tensor, r) for name, tensor in named.items() for r in _proposals(name, tensor)]
    histories = Histories(keras_model(checkpoint))
    results = judge(
        checkpoint, [_pair(*one, histories) for one in proposed], running, Reporting(worst=0)
    )
    found: dict[str, Recognised] = {}
    without: dict[str, str] = {}
    for (tensor, recognised), result in zip(proposed, results, strict=True):
        if result.verdict is Verdict.PASS:
            found.setdefault(tensor.name, recognised)
        elif recognised.otherwise is not None:
            without[tensor.name] = recognised.otherwise
    return found, without


def _proposals(name: str, tensor: Tensor) -> Iterator[Recognised]:
    """What a tensor of this name may be, the likelier first."""
    if _DICTIONARY.search(name) and len(tensor.shape) > 1:
        yield from _dictionary(name, tensor)
    if _SCALE.search(name):
        why = "CLIP multiplies its logits by e to this power, and by at most 100"
        beyond = "a scale of logits, and beyond ln 100, where CLIP keeps it"
        yield Recognised(Clip(-math.inf, LARGEST_LOGIT_SCALE), None, why, beyond)
    if _VARIANCE.search(name):
        why = "A variance is never negative; how large it may be depends on the data"
        yield Recognised(
            NonNeg(), None, why, "a variance, and some of it is negative or not finite"
        )


def _dictionary(name: str, tensor: Tensor) -> Iterator[Recognised]:
    """Decoder rows of a sparse autoencoder: by name (latents, inputs), as a layer of PyTorch transposed.

    Which layout it is the norms decide; the usual one counts where both ways all norms are 1.
    """
    rank = len(tensor.shape)
    usual = rank - 1 if name.endswith("W_dec") else rank - 2
    why = "Latents of a sparse autoencoder write in directions of norm 1"
    for axis in (usual, 2 * rank - 3 - usual):
        yield Recognised(UnitNorm(), (axis,), why)


def _pair(tensor: Tensor, recognised: Recognised, histories: Histories) -> Assignment:
    """What a rule would make an audit judge."""
    pair = Assignment(
        tensor=tensor,
        constraint=stored(recognised.constraint, tensor),
        axes=recognised.axes or (),
        rule="recognised",
        origin=Origin.SPEC,
        why=recognised.why,
    )
    judged = forgiving(pair, Leeway(), histories)
    assert isinstance(judged, Assignment)
    return judged
