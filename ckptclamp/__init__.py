"""Audit and fix the weight constraints of neural-network checkpoints.

    >>> import ckptclamp
    >>> report = ckptclamp.audit("model.safetensors", spec="constraints.yaml")  # doctest: +SKIP
    >>> report.exit_code, report.census.violating_units  # doctest: +SKIP

`audit`, `apply`, `inspect` and `explain` do what the commands of these names do, and return frozen
dataclasses (`ckptclamp.results`). `open_checkpoint` gives the tensors themselves, box by box.
Failures are raised as the classes of `ckptclamp.errors`. Nothing heavy is imported until it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ckptclamp._version import __version__ as __version__

if TYPE_CHECKING:
    from ckptclamp.applying import ApplyOptions as ApplyOptions
    from ckptclamp.applying import apply as apply
    from ckptclamp.auditing import AuditOptions as AuditOptions
    from ckptclamp.auditing import audit as audit
    from ckptclamp.checkpoints.registry import open_checkpoint as open_checkpoint
    from ckptclamp.errors import CkptclampError as CkptclampError
    from ckptclamp.explanation import explain as explain
    from ckptclamp.inspection import inspect as inspect
    from ckptclamp.results import ApplyReport as ApplyReport
    from ckptclamp.results import AuditReport as AuditReport
    from ckptclamp.results import Verdict as Verdict
    from ckptclamp.spec.loader import load_spec as load_spec
    from ckptclamp.spec.model import Spec as Spec

_HOMES = {
    "ApplyOptions": "ckptclamp.applying",
    "ApplyReport": "ckptclamp.results",
    "AuditOptions": "ckptclamp.auditing",
    "AuditReport": "ckptclamp.results",
    "CkptclampError": "ckptclamp.errors",
    "Spec": "ckptclamp.spec.model",
    "Verdict": "ckptclamp.results",
    "apply": "ckptclamp.applying",
    "audit": "ckptclamp.auditing",
    "explain": "ckptclamp.explanation",
    "inspect": "ckptclamp.inspection",
    "load_spec": "ckptclamp.spec.loader",
    "open_checkpoint": "ckptclamp.checkpoints.registry",
}

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604 - the names are strings


def __getattr__(name: str) -> object:
    """Import a public name from its home when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
