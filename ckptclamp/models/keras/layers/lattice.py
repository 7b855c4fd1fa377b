"""Layers of TensorFlow Lattice, whose code makes constraints of settings such as ``monotonicities``.

What is elementwise, an order of the rows or a bound on their sums is told as such; trusts, dominances,
convexity and the like are named as what they are, and are not evaluated. Source: the layers'
``build`` and the projections of TensorFlow Lattice 2.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

from ckptclamp.errors import printable
from ckptclamp.frozen import frozen
from ckptclamp.models.keras.config import LayerConfig, as_integer, times
from ckptclamp.models.keras.constraints import ParsedConstraint
from ckptclamp.models.keras.layers import Family, Variable, Variables


@frozen
class Implied:
    """A constraint on `variable` that a layer's code makes of its `setting`.

    `constraint` is what it is; it is opaque where it is known by name only.
    """

    setting: str
    variable: str
    constraint: ParsedConstraint


def _lattice(c: LayerConfig) -> Variables:
    sizes = _sizes(c)
    rows = None if sizes is None else math.prod(sizes)
    yield Variable("lattice_kernel", None, (rows, _units(c)))


def _linear(c: LayerConfig) -> Variables:
    yield Variable("linear_layer_kernel", None, (c.integer("num_input_dims"), _units(c)))
    if c.flag("use_bias"):
        yield Variable("linear_layer_bias", None, () if _units(c) == 1 else (_units(c),))


def _piecewise_linear(c: LayerConfig) -> Variables:
    keypoints = c.values.get("input_keypoints")
    rows = len(keypoints) if isinstance(keypoints, list) else None
    if c.values.get("input_keypoints_type") == "learned_interior":
        steps = None if rows is None else rows - 1
        yield Variable("interpolation_logits", None, (_units(c), steps))
    if rows is not None and c.flag("is_cyclic", default=False):
        rows -= 1
    yield Variable("pwl_calibration_kernel", None, (rows, _units(c)))
    if c.flag("impute_missing", default=False) and c.values.get("missing_output_value") is None:
        yield Variable("pwl_calibration_missing_output", None, (1, _units(c)))


def _categorical(c: LayerConfig) -> Variables:
    yield Variable("categorical_calibration_kernel", None, (c.integer("num_buckets"), _units(c)))


def _kronecker(c: LayerConfig) -> Variables:
    units, terms = _units(c), c.integer("num_terms")
    yield Variable("kronecker_factored_lattice_scale", None, (units, terms))
    free = c.values.get("output_min") is None and c.values.get("output_max") is None
    yield Variable("kronecker_factored_lattice_bias", None, (units,), trainable=free)
    shape = (1, c.integer("lattice_sizes"), None, times(units, terms))
    yield Variable("kronecker_factored_lattice_kernel", None, shape)


def _cumulative(c: LayerConfig) -> Variables:
    factor = c.integer("sparsity_factor") or 1
    units = _units(c)
    width = None if units is None else units // factor
    yield Variable("kernel", None, (1, None, c.integer("num_keypoints"), width))
    kind = c.values.get("input_scaling_type")
    if kind == "learned_shared":
        yield Variable("input_scaling", None, (1,))
    elif kind == "learned_per_input":
        yield Variable("input_scaling", None, (1, None, 1, 1))


FAMILIES: Final[dict[str, Family]] = {
    "Lattice": _lattice,
    "Linear": _linear,
    "PWLCalibration": _piecewise_linear,
    "CategoricalCalibration": _categorical,
    "KroneckerFactoredLattice": _kronecker,
    "CDF": _cumulative,
}

SETTINGS: Final[dict[str, frozenset[str]]] = {
    "Lattice": frozenset({"lattice_sizes", "monotonicities", "output_min"}),
    "Linear": frozenset({"num_input_dims", "monotonicities"}),
    "PWLCalibration": frozenset({"input_keypoints", "monotonicity", "output_min"}),
    "CategoricalCalibration": frozenset({"num_buckets", "monotonicities"}),
    "KroneckerFactoredLattice": frozenset({"lattice_sizes", "num_terms"}),
    "CDF": frozenset({"num_keypoints", "input_scaling_type"}),
}
"""Settings by which a class is known where nothing says whose it is."""

_UNKNOWN: Final = {
    "Lattice": [
        "unimodalities",
        "edgeworth_trusts",
        "trapezoid_trusts",
        "monotonic_dominances",
        "range_dominances",
        "joint_monotonicities",
        "joint_unimodalities",
    ],
    "Linear": ["monotonic_dominances", "range_dominances", "normalization_order"],
    "PWLCalibration": ["convexity"],
    "KroneckerFactoredLattice": ["monotonicities", "output_min", "output_max"],
}
"""Settings of which the code makes constraints that are known by name only."""

_WORDS: Final = {"increasing": 1, "none": 0, "decreasing": -1}


def implied_constraints(name: str, c: LayerConfig) -> Iterator[Implied]:
    """Every constraint that the code of the class `name` makes of the settings in `c`."""
    found = {
        "Lattice": _of_lattice,
        "Linear": _of_linear,
        "PWLCalibration": _of_piecewise_linear,
        "CategoricalCalibration": _of_categorical,
        "CDF": _of_cumulative,
    }.get(name)
    if found is not None:
        yield from found(c)
    for setting in _UNKNOWN.get(name, ()):
        value = c.values.get(setting)
        is_bound = setting in ("output_min", "output_max")  # of which 0 is one
        if value is not None and (is_bound or not _says_nothing(value)):
            kernel = "kronecker_factored_lattice_kernel" if name.startswith("K") else _KERNEL[name]
            yield Implied(setting, kernel, _opaque(f"the set of {setting} is not known here"))


_KERNEL: Final = {
    "Lattice": "lattice_kernel",
    "Linear": "linear_layer_kernel",
    "PWLCalibration": "pwl_calibration_kernel",
    "CategoricalCalibration": "categorical_calibration_kernel",
}


def _says_nothing(value: object) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(item in (None, 0, "none") for item in values)


def _of_lattice(c: LayerConfig) -> Iterator[Implied]:
    kernel = _KERNEL["Lattice"]
    directions, sizes = _directions(c.values.get("monotonicities")), _sizes(c)
    if directions is None or sizes is None or len(directions) not in (0, len(sizes)):
        yield _odd("monotonicities", kernel)
    elif any(directions):
        arguments = {"sizes": sizes, "directions": directions}
        yield Implied("monotonicities", kernel, ParsedConstraint("Monotonic", arguments))
    yield from _bounds(c, kernel)


def _of_linear(c: LayerConfig) -> Iterator[Implied]:
    kernel, rows = _KERNEL["Linear"], c.integer("num_input_dims")
    signs = _directions(c.values.get("monotonicities"))
    if signs is None or len(signs) not in (0, rows):
        yield _odd("monotonicities", kernel)
    elif any(signs):
        yield Implied("monotonicities", kernel, _signs(signs))


def _of_piecewise_linear(c: LayerConfig) -> Iterator[Implied]:
    kernel, rows = _KERNEL["PWLCalibration"], c.values.get("input_keypoints")
    directions = _directions(c.values.get("monotonicity"))
    if directions is None or len(directions) > 1 or not isinstance(rows, list):
        yield _odd("monotonicity", kernel)
        return
    direction = sum(directions)
    if direction:
        steps = len(rows) - 1 - c.flag("is_cyclic", default=False)
        yield Implied("monotonicity", kernel, _signs((0, *(direction,) * steps)))
    yield from _bounded_sums(c, kernel, direction)
    if c.flag("impute_missing", default=False):
        yield from _bounds(c, "pwl_calibration_missing_output")


def _bounded_sums(c: LayerConfig, kernel: str, direction: int) -> Iterator[Implied]:
    low, high = c.values.get("output_min"), c.values.get("output_max")
    if low is None and high is None:
        return
    if not (_is_bound(low) and _is_bound(high)):
        yield _odd("output_bounds", kernel)
        return
    clamped = {
        "low": low is not None and c.flag("clamp_min", default=False),
        "high": high is not None and c.flag("clamp_max", default=False),
    }
    ends: dict[str, Any] = {}
    for side, bound in (("low", low), ("high", high)):
        if clamped[side] and direction:
            ends["first" if (side == "low") == (direction > 0) else "last"] = bound
        elif clamped[side]:
            setting = "clamp_min" if side == "low" else "clamp_max"
            yield Implied(setting, kernel, _opaque(f"the set of {setting} is not known here"))
    arguments = {
        "low": -math.inf if low is None else low,
        "high": math.inf if high is None else high,
        **ends,
    }
    yield Implied("output_bounds", kernel, ParsedConstraint("BoundedSums", arguments))


def _of_categorical(c: LayerConfig) -> Iterator[Implied]:
    kernel, pairs = _KERNEL["CategoricalCalibration"], c.values.get("monotonicities") or []
    if not (isinstance(pairs, list) and all(map(_is_pair, pairs))):
        yield _odd("monotonicities", kernel)
    elif pairs:
        arguments = {"pairs": tuple((one, other) for one, other in pairs)}
        yield Implied("monotonicities", kernel, ParsedConstraint("PartialOrder", arguments))
    yield from _bounds(c, kernel)


def _of_cumulative(c: LayerConfig) -> Iterator[Implied]:
    setting = "input_scaling_monotonicity"
    learned = c.values.get("input_scaling_type") in ("learned_shared", "learned_per_input")
    if learned and not _says_nothing(c.values.get(setting)):
        yield Implied(setting, "input_scaling", ParsedConstraint("NonNeg"))


def _bounds(c: LayerConfig, variable: str) -> Iterator[Implied]:
    """A bound for each weight."""
    low, high = c.values.get("output_min"), c.values.get("output_max")
    if low is None and high is None:
        return
    if not (_is_bound(low) and _is_bound(high)):
        yield _odd("output_bounds", variable)
        return
    arguments = {
        "low": -math.inf if low is None else low,
        "high": math.inf if high is None else high,
    }
    yield Implied("output_bounds", variable, ParsedConstraint("Clip", arguments))


def _signs(signs: tuple[int, ...]) -> ParsedConstraint:
    """Signs by row; the plain constraint where all rows are alike."""
    if all(sign == 1 for sign in signs):
        return ParsedConstraint("NonNeg")
    return ParsedConstraint("RowSigns", {"signs": signs})


def _directions(value: object) -> tuple[int, ...] | None:
    """1, 0 or -1 for each; empty where nothing is said, ``None`` where it makes no sense."""
    if value is None:
        return ()
    values = value if isinstance(value, list) else [value]
    found = [_WORDS.get(v.lower()) if isinstance(v, str) else as_integer(v) for v in values]
    known = [direction for direction in found if direction in (-1, 0, 1)]
    return tuple(d for d in known if d is not None) if len(known) == len(values) else None


def _sizes(c: LayerConfig) -> tuple[int, ...] | None:
    sizes = c.values.get("lattice_sizes")
    if not isinstance(sizes, list):
        return None
    known = [size for size in map(as_integer, sizes) if size is not None and size > 1]
    return tuple(known) if 0 < len(known) == len(sizes) <= _MOST_AXES else None


_MOST_AXES: Final = 30
"""Each is at least 2 long, so that more would be no tensor that could be read."""


def _is_bound(value: object) -> bool:
    if isinstance(value, float):
        return not math.isnan(value)
    return value is None or as_integer(value) is not None


def _is_pair(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(as_integer(v) is not None for v in value)
    )


def _units(c: LayerConfig) -> int | None:
    return c.integer("units") or 1


def _odd(setting: str, variable: str) -> Implied:
    return Implied(setting, variable, _opaque(f"its {printable(setting)} make no sense"))


def _opaque(reason: str) -> ParsedConstraint:
    return ParsedConstraint(opaque=reason)
