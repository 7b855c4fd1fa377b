"""What Keras' conventions make of a described HDF5 file: layout, names, roles; never any code."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ckptclamp.checkpoints.description import KerasLayout, KerasModel, Producer, Role, Tensor
from ckptclamp.checkpoints.dtypes import Kind
from ckptclamp.checkpoints.hdf5_answer import Answer
from ckptclamp.checkpoints.keras_documents import parse_document

_OPTIMIZER = {KerasLayout.LEGACY: "optimizer_weights/", KerasLayout.V3: "optimizer/"}
_METRICS = "metrics/"
_V3_ROOTS = ("layers/", "_layer_checkpoint_dependencies/")
_SEED_GENERATOR = re.compile(r"(?:^|/)(?:seed_)?generator(?:_\d+)?/vars/")


def keras_model(answer: Answer) -> KerasModel | None:
    """Return what the file says of its model; ``None`` if Keras did not write it.

    Raises:
        RefusedError: it could be read as a file of either layout.
    """
    facts = answer.told.get("keras")
    if not isinstance(facts, dict):
        answer.refuse("the HDF5 worker's answer makes no sense")
    texts = {name: value for name, value in facts.items() if isinstance(value, str)}
    version, backend = texts.get("keras_version"), texts.get("backend")
    group_names = _group_names(answer, answer.told.get("variables"))
    if "layer_names" not in facts and "model_config" not in texts:
        model = KerasModel(KerasLayout.V3, version, backend, group_names=group_names)
        return model if group_names else None
    layer_names = _texts(answer, facts.get("layer_names", []))
    if any(group.startswith(_V3_ROOTS) for group in group_names) and "layers" not in layer_names:
        answer.refuse("is laid out both as a legacy file and as one of Keras 3")
    return KerasModel(
        KerasLayout.LEGACY,
        version,
        backend,
        config=_config(texts, answer),
        weights_root=texts.get("weights_root", ""),
        layer_names=layer_names,
        weight_names=_weight_names(answer, facts.get("weight_names", [])),
    )


def _config(texts: Mapping[str, str], answer: Answer) -> dict[str, Any] | None:
    if "model_config" not in texts:
        return None
    return parse_document(texts["model_config"].encode(), "model_config", answer.path)


def _texts(answer: Answer, values: Any) -> tuple[str, ...]:  # noqa: ANN401 - untrusted JSON
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        answer.refuse("the HDF5 worker's names make no sense")
    return tuple(values)


def _weight_names(answer: Answer, rows: Any) -> dict[str, tuple[str, ...]]:  # noqa: ANN401 - untrusted JSON
    if not isinstance(rows, list) or not all(isinstance(r, list) and len(r) == 2 for r in rows):
        answer.refuse("the HDF5 worker's names make no sense")
    return {str(layer): _texts(answer, weights) for layer, weights in rows}


def _group_names(answer: Answer, rows: Any) -> dict[str, str | None]:  # noqa: ANN401 - untrusted JSON
    if not isinstance(rows, list) or not all(isinstance(r, list) and len(r) == 2 for r in rows):
        answer.refuse("the HDF5 worker's groups make no sense")
    return {
        str(path).removesuffix("vars").removesuffix("/"): name if isinstance(name, str) else None
        for path, name in rows
    }


def format_name(model: KerasModel | None) -> str:
    """Return the name of the format of an HDF5 file of its own."""
    if model is None:
        return "hdf5"
    if model.layout is KerasLayout.V3:
        return "keras-weights-h5"
    return "keras-h5" if model.weights_root or model.config is not None else "keras-h5-weights"


def producer(model: KerasModel | None) -> Producer | None:
    """Return who wrote the file, as far as it says."""
    return None if model is None else Producer("keras", model.version, model.backend)


def with_roles(tensors: Mapping[str, Tensor], model: KerasModel | None) -> dict[str, Tensor]:
    """Return the tensors with the roles and aliases that Keras' naming gives them."""
    if model is None:
        return dict(tensors)
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
