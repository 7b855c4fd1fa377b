"""Low-rank updates: scale · B·A from the two factors of an adapter, alone or with their base weight.

Sources: ``LoraLayer.get_delta_weight`` and ``get_pattern_key`` of peft (``adapter_config.json`` tells
the scale: alpha / r, or alpha / √r with rslora, by module where a pattern says so), and the ``alpha``
that kohya's scripts store beside ``lora_down`` and ``lora_up`` (alpha / r; 1 where there is none). DoRA
(``DoraLinearLayer``) gives each row of the merged weight the length that is stored for it.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ckptclamp.checkpoints.tensor import Computed, Unreadable
from ckptclamp.errors import printable
from ckptclamp.frozen import frozen
from ckptclamp.models.effective.members import Members, NeedsBaseError, NotComputedError, extents
from ckptclamp.models.effective.numbers import Plain, cut
from ckptclamp.models.effective.reparametrised import WeightNorm, check_floats, roundoff
from ckptclamp.models.effective.weights import PIECE, Effective, Rescaling, is_fine
from ckptclamp.models.parts import OF_PEFT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.tensor import Box, Read, Tensor
    from ckptclamp.models.effective.levels import Wanted

_SIDES: Final = {
    "lora_A": ("down", False),
    "lora_B": ("up", False),
    "lora_down": ("down", False),
    "lora_up": ("up", False),
    "lora_embedding_A": ("down", True),
    "lora_embedding_B": ("up", True),
    "lora_magnitude_vector": ("lengths", False),
}
"""Which factor each name is, and whether the product is that of an embedding, which is transposed."""

_BASES: Final = ("base_layer.weight", "weight")
_PLAIN: Final = re.compile(r"[\w.-]{1,500}", re.ASCII)
"""A pattern of modules that is little more than a name."""

_ALIKE: Final = re.compile(
    r"""(?:
        [\w.|()^$-] | \(\?: | \\[.dw-] | \[\^?[\w.-]+\]
        | (?<=[^(|^$]) (?: [*+?] | \{\d+(,\d*)?\} ) \?? (?![*+?{])
    ){1,500}""",
    re.ASCII | re.VERBOSE,
)
"""Regular expressions that mean the same to Python, which peft asks, and to RE2, which never takes long."""

_MOST: Final = 1 << 14
"""Weights of a product for each number of its factors, at most, so that a small file is no long work."""

_BASE_KEPT: Final = (True, False, "gaussian", "eva", "orthogonal")
"""How factors may begin while the base stays; PiSSA, OLoRA, LoftQ and CorDA take them out of it, and peft
does so again when it loads them."""

_OTHERWISE: Final = (
    "use_qalora", "use_bdlora", "layer_replication", "arrow_config", "kasa_config",
    "monteclora_config", "velora_config", "fan_in_fan_out", "megatron_config",
)  # fmt: skip
"""Settings of peft that make something else of the factors than their product."""


@frozen
class LowRank(Effective):
    """scale · up·down, plus `base` where there is one.

    `up` is (outputs, rank), with any number of axes of extent 1 after them; `down` is (rank, …). With
    `transposed` the product is the other way round.
    """

    words: str
    down: Tensor
    up: Tensor
    scale: float
    base: Tensor | None = None
    transposed: bool = False
    others: tuple[Tensor, ...] = ()

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """See `Computed.parts`."""
        base = () if self.base is None else (self.base,)
        return (*base, self.down, self.up, *self.others)

    @property
    def unprojected(self) -> str:
        """See `Computed.unprojected`."""
        return (
            f"in its factors {self.up.name} and {self.down.name} only norms of whole rows or columns "
            "can be brought to a bound"
        )

    def rescaling(self, axes: tuple[int, ...]) -> Rescaling | None:
        """See `Effective.rescaling`: a factor for each output goes into `up`, for each input into `down`."""
        if self.base is not None or not (is_fine(self.up) and is_fine(self.down)):
            return None
        rank = len(self.down.shape)
        kept = [axis for axis in range(rank) if axis not in axes]
        output = 1 if self.transposed else 0
        if kept in ([], [output]):
            ends = (None,) * (len(self.up.shape) - 1)
            return Rescaling(self.up, (output if kept else None, *ends))
        if output in kept:
            return None
        inputs = (0,) if self.transposed else tuple(range(1, rank))
        return Rescaling(self.down, (None, *(i if i in kept else None for i in inputs)))

    @property
    def recoded(self) -> Tensor | None:
        """See `Effective.recoded`: the weight that the update is added to."""
        computed = self.base is None or isinstance(self.base.storage, Computed)
        return self.base if self.base is not None and not computed and is_fine(self.base) else None

    def recode(self, read: Read, box: Box, wanted: Wanted) -> tuple[Box, NDArray[Any]]:
        """See `Effective.recode`."""
        assert self.base is not None
        rest = wanted.numbers - self._update(read, box)
        return Plain(self.base).encode(read, box, wanted.instead(rest))

    def pieces(self, box: Box) -> Iterable[Box]:
        """See `Effective.pieces`; a product and one term of it stay in a cache together."""
        return cut(box, PIECE // 2)

    def piece(self, read: Read, box: Box) -> NDArray[np.float64]:
        """See `Effective.piece`."""
        update = self._update(read, box)
        return update if self.base is None else Plain(self.base).read(read, box) + update

    def _update(self, read: Read, box: Box) -> NDArray[np.float64]:
        """What is added to the base weight.

        The rank is summed one by one, so that the bits depend neither on the box nor on a library for
        matrices, and read in parts, so that memory has a bound.
        """
        outputs, inputs = (box[1], (box[0],)) if self.transposed else (box[0], box[1:])
        rank, columns = self.down.shape[0], math.prod(stop - start for start, stop in inputs)
        step = max(1, 2 * PIECE // (outputs[1] - outputs[0] + columns))
        product = np.zeros((outputs[1] - outputs[0], columns))
        term = np.empty_like(product)
        ends = ((0, 1),) * (len(self.up.shape) - 2)
        for first in range(0, rank, step):
            ranks = (first, min(first + step, rank))
            up = Plain(self.up).read(read, (outputs, ranks, *ends)).reshape(len(product), -1)
            down = Plain(self.down).read(read, (ranks, *inputs)).reshape(-1, columns)
            for left, right in zip(up.T, down, strict=True):
                np.multiply(left[:, None], right, out=term)
                product += term
        product *= self.scale
        return product.T if self.transposed else product.reshape([b - a for a, b in box])


def low_rank(members: Members) -> Tensor:
    """Return the update that two factors make, or the weight that it is added to in the same file.

    Raises:
        NotComputedError: there are other factors than one pair, their shapes do not fit, or nothing
            tells their scale.
    """
    factors, transposed = _factors(members)
    down, up, lengths = factors["down"], factors["up"], factors.get("lengths")
    check_floats(*factors.values())
    rank = down.shape[0]
    if len(down.shape) < 2 or len(down.shape) != len(up.shape) or up.shape[1] != rank:
        raise NotComputedError(
            f"its factors {extents(up.shape)} and {extents(down.shape)} do not fit"
        )
    if any(extent != 1 for extent in up.shape[2:]) or (transposed and len(up.shape) != 2):
        raise NotComputedError(f"{up.name} of shape {extents(up.shape)} spans more than one place")
    shape = (up.shape[0], *down.shape[1:])
    shape = shape[::-1] if transposed else shape
    if math.prod(shape) > _MOST * (down.size + up.size):
        raise NotComputedError(f"its factors are too thin for a product of {extents(shape)}")
    if all(ending in members.tensors for ending in _BASES):
        raise NotComputedError("it has two base weights")
    base, alpha = members.get(*_BASES), members.get("alpha")
    if base is not None:
        _check_base(base, shape)
        _check_beginning(members.adapter)
    scale = _scale(members, rank, alpha, peft="lora_A" in down.name or "embedding" in down.name)
    added = "" if base is None else f"base weight {base.name} and "
    if base is not None and isinstance(base.storage, Computed):
        added = f"base weight of {base.storage.stored_as}, and "
    storage = LowRank(
        words=f"{added}factors {up.name} · {down.name} times {scale:g}",
        down=down,
        up=up,
        scale=scale,
        base=base,
        transposed=transposed,
        others=() if alpha is None else (alpha,),
    )
    every = (*factors.values(), *(() if base is None else (base,)))
    merged = members.computed(shape, storage, roundoff(*every))
    return merged if lengths is None else _by_length(members, merged, lengths, base)


def _check_base(base: Tensor, shape: tuple[int, ...]) -> None:
    check_floats(base)
    if base.dtype is not None and base.dtype.bits < 16:
        raise NotComputedError(f"its base weight {base.name} is {base.dtype}")
    if base.shape != shape:
        raise NotComputedError(
            f"its base weight is {extents(base.shape)}, its update {extents(shape)}"
        )


def _check_beginning(config: Mapping[str, Any] | Unreadable | None) -> None:
    """Refuse an adapter that is added to another weight than the base's own, or for some tokens only."""
    if config is None or isinstance(config, Unreadable):
        return
    begun = config.get("init_lora_weights")
    if begun is not None and begun not in _BASE_KEPT:
        raise NotComputedError(
            f"adapter_config.json says init_lora_weights {printable(str(begun))}, which changes the base first"
        )
    if config.get("alora_invocation_tokens"):
        raise NotComputedError("adapter_config.json says that it is added for some tokens only")


def _by_length(members: Members, merged: Tensor, lengths: Tensor, base: Tensor | None) -> Tensor:
    """DoRA: the merged weight with the length that is stored for each of its rows."""
    if base is None:
        raise NeedsBaseError("DoRA makes a weight of it only together with its base (--base)")
    if len(merged.shape) != 2 or lengths.shape != merged.shape[:1] or _is_turned(members):
        raise NotComputedError(
            f"{lengths.name} of shape {extents(lengths.shape)} has no length a row"
        )
    assert isinstance(merged.storage, LowRank)
    storage = WeightNorm(
        words=f"{merged.storage.words}, and lengths {lengths.name}",
        lengths=lengths,
        directions=merged,
        axes=(1,),
    )
    return replace(merged, storage=storage)


def _is_turned(members: Members) -> bool:
    return any("embedding" in ending for ending in members.tensors)


def _factors(members: Members) -> tuple[dict[str, Tensor], bool]:
    """The two factors and, with DoRA, the lengths; and whether their product is transposed."""
    found: dict[str, Tensor] = {}
    transposed = False
    for ending, tensor in members.tensors.items():
        if ending in (*_BASES, "alpha"):
            continue
        side, turned = _SIDES.get(ending.partition(".")[0], (None, False))
        if side is None or side in found:
            what = "a second adapter" if side else printable(tensor.name)
            raise NotComputedError(f"what {what} does to it is not known here")
        found[side] = tensor
        transposed |= turned
    if not {"down", "up"} <= found.keys():
        raise NotComputedError("the file lacks one of its two factors")
    return found, transposed


def _scale(members: Members, rank: int, alpha: Tensor | None, *, peft: bool) -> float:
    """By what the product is multiplied.

    Raises:
        NotComputedError: nothing tells, or what does makes no sense.
    """
    if alpha is not None:
        if alpha.size != 1 or members.adapter is not None:
            raise NotComputedError(f"{alpha.name} is not the only scale that is stated for it")
        return _finite(float(np.asarray(members.small(alpha), np.float64).reshape(())[()]) / rank)
    if not peft:
        return 1.0
    if members.adapter is None:
        raise NotComputedError("no adapter_config.json beside it tells by what they are multiplied")
    if isinstance(members.adapter, Unreadable):
        raise NotComputedError(members.adapter.reason)
    return _stated_scale(members, members.adapter, rank)


def _stated_scale(members: Members, config: Mapping[str, Any], rank: int) -> float:
    if config.get("peft_type") != "LORA":
        raise NotComputedError("adapter_config.json is not one of LoRA")
    changed = [key for key in _OTHERWISE if config.get(key)]
    if bool(config.get("use_dora")) != any("magnitude" in ending for ending in members.tensors):
        raise NotComputedError("adapter_config.json and the file disagree on whether it is DoRA")
    if changed:
        raise NotComputedError(f"adapter_config.json says {changed[0]}, which is not computed here")
    module = members.weight.rpartition(".")[0].removeprefix(OF_PEFT)
    stated = _by_module(config, "rank_pattern", "r", module)
    alpha = _by_module(config, "alpha_pattern", "lora_alpha", module)
    if stated != rank:
        raise NotComputedError(
            f"adapter_config.json states a rank of {stated:g}, and it has {rank}"
        )
    return _finite(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _by_module(config: Mapping[str, Any], pattern: str, default: str, module: str) -> float:
    """What the config states for a module: by the first pattern that matches it, or for all."""
    patterns = config.get(pattern) or {}
    if not isinstance(patterns, dict):
        raise NotComputedError(f"adapter_config.json has no usable {pattern}")
    value = config.get(default)
    for key, stated in patterns.items():
        try:
            matches = _matches(key, module)
        except ValueError as error:
            said = (
                f"a key of {pattern} in adapter_config.json is no pattern that is understood here"
            )
            raise NotComputedError(said) from error
        if matches:
            value = stated
            break
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NotComputedError(f"adapter_config.json has no usable {default}")
    try:
        return float(value)
    except OverflowError as error:
        raise NotComputedError(f"adapter_config.json has no usable {default}") from error


def _matches(key: str, module: str) -> bool:
    """Whether a pattern is about a module: ``(.*\\.)?(key)$`` of its name, as peft has it.

    Raises:
        ValueError: it is no regular expression, or not one of those that are understood.
    """
    if _PLAIN.fullmatch(key) is not None:
        end = module[-len(key) :]
        return re.fullmatch(key, end) is not None and module[: -len(key)][-1:] in {"", "."}
    if not (module.isascii() and module.isprintable()):
        raise ValueError("classes have other members beyond ASCII")
    return _compiled(key).fullmatch(module) is not None


@lru_cache(maxsize=1 << 12)
def _compiled(key: str) -> Any:  # noqa: ANN401 - re2 has no types
    if _ALIKE.fullmatch(key) is None:
        raise ValueError("more than RE2 and Python agree on")
    import re2

    options = re2.Options()
    options.max_mem = 1 << 20
    options.log_errors = False
    try:
        re2.compile(key, options)  # whose brackets are its own
        return re2.compile(f"(.*\\.)?({key})", options)
    except re2.error as error:
        raise ValueError("no regular expression") from error


def _finite(scale: float) -> float:
    if not math.isfinite(scale):
        raise NotComputedError("the scale of its factors is not finite")
    if not scale:
        raise NotComputedError("the scale of its factors is 0")
    return scale
