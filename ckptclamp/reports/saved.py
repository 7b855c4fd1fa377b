"""Reports that were saved as JSON, read back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ckptclamp.checkpoints.source import Source
from ckptclamp.errors import RefusedError
from ckptclamp.reports.json import SCHEMA, load_report

if TYPE_CHECKING:
    from ckptclamp.auditing.results import ApplyReport, AuditReport

_MAX_BYTES = 1 << 29
_HEAD = 256


def read_report(path: Path) -> AuditReport | ApplyReport:
    """Read the JSON report at `path`.

    Raises:
        UnreadableError: it cannot be read, or is no JSON with one meaning.
        UsageError: it is no report of this version.
    """
    source = Source.open(path)
    try:
        if source.size > _MAX_BYTES:
            raise RefusedError(f"is {source.size} bytes long, too large for a report", path=path)
        return load_report(source.read_at(0, source.size), path=path)
    finally:
        source.close()


def is_report(path: Path) -> bool:
    """Tell whether `path` begins as a JSON report does; `read_report` makes sure."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return head.lstrip().startswith(b"{") and SCHEMA.encode() in head
