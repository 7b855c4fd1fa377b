"""What an audit and an apply answer: frozen dataclasses, and nothing that computes weights.

Every report is made from these, and they are what the Python API returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from typing import TYPE_CHECKING

from ckptclamp.auditing.showing import Shown
from ckptclamp.constraints.tolerance import History
from ckptclamp.engine.histogram import Histogram
from ckptclamp.errors import ExitCode, Notice
from ckptclamp.frozen import frozen
from ckptclamp.plan import Origin, UnmatchedRule
from ckptclamp.spec.model import Severity

if TYPE_CHECKING:
    from ckptclamp.checkpoints.checkpoint import Checkpoint


class Verdict(StrEnum):
    """The three answers. "Not evaluated" can never read as "pass"."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    VIOLATION = "violation"
    NOT_EVALUATED = "not-evaluated"


@frozen
class WorstUnit:
    """One unit that lies outside: its coordinates along the kept axes, and how far out it is.

    `excess` is relative to the bound, ``None`` where the bound is 0 or a weight is not finite. `zero`
    says that all of its weights are zeros.
    """

    index: tuple[int, ...]
    measured: float
    bound: float
    distance: float
    excess: float | None
    nonfinite: int = 0
    zero: bool = False


@frozen
class Suppressed:
    """Why a violation does not fail the gate: a baseline entry or an ignore rule."""

    by: str
    reason: str
    expires: str | None = None


@frozen
class Result:
    """One row of an audit: one tensor under one rule.

    `tensor` is the full name, `label` the friendlier name where there is one (``dense/kernel`` for
    ``layers/dense/vars/0``). `axes` are the reduced axes; `unit_words` says what one unit is.
    `measured_min` and `measured_max` span all units with finite weights, but for zeros that the rule
    excepts. `worst` lists violating units, worst first. `within_tolerance` counts units that lie outside
    the set, but by no more than the tolerance; they conform. Below their bound these may lie farther out,
    by `shortfall`, relative as the `tolerance`; `history` names what both were derived from, and is
    ``None`` where a number was stated. `zero` counts violating units without a weight but zeros, and
    `zero_allowed` those that would violate if the rule did not except them; `zero_first` lists the first of
    either. `epsilon` is the one by which Keras' own formula would leave all violating units, but zeros,
    where they are. A result that was not evaluated has a `reason`, of the kind that `reason_code` names,
    and no measurements; `hint` is what to do about it, or about violations that may be none. `tied_to` is
    the tensor that the rule matches, where this one is judged because both are one weight.
    """

    tensor: str
    rule: str
    constraint: str
    origin: Origin
    verdict: Verdict
    label: str | None = None
    shape: tuple[int, ...] = ()
    dtype: str = ""
    axes: tuple[int, ...] = ()
    unit_words: str = ""
    unit_size: int = 0
    location: str | None = None
    why: str = ""
    severity: Severity = Severity.ERROR
    tolerance: float = 0.0
    shortfall: float = 0.0
    history: History | None = None
    reason: str | None = None
    reason_code: str | None = None
    hint: str | None = None
    units: int = 0
    violating: int = 0
    within_tolerance: int = 0
    nonfinite: int = 0
    unmendable: int = 0
    zero: int = 0
    zero_allowed: int = 0
    zero_first: tuple[tuple[int, ...], ...] = ()
    epsilon: float | None = None
    bound: tuple[float | None, float | None] = (None, None)
    measured_min: float | None = None
    measured_max: float | None = None
    worst: tuple[WorstUnit, ...] = ()
    histogram: Histogram | None = None
    notices: tuple[Notice, ...] = ()
    suppressed: Suppressed | None = None
    tied_to: str | None = None

    def __repr__(self) -> str:
        count = f": {self.violating} of {self.units} units" * (self.verdict is Verdict.VIOLATION)
        return f"<Result {self.label or self.tensor!r} under {self.rule!r}: {self.verdict}{count}>"


@frozen
class FileDigest:
    """One file of a checkpoint: its name, size in bytes, and sha256 if it was hashed.

    `version` is what a remote file is known by where it lies: its entity tag, or a commit.
    """

    path: str
    size: int
    sha256: str | None = None
    version: str | None = None


@frozen
class Fetched:
    """What came over a network: `bytes` of the `held` ones that the remote files have, in `requests`."""

    bytes: int
    held: int
    requests: int

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Fetched | None:
        """What came of the remote files of `checkpoint` so far; ``None`` where there are none."""
        every = dict.fromkeys((*checkpoint.files, *checkpoint.sources, *checkpoint.companions))
        remote = [source for source in every if source.remote]
        if not remote:
            return None
        fetched = sum(source.fetched for source in remote)
        held = sum(source.size for source in remote)
        return cls(fetched, held, sum(source.requests for source in remote))


@frozen
class CheckpointSummary:
    """What was audited."""

    path: str
    format: str
    files: tuple[FileDigest, ...]
    tensors: int
    producer: str | None = None
    isolation: tuple[str, ...] = ()
    fetched: Fetched | None = None


@frozen
class Summary:
    """How many results had which answer; suppressed violations are counted apart.

    `within_tolerance` counts units that conform by their tolerance alone, `zero_allowed` zero units
    that a rule excepts.
    """

    results: int
    passed: int
    violations: int
    not_evaluated: int
    suppressed: int
    warnings: int
    units: int
    violating_units: int
    within_tolerance: int = 0
    zero_allowed: int = 0


@frozen
class AuditReport(Shown):
    """The whole answer of an audit.

    `unmatched` are required rules that matched nothing. `parameters` are those that change the
    answer (tolerance, strictness, a model config from elsewhere), as text.
    """

    checkpoint: CheckpointSummary
    results: tuple[Result, ...]
    unmatched: tuple[UnmatchedRule, ...] = ()
    notices: tuple[Notice, ...] = ()
    spec_path: str | None = None
    spec_sha256: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    tool_version: str = ""
    strict: bool = False
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the gate lets it pass: its exit code is 0."""
        return self.exit_code is ExitCode.OK

    @property
    def violations(self) -> tuple[Result, ...]:
        """The results that violate and that nothing suppresses."""
        return tuple(
            r for r in self.results if r.verdict is Verdict.VIOLATION and r.suppressed is None
        )

    @property
    def all_notices(self) -> tuple[Notice, ...]:
        """The notices of the report and of every result."""
        return self.notices + tuple(n for result in self.results for n in result.notices)

    @property
    def census(self) -> Summary:
        """Count the results."""
        open_results = [result for result in self.results if result.suppressed is None]
        of = [result.verdict for result in open_results]
        return Summary(
            results=len(self.results),
            passed=of.count(Verdict.PASS),
            violations=of.count(Verdict.VIOLATION),
            not_evaluated=of.count(Verdict.NOT_EVALUATED),
            suppressed=len(self.results) - len(of),
            warnings=sum(not notice.informational for notice in self.all_notices),
            units=sum(r.units for r in self.results),
            violating_units=sum(r.violating for r in open_results),
            within_tolerance=sum(r.within_tolerance for r in self.results),
            zero_allowed=sum(r.zero_allowed for r in self.results),
        )

    @property
    def exit_code(self) -> ExitCode:
        """The gate's answer; see the README for the table.

        What could not be judged outranks what was judged: 3 before 4 before 1.
        """
        judged = [r for r in self.results if r.verdict is not Verdict.NOT_EVALUATED]
        if len(judged) < len(self.results):
            return ExitCode.INCOMPLETE
        if self.unmatched or not judged:
            return ExitCode.NOTHING_EVALUATED
        if any(self._fails(result) for result in judged) or (self.strict and self.census.warnings):
            return ExitCode.VIOLATIONS
        return ExitCode.OK

    def _fails(self, result: Result) -> bool:
        counts = self.strict or result.severity is Severity.ERROR
        return counts and result.verdict is Verdict.VIOLATION and result.suppressed is None


@frozen
class TensorChange:
    """What apply did to one tensor: units rewritten, and the largest change of a weight.

    Units are those of the rule that has most of them; of several rules a dry run counts how many
    units could be rewritten at most. `largest_change` is relative to the
    largest magnitude in the weight's unit.
    """

    tensor: str
    units: int
    changed: int
    largest_change: float
    rules: tuple[str, ...] = ()
    label: str | None = None


@frozen
class ApplyReport(Shown):
    """What apply changed, and the audit of what it wrote (``None`` for a dry run)."""

    before: AuditReport
    changes: tuple[TensorChange, ...]
    after: AuditReport | None
    output: str | None
    projection: str
    notices: tuple[Notice, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether its exit code is 0."""
        return self.exit_code is ExitCode.OK

    @property
    def results(self) -> tuple[Result, ...]:
        """Those of the copy; of a dry run, those of the input."""
        return (self.after or self.before).results

    @property
    def violations(self) -> tuple[Result, ...]:
        """The results, as `results` has them, that violate and that nothing suppresses."""
        return (self.after or self.before).violations

    @property
    def exit_code(self) -> ExitCode:
        """That of the copy; a dry run is a success where everything could be judged and fixed.

        A dry run tries each rule by itself: rules that exclude each other may go unnoticed.
        """
        if self.after is not None:
            return self.after.exit_code
        code = self.before.exit_code
        if code in (ExitCode.INCOMPLETE, ExitCode.NOTHING_EVALUATED):
            return code
        unfixable = any(r.unmendable and r.suppressed is None for r in self.before.results)
        return ExitCode.VIOLATIONS if unfixable else ExitCode.OK
