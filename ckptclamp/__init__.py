"""Audit and fix the weight constraints of neural-network checkpoints.

    >>> import ckptclamp
    >>> report = ckptclamp.audit("model.safetensors", spec="constraints.yaml")
    >>> report.passed, [result.tensor for result in report.violations]
    (False, ['dense.kernel'])

`audit`, `apply`, `inspect`, `explain`, `init` and `diff` do what the commands of these names do, and
return frozen dataclasses (`ckptclamp.auditing.results`). `baseline`, `attest`, `verify` and `render` go
on from a report. `open_checkpoint` gives the tensors themselves: ``checkpoint["name"][:10]``.
Failures are raised as the classes of `ckptclamp.errors`. Nothing heavy is imported until it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptclamp.api import attest as attest
    from ckptclamp.api import baseline as baseline
    from ckptclamp.api import diff as diff
    from ckptclamp.api import init as init
    from ckptclamp.api import render as render
    from ckptclamp.api import verify as verify
    from ckptclamp.applying.apply import ApplyOptions as ApplyOptions
    from ckptclamp.applying.apply import apply as apply
    from ckptclamp.auditing.audit import audit as audit
    from ckptclamp.auditing.inspection import explain as explain
    from ckptclamp.auditing.inspection import inspect as inspect
    from ckptclamp.auditing.options import AuditOptions as AuditOptions
    from ckptclamp.auditing.results import ApplyReport as ApplyReport
    from ckptclamp.auditing.results import AuditReport as AuditReport
    from ckptclamp.auditing.results import Verdict as Verdict
    from ckptclamp.checkpoints.opening import open_checkpoint as open_checkpoint
    from ckptclamp.errors import CkptclampError as CkptclampError
    from ckptclamp.spec.loader import load_spec as load_spec
    from ckptclamp.spec.model import Spec as Spec

__version__ = "0.1.0"
"""Read by the build and by ``--version`` too."""

_HOMES = {
    "ApplyOptions": "ckptclamp.applying.apply",
    "ApplyReport": "ckptclamp.auditing.results",
    "AuditOptions": "ckptclamp.auditing.options",
    "AuditReport": "ckptclamp.auditing.results",
    "CkptclampError": "ckptclamp.errors",
    "Spec": "ckptclamp.spec.model",
    "Verdict": "ckptclamp.auditing.results",
    "apply": "ckptclamp.applying.apply",
    "attest": "ckptclamp.api",
    "audit": "ckptclamp.auditing.audit",
    "baseline": "ckptclamp.api",
    "diff": "ckptclamp.api",
    "explain": "ckptclamp.auditing.inspection",
    "init": "ckptclamp.api",
    "inspect": "ckptclamp.auditing.inspection",
    "load_spec": "ckptclamp.spec.loader",
    "open_checkpoint": "ckptclamp.checkpoints.opening",
    "render": "ckptclamp.api",
    "verify": "ckptclamp.api",
}

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604 - the names are strings


def __getattr__(name: str) -> object:
    """Import a public name from its home when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
