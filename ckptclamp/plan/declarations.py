"""What a checkpoint's own model declares, turned into pairs of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptclamp.constraints.registry import make
from ckptclamp.constraints.sets.orders import ORDERS, OfRows
from ckptclamp.errors import Notice, Reason, SpecError, SpecProblem, UsageError, printable
from ckptclamp.frozen import frozen
from ckptclamp.models.keras.constraints import ParsedConstraint, parse_constraint
from ckptclamp.models.keras.declarations import Declaration, undeclared_notices
from ckptclamp.plan import Assignment, Entry, NotEvaluated, Origin
from ckptclamp.plan.parts import why_not_projected
from ckptclamp.plan.tensors import (
    stored,
    why_not_audited,
)
from ckptclamp.plan.tolerances import Histories, forgiving
from ckptclamp.plan.units import has_axes, unit_of
from ckptclamp.spec.model import CustomObject, Leeway, Spec, Units

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from ckptclamp.checkpoints.tensor import Tensor
    from ckptclamp.constraints.base import Constraint
    from ckptclamp.models.keras.model import BoundModel


def plan_declarations(
    bound: BoundModel, spec: Spec, allow_import: AbstractSet[str], caller: Leeway
) -> Iterator[Entry]:
    """Plan every constraint that the config of `bound` declares.

    What cannot be understood (a custom constraint that nobody mapped, an axis that the tensor does
    not have) is not evaluated, with the reason; it never stops the rest.
    """
    tensors = {**bound.tensors, **bound.dequantised}
    planners = [
        _Planner(declaration, tensors, spec, allow_import) for declaration in bound.declarations
    ]
    _refuse_hidden_differences(planners, spec)
    histories = Histories(bound)
    for planner in planners:
        for entry in planner.entries():
            yield forgiving(entry, caller.over(spec.leeway), histories)
    yield from undeclared_notices(bound.layers, {*spec.unconstrained, *spec.custom_layers})


@frozen
class _Planner:
    """One declaration and what is needed to plan it."""

    declaration: Declaration
    tensors: Mapping[str, Tensor]
    spec: Spec
    allow_import: AbstractSet[str]

    @property
    def rule(self) -> str:
        return f"{self.declaration.layer}.{self.declaration.argument}"

    def entries(self) -> Sequence[Entry]:
        declaration = self.declaration
        if declaration.not_evaluated is not None:
            return (self._refused(declaration.not_evaluated, declaration.hint),)
        if not declaration.tensors:
            return declaration.notices
        if declaration.parsed.builtin == "Constraint" and self._mapped() is None:
            return (*declaration.notices, self._constrains_nothing())
        try:
            constraint, units = self._constraint()
        except UsageError as error:
            return (self._refused(Reason("unknown-constraint", error.message), error.hint),)
        labels = declaration.labels or (None,) * len(declaration.tensors)
        return [
            *self._ignored_arguments(constraint),
            *(
                self._pair(self.tensors[name], label, constraint, units)
                for name, label in zip(declaration.tensors, labels, strict=True)
            ),
        ]

    def fixed(self) -> tuple[str, dict[str, Any]] | None:
        """The constraint's name and its own arguments, if a mapping makes it of none of them."""
        if self.declaration.not_evaluated is not None or not self.declaration.tensors:
            return None
        mapped, written = self._mapped(), self.written
        if mapped is None or mapped.uses != frozenset():
            return None
        return written.builtin or written.custom or "", mapped.ignored(written.config)

    def _ignored_arguments(self, constraint: Constraint) -> Iterator[Notice]:
        """Warn where a mapping may say other numbers than the model's own config."""
        mapped = self._mapped()
        ignored = {} if mapped is None else mapped.ignored(self.written.config)
        if ignored:
            yield Notice(
                "mapping-ignores-arguments",
                f"{self.rule} is judged as {constraint}, whatever its own {_written(ignored)} says",
                hint=f"write ${next(iter(ignored))} under custom_objects for that argument",
                tensor=self.declaration.tensors[0],
            )

    def _constraint(self) -> tuple[Constraint, Units]:
        """What the spec says that it is, or else what its class does, or an allowed import."""
        mapped, parsed = self._mapped(), self.declaration.parsed
        if mapped is not None:
            parsed = self.written
        if parsed.opaque is not None:
            raise UsageError(f"the declared constraint cannot be known: {parsed.opaque}")
        if mapped is not None:
            constraint = mapped.make(parsed.config)
            if mapped.units.stated:
                return constraint, mapped.units
        elif parsed.builtin is not None:
            constraint = _known(parsed.builtin, parsed.config)
        else:
            constraint = self._imported(parsed.custom or "", parsed.config)
        if not has_axes(constraint):
            return constraint, Units()
        if parsed.builtin is not None:
            return constraint, _units(parsed.axis)
        return constraint, Units.in_config(parsed.config)

    @property
    def written(self) -> ParsedConstraint:
        """The constraint as the config has it, whatever other packages' classes mean."""
        return parse_constraint(self.declaration.serialised)

    def _mapped(self) -> CustomObject | None:
        """What the spec knows under its name; as in Keras, that goes before a class of Keras' own."""
        written, known = self.written, self.spec.custom_objects
        name = written.builtin or written.custom or ""
        return known.get(name) or known.get(name.rpartition(">")[2])

    def _imported(self, name: str, config: Mapping[str, Any]) -> Constraint:
        target = _importable(self.declaration.serialised)
        if target is not None and self.allow_import:
            from ckptclamp.constraints.custom import import_custom

            return import_custom(target, config, self.allow_import, from_file=True)
        flag = ""
        if target is not None:
            flag = f", or allow {target} with --allow-import {target.partition(':')[0].partition('.')[0]}"
        raise UsageError(
            f"the custom constraint {name!r} is not known here",
            hint=f"map it under custom_objects in a spec{flag}",
        )

    def _pair(
        self, tensor: Tensor, label: str | None, constraint: Constraint, units: Units
    ) -> Entry:
        reason = why_not_audited(tensor)
        if reason is not None:
            return replace(self._refused(reason, None, tensor, str(constraint)), candidates=None)
        declaration = self.declaration
        place = declaration.layer_class, declaration.argument
        try:
            unit = unit_of(tensor, constraint, units, place)
        except UsageError as error:
            reason = Reason("does-not-fit", error.message)
            return self._refused(reason, error.hint, tensor, str(constraint))
        return Assignment(
            tensor=tensor,
            constraint=stored(constraint, tensor),
            axes=unit.axes,
            rule=self.rule,
            origin=Origin.DECLARED,
            why=_why(declaration),
            label=label,
            location=self.rule,
            notices=(*declaration.notices, *unit.notices),
            unprojected=why_not_projected(tensor, constraint, unit.axes)
            or _only_audited(constraint),
            meant=unit.meant,
        )

    def _refused(
        self,
        reason: Reason,
        hint: str | None,
        tensor: Tensor | None = None,
        constraint: str | None = None,
    ) -> NotEvaluated:
        return NotEvaluated(
            subject=self.declaration.layer if tensor is None else tensor.name,
            rule=self.rule,
            constraint=constraint or _written_name(self.declaration.serialised),
            origin=Origin.DECLARED,
            reason=reason,
            hint=hint,
            location=self.rule,
            tensor=tensor,
            notices=self.declaration.notices,
            candidates=self.declaration.tensors or self.declaration.candidates,
        )

    def _constrains_nothing(self) -> Notice:
        return Notice(
            "constrains-nothing",
            f"{self.rule} is the base class Constraint, which constrains nothing",
            informational=True,
        )


def _refuse_hidden_differences(planners: Sequence[_Planner], spec: Spec) -> None:
    """Refuse a mapping that makes one constraint of several that differ, and uses none of them.

    Raises:
        SpecError: some mapping does.
    """
    met: dict[str, dict[str, str]] = {}
    for planner in planners:
        if (found := planner.fixed()) is not None:
            name, arguments = found
            met.setdefault(name, {}).setdefault(_written(arguments), planner.rule)
    problems = tuple(
        SpecProblem(
            f"custom_objects.{name}: one constraint for declarations that differ: "
            + "; ".join(f"{rule} has {arguments}" for arguments, rule in [*different.items()][:3]),
            hint="write $ and an argument's name for a number, such as "
            f"${next(iter(different)).partition('=')[0]}",
        )
        for name, different in met.items()
        if len(different) > 1
    )
    if problems:
        raise SpecError(spec.path or "options", problems)


def _written(arguments: Mapping[str, Any]) -> str:
    return printable(", ".join(f"{name}={value!r}" for name, value in arguments.items()))[:200]


def _why(declaration: Declaration) -> str:
    """Why the tensors of `declaration` are judged; with the config where that is a custom class's."""
    why = f"{declaration.layer_class} {declaration.layer} declares {declaration.argument}"
    parsed = parse_constraint(declaration.serialised)
    if parsed.custom is None or declaration.implied is not None:
        return why
    return f"{why} {printable(parsed.custom)}({_written(parsed.config)})"


def _only_audited(constraint: Constraint) -> str | None:
    """Why a projection has to be asked for, or is none that `apply` promises.

    The formula of Keras' RadialConstraint goes on moving kernels that conform.
    """
    if isinstance(constraint, OfRows) and not constraint.nearest:
        return f"a declared {type(constraint).__name__} is only audited"
    if constraint.streaming:
        return None
    from ckptclamp.constraints.sets.whole import RadialConstraint

    if not isinstance(constraint, RadialConstraint):
        return None
    return "a declared RadialConstraint is only audited; a rule of the spec has it projected"


def _known(name: str, arguments: Mapping[str, Any]) -> Constraint:
    """A constraint that is known here by its class: Keras' own, or what other packages' come to."""
    order = ORDERS.get(name)
    return make(name, arguments) if order is None else order(**arguments)


def _units(axis: tuple[int, ...] | str | None) -> Units:
    if axis is None:
        return Units()
    return Units(whole=True) if isinstance(axis, str) else Units(axis=axis)


def _importable(serialised: Mapping[str, Any] | str) -> str | None:
    """``module:Class`` of a serialised object that says where its class lives."""
    if isinstance(serialised, str):
        return None
    module, name = serialised.get("module"), serialised.get("class_name")
    if not (isinstance(module, str) and isinstance(name, str) and module != "builtins"):
        return None
    return f"{module}:{name}"


def _written_name(serialised: Mapping[str, Any] | str) -> str:
    if isinstance(serialised, str):
        return serialised
    name = serialised.get("class_name", serialised.get("name"))
    return name if isinstance(name, str) else "unknown"
