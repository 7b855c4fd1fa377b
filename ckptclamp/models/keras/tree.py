"""A Keras model config of any generation as a tree of layers; nothing in it is instantiated."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ckptclamp.errors import RefusedError
from ckptclamp.models.keras.config import LayerConfig, as_integer, as_mapping
from ckptclamp.models.keras.layers import FAMILIES, Family, Variable
from ckptclamp.models.keras.layers.others import DATA_DEPENDENT, KERAS_1_FAMILIES, WEIGHTLESS
from ckptclamp.models.keras.layers.packages import family_of, known_layer
from ckptclamp.models.keras.quantisation import quantised_variables

if TYPE_CHECKING:
    from ckptclamp.models.keras.layers.lattice import Implied
    from ckptclamp.spec.model import CustomLayer

_MAX_DEPTH: Final = 64
"""How deep layers may nest; Keras itself fails long before."""


@dataclass(slots=True, eq=False)
class Layer:
    """One layer of the config.

    `path` are the names of the layers around it and its own, without the model's. `variables` are
    its own, in Keras' order; when `open_ended` there may be others that are not known here. Exactly
    one of `sublayers` (in attributes, each with its possible names) and `elements` (in the list
    that the attribute `container` holds) may be filled. `declared` maps each ``*_constraint``
    argument to what the config holds; a layer that is `copy_of` another, by its key, was made from
    that one's config and has its declarations. `frozen` says that it, or a layer around it, was not
    trainable. A class that is not `known` keeps its weights as its own code likes. `unread` are the
    settings that hold none of the layers inside; `odd` those of them that should hold a layer and do
    not. `identity` is the number that tf_keras gives an object that it met before. `package` is whose the
    class is, if it is another package's that is known; `implied` are the constraints that its code makes of
    other settings. `by_word` says that somebody told what it is like, `told` that they named its weights,
    perhaps not all and in no order.
    """

    key: int
    class_name: str
    name: str | None
    path: tuple[str, ...]
    config: LayerConfig
    builtin: bool
    trainable: bool = True
    frozen: bool = False
    variables: tuple[Variable, ...] = ()
    open_ended: bool = False
    sublayers: tuple[tuple[tuple[str, ...], Layer], ...] = ()
    container: str | None = None
    elements: tuple[Layer, ...] = ()
    declared: Mapping[str, Any] = field(default_factory=dict)
    copy_of: int | None = None
    known: bool = False
    unread: tuple[tuple[str, Any], ...] = ()
    odd: tuple[str, ...] = ()
    identity: int | None = None
    package: str | None = None
    implied: tuple[Implied, ...] = ()
    by_word: bool = False
    told: bool = False

    @property
    def segment(self) -> str:
        """The name of its group in the v3 layout, before a counter."""
        exported = _GROUP_CLASSES.get(self.class_name) if self.builtin else None
        return to_snake_case((exported or self.class_name).rpartition(">")[2])

    def label(self, variable: Variable) -> str:
        """The friendly name of one of its variables: ``outer/dense/kernel``."""
        return "/".join((*self.path, variable.name))

    @property
    def custom(self) -> bool:
        """Whether the class is a user's."""
        return not (self.known or (self.builtin and self.class_name in DATA_DEPENDENT))

    @property
    def children(self) -> tuple[Layer, ...]:
        """The layers directly inside, in Keras' order."""
        return self.elements or tuple(layer for _, layer in self.sublayers)

    def walk(self) -> Iterator[Layer]:
        """This layer and all inside it, each before what is inside it."""
        pending = [self]
        while pending:
            layer = pending.pop()
            yield layer
            pending.extend(reversed(layer.children))


_GROUP_CLASSES: Final = {"GroupQueryAttention": "GroupedQueryAttention"}
"""Classes that are exported under another name than their own, which names the group."""


def to_snake_case(name: str) -> str:
    """Keras' name for a class: ``Conv2DTranspose`` is ``conv2d_transpose``, ``PReLU`` ``p_re_lu``."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def read_model(
    config: Mapping[str, Any],
    custom_layers: Mapping[str, CustomLayer] | None = None,
    *,
    legacy: bool = False,
) -> Layer:
    """The tree of a model config, as ``model.to_json()`` or a checkpoint holds it.

    `custom_layers` says what a user's classes are like, by name; `legacy` which of the names of their
    weights are meant.

    Raises:
        RefusedError: layers nest deeper than 64 levels.
    """
    reader = _Reader(custom_layers or {}, legacy=legacy)
    return reader.layer(config, path=(), name="", frozen=False, depth=0)


def is_layer(value: object) -> bool:
    """Whether `value` has the form of a serialised layer."""
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("class_name"), str)
        and "config" in value
    )


def _is_operation(serialised: Mapping[str, Any]) -> bool:
    """Whether it is a bare ``keras.ops`` call in a functional model, which is no layer."""
    module = serialised.get("module")
    return isinstance(module, str) and module.startswith(("keras.src.ops", "keras.ops"))


_LAYER_MODULES: Final = re.compile(
    r"(tensorflow\.)?(tf_|python\.)?keras($|\.(layers|models|src|engine|experimental)($|\.))"
)


def _is_builtin(serialised: Mapping[str, Any]) -> bool:
    """Whether the class is Keras' own; before Keras 2.13 only the name tells."""
    name, registered = serialised["class_name"], serialised.get("registered_name")
    if ">" in name or registered not in (None, name):
        return False
    if "module" not in serialised:
        return True
    module = serialised["module"]
    return isinstance(module, str) and _LAYER_MODULES.match(module) is not None


def _built_shapes(serialised: Mapping[str, Any]) -> Mapping[str, Any]:
    """The shapes that a layer was built with; layers of several inputs have them one level down."""
    build = as_mapping(serialised.get("build_config"))
    return as_mapping(build.get("shapes_dict")) or build


class _Reader:
    """Numbers the layers while the config is walked."""

    def __init__(self, custom_layers: Mapping[str, CustomLayer], *, legacy: bool) -> None:
        self.count = 0
        self.custom_layers = {short_name(name): told for name, told in custom_layers.items()}
        self.legacy = legacy

    def layer(
        self,
        serialised: Mapping[str, Any],
        *,
        path: tuple[str, ...],
        name: str | None = None,
        frozen: bool,
        depth: int,
    ) -> Layer:
        """Read one serialised layer; `name` overrides the name in its config."""
        if depth > _MAX_DEPTH:
            raise RefusedError(f"the model config nests layers deeper than {_MAX_DEPTH} levels")
        config = serialised.get("config")
        values = as_mapping(config)
        own_name = values.get("name") if isinstance(values.get("name"), str) else None
        if own_name is None and isinstance(serialised.get("name"), str):
            own_name = serialised["name"]
        name = own_name if name is None else name
        layer = Layer(
            key=self.count,
            class_name=str(serialised.get("class_name", "Model")),
            name=name,
            path=path if name == "" else (*path, name or str(serialised.get("class_name"))),
            config=LayerConfig(values, _built_shapes(serialised)),
            builtin=is_layer(serialised) and _is_builtin(serialised),
            trainable=values.get("trainable") is not False,
            identity=as_integer(serialised.get("shared_object_id")),
        )
        self.count += 1
        layer.frozen = frozen or not layer.trainable
        layer.declared = _declared(values)
        self._variables(layer, serialised)
        self._fill(layer, config, depth)
        return layer

    def _fill(self, layer: Layer, config: object, depth: int) -> None:
        """Find what is inside: a list of layers, wrapped layers, or variables of its own."""
        values = as_mapping(config)
        listed = config if isinstance(config, list) else values.get("layers")
        stack = values.get("cells") if layer.class_name == "StackedRNNCells" else None
        if isinstance(listed, list):
            self._list(layer, "layers", listed, depth)
        elif isinstance(stack, list):
            self._list(layer, "cells", stack, depth)
        else:
            self._wrapped(layer, values, depth)
        if not layer.sublayers:
            layer.variables = tuple(v for v in layer.variables if not v.mirror)
        read = {layer.container, *(name for names, _ in layer.sublayers for name in names)}
        if _is_bidirectional(layer) and layer.sublayers:
            read = {"layer", "backward_layer"}
        layer.unread += tuple(
            (key, value)
            for key, value in layer.config.values.items()
            if key not in read and key not in layer.declared
        )

    def _list(self, layer: Layer, container: str, listed: list[Any], depth: int) -> None:
        """Read the listed layers, without operations and without a Sequential's input."""
        kept = [item for item in listed if is_layer(item) and not _is_operation(item)]
        if layer.class_name == "Sequential" and kept and kept[0]["class_name"] == "InputLayer":
            del kept[0]
        layer.container = container
        layer.elements = tuple(self._inner(layer, item, depth) for item in kept)
        layer.unread = tuple((container, item) for item in listed if not is_layer(item))

    def _wrapped(self, layer: Layer, values: Mapping[str, Any], depth: int) -> None:
        if _is_bidirectional(layer):
            held = {key: values.get(key) for key in ("layer", "backward_layer")}
            layer.odd = tuple(k for k, v in held.items() if not (v is None or is_layer(v)))
            if held["layer"] is not None and not layer.odd:
                layer.sublayers = self._directions(layer, values, depth)
            return
        attribute = "cell" if layer.class_name == "RNN" else "layer"
        if is_layer(values.get(attribute)):
            layer.sublayers = (((attribute,), self._inner(layer, values[attribute], depth)),)
        elif not layer.known:
            layer.sublayers = tuple(
                ((key, f"_{key}"), self._inner(layer, value, depth))
                for key, value in values.items()
                if isinstance(key, str) and _has_layers(value)
            )

    def _inner(
        self, layer: Layer, serialised: Mapping[str, Any], depth: int, name: str | None = None
    ) -> Layer:
        return self.layer(
            serialised, path=layer.path, name=name, frozen=layer.frozen, depth=depth + 1
        )

    def _directions(
        self, layer: Layer, values: Mapping[str, Any], depth: int
    ) -> tuple[tuple[tuple[str, ...], Layer], ...]:
        """Both layers of a Bidirectional; Keras 2 writes one where they share their settings."""
        explicit = values.get("backward_layer")
        sources = {
            "forward": values["layer"],
            "backward": values["layer"] if explicit is None else explicit,
        }
        pair: list[tuple[tuple[str, ...], Layer]] = []
        for direction, serialised in sources.items():
            bare = str(as_mapping(serialised.get("config")).get("name"))
            name = bare if bare.startswith(direction) else f"{direction}_{bare}"
            pair.append(((f"{direction}_layer",), self._inner(layer, serialised, depth, name)))
        if explicit is None:
            for forward, backward in zip(pair[0][1].walk(), pair[1][1].walk(), strict=True):
                backward.copy_of = forward.key
        return tuple(pair)

    def _variables(self, layer: Layer, serialised: Mapping[str, Any]) -> None:
        """Look the class up; what is not Keras' own may hold anything."""
        values = layer.config.values
        families = KERAS_1_FAMILIES if _is_keras_1(values) else FAMILIES
        family = families.get(layer.class_name) if layer.builtin else None
        told = None if family is not None else self.custom_layers.get(short_name(layer.class_name))
        if family is not None:
            self._of_family(layer, family)
        elif told is not None:
            self._as_told(layer, told)
        elif (other := known_layer(serialised, values)) is not None:
            self._of_family(layer, other.family)
            layer.package, layer.open_ended = other.package, True
            layer.implied = tuple(other.implied(layer.config))
        else:
            layer.known = layer.builtin and layer.class_name in WEIGHTLESS
            layer.open_ended = not layer.known

    def _of_family(self, layer: Layer, family: Family) -> None:
        variables = tuple(family(layer.config))
        layer.variables, layer.open_ended = quantised_variables(layer.config.values, variables)
        layer.known = True

    def _as_told(self, layer: Layer, told: CustomLayer) -> None:
        """Take somebody's word for what a user's class is like."""
        layer.by_word = True
        if told.like is not None and (family := family_of(told.like)) is not None:
            self._of_family(layer, family)
            return
        layer.variables = tuple(
            variable
            for argument, names in told.weights.items()
            for variable in _named(argument, names, legacy=self.legacy)
        )
        layer.known = layer.open_ended = layer.told = True


def _named(argument: str, names: Sequence[str], *, legacy: bool) -> Iterator[Variable]:
    """The weights of a user's class that `argument` governs, by their names in this layout."""
    for name in names:
        numbered = _NUMBERED.fullmatch(name)
        if legacy and numbered is None:
            yield Variable(name, argument)
        elif numbered is not None and not legacy:
            place = () if numbered["place"] is None else (numbered["place"],)
            yield Variable(name, argument, place=place, number=int(numbered["number"]))


_NUMBERED: Final = re.compile(r"((?P<place>.+)/)?vars/(?P<number>[0-9]{1,9})")
"""What the v3 layout calls a weight within its layer."""


def short_name(class_name: str) -> str:
    """A class without the package that it is registered under."""
    return class_name.rpartition(">")[2]


def _has_layers(value: object) -> bool:
    """Whether a setting holds a model, or a layer of Keras' own that has variables."""
    if not is_layer(value) or not isinstance(value, Mapping):
        return False
    listed = as_mapping(value["config"]).get("layers")
    return isinstance(listed, list) or (_is_builtin(value) and value["class_name"] in FAMILIES)


def _is_bidirectional(layer: Layer) -> bool:
    """Whether it is Keras' own: only of that one it is known which settings are its two layers."""
    return layer.builtin and layer.class_name == "Bidirectional"


def _declared(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in values.items()
        if isinstance(key, str) and key.endswith("_constraint") and value is not None
    }


def _is_keras_1(values: Mapping[str, Any]) -> bool:
    return "W_constraint" in values or "b_constraint" in values
