"""The layers that `layers` has not: those of Keras 1, those without weights, those that data shape.

Keras 1 had other names and settings, and weights called W and b. Sources of the settings: the
constructors of Keras 1.2. Its recurrent layers took no constraints.
"""

from __future__ import annotations

from typing import Final

from ckptclamp.models.keras.config import LayerConfig, Shape
from ckptclamp.models.keras.layers import Family, Variable, Variables


def _weight_and_bias(c: LayerConfig, weight: Shape | None, bias: Shape | None) -> Variables:
    yield Variable("W", "W_constraint", weight)
    if c.flag("bias"):
        yield Variable("b", "b_constraint", bias)


def _dense(c: LayerConfig) -> Variables:
    units = c.integer("output_dim")
    return _weight_and_bias(c, (c.integer("input_dim"), units), (units,))


def _maxout_dense(c: LayerConfig) -> Variables:
    units, pieces = c.integer("output_dim"), c.integer("nb_feature")
    return _weight_and_bias(c, (pieces, c.integer("input_dim"), units), (pieces, units))


def _highway(c: LayerConfig) -> Variables:
    width = c.integer("input_dim")
    yield Variable("W", "W_constraint", (width, width))
    yield Variable("W_carry", None, (width, width))
    if c.flag("bias"):
        yield Variable("b", "b_constraint", (width,))
        yield Variable("b_carry", None, (width,))


def _convolution(*window: str) -> Family:
    """`dim_ordering` ``th`` keeps (filters, channels, window); ``tf`` (window, channels, filters)."""

    def variables(c: LayerConfig) -> Variables:
        filters = c.integer("nb_filter")
        sizes = tuple(c.integer(key) for key in window)
        shape: Shape = (*sizes, None, filters)
        if c.values.get("dim_ordering") == "th" and len(window) > 1:
            shape = (filters, None, *sizes)
        elif len(window) == 1:
            shape = (*sizes, 1, None, filters)
        return _weight_and_bias(c, shape, (filters,))

    return variables


def _transposed_convolution(c: LayerConfig) -> Variables:
    return _weight_and_bias(c, (None,) * 4, (c.integer("nb_filter"),))


def _separable_convolution(c: LayerConfig) -> Variables:
    yield Variable("depthwise_kernel", "depthwise_constraint", (None,) * 4)
    yield Variable("pointwise_kernel", "pointwise_constraint", (None,) * 4)
    if c.flag("bias"):
        yield Variable("b", "b_constraint", (c.integer("nb_filter"),))


def _locally_connected(rank: int) -> Family:
    def variables(c: LayerConfig) -> Variables:
        filters = c.integer("nb_filter")
        return _weight_and_bias(c, (None, None, filters), (None,) * (rank + 1))

    return variables


def _embedding(c: LayerConfig) -> Variables:
    yield Variable("W", "W_constraint", (c.integer("input_dim"), c.integer("output_dim")))


KERAS_1_FAMILIES: Final[dict[str, Family]] = {
    "Dense": _dense,
    "TimeDistributedDense": _dense,
    "MaxoutDense": _maxout_dense,
    "Highway": _highway,
    "Convolution1D": _convolution("filter_length"),
    "AtrousConvolution1D": _convolution("filter_length"),
    "Convolution2D": _convolution("nb_row", "nb_col"),
    "AtrousConvolution2D": _convolution("nb_row", "nb_col"),
    "Convolution3D": _convolution("kernel_dim1", "kernel_dim2", "kernel_dim3"),
    "Deconvolution2D": _transposed_convolution,
    "SeparableConvolution2D": _separable_convolution,
    "LocallyConnected1D": _locally_connected(1),
    "LocallyConnected2D": _locally_connected(2),
    "Embedding": _embedding,
}
"""The classes by name; a config is Keras 1's when it has an argument that only Keras 1 had."""


_NAMES: Final = """
    Activation ActivityRegularization AdaptiveAveragePooling1D AdaptiveAveragePooling2D
    AdaptiveAveragePooling3D AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D Add
    AddLoss AddMetric AlphaDropout AugMix AutoContrast Average AveragePooling1D AveragePooling2D
    AveragePooling3D Bidirectional CategoryEncoding CenterCrop ClassMethod Concatenate
    ContrastLimitedAdaptiveHistogramEqualization Cropping1D Cropping2D Cropping3D CutMix Dot
    Dropout ELU Equalization Flatten Functional GaussianDropout GaussianNoise GlobalAveragePooling1D
    GlobalAveragePooling2D GlobalAveragePooling3D GlobalMaxPooling1D GlobalMaxPooling2D
    GlobalMaxPooling3D HashedCrossing Hashing Identity InputLayer InstanceMethod InstanceProperty
    LeakyReLU Masking MaxNumBoundingBoxes MaxPooling1D MaxPooling2D MaxPooling3D Maximum
    MelSpectrogram Merge Minimum MixUp Model Multiply Permute RNN RandAugment RandomBrightness
    RandomColorDegeneration RandomColorJitter RandomContrast RandomCrop RandomElasticTransform
    RandomErasing RandomFlip RandomGaussianBlur RandomGrayscale RandomHeight RandomHue RandomInvert
    RandomPerspective RandomPosterization RandomRotation RandomSaturation RandomSharpness
    RandomShear RandomTranslation RandomWidth RandomZoom ReLU RepeatVector Rescaling Reshape
    Resizing Sequential SlicingOpLambda Softmax Solarization SpatialDropout1D SpatialDropout2D
    SpatialDropout3D StackedRNNCells STFTSpectrogram Subtract TFOpLambda TensorFlowOpLayer
    ThresholdedReLU TimeDistributed UnitNormalization UpSampling1D UpSampling2D UpSampling3D
    Wrapper ZeroPadding1D ZeroPadding2D ZeroPadding3D
"""

WEIGHTLESS: Final = frozenset(_NAMES.split())
"""Models and wrappers count as such: what is inside them is listed by itself."""

DATA_DEPENDENT: Final = frozenset(
    {
        "DenseFeatures",
        "Discretization",
        "FlaxLayer",
        "IntegerLookup",
        "JaxLayer",
        "Lambda",
        "Normalization",
        "Pipeline",
        "StringLookup",
        "TFSMLayer",
        "TextVectorization",
        "TorchModuleWrapper",
    }
)
"""Keras' own classes whose variables depend on data or code that the config does not have."""

STATISTICS: Final = frozenset(
    {"Discretization", "IntegerLookup", "Normalization", "StringLookup", "TextVectorization"}
)
"""Those whose variables say something of the data, so that nobody means them by a weight."""
