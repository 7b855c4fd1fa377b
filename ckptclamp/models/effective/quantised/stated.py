"""What a config says of how weights were quantised, held against what is stored.

Scales of a wrong shape may fit by chance, and weights without their zero points or their index are
weights all the same; where the config tells, nothing is left to chance.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeGuard

from ckptclamp.models.effective.members import Members, NotComputedError, extents

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptclamp.models.effective.numbers import Numbers

Shape = tuple[int, ...]


def check_layout(members: Members, shape: Shape, scales: Numbers) -> None:
    """Refuse scales of a weight of `shape` that belong to other weights than the config says.

    Raises:
        NotComputedError: they do.
    """
    in_blocks = not members.tensors.keys().isdisjoint(("_scale_inv", "scale"))
    grids = list(_grids(members.stated, shape, blocks=in_blocks))
    grid = scales.shape
    if grids and not any(grid == g or (math.prod(grid) == math.prod(g) == 1) for g in grids):
        raise NotComputedError(
            f"{scales.tensor.name} of shape {extents(grid)} is not what the config states for a weight "
            f"of shape {extents(shape)}"
        )


def check_complete(members: Members, *, zeros: bool, index: bool) -> None:
    """Refuse integers of compressed-tensors without the zero points, or the index, that the config states.

    Raises:
        NotComputedError: they lack them.
    """
    weights = list(_of_groups(members.stated))
    if weights and not zeros and all(w.get("symmetric") is False for w in weights):
        raise NotComputedError("the file lacks its zero points, which the config states")
    if weights and not index and all(w.get("actorder") in ("group", "dynamic") for w in weights):
        raise NotComputedError("the file lacks its index, which the config states")


def check_groups(members: Members, inputs: int, groups: int) -> None:
    """Refuse another number of `groups` of inputs than the config of GPTQ or AWQ states.

    Raises:
        NotComputedError: it is another one, or the file lacks the index that tells the groups apart.
    """
    stated = members.stated
    size = stated.get("group_size")
    if type(size) is int and not stated.get("dynamic"):
        expected = -(-inputs // size) if size > 0 else 1
        if groups != expected:
            raise NotComputedError(
                f"it has {groups} groups of inputs, and by the config it would have {expected}"
            )
    if stated.get("desc_act") is True and groups > 1 and members.get("g_idx") is None:
        raise NotComputedError("the file lacks its g_idx, which the config states")


def stated_bits(members: Members) -> set[int]:
    """The bits that the config states for weights; none where it states some for single modules."""
    stated = members.stated
    bits = stated.get("bits")
    whole = [bits] if not stated.get("dynamic") else []
    return {
        n
        for n in (*whole, *(weights.get("num_bits") for weights in _of_groups(stated)))
        if type(n) is int and n > 0
    }


def _of_groups(stated: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What compressed-tensors states of the weights of each group of layers."""
    groups = stated.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        if isinstance(weights, dict):
            yield weights


def _grids(stated: Mapping[str, Any], shape: Shape, *, blocks: bool) -> Iterator[Shape]:
    """The shapes that scales, or those of `blocks`, may have; none where the config leaves it open."""
    size = stated.get("weight_block_size")
    if blocks and _is_pair(size) and len(shape) > 1:
        yield _blocks(shape, size)
        return
    weights = list(_of_groups(stated))
    found = [_grid(one, shape) for one in weights]
    if all(found):
        for grids in found:
            yield from grids


def _grid(weights: Mapping[str, Any], shape: Shape) -> list[Shape]:
    strategy, size = weights.get("strategy"), weights.get("group_size")
    if strategy == "tensor":
        return [(1,)]
    if strategy == "channel" and shape:
        return [(*shape[:-1], 1), shape[:1]]
    if strategy in ("group", "tensor_group") and type(size) is int and size > 0 and shape:
        return [(*shape[:-1], -(-shape[-1] // size))]
    if strategy == "block" and _is_pair(pair := weights.get("block_structure")) and len(shape) > 1:
        return [_blocks(shape, pair)]
    return []


def _blocks(shape: Shape, size: list[int]) -> Shape:
    return (*shape[:-2], *(-(-n // b) for n, b in zip(shape[-2:], size, strict=True)))


def _is_pair(size: object) -> TypeGuard[list[int]]:
    return isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)
