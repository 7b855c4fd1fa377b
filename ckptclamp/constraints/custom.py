"""Users' own constraints: imported where that is allowed, tried out, and wrapped if callables."""

from __future__ import annotations

import functools
import importlib
import re
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.constraints.base import Constraint, Judgement, Movement, Statistic, UnitStatistics
from ckptclamp.constraints.sets.whole import WholeTensorConstraint
from ckptclamp.errors import CkptclampError, Reason, UnreadableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from collections.abc import Set as AbstractSet

    from numpy.typing import NDArray


_CLASS_NAME = re.compile(r"(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<name>[^\W\d]\w*(?:\.\w+)*)")


class CallableConstraint(WholeTensorConstraint):
    """A callable that takes a whole tensor and returns what it would be after projection.

    `function` gets an array and returns one of the same shape, or a framework's tensor that NumPy
    can read; `name` and `config` are what reports and `get_config` show.
    """

    def __init__(
        self, function: Callable[[Any], Any], name: str, config: Mapping[str, Any] | None = None
    ) -> None:
        self.function = function
        self.name = name
        self.config = dict(config or {})

    def apply(self, w: NDArray[Any]) -> NDArray[np.float64]:
        """Return the projected tensor in float64 and the shape of `w`.

        Raises:
            UnreadableError: the callable failed, or returned no real numbers of that shape.
        """
        try:
            result = _as_float64(self.function(w))
        except (Exception, SystemExit) as error:  # one that leaves must not end a gate as a pass
            raise UnreadableError(
                Reason("code-failed", f"{self.name} failed: {_one_line(error)}")
            ) from error
        if result.shape != w.shape:
            raise UnreadableError(
                Reason("code-failed", f"{self.name} returned shape {result.shape} for {w.shape}"),
                hint="a constraint returns the projected tensor",
            )
        return result

    def get_config(self) -> dict[str, Any]:
        """The configuration that the callable was made from."""
        return dict(self.config)

    def __str__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.config.items())
        return f"{self.name}({arguments})"


def import_custom(
    class_name: str,
    config: Mapping[str, Any],
    allowed: AbstractSet[str],
    *,
    from_file: bool = False,
) -> Constraint:
    """Import ``module:Class`` and make a constraint of it and `config`.

    Importing runs the module's code, so `allowed` must hold the module or a package above it.
    Modules are found where Python finds them; no directory is added. Where a checkpoint chose the
    name (`from_file`), only a class that keeps Keras' protocol for constraints is ever called.

    Raises:
        UsageError: it may not be imported, cannot be, or makes no constraint of `config`.
    """
    match = _CLASS_NAME.fullmatch(class_name)
    if match is None:
        raise UsageError(f"{class_name!r} is no class", hint="write it as 'package.module:Class'")
    module = match["module"]
    if not _is_allowed(module, allowed):
        raise UsageError(
            f"{class_name} is code that would be imported and run",
            hint=f"if you trust it, allow it with --allow-import {module.partition('.')[0]}",
        )
    found = _find(module, match["name"])
    if from_file and not _keeps_protocol(found):
        raise UsageError(f"{class_name} is no class with get_config and __call__")
    return _make(found, class_name, config)


def _is_allowed(module: str, allowed: AbstractSet[str]) -> bool:
    parts = module.split(".")
    return any(".".join(parts[:n]) in allowed for n in range(1, len(parts) + 1))


def _find(module: str, name: str) -> Any:  # noqa: ANN401 - whatever the user's module holds
    try:
        return functools.reduce(getattr, name.split("."), importlib.import_module(module))
    except ModuleNotFoundError as error:
        raise UsageError(
            f"cannot import {module}: {_one_line(error)}",
            hint="install it into this environment, or set PYTHONPATH",
        ) from error
    except AttributeError as error:
        raise UsageError(f"cannot find {name} in {module}: {_one_line(error)}") from error
    except (Exception, SystemExit) as error:
        raise UsageError(f"cannot import {module}: {_one_line(error)}") from error


def _keeps_protocol(found: object) -> bool:
    if not isinstance(found, type):
        return False
    can_be_called = "__call__" in dir(found) or issubclass(found, Constraint)
    return can_be_called and hasattr(found, "get_config")


def _make(found: Any, class_name: str, config: Mapping[str, Any]) -> Constraint:  # noqa: ANN401
    try:
        made = _instance(found, config)
    except CkptclampError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"{class_name} cannot be made from {dict(config)}: {_one_line(error)}"
        ) from error
    if isinstance(made, Constraint):
        return _tried(made, class_name)
    if not callable(made):
        raise UsageError(f"{class_name} is no constraint: it cannot be called with a tensor")
    return CallableConstraint(_as_keras_calls(made), class_name, config)


def _tried(made: Constraint, class_name: str) -> Constraint:
    try:
        try_out(made)
    except (Exception, SystemExit) as error:
        raise UsageError(f"{class_name} does not work: {_one_line(error)}") from error
    return made


_UNITS = 3


def try_out(constraint: Constraint) -> None:
    """Ask `constraint` for everything that an audit asks for.

    Raises:
        TypeError: it lacks something, or answers in another form than `Constraint` says.
        Exception: whatever its own methods raise.
    """
    needs = getattr(constraint, "needs", None)
    if not isinstance(needs, frozenset) or not needs <= {s for s in Statistic if s.streams}:
        raise TypeError("`needs` is no frozenset of the statistics that can be streamed")
    if not constraint.streaming:
        raise TypeError("it does not stream; write it as a plain callable w -> w")
    if constraint.elementwise:
        low, high = constraint.bounds()
        if not low <= high:
            raise TypeError(f"its bounds are {low} and {high}")
    sample = UnitStatistics(
        size=2,
        values={statistic: np.arange(_UNITS, dtype=np.float64) for statistic in needs},
        nonfinite=np.zeros(_UNITS, dtype=np.int64),
    )
    with np.errstate(all="ignore"):
        _check_judgement(constraint.judge(sample))
        for movement in (constraint.project(sample), constraint.project_keras(sample)):
            _check_movement(movement)
        _check_shape("unmendable", constraint.unmendable(sample))
    constraint.interval()
    str(constraint)


def _check_judgement(judgement: object) -> None:
    if not isinstance(judgement, Judgement):
        raise TypeError(f"judge returned {type(judgement).__name__}, not a Judgement")
    for name in ("measured", "bound", "distance", "scale"):
        _check_shape(f"the {name} of judge", getattr(judgement, name))


def _check_movement(movement: object) -> None:
    if not isinstance(movement, Movement):
        raise TypeError(f"project returned {type(movement).__name__}, not a Transform")
    for name, number in movement.numbers():
        if np.ndim(number):
            _check_shape(f"the {name} of project", number)


def _check_shape(what: str, array: object) -> None:
    shape = np.asarray(array).shape
    if shape != (_UNITS,):
        raise TypeError(f"{what} has shape {shape}, not one number for each unit")


def _as_keras_calls(made: Any) -> Callable[[Any], Any]:  # noqa: ANN401
    """A Keras constraint with what Keras gives it: a tensor of its backend, which NumPy's is not.

    Keras is never imported here. Where `made` is one of its constraints, the user's module did so.
    """
    keras = sys.modules.get("keras")
    base = getattr(getattr(keras, "constraints", None), "Constraint", None)
    if base is None or not isinstance(made, base) or not hasattr(keras, "ops"):
        return made  # type: ignore[no-any-return]
    return functools.partial(_with_backend_tensor, made)


def _with_backend_tensor(made: Callable[[Any], Any], w: NDArray[Any]) -> Any:  # noqa: ANN401
    return made(sys.modules["keras"].ops.convert_to_tensor(w))


def _instance(found: Any, config: Mapping[str, Any]) -> Any:  # noqa: ANN401
    if not isinstance(found, type):
        return functools.partial(found, **config) if config else found
    if issubclass(found, Constraint):
        # The axis is the rule's affair; see `Constraint`.
        config = {key: value for key, value in config.items() if key != "axis"}
    from_config = getattr(found, "from_config", None)
    return found(**config) if from_config is None else from_config(dict(config))


def _as_float64(value: Any) -> NDArray[np.float64]:  # noqa: ANN401 - NumPy's or a framework's
    if hasattr(value, "detach"):
        # PyTorch: off the graph and the device, and out of the dtypes that NumPy lacks.
        value = value.detach().cpu().double().numpy()
    array = np.asarray(value)
    if array.dtype.kind in "cOSUmM":
        raise TypeError(f"it returned {array.dtype}, not real numbers")
    return array.astype(np.float64, copy=False)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
