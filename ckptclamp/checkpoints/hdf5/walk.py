"""Walks an HDF5 file by its links and describes what it names; part of the worker.

The walk goes from link to link, not from object to object: what a file calls by two names must be
described by both, or a rule about one of them would pass without having been applied. Links that lead
out of the file or have no fixed end are refused before anything is opened through them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import h5py
from h5py import h5a, h5g, h5l, h5o

from ckptclamp.checkpoints.hdf5 import datasets
from ckptclamp.checkpoints.hdf5.datasets import ChunkBudget, describe_dataset
from ckptclamp.errors import CkptclampError, RefusedError, UnreadableError

if TYPE_CHECKING:
    from h5py.h5g import GroupID

    from ckptclamp.checkpoints.hdf5.worker import Window

MAX_DEPTH = 64
MAX_NAME_BYTES = 1024
MAX_LINKS = 1_000_000
MAX_ALIASES = 10_000
"""Names that objects have beyond their first: a few hard links can make any number of paths."""

_NO_DATASET = {
    "shape": [],
    "label": "datatype",
    "reason": "is a datatype without values, or a damaged dataset",
}
"""What the library takes for a named datatype may be a dataset of which a part of its header is lost."""

_LINK_CLASSES = {h5l.TYPE_SOFT: "a soft", h5l.TYPE_EXTERNAL: "an external"}


@dataclass(frozen=True, slots=True)
class _Group:
    """A group that is still to be walked: its path, and the addresses of it and those above."""

    path: str
    addresses: tuple[int, ...]


@dataclass(slots=True)
class _Walk:
    """What was found so far."""

    root: GroupID
    datasets: dict[int, dict[str, Any]] = field(default_factory=dict)
    variables: dict[str, str | None] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)
    group_aliases: list[str] = field(default_factory=list)
    budget: ChunkBudget = field(default_factory=ChunkBudget)
    links: int = 0
    aliases: int = 0


def describe(window: Window) -> dict[str, Any]:
    """Return every dataset of the file and what Keras' attributes say of them.

    Raises:
        RefusedError: a link or a dataset leads elsewhere, or a limit is passed; it is named.
    """
    with h5py.File(window, "r") as file:
        root = h5g.open(file.id, b"/")
        walk = _Walk(root)
        _walk_groups(walk)
        return {
            "datasets": list(walk.datasets.values()),
            "variables": [[path, name] for path, name in walk.variables.items()],
            "group_aliases": walk.group_aliases,
            "keras": _keras_facts(walk),
        }


def _walk_groups(walk: _Walk) -> None:
    address = h5o.get_info(walk.root).addr
    pending = [_Group("", (address,))]
    walk.seen.add(address)
    while pending:
        group = pending.pop()
        opened = h5g.open(walk.root, group.path.encode()) if group.path else walk.root
        walk.groups.add(group.path)
        if group.path.rpartition("/")[2] == "vars":
            walk.variables[group.path] = _layer_name(opened, group.path)
        inner = [_enter(walk, opened, group, raw, kind) for raw, kind in _links(walk, opened)]
        pending.extend(reversed([found for found in inner if found is not None]))


def _links(walk: _Walk, group: GroupID) -> list[tuple[bytes, int]]:
    found: list[tuple[bytes, int]] = []

    def note(name: bytes, info: Any) -> None:  # noqa: ANN401 - h5py's LinkInfo
        walk.links += 1
        if walk.links > MAX_LINKS:
            raise RefusedError(f"holds more than {MAX_LINKS} links")
        found.append((name, info.type))

    group.links.iterate(note, info=True)
    return found


def _enter(walk: _Walk, opened: GroupID, group: _Group, raw: bytes, kind: int) -> _Group | None:
    """Look at one link; return the group that it leads to, if it does."""
    path = _path(group, raw)
    if kind != h5l.TYPE_HARD:
        described = _LINK_CLASSES.get(kind, "a user-defined")
        raise RefusedError(
            f"is {described} link, which can lead anywhere",
            tensor=path,
            hint="replace the link by what it stands for",
        )
    try:
        info = h5o.get_info(opened, raw)
        if info.type != h5o.TYPE_GROUP:
            _note_dataset(walk, opened, raw, path, info)
    except (CkptclampError, MemoryError):
        raise
    except Exception as error:
        raise UnreadableError(f"cannot be opened: {reason(error)}", tensor=path) from error
    return _note_group(walk, group, path, info.addr) if info.type == h5o.TYPE_GROUP else None


def reason(error: Exception) -> str:
    """Return what the library says of an error, without the quotes that `KeyError` puts around it."""
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error)[:300]


def _path(group: _Group, raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        shown = raw[:80].decode("utf-8", "replace")
        raise RefusedError(f"the name {shown!r} is no UTF-8", tensor=group.path or "/") from None
    path = f"{group.path}/{name}" if group.path else name
    if name in ("", ".", "..") or "/" in name:
        raise RefusedError(f"the name {name!r} can be read as a path", tensor=group.path or "/")
    if len(raw) > MAX_NAME_BYTES:
        raise RefusedError(f"a name is longer than {MAX_NAME_BYTES} bytes", tensor=path)
    if len(group.addresses) > MAX_DEPTH:
        raise RefusedError(f"groups nest deeper than {MAX_DEPTH} levels", tensor=path)
    return path


def _note_dataset(
    walk: _Walk,
    opened: GroupID,
    raw: bytes,
    path: str,
    info: Any,  # noqa: ANN401 - h5py's ObjInfo
) -> None:
    known = walk.datasets.get(info.addr)
    if known is not None:
        _count_alias(walk, path)
        known["aliases"].append(path)
        return
    described = _NO_DATASET
    if info.type == h5o.TYPE_DATASET:
        described = describe_dataset(h5o.open(opened, raw), path, walk.budget)
    walk.datasets[info.addr] = {"name": path, "aliases": [], **described}


def _note_group(walk: _Walk, parent: _Group, path: str, address: int) -> _Group:
    if address in parent.addresses:
        raise RefusedError(
            "is a hard link to a group that it lies in, so paths never end", tensor=path
        )
    if address in walk.seen:
        _count_alias(walk, path)
        walk.group_aliases.append(path)
    walk.seen.add(address)
    return _Group(path, (*parent.addresses, address))


def _count_alias(walk: _Walk, path: str) -> None:
    walk.aliases += 1
    if walk.aliases > MAX_ALIASES:
        raise RefusedError(f"hard links make more than {MAX_ALIASES} second names", tensor=path)


def _layer_name(group: GroupID, path: str) -> str | None:
    return datasets.text(group, "name", path) if h5a.exists(group, b"name") else None


def _keras_facts(walk: _Walk) -> dict[str, Any]:
    """Return what the legacy layout keeps in attributes; nothing where the file has none of it."""
    weights_root = "model_weights" if "model_weights" in walk.groups else ""
    root = h5g.open(walk.root, weights_root.encode()) if weights_root else walk.root
    layer_names = datasets.names(root, "layer_names", weights_root or "/")
    facts: dict[str, Any] = {
        name: datasets.text(walk.root, name, "/") or datasets.text(root, name, weights_root or "/")
        for name in ("keras_version", "backend")
    }
    facts["model_config"] = _model_config(walk)
    if layer_names is None:
        return {name: value for name, value in facts.items() if value is not None}
    facts |= {"weights_root": weights_root, "layer_names": layer_names}
    facts["weight_names"] = _weight_names(walk, weights_root, layer_names)
    return facts


def _model_config(walk: _Walk) -> str | None:
    """The config as text; what stands there and is none may declare what a loader can read."""
    config = datasets.text(walk.root, "model_config", "/")
    if config is None and h5a.exists(walk.root, b"model_config"):
        raise RefusedError("the attribute 'model_config' is no text", tensor="/")
    return config


def _weight_names(walk: _Walk, weights_root: str, layers: list[str]) -> list[list[Any]]:
    """Return ``[layer, [weight name, …]]`` for each layer that has a group of its own."""
    found: list[list[Any]] = []
    for layer in dict.fromkeys([*layers, "top_level_model_weights"]):
        path = f"{weights_root}/{layer}" if weights_root else layer
        if path in walk.groups:
            group = h5g.open(walk.root, path.encode())
            weights = datasets.names(group, "weight_names", path)
            found.append([layer, weights or []])
    return found
