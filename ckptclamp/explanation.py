"""Which rule governs which tensor and why, before any weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptclamp.auditing import AuditOptions, as_spec, make_plan, opened, summarise
from ckptclamp.results import CheckpointSummary, ExitCode

if TYPE_CHECKING:
    from ckptclamp.plan import Plan
    from ckptclamp.spec.model import Spec


@dataclass(frozen=True, slots=True)
class Explanation:
    """The plan for a checkpoint, and the tensors that no rule governs."""

    checkpoint: CheckpointSummary
    plan: Plan
    ungoverned: tuple[str, ...]

    @property
    def exit_code(self) -> ExitCode:
        """What an audit could at best return: 3 or 4 where it could not pass."""
        if self.plan.not_evaluated:
            return ExitCode.INCOMPLETE
        if self.plan.unmatched or not self.plan.assignments:
            return ExitCode.NOTHING_EVALUATED
        return ExitCode.OK


def explain(
    path: str | Path,
    spec: Spec | Mapping[str, Any] | str | Path | None = None,
    options: AuditOptions | None = None,
) -> Explanation:
    """Plan an audit of the checkpoint at `path` and return the plan.

    Raises:
        UnreadableError: the checkpoint cannot be opened.
        UsageError: the spec asks for what makes no sense for this checkpoint.
    """
    options = options or AuditOptions()
    with opened(path, options) as checkpoint:
        plan = make_plan(checkpoint, as_spec(spec, options), options)
        governed = {assignment.tensor.name for assignment in plan.assignments}
        governed |= {entry.tensor.name for entry in plan.not_evaluated if entry.tensor}
        return Explanation(
            checkpoint=summarise(checkpoint, digests={}),
            plan=plan,
            ungoverned=tuple(name for name in checkpoint.tensors if name not in governed),
        )
