"""One part of an audit: what it is asked for, and what it says; the gate is where parts are merged."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ckptclamp.cli.parameters import from_settings, not_in_effect
from ckptclamp.errors import UsageError

if TYPE_CHECKING:
    from ckptclamp.auditing.parts import Share
    from ckptclamp.auditing.parts.partial import PartialReport
    from ckptclamp.cli.options import EngineOptions, GateOptions, ReportOptions, RuleOptions

_OF_ALL = ("baseline", "checkpoint_name")
"""What settings may say for those who merge the parts."""


def run_part(
    checkpoint: Path,
    share: Share,
    rules: RuleOptions,
    engine: EngineOptions,
    reports: ReportOptions,
    *,
    gate: GateOptions,
    renames: tuple[str, ...],
    strict: bool,
) -> PartialReport:
    """Audit one part of `checkpoint`, write what it found, and print it.

    Raises:
        UsageError: something is asked for that only all parts together can answer.
    """
    from ckptclamp.auditing.parts.part import audit_part
    from ckptclamp.cli.places import check_outputs
    from ckptclamp.cli.running import load_rules, reported_options, settings_notice

    _check_asked(reports, gate, renames)
    check_outputs(checkpoint, rules, reports, gate)
    spec = load_rules(rules)
    with reported_options(rules, engine, reports, hash=gate.hashed, strict=strict) as options:
        part = audit_part(checkpoint, share, spec, options)
    for name in _OF_ALL:
        not_in_effect(name)
    notice = settings_notice()
    part = replace(part, closing=() if notice is None else (notice,))
    _emit(part, reports)
    return part


def _check_asked(reports: ReportOptions, gate: GateOptions, renames: tuple[str, ...]) -> None:
    from ckptclamp.reports import PARTIAL, UNITS

    known = {name: getattr(gate, name) for name in _OF_ALL if not from_settings(name)}
    of_all = {
        "--baseline": known.get("baseline") is not None,
        "--write-baseline": gate.write_baseline is not None,
        "--checkpoint-name": known.get("checkpoint_name") is not None,
        "--rename": bool(renames),
        "--attest": gate.attest is not None,
        f"--format {reports.format}": reports.format != "text",
    }
    for name, given in of_all.items():
        if given:
            raise UsageError(
                f"{name} is about the whole audit, and --part about a part of it",
                hint="`ckptclamp merge` has reports and baselines",
            )
    formats = {output.format for output in reports.reports}
    if PARTIAL not in formats or formats - {PARTIAL, UNITS}:
        raise UsageError(
            "a part is written as partial=PATH, and reports are made of all parts",
            hint="-o partial=part-3.json, then: ckptclamp merge part-*.json -o json=report.json",
        )


def _emit(part: PartialReport, reports: ReportOptions) -> None:
    """Write the part to its files, and print what it found."""
    from ckptclamp.cli.failures import report_is_written
    from ckptclamp.cli.running import render_options
    from ckptclamp.reports import PARTIAL, STDOUT, whole_file, write_stream
    from ckptclamp.reports.formats.partial import stream
    from ckptclamp.reports.formats.text import render_part

    report_is_written()
    for output in reports.reports:
        if output.format == PARTIAL and output.path != STDOUT:
            with whole_file(Path(output.path)) as file:
                file.writelines(text.encode() for text in stream(part))
    write_stream(render_part(part, render_options(reports)), sys.stdout)
