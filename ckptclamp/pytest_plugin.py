"""A pytest plugin: checkpoints asserted to conform, with what does not as the failure's message.

    def test_release(ckptclamp):
        ckptclamp.assert_conforms("model.safetensors", "constraints.yaml")

The fixture's relative paths lead from pytest's rootdir, wherever pytest was called. `assert_conforms` can
be imported from here too, in tests of any framework; its paths are those of the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import pytest

from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from typing import Literal

    from ckptclamp.auditing.results import AuditReport
    from ckptclamp.auditing.verdicts import OnUnit
    from ckptclamp.constraints.tolerance import History
    from ckptclamp.engine.executors import Progress
    from ckptclamp.spec.model import Spec, ZeroUnits

_MOST_LINES = 10
"""Failures that a message names; `ckptclamp audit` shows all."""


class Options(TypedDict, total=False):
    """The fields of `ckptclamp.AuditOptions`, as keywords."""

    tolerance: float | History | Literal["trained", "cast"] | None
    epsilon: float | None
    zero_units: ZeroUnits | Literal["violation", "allow"] | None
    strict: bool
    allow_import: frozenset[str]
    worst: int
    histogram: bool
    hash: bool | None
    on_unit: OnUnit | None
    config: Mapping[str, Any] | None
    config_source: str | None
    base: Path | None
    follow_symlinks: bool
    require_isolation: bool
    header_limit: int
    expansion_limit: int
    unpacked_limit: int
    leave_cache: bool
    memory: int
    jobs: int | None
    executor: Executor | str | None
    progress: Progress | None


def assert_conforms(
    path: str | Path,
    spec: Spec | Mapping[str, Any] | str | Path | None = None,
    *,
    baseline: str | Path | None = None,
    checkpoint_name: str | None = None,
    **options: Unpack[Options],
) -> AuditReport:
    """Audit the checkpoint at `path` and return the report if the gate passes.

    `spec` is a `Spec`, the path of a YAML file or what such a file would hold; ``None`` judges what
    the model itself declares. `baseline` is the path of known violations, `checkpoint_name` what it
    knows the checkpoint by, if not by its path. `options` are the fields of
    `ckptclamp.AuditOptions` (``strict=True``, ``tolerance=0.0``).

    Raises:
        AssertionError: violations, or something could not be evaluated; the message names what.
        CkptclampError: the checkpoint, the spec or the baseline cannot be read.
    """
    __tracebackhide__ = True
    from ckptclamp.auditing.audit import audit
    from ckptclamp.auditing.options import AuditOptions
    from ckptclamp.gate.baseline import checkpoint_identity, compare
    from ckptclamp.gate.known import load_baselines

    known = load_baselines(baseline) if baseline is not None else None
    fields: dict[str, Any] = {**options}
    report = audit(path, spec, AuditOptions(**fields))
    if baseline is not None and known is not None:
        identity = checkpoint_identity(path, baseline, checkpoint_name)
        report = compare(report, identity, known.of(identity))
    if report.exit_code:
        raise AssertionError(_message(report))
    return report


def _message(report: AuditReport) -> str:
    """What does not conform in a line each, and the census."""
    from ckptclamp.reports import RenderOptions
    from ckptclamp.reports.formats.text import render

    *failures, census = render(report, RenderOptions(verbose=-1)).splitlines()
    more = len(failures) - _MOST_LINES
    rest = [f"and {more:,} more"] if more > 0 else []
    said = [*failures[:_MOST_LINES], *rest, census]
    return "\n  ".join([f"{report.checkpoint.path} does not conform", *said])


@frozen
class Gate:
    """What the fixture `ckptclamp` gives; relative paths lead from `root`."""

    root: Path

    def assert_conforms(
        self,
        path: str | Path,
        spec: Spec | Mapping[str, Any] | str | Path | None = None,
        *,
        baseline: str | Path | None = None,
        checkpoint_name: str | None = None,
        **options: Unpack[Options],
    ) -> AuditReport:
        """Do what the function `assert_conforms` does."""
        __tracebackhide__ = True
        base = options.get("base")
        if base is not None:
            options["base"] = self.root / base
        return assert_conforms(
            self.root / path,
            self.root / spec if isinstance(spec, (str, Path)) else spec,
            baseline=None if baseline is None else self.root / baseline,
            checkpoint_name=checkpoint_name,
            **options,
        )


@pytest.fixture(scope="session")
def ckptclamp(pytestconfig: pytest.Config) -> Gate:
    """Assert that checkpoints conform: ``ckptclamp.assert_conforms(path, spec)``."""
    return Gate(pytestconfig.rootpath)
