"""What a Keras model declares about its own weights, read from its config as data."""

from ckptclamp.keras_config.constraint_forms import ParsedConstraint, parse_constraint
from ckptclamp.keras_config.declaration import Declaration
from ckptclamp.keras_config.declarations import declared_constraints, undeclared_notices
from ckptclamp.keras_config.dequantisation import dequantised_weights
from ckptclamp.keras_config.labels import distinct_labels, variable_labels
from ckptclamp.keras_config.twins import twin_tensors
from ckptclamp.keras_config.unnamed import unnamed_weights

__all__ = [
    "Declaration",
    "ParsedConstraint",
    "declared_constraints",
    "dequantised_weights",
    "distinct_labels",
    "parse_constraint",
    "twin_tensors",
    "undeclared_notices",
    "unnamed_weights",
    "variable_labels",
]
