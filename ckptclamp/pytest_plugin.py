"""A pytest plugin: checkpoints asserted to conform, with the report as the failure's message.

    def test_release(ckptclamp):
        ckptclamp.assert_conforms("model.safetensors", "constraints.yaml")

`assert_conforms` can be imported from here too, in tests of any framework.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ckptclamp.auditing.results import AuditReport
    from ckptclamp.spec.model import Spec


def assert_conforms(
    path: str | Path,
    spec: Spec | Mapping[str, Any] | str | Path | None = None,
    *,
    baseline: str | Path | None = None,
    checkpoint_name: str | None = None,
    **options: Any,  # noqa: ANN401 - those of AuditOptions
) -> AuditReport:
    """Audit the checkpoint at `path` and return the report if the gate passes.

    `spec` is a `Spec`, the path of a YAML file or what such a file would hold; ``None`` judges what
    the model itself declares. `baseline` is the path of known violations, `checkpoint_name` what it
    knows the checkpoint by, if not by its path. `options` are the fields of
    `ckptclamp.auditing.options.AuditOptions` (``strict=True``, ``tolerance=0.0``).

    Raises:
        AssertionError: violations, or something could not be evaluated; the message is the report.
        CkptclampError: the checkpoint, the spec or the baseline cannot be read.
    """
    __tracebackhide__ = True
    from ckptclamp.auditing.audit import audit
    from ckptclamp.auditing.options import AuditOptions
    from ckptclamp.gate.baseline import checkpoint_identity, compare, load_baseline

    known = load_baseline(baseline) if baseline is not None else None
    report = audit(path, spec, AuditOptions(**options))
    if baseline is not None and known is not None:
        identity = checkpoint_identity(path, baseline, checkpoint_name)
        report = compare(report, identity, known)
    if report.exit_code:
        from ckptclamp.reports import RenderOptions
        from ckptclamp.reports.formats.text import render

        raise AssertionError("the checkpoint does not conform\n" + render(report, RenderOptions()))
    return report


@dataclass(frozen=True, slots=True)
class Gate:
    """What the fixture `ckptclamp` gives."""

    assert_conforms: Callable[..., AuditReport] = assert_conforms


@pytest.fixture(scope="session")
def ckptclamp() -> Gate:
    """Assert that checkpoints conform: ``ckptclamp.assert_conforms(path, spec)``."""
    return Gate()
