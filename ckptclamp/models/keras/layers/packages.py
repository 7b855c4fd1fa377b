"""Layers and constraints of other packages: which variables they have, what they mean.

QKeras, larq, TensorFlow Addons and TensorFlow Lattice declare constraints in their configs, mostly
under Keras' own argument names. A class is theirs where the config says so, by its module or its
registered name; before Keras 2.13 neither is there, and it must have the settings that no other class
of its name would have. The variables were read off live layers, whose record is kept with the tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from ckptclamp.frozen import frozen
from ckptclamp.models.keras.config import LayerConfig, Shape, as_shape, times
from ckptclamp.models.keras.constraints import ParsedConstraint, parse_constraint
from ckptclamp.models.keras.layers import FAMILIES, Family, Variable, Variables, lattice

_ADDONS: Final = "tensorflow_addons"
_LATTICE: Final = "tensorflow_lattice"


@frozen
class KnownLayer:
    """A layer class of another package: whose it is, and its variables in Keras' order.

    Further variables may follow, of quantisers or metrics.
    """

    package: str
    name: str
    family: Family

    def implied(self, c: LayerConfig) -> Iterator[lattice.Implied]:
        """The constraints that its code makes of settings that are none."""
        if self.package == _LATTICE:
            yield from lattice.implied_constraints(self.name, c)


def _none(c: LayerConfig) -> Variables:
    """No variable that a constraint could govern."""
    del c
    yield from ()


def _folded(convolution: Family) -> Family:
    """A convolution and the BatchNormalization that QKeras folds into it."""
    place = ("batchnorm",)

    def variables(c: LayerConfig) -> Variables:
        own = list(convolution(c))
        channels = own[0].shape[-1] if own[0].shape else None
        if "depthwise_constraint" in c.values:
            channels = times(*(own[0].shape or (None,))[-2:])
        shape: Shape = (channels,)
        yield from own
        if c.flag("scale"):
            yield Variable("gamma", "gamma_constraint", shape, place=place)
        if c.flag("center"):
            yield Variable("beta", "beta_constraint", shape, place=place)
        yield Variable("iteration", None, (), trainable=False)
        for name in ("moving_mean", "moving_variance"):
            yield Variable(name, None, shape, trainable=False, place=place)

    return variables


def _filter_response_normalization(c: LayerConfig) -> Variables:
    if c.flag("learned_epsilon", default=False):
        yield Variable("learned_epsilon", "learned_epsilon_constraint", (1,))
    shape: Shape = (1, 1, 1, c.features)
    for name in ("gamma", "beta"):
        yield Variable(name, f"{name}_constraint", shape)


def _noisy_dense(c: LayerConfig) -> Variables:
    units = c.integer("units")
    kernel: Shape = (c.features, units)
    for name in ("sigma_kernel", "mu_kernel"):
        yield Variable(name, "kernel_constraint", kernel)
    if c.flag("use_bias"):
        for name in ("sigma_bias", "mu_bias"):
            yield Variable(name, "bias_constraint", (units,))
    yield Variable("eps_kernel", None, kernel, trainable=False)
    if c.flag("use_bias"):
        yield Variable("eps_bias", None, (units,), trainable=False)


def _thresholded(c: LayerConfig) -> Variables:
    shape = None if c.input_shape is None else c.input_shape[1:]
    yield Variable("tau", "tau_constraint", shape)
    if c.flag("affine", default=False):
        yield Variable("alpha", "alpha_constraint", shape)


def _heads(c: LayerConfig) -> Variables:
    heads, size = c.integer("num_heads"), c.integer("head_size")
    output = c.integer("output_size")
    for name in ("query", "key", "value"):
        yield Variable(f"{name}_kernel", "kernel_constraint", (heads, None, size))
    yield Variable("projection_kernel", "kernel_constraint", (heads, size, output))
    if c.flag("use_projection_bias"):
        yield Variable("projection_bias", "bias_constraint", (output,))


def _then(cell: str, *names: str, gamma: bool = False) -> Family:
    """A recurrent cell of Keras' with further vectors of its own."""

    def variables(c: LayerConfig) -> Variables:
        yield from FAMILIES[cell](c)
        for name in names:
            yield Variable(name, None, (c.integer("units"),))
        if gamma:
            yield Variable("gamma", "gamma_constraint", (c.integer("units"),))

    return variables


def _group_normalization(c: LayerConfig) -> Variables:
    axis = c.integer("axis")
    shape = as_shape(c.built.get("input_shape"))
    known = shape is not None and axis is not None and -len(shape) <= axis < len(shape)
    size = shape[axis] if known and shape is not None and axis is not None else None
    for flag, name in (("scale", "gamma"), ("center", "beta")):
        if c.flag(flag):
            yield Variable(name, f"{name}_constraint", (size,))


_QKERAS: Final[dict[str, Family]] = {
    **{
        f"Q{name}": FAMILIES[name]
        for name in [
            "Dense",
            "Conv1D",
            "Conv2D",
            "Conv2DTranspose",
            "DepthwiseConv2D",
            "SeparableConv1D",
            "SeparableConv2D",
            "BatchNormalization",
            "SimpleRNN",
            "GRU",
            "LSTM",
            "SimpleRNNCell",
            "GRUCell",
            "LSTMCell",
        ]
    },
    "QConv2DBatchnorm": _folded(FAMILIES["Conv2D"]),
    "QDepthwiseConv2DBatchnorm": _folded(FAMILIES["DepthwiseConv2D"]),
    "QActivation": _none,
    "QAdaptiveActivation": _none,
    "QAveragePooling2D": _none,
    "QGlobalAveragePooling2D": _none,
}

_LARQ: Final[dict[str, Family]] = {
    f"Quant{name}": FAMILIES[name]
    for name in [
        "Dense",
        "Conv1D",
        "Conv2D",
        "Conv3D",
        "Conv2DTranspose",
        "Conv3DTranspose",
        "DepthwiseConv2D",
        "SeparableConv1D",
        "SeparableConv2D",
        "LocallyConnected1D",
        "LocallyConnected2D",
    ]
}

_WITHOUT_CONSTRAINTS: Final = """
    AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveAveragePooling3D AdaptiveMaxPooling1D
    AdaptiveMaxPooling2D AdaptiveMaxPooling3D CRF CorrelationCost ESN ESNCell GELU MaxUnpooling2D
    MaxUnpooling2DV2 Maxout NASCell PoincareNormalize PolynomialCrossing Snake Sparsemax
    SpatialPyramidPooling2D StochasticDepth
"""

_OF_ADDONS: Final[dict[str, Family]] = {
    **dict.fromkeys(_WITHOUT_CONSTRAINTS.split(), _none),
    "GroupNormalization": _group_normalization,
    "InstanceNormalization": _group_normalization,
    "FilterResponseNormalization": _filter_response_normalization,
    "NoisyDense": _noisy_dense,
    "EmbeddingBag": FAMILIES["Embedding"],
    "TLU": _thresholded,
    "MultiHeadAttention": _heads,
    "LayerNormLSTMCell": _then("LSTMCell"),
    "LayerNormSimpleRNNCell": _then("SimpleRNNCell", gamma=True),
    "PeepholeLSTMCell": _then(
        "LSTMCell",
        *(f"{gate}_gate_peephole_weights" for gate in ("input", "forget", "output")),
    ),
}

_TABLE: Final[dict[str, dict[str, Family]]] = {
    "qkeras": _QKERAS,
    "larq": _LARQ,
    _ADDONS: _OF_ADDONS,
    _LATTICE: lattice.FAMILIES,
}

_REGISTERED: Final = {"Addons": _ADDONS}
"""Packages by the name under which they register their classes."""


def known_layer(serialised: Mapping[str, Any], values: Mapping[str, Any]) -> KnownLayer | None:
    """What is known of a serialised layer with the settings `values`, if another package made it."""
    name = str(serialised.get("class_name")).rpartition(">")[2]
    package = _package(serialised)
    if package is None and "module" not in serialised:
        package = next((p for p in _TABLE if name in _TABLE[p] and _speaks(p, name, values)), None)
    family = _TABLE.get(package or "", {}).get(name)
    return None if family is None or package is None else KnownLayer(package, name, family)


def layer_names() -> frozenset[str]:
    """Every class that a user's own may be said to be like."""
    return frozenset(FAMILIES).union(*_TABLE.values())


def family_of(name: str) -> Family | None:
    """The variables of a class by its name alone, as somebody states it; Keras' own come first."""
    return FAMILIES.get(name) or next((t[name] for t in _TABLE.values() if name in t), None)


def _package(serialised: Mapping[str, Any]) -> str | None:
    """The package that a serialised object says it is of."""
    for key in ("registered_name", "class_name"):
        prefix, mark, _ = str(serialised.get(key)).rpartition(">")
        if mark and prefix in _REGISTERED:
            return _REGISTERED[prefix]
    root = str(serialised.get("module")).partition(".")[0]
    return root if root in _TABLE else None


def _speaks(package: str, name: str, values: Mapping[str, Any]) -> bool:
    """Whether a config that names no package has the settings that only its class has."""
    if package == _LATTICE:
        return lattice.SETTINGS.get(name, frozenset()) <= values.keys()
    quantised = any(isinstance(key, str) and key.endswith("_quantizer") for key in values)
    return package != _ADDONS and quantised


def known_constraint(serialised: object, package: str | None) -> ParsedConstraint:
    """Read a serialised constraint, also one of another package's own classes.

    `package` is whose the layer is, which decides where the constraint does not say whose it is.
    """
    parsed = parse_constraint(serialised)
    if parsed.custom is None or not isinstance(serialised, Mapping):
        return parsed
    whose = _package(serialised) or (None if "module" in serialised else package)
    config = parsed.config
    match whose, parsed.custom:
        case "qkeras", "Clip":
            low, high = config.get("min_value", 0.0), config.get("max_value", 1.0)
            arguments = {"low": low, "high": high}
        case "larq", "WeightClip" | "weight_clip":
            high = config.get("clip_value", 1)
            if isinstance(high, bool) or not isinstance(high, int | float):
                return ParsedConstraint(opaque=f"{parsed.custom}: clip_value is not a number")
            arguments = {"low": -high, "high": high}
        case _:
            return parsed
    return ParsedConstraint(builtin="Clip", config=arguments)
