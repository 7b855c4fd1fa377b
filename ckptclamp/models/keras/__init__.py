"""What a Keras model declares about its own weights, read from its config as data."""

from ckptclamp.models.keras.constraints import ParsedConstraint, parse_constraint
from ckptclamp.models.keras.declarations import (
    Declaration,
    declared_constraints,
    undeclared_notices,
)
from ckptclamp.models.keras.dequantisation import dequantised_weights
from ckptclamp.models.keras.names import distinct_labels, unnamed_weights, variable_labels
from ckptclamp.models.keras.shared import twin_tensors

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
