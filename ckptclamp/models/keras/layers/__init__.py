"""Which variables each Keras layer class creates, in which order, and which argument constrains each.

One function for each family of classes yields its variables from the layer's settings, in the order
in which Keras keeps them: trainable ones as created, then the others. Sizes that the config does not
tell stay unknown. `other_layers` has the classes that only Keras 1 wrote. A probe of real layers is
kept with the tests, and the two must agree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from ckptclamp.frozen import frozen
from ckptclamp.models.keras.config import LayerConfig, Shape, as_shape, times


@frozen
class Variable:
    """One variable of a layer.

    `name` is Keras 3's (``kernel``; ``query/kernel`` in a sublayer that the config does not list),
    `argument` the constructor's argument whose constraint it gets, `shape` what the settings
    imply. `place` names the attribute that holds the sublayer, with its alternatives. `other_names`
    are names of the same variable in other generations. A `mirror` is a second copy of the wrapped
    layer's first variable. `quantised` names the mode in which integers stand for it, and `legacy_only` says
    that the v3 layout does not store it. `number` is its place in the v3 layout, where that is not the
    next one.
    """

    name: str
    argument: str | None = None
    shape: Shape | None = None
    trainable: bool = True
    place: tuple[str, ...] = ()
    other_names: tuple[str, ...] = ()
    mirror: bool = False
    quantised: str | None = None
    legacy_only: bool = False
    number: int | None = None

    @property
    def names(self) -> frozenset[str]:
        """Every last component under which the variable is stored."""
        return frozenset({self.name.rpartition("/")[2], *self.other_names})

    def agrees(self, shape: tuple[int, ...]) -> bool:
        """Whether the settings imply this shape, as far as they tell."""
        return self.shape is None or (
            len(self.shape) == len(shape)
            and all(e in (None, n) for e, n in zip(self.shape, shape, strict=True))
        )


Variables = Iterator[Variable]
Family = Callable[[LayerConfig], Variables]


def _bias(c: LayerConfig, *shape: int | None) -> Variables:
    if c.flag("use_bias"):
        yield Variable("bias", "bias_constraint", shape)


def _dense(c: LayerConfig) -> Variables:
    units = c.integer("units")
    yield Variable("kernel", "kernel_constraint", (c.features, units))
    yield from _bias(c, units)


def _einsum_dense(c: LayerConfig) -> Variables:
    parsed = einsum_equation(c)
    axes = c.values.get("bias_axes")
    kernel: Shape | None = None
    bias: Shape | None = None
    if parsed is not None:
        sizes = _einsum_sizes(c, parsed["inputs"], parsed["output"])
        kernel = tuple(sizes.get(label) for label in parsed["kernel"])
        bias = _einsum_bias_shape(c, axes, parsed["inputs"], parsed["output"])
    yield Variable("kernel", "kernel_constraint", kernel)
    if isinstance(axes, str) and axes:
        yield Variable("bias", "bias_constraint", bias)


_EQUATION: Final = re.compile(
    r"(?P<inputs>(\.\.\.)?[a-zA-Z]+(\.\.\.)?),(?P<kernel>[a-zA-Z]+)->(?P<output>(\.\.\.)?[a-zA-Z]+(\.\.\.)?)"
)


def einsum_equation(c: LayerConfig) -> re.Match[str] | None:
    """The ``inputs``, ``kernel`` and ``output`` of an EinsumDense's equation."""
    equation = c.values.get("equation")
    return _EQUATION.fullmatch(equation.replace(" ", "")) if isinstance(equation, str) else None


def _einsum_sizes(c: LayerConfig, inputs: str, output: str) -> dict[str, int]:
    """Sizes by label: of the output as configured, of the input as it was built.

    An ellipsis stands for axes on one side, so the sizes are read from the other.
    """
    output_shape, input_shape = _shape_or_size(c.values.get("output_shape")), c.input_shape or ()
    rows = [*zip(output.strip(".")[::-1], (output_shape or ())[::-1], strict=False)]
    step = 1 if inputs.endswith("...") else -1
    rows += zip(inputs.strip(".")[::step], input_shape[::step], strict=False)
    return {label: size for label, size in rows if size is not None}


def _einsum_bias_shape(c: LayerConfig, axes: object, inputs: str, output: str) -> Shape | None:
    """Keras keeps an axis of size 1 for each output axis after the first one that has a bias."""
    labels = output.strip(".")
    if not isinstance(axes, str) or not axes or not set(axes) <= set(labels):
        return None
    sizes = _einsum_sizes(c, inputs, output)
    first = min(labels.index(axis) for axis in axes)
    shape = tuple(sizes.get(label) if label in axes else 1 for label in labels[first:])
    if not output.endswith("..."):
        return shape
    if c.input_shape is None:
        return None
    return shape + (1,) * (len(c.input_shape) - len(inputs.strip(".")))


def _shape_or_size(value: object) -> Shape | None:
    """A shape, also where one size is written as a bare number."""
    return as_shape([value] if isinstance(value, int) else value)


def _embedding(c: LayerConfig) -> Variables:
    shape = (c.integer("input_dim"), c.integer("output_dim"))
    yield Variable("embeddings", "embeddings_constraint", shape)
    if c.values.get("tie_weights") is False:
        yield Variable("reverse_embeddings", None, shape[::-1])


def _convolution(rank: int) -> Family:
    def variables(c: LayerConfig) -> Variables:
        filters, channels, groups = c.integer("filters"), c.channels, c.integer("groups") or 1
        depth = None if channels is None else channels // groups
        kernel = (*c.sizes("kernel_size", rank), depth, filters)
        yield Variable("kernel", "kernel_constraint", kernel)
        yield from _bias(c, filters)

    return variables


def _transposed_convolution(rank: int) -> Family:
    def variables(c: LayerConfig) -> Variables:
        filters = c.integer("filters")
        kernel = (*c.sizes("kernel_size", rank), filters, c.channels)
        yield Variable("kernel", "kernel_constraint", kernel)
        yield from _bias(c, filters)

    return variables


def _depthwise_kernel(c: LayerConfig, rank: int) -> tuple[Shape, int | None]:
    """The depthwise kernel's shape, and how many channels come out of it."""
    multiplier = c.integer("depth_multiplier") or 1
    shape = (*c.sizes("kernel_size", rank), c.channels, multiplier)
    return shape, times(c.channels, multiplier)


def _depthwise_convolution(rank: int) -> Family:
    def variables(c: LayerConfig) -> Variables:
        shape, channels = _depthwise_kernel(c, rank)
        yield Variable("kernel", "depthwise_constraint", shape, other_names=("depthwise_kernel",))
        yield from _bias(c, channels)

    return variables


def _separable_convolution(rank: int) -> Family:
    def variables(c: LayerConfig) -> Variables:
        filters = c.integer("filters")
        shape, channels = _depthwise_kernel(c, rank)
        yield Variable("depthwise_kernel", "depthwise_constraint", shape)
        pointwise = (*(1,) * rank, channels, filters)
        yield Variable("pointwise_kernel", "pointwise_constraint", pointwise)
        yield from _bias(c, filters)

    return variables


def _locally_connected(rank: int) -> Family:
    def variables(c: LayerConfig) -> Variables:
        implementation, filters = c.integer("implementation") or 1, c.integer("filters")
        features = times(*c.sizes("kernel_size", rank), c.channels)
        kernel: Shape | None = (None,) * {2: 2 * rank + 2, 3: 1}.get(implementation, 3)
        if implementation == 1:
            kernel = (None, features, filters)
        yield Variable("kernel", "kernel_constraint", kernel)
        if c.flag("use_bias"):
            yield Variable("bias", "bias_constraint", (*(None,) * rank, filters))

    return variables


def _axes(c: LayerConfig) -> tuple[int, ...] | None:
    """The normalised axes, in the order that the config has them in."""
    axis = c.values.get("axis", -1)
    axes = as_shape([axis] if isinstance(axis, int) else axis)
    return None if axes is None or None in axes else tuple(a for a in axes if a is not None)


def _axis_sizes(c: LayerConfig) -> Shape | None:
    """The sizes of the normalised axes."""
    axes = _axes(c)
    if axes is None or c.input_shape is None:
        return None if axes is None else (None,) * len(axes)
    rank = len(c.input_shape)
    if not all(-rank <= axis < rank for axis in axes):
        return None
    return tuple(c.input_shape[axis] for axis in axes)


def _gamma_and_beta(c: LayerConfig, shape: Shape | None) -> Variables:
    if c.flag("scale"):
        yield Variable("gamma", "gamma_constraint", shape)
    if c.flag("center"):
        yield Variable("beta", "beta_constraint", shape)


def _batch_shape(c: LayerConfig) -> Shape | None:
    """Several axes keep their places, with 1 for the axes between them (tf_keras only)."""
    axes = _axes(c)
    if axes is None or len(axes) == 1 or c.input_shape is None:
        return _axis_sizes(c) if axes is not None and len(axes) == 1 else None
    kept = {axis % len(c.input_shape) for axis in axes}
    return tuple(size if axis in kept else 1 for axis, size in enumerate(c.input_shape))


def _batch_normalization(c: LayerConfig) -> Variables:
    shape = _batch_shape(c)
    yield from _gamma_and_beta(c, shape)
    yield Variable("moving_mean", None, shape, trainable=False, other_names=("running_mean",))
    yield Variable("moving_variance", None, shape, trainable=False, other_names=("running_std",))
    if c.flag("renorm", default=False):
        for name in ("moving_stddev", "renorm_mean", "renorm_stddev"):
            yield Variable(name, None, shape, trainable=False)


def _layer_normalization(c: LayerConfig) -> Variables:
    shape = _axis_sizes(c)
    if c.flag("rms_scaling", default=False):
        yield Variable("gamma", "gamma_constraint", shape)
    else:
        yield from _gamma_and_beta(c, shape)


def _group_normalization(c: LayerConfig) -> Variables:
    yield from _gamma_and_beta(c, _axis_sizes(c))


def _scale_only(c: LayerConfig) -> Variables:
    yield Variable("scale", None, _axis_sizes(c))


def _prelu(c: LayerConfig) -> Variables:
    shape = None if c.input_shape is None else c.input_shape[1:]
    shared = as_shape(c.values.get("shared_axes")) or ()
    if shape is not None:
        shape = tuple(1 if axis in shared else size for axis, size in enumerate(shape, start=1))
    yield Variable("alpha", "alpha_constraint", shape)


def _recurrent(gates: int, place: tuple[str, ...] = (), own_bias: int | None = None) -> Family:
    """SimpleRNN, GRU, LSTM and their cells; `own_bias` is the CuDNN layers' bias, in units."""

    def variables(c: LayerConfig) -> Variables:
        units = c.integer("units")
        wide = times(units, gates)
        yield Variable("kernel", "kernel_constraint", (c.features, wide), place=place)
        yield Variable("recurrent_kernel", "recurrent_constraint", (units, wide), place=place)
        bias: Shape = (wide,) if own_bias is None else (times(units, own_bias),)
        if gates == 3 and own_bias is None and c.flag("reset_after", default=False):
            bias = (2, wide)
        if own_bias is not None or c.flag("use_bias"):
            yield Variable("bias", "bias_constraint", bias, place=place)

    return variables


def _convolutional_lstm(rank: int) -> Family:
    def variables(c: LayerConfig) -> Variables:
        filters, place = c.integer("filters"), ("cell",)
        wide, window = times(filters, 4), c.sizes("kernel_size", rank)
        kernel, recurrent = (*window, c.channels, wide), (*window, filters, wide)
        yield Variable("kernel", "kernel_constraint", kernel, place=place)
        yield Variable("recurrent_kernel", "recurrent_constraint", recurrent, place=place)
        if c.flag("use_bias"):
            yield Variable("bias", "bias_constraint", (wide,), place=place)

    return variables


def _attention(c: LayerConfig) -> Variables:
    """MultiHeadAttention and GroupQueryAttention: one kernel_constraint for every projection."""
    width = c.integer("key_dim", "head_dim")
    value_width = c.integer("value_dim") or width
    heads = c.integer("num_heads", "num_query_heads")
    shared_heads = c.integer("num_key_value_heads") or heads
    query, value = _attention_features(c, "query_shape"), _attention_features(c, "value_shape")
    key = _attention_features(c, "key_shape") or value
    output = _shape_or_size(c.values.get("output_shape")) or (query,)
    projections: list[tuple[str, str, Shape, Shape]] = [
        ("query", "query_dense", (query, heads, width), (heads, width)),
        ("key", "key_dense", (key, shared_heads, width), (shared_heads, width)),
    ]
    if c.flag("use_gate", default=False):
        projections.append(
            ("gate", "gate_dense", (query, heads, value_width), (heads, value_width))
        )
    projections += [
        ("value", "value_dense", (value, shared_heads, value_width), (shared_heads, value_width)),
        ("attention_output", "output_dense", (heads, value_width, *output), output),
    ]
    for name, attribute, kernel, bias in projections:
        place = (attribute, f"_{attribute}")
        yield Variable(f"{name}/kernel", "kernel_constraint", kernel, place=place)
        if c.flag("use_bias"):
            yield Variable(f"{name}/bias", "bias_constraint", bias, place=place)


def _attention_features(c: LayerConfig, key: str) -> int | None:
    shape = as_shape(c.built.get(key)) or as_shape(c.values.get(key))
    return shape[-1] if shape else None


def _spectral_normalization(c: LayerConfig) -> Variables:
    yield Variable("kernel", mirror=True, other_names=("embeddings",))
    yield Variable("vector_u", None, (1, None), trainable=False)


def _dot_attention(c: LayerConfig) -> Variables:
    if c.flag("use_scale", default=False):
        yield Variable("scale", None, ())
    if c.values.get("score_mode") == "concat":
        yield Variable("concat_score_weight", None, ())


def _additive_attention(c: LayerConfig) -> Variables:
    if c.flag("use_scale"):
        yield Variable("scale", None, (None,))


FAMILIES: Final[dict[str, Family]] = {
    "Dense": _dense,
    "TernaryDense": _dense,
    "EinsumDense": _einsum_dense,
    "Embedding": _embedding,
    "ReversibleEmbedding": _embedding,
    **{f"Conv{rank}D": _convolution(rank) for rank in (1, 2, 3)},
    **{f"Conv{rank}DTranspose": _transposed_convolution(rank) for rank in (1, 2, 3)},
    **{f"DepthwiseConv{rank}D": _depthwise_convolution(rank) for rank in (1, 2)},
    **{f"SeparableConv{rank}D": _separable_convolution(rank) for rank in (1, 2)},
    **{f"LocallyConnected{rank}D": _locally_connected(rank) for rank in (1, 2)},
    "BatchNormalization": _batch_normalization,
    "BatchNormalizationV1": _batch_normalization,
    "BatchNormalizationV2": _batch_normalization,
    "SyncBatchNormalization": _batch_normalization,
    "LayerNormalization": _layer_normalization,
    "GroupNormalization": _group_normalization,
    "RMSNormalization": _scale_only,
    "PReLU": _prelu,
    **{
        f"{name}{suffix}": _recurrent(gates, place)
        for name, gates in (("SimpleRNN", 1), ("GRU", 3), ("LSTM", 4))
        for suffix, place in (("", ("cell",)), ("Cell", ()))
    },
    "CuDNNGRU": _recurrent(3, own_bias=6),
    "CuDNNLSTM": _recurrent(4, own_bias=8),
    **{f"ConvLSTM{rank}D": _convolutional_lstm(rank) for rank in (1, 2, 3)},
    "MultiHeadAttention": _attention,
    "GroupQueryAttention": _attention,
    "GroupedQueryAttention": _attention,
    "SpectralNormalization": _spectral_normalization,
    "Attention": _dot_attention,
    "AdditiveAttention": _additive_attention,
}
"""The classes that have variables of their own, by the name in the config."""
