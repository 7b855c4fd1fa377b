"""Hostile files of ours, and others' where they are at hand: each has its answer."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ckptclamp import audit
from ckptclamp.auditing.results import AuditReport, Verdict
from ckptclamp.errors import CkptclampError
from torture.hostile import CASES, Case
from torture.hostile.case import EVERYTHING

HOSTILE = os.environ.get("CKPTCLAMP_HOSTILE")
LONGEST = 10.0
"""Seconds; a hang is what takes longer."""


def answer(path: Path, spec: object) -> tuple[int, str]:
    """The exit code of an audit, and all that it says of what did not pass."""
    try:
        report = audit(path, spec)  # type: ignore[arg-type]
    except CkptclampError as error:
        return error.exit_code, str(error)
    return int(report.exit_code), said(report)


def said(report: AuditReport) -> str:
    """Names and reasons of whatever did not pass."""
    bad = [result for result in report.results if result.verdict is not Verdict.PASS]
    return "\n".join(f"{r.tensor} {r.label} {r.constraint}: {r.reason} {r.hint}" for r in bad)


def test_there_are_enough_kinds():
    """The collection is large, and no two cases share a name."""
    assert len({case.name for case in CASES}) == len(CASES) >= 150


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hostile_file(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its exit code, a word that says why, no traceback, no hang, and nothing executed."""
    monkeypatch.chdir(tmp_path)
    path = case.make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    spec = tmp_path / case.spec if isinstance(case.spec, str) else case.spec
    started = time.monotonic()
    code, text = answer(path, spec)
    assert time.monotonic() - started < LONGEST
    assert code == case.code, text
    assert case.word in text
    assert sorted(tmp_path.rglob("*")) == before


def others() -> list[Path]:
    """Files in which others found trouble."""
    return sorted(path for path in Path(HOSTILE).rglob("*") if path.is_file()) if HOSTILE else []


@pytest.mark.skipif(not HOSTILE, reason="CKPTCLAMP_HOSTILE names no folder of malformed files")
def test_there_are_files_of_others():
    """The folder is not empty."""
    assert others()


@pytest.mark.parametrize("path", others(), ids=lambda path: path.name)
def test_file_of_others(path: Path):
    """Within ten seconds an answer or one line of ours, whatever is in it."""
    started = time.monotonic()
    answer(path, EVERYTHING)
    assert time.monotonic() - started < LONGEST
