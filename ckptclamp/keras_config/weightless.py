"""The layer classes of Keras that store no variable of their own, or none that can be foretold."""

from __future__ import annotations

from typing import Final

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
