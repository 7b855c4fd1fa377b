"""What a checkpoint says of its model: documents, which are untrusted JSON, and Keras' names.

JSON is read so that it has one meaning: no duplicates, no depth, no surprises. Parsers differ in what
they make of a duplicate key, a lone surrogate or ``1e999``; a file that uses one of these can say one
thing to this program and another to the next.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections import Counter
from contextlib import closing
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Never

from ckptclamp.checkpoints.dtypes import CODE_DTYPES, Kind
from ckptclamp.checkpoints.remote.path import RemotePath
from ckptclamp.checkpoints.source import Source
from ckptclamp.checkpoints.tensor import KerasLayout, KerasModel, Role, Tensor, Unreadable
from ckptclamp.errors import MissingError, RefusedError, UnreadableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from os import PathLike
    from pathlib import Path

    from ckptclamp.checkpoints.checkpoint import Checkpoint

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
QUANTISATION = "hf_quant_config.json"
CONFIGS = (CONFIG, ADAPTER, QUANTISATION)
"""What is read beside the weights of a model."""
METADATA = "metadata.json"
WEIGHTS = "model.weights.h5"
MAX_BYTES = 64 << 20

_MAX_DEPTH = 256
_MAX_CONFIG_BYTES = 8 << 20
_OPTIMIZER = {KerasLayout.LEGACY: "optimizer_weights/", KerasLayout.V3: "optimizer/"}
_METRICS = "metrics/"
_SEED_GENERATOR = re.compile(r"(?:^|/)(?:seed_)?generator(?:_\d+)?/vars/")
_QUANTISATION_KEYS = ("quantization_config", "compression_config", "quantization")
"""What may state it; the last key of the outermost mapping alone, for it may be about sounds."""

_MODELS_DEEP = 3
"""How deep models lie in each other in a config: ``thinker_config``, and in it ``text_config``."""

_MAX_CONTAINERS = 4_000_000
"""Objects and arrays in one document: empty ones cost twenty times their text in memory."""

_STEPS = {ord("{"): 1, ord("["): 1, ord("}"): -1, ord("]"): -1}
"""How much deeper a bracket leads."""
_NO_BRACKETS = bytes(set(range(256)) - _STEPS.keys())
_PIECE = 1 << 20
"""Bytes that are looked at at once."""


def parse_strict(
    data: bytes,
    *,
    max_depth: int,
    max_bytes: int,
    what: str,
    allow_infinity: bool = False,
    path: str | PathLike[str] | None = None,
    held_as: Callable[[dict[str, Any]], Any] = lambda value: value,
) -> Any:  # noqa: ANN401 - JSON is any of its types
    """Parse UTF-8 JSON of at most `max_bytes`, nested at most `max_depth` deep.

    `what` names the document in messages (``header``), `path` the file it came from. With
    `allow_infinity` the literals ``NaN``, ``Infinity`` and ``-Infinity`` are read as floats, as
    Python writes them; a number that overflows to infinity is refused always. Each object is kept
    as what `held_as` makes of it, the inner ones first.

    Raises:
        RefusedError: it is no JSON, is too large or too deep, repeats a key, or holds a lone
            surrogate or a number that Python cannot hold.
    """
    reader = _Reader(what, path, allow_infinity, held_as)
    if len(data) > max_bytes:
        reader.refuse(f"is {len(data)} bytes long; at most {max_bytes} are read")
    reader.check_nesting(data, max_depth)
    return reader.parse(data)


def parse_document(data: bytes, what: str, path: Path) -> dict[str, Any]:
    """Parse a config or its metadata. ``Infinity`` and ``NaN`` are read: Keras writes them.

    Raises:
        RefusedError: it is no JSON object, is too large or deep, or repeats a key.
    """
    document = parse_strict(
        data, max_depth=_MAX_DEPTH, max_bytes=MAX_BYTES, what=what, allow_infinity=True, path=path
    )
    if not isinstance(document, dict):
        raise RefusedError(f"the {what} is no JSON object", path=path)
    return document


def read_document(source: Source, what: str, most: int = MAX_BYTES) -> dict[str, Any]:
    """Parse a document that fills `source`, of `most` bytes at most; raises as `parse_document`."""
    if source.size > most:
        raise RefusedError(f"is {source.size} bytes long, too much for a {what}", path=source.path)
    return parse_document(source.read_at(0, source.size), what, source.path)


def join_documents(
    path: Path,
    weights: KerasModel | None,
    config: Mapping[str, Any],
    metadata: Mapping[str, Any] | None,
) -> KerasModel:
    """Join what the documents say of a model with what its weights file does.

    Raises:
        RefusedError: the weights are laid out as no version of Keras lays them out beside a config.
    """
    model = weights or KerasModel(KerasLayout.V3)
    if model.layout is not KerasLayout.V3:
        raise RefusedError(f"{WEIGHTS} is laid out as a legacy file", path=path)
    version = (metadata or {}).get("keras_version")
    return replace(model, config=config, version=version if isinstance(version, str) else None)


def keras_named(tensors: Mapping[str, Tensor], model: KerasModel) -> dict[str, Tensor]:
    """Return the tensors with the roles and aliases that Keras' naming gives them."""
    aliases = _legacy_aliases(model)
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        paths = (name, *tensor.aliases)
        keras_names = (alias for path in paths for alias in aliases.get(path, ()))
        # What is the name of another tensor, or of this one, is no second name.
        extra = [a for a in keras_names if a not in tensors and a not in paths]
        merged = (*tensor.aliases, *dict.fromkeys(extra))
        roles = [_role(path, tensor, model) for path in paths]
        # What is a weight by one of its paths is loaded as one, whatever another path says.
        role = Role.WEIGHT if Role.WEIGHT in roles else roles[0]
        named[name] = replace(tensor, aliases=merged, role=role)
    return named


def _role(path: str, tensor: Tensor, model: KerasModel) -> Role:
    """What a dataset is by one of its paths; a legacy file calls groups as its layers are called."""
    if path.startswith(_OPTIMIZER[model.layout]) and not _is_in_layer(path, model):
        return Role.OPTIMIZER
    if model.layout is KerasLayout.LEGACY:
        return Role.WEIGHT
    is_seed = _SEED_GENERATOR.search(path) is not None and _is_seed(tensor)
    return Role.STATE if is_seed or path.startswith(_METRICS) else Role.WEIGHT


def _is_in_layer(path: str, model: KerasModel) -> bool:
    """Whether a path from the root is that of a layer: in a whole-model file they lie deeper."""
    return not model.weights_root and path.partition("/")[0] in model.layer_names


def _is_seed(tensor: Tensor) -> bool:
    """Whether it is as Keras' seed generator is stored: a user's layer may be called so, too."""
    return tensor.shape == (2,) and tensor.dtype is not None and tensor.dtype.kind is Kind.INTEGER


def _legacy_aliases(model: KerasModel) -> dict[str, list[str]]:
    """Map dataset paths to the names that Keras gives the weights.

    ``model_weights/dense/dense/kernel:0`` is also ``dense/dense/kernel:0``, and ``dense/kernel:0``
    where no other layer has a weight of that name.
    """
    counts = Counter(weight for weights in model.weight_names.values() for weight in weights)
    aliases: dict[str, list[str]] = {}
    for layer, weights in model.weight_names.items():
        for weight in weights:
            own = f"{layer}/{weight}"
            path = f"{model.weights_root}/{own}" if model.weights_root else own
            known = aliases.setdefault(path, [own])
            if counts[weight] == 1:
                known.append(weight)
    return aliases


def stated_quantisation(
    checkpoint: Checkpoint, *, follow_symlinks: bool
) -> Mapping[str, Any] | Unreadable | None:
    """Return what the config in the directory of `checkpoint` says; ``None`` where it says nothing.

    ModelOpt writes a file of its own, which counts where ``config.json`` says nothing. They are read
    only where a tensor has a dtype that codes have. A config that cannot be read is `Unreadable`,
    with the reason.
    """
    dtypes = {tensor.dtype.name for tensor in checkpoint.tensors.values() if tensor.dtype}
    if dtypes.isdisjoint(CODE_DTYPES):
        return None
    for name in (CONFIG, QUANTISATION):
        found = document_beside(checkpoint, name, follow_symlinks=follow_symlinks)
        if isinstance(found, Unreadable):
            return found
        stated = _quantisation(found) if found else None
        if stated is not None:
            return stated
    return None


def stated_adapter(
    checkpoint: Checkpoint, *, follow_symlinks: bool
) -> Mapping[str, Any] | Unreadable | None:
    """Return the config of the adapter in the directory of `checkpoint`; ``None`` if there is none.

    It is read only where a tensor has the name of an adapter's part.
    """
    if not any("lora_" in name or name.startswith("base_model.") for name in checkpoint.tensors):
        return None
    return document_beside(checkpoint, ADAPTER, follow_symlinks=follow_symlinks)


def document_beside(
    checkpoint: Checkpoint, name: str = CONFIG, *, follow_symlinks: bool
) -> Mapping[str, Any] | Unreadable | None:
    """Return the document `name` in the directory of `checkpoint`, and note there what was read.

    ``None`` where there is none; why it cannot be read where it cannot.
    """
    path = checkpoint.path.parent / name
    if not isinstance(path, RemotePath) and not os.path.lexists(path):
        return None
    try:
        with closing(Source.open(path, follow_symlinks=follow_symlinks)) as source:
            found = read_document(source, name, _MAX_CONFIG_BYTES)
            digest = hashlib.sha256(source.read_at(0, source.size)).hexdigest()
    except MissingError:
        return None
    except UnreadableError as error:
        return Unreadable(f"{name}: {error.message}")
    checkpoint.configs = {**checkpoint.configs, name: digest}
    return found


def _brackets(data: bytes) -> Iterator[bytes]:
    """The brackets of JSON that are not in strings, piece by piece; to the end where one is not closed."""
    data = data.replace(rb"\\", b"").replace(rb"\"", b"")  # now a quote begins or ends a string
    inside = False
    for at in range(0, len(data), _PIECE):
        parts = data[at : at + _PIECE].split(b'"')
        yield b"".join(parts[inside::2]).translate(None, delete=_NO_BRACKETS)
        inside ^= len(parts) % 2 == 0


class _Reader:
    """The hooks of one parse, which all refuse in the same words."""

    def __init__(
        self,
        what: str,
        path: str | PathLike[str] | None,
        allow_infinity: bool,
        held_as: Callable[[dict[str, Any]], Any],
    ) -> None:
        self.what = what
        self.path = path
        self.allow_infinity = allow_infinity
        self.held_as = held_as

    def refuse(self, reason: str) -> Never:
        raise RefusedError(f"the {self.what} {reason}", path=self.path)

    def check_nesting(self, data: bytes, max_depth: int) -> None:
        depth = containers = 0
        for brackets in _brackets(data):
            depths = list(accumulate(map(_STEPS.__getitem__, brackets), initial=depth))
            if max(depths) > max_depth:
                self.refuse(f"nests deeper than {max_depth} levels")
            depth = depths[-1]
            containers += brackets.count(b"{") + brackets.count(b"[")
        if containers > _MAX_CONTAINERS:
            self.refuse(
                f"holds {containers} objects and arrays; at most {_MAX_CONTAINERS} are read"
            )

    def parse(self, data: bytes) -> Any:  # noqa: ANN401 - JSON is any of its types
        try:
            value = json.loads(
                data.decode("utf-8"),
                object_pairs_hook=self.pairs,
                parse_constant=self.constant,
                parse_float=self.float,
            )
            if rb"\u" in data:
                json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeDecodeError as error:
            self.refuse(f"is not UTF-8 at byte {error.start}")
        except UnicodeEncodeError:
            self.refuse("holds a lone surrogate, which is no text")
        except json.JSONDecodeError as error:
            self.refuse(f"is not JSON: {error.msg} at line {error.lineno} column {error.colno}")
        except ValueError:
            self.refuse("holds an integer of thousands of digits")
        except RecursionError:
            self.refuse("nests deeper than can be read")
        return value

    def pairs(self, pairs: list[tuple[str, Any]]) -> Any:  # noqa: ANN401 - see `parse_strict`
        unique = dict(pairs)
        if len(unique) != len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            self.refuse(f"holds the key {twice!r} twice")
        return self.held_as(unique)

    def constant(self, literal: str) -> float:
        if not self.allow_infinity:
            self.refuse(f"holds {literal}, which is not JSON")
        return float(literal)

    def float(self, literal: str) -> float:
        value = float(literal)
        if math.isinf(value):
            self.refuse(f"holds the number {literal[:40]}, which overflows")
        return value


def _quantisation(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The first mapping that states a quantisation: of the model, or of a model within it."""
    places = [config]
    for depth in range(_MODELS_DEEP):
        keys = _QUANTISATION_KEYS[: None if depth == 0 else -1]
        for place in places:
            stated = next((place[key] for key in keys if place.get(key) is not None), None)
            if stated is not None:
                return stated if isinstance(stated, dict) else {}
        places = [inner for place in places for inner in place.values() if isinstance(inner, dict)]
    return None
