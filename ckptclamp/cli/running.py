"""From options to a run, and from its report to what is written and the exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from ckptclamp.cli.parameters import (
    SETTINGS,
    from_command_line,
    from_settings,
    not_in_effect,
    settings_in_effect,
)
from ckptclamp.errors import CkptclampError, ExitCode, Notice

if TYPE_CHECKING:
    from ckptclamp.auditing.options import AuditOptions
    from ckptclamp.auditing.results import ApplyReport, AuditReport, WorstUnit
    from ckptclamp.auditing.runs import Document, Run
    from ckptclamp.cli.options import EngineOptions, GateOptions, ReportOptions, RuleOptions
    from ckptclamp.plan import Assignment
    from ckptclamp.reports import Output, RenderOptions
    from ckptclamp.spec.model import Spec


class WriteUnit(Protocol):
    """Writes one violating unit, with the checkpoint that it is in where there are several."""

    def __call__(
        self, assignment: Assignment, unit: WorstUnit, checkpoint: str | None = None
    ) -> None:
        """Write it to every list of units that was asked for."""


_INLINE = (
    *("max_norm", "min_max_norm", "unit_norm", "non_neg", "clip", "center"),
    *("finite", "min_norm", "max_l1_norm", "distance"),
)
_MOST_WARNINGS = 20
"""On stderr; reports hold all."""


def load_rules(rules: RuleOptions) -> Spec | None:
    """Make the spec that options ask for; ``None`` if they say nothing."""
    spec = _stated_rules(with_spec_settled(rules))
    if rules.preset is None:
        return spec
    from ckptclamp.spec.model import Preset, Spec

    return replace(spec or Spec(), preset=Preset(rules.preset))


def with_spec_settled(rules: RuleOptions) -> RuleOptions:
    """`rules` without the spec of the settings, where an inline rule of the command line displaces it.

    One of the environment does not: who calls the program sees neither of the two.
    """
    if not from_settings("spec") or not any(map(from_command_line, _inline(rules))):
        return rules
    not_in_effect("spec")
    return replace(rules, spec=None)


def _inline(rules: RuleOptions) -> dict[str, Any]:
    """The constraints of an inline rule that are given."""
    given = {name: getattr(rules, name) for name in _INLINE}
    return {n: v for n, v in given.items() if v is not None and v is not False}  # 0 is a bound


def _stated_rules(rules: RuleOptions) -> Spec | None:
    """Those of a file or of an inline rule."""
    inline = _inline(rules)
    places = (rules.tensors, rules.axis, rules.unit_axis, rules.storage)
    path = rules.spec
    if path is not None:
        if inline or any(places):
            raise click.UsageError("--spec and an inline rule exclude each other")
        from ckptclamp.spec.loader import load_spec

        return load_spec(path, allow_import=frozenset(rules.allow_import))
    if not inline:
        if any(places):
            raise click.UsageError(
                "--tensors, --axis, --unit-axis and --storage belong to an inline rule such as "
                "--max-norm"
            )
        return None
    if not rules.tensors:
        raise click.UsageError("an inline rule needs --tensors, for example --tensors '**/kernel'")
    from ckptclamp.spec.rules import inline_spec

    return inline_spec(
        **inline,
        tensors=rules.tensors,
        axis=rules.axis,
        unit_axis=rules.unit_axis,
        storage=rules.storage or "effective",
    )


def audit_options(
    rules: RuleOptions,
    engine: EngineOptions,
    *,
    reported: bool = False,
    **others: Any,  # noqa: ANN401 - fields of AuditOptions
) -> AuditOptions:
    """The options of an audit; `reported` is whether a report will state which config was used."""
    from ckptclamp.auditing.options import AuditOptions
    from ckptclamp.spec.model import ZeroUnits

    config, source = _model_config(rules.config, isolated=engine.require_isolation, hashed=reported)
    return AuditOptions(
        **vars(engine),
        tolerance=rules.tolerance,
        epsilon=rules.epsilon,
        zero_units=ZeroUnits(rules.zero_units) if rules.zero_units else None,
        allow_import=frozenset(rules.allow_import),
        config=config,
        config_source=source,
        base=rules.base,
        **others,
    )


@contextmanager
def reported_options(
    rules: RuleOptions,
    engine: EngineOptions,
    reports: ReportOptions,
    gate: GateOptions,
) -> Iterator[AuditOptions]:
    """The options of an audit whose report is written as `reports` say, while it is made."""
    from ckptclamp.cli.progress import progress_bar

    with units_output(reports.reports) as on_unit, progress_bar(reports) as progress:
        yield audit_options(
            rules,
            engine,
            reported=True,
            worst=reports.worst,
            histogram=wants_histograms(reports),
            on_unit=on_unit,
            progress=progress,
            hash=gate.hashed,
            strict=gate.strict,
        )


def wants_histograms(reports: ReportOptions) -> bool:
    """Only the HTML report draws them, and JSON is what an HTML report can be made from later."""
    wanted = [reports.format, *(output.format for output in reports.reports)]
    return bool({"html", "json", "partial"} & set(wanted))


def _model_config(
    path: Path | None, *, isolated: bool, hashed: bool
) -> tuple[Mapping[str, Any] | None, str | None]:
    """The model config in `path`, and if it is to be `hashed`, the digest and name of that file."""
    if path is None:
        return None, None
    if isolated:
        from ckptclamp.auditing.audit import check_isolation

        check_isolation(path)
    from ckptclamp.checkpoints.source import Source, sha256
    from ckptclamp.models.keras.config import read_model_config

    with closing(Source.open(path)) as source:
        config = read_model_config(path)
        if not hashed:
            return config, None
        digest = sha256(source)
        source.verify_unchanged()  # so what was read, by the same name, is what was hashed
    return config, f"sha256:{digest} {path.name}"


def render_options(reports: ReportOptions) -> RenderOptions:
    """How the report on stdout is to look."""
    from ckptclamp.reports import RenderOptions

    terminal = sys.stdout.isatty()
    return RenderOptions(
        width=_columns() if terminal else None,
        color=_wants_color(reports.color, terminal),
        verbose=-1 if reports.quiet else reports.verbose,
        show_suppressed=reports.show_suppressed,
        max_worst=reports.worst,
    )


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns


def _wants_color(choice: str, terminal: bool) -> bool:
    if choice != "auto":
        return choice == "always"
    return terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def emit(report: Document, reports: ReportOptions) -> None:
    """Print the report on stdout and write it to every file that was asked for."""
    from ckptclamp.cli.failures import report_is_written
    from ckptclamp.reports import STDOUT, Output, write_reports

    report_is_written()
    # Who names a format and a path alone means that file: people still want to read something.
    elsewhere = any(output.bare and output.format == reports.format for output in reports.reports)
    shown = "text" if elsewhere else reports.format
    write_reports(report, [*reports.reports, Output(shown, STDOUT)], render_options(reports))
    if shown != "text" and not reports.quiet:
        _warn(report)


def _warn(report: Document) -> None:
    """Say on stderr what a pass would hide; a report for machines may be read by nobody."""
    from ckptclamp.auditing.runs import Run
    from ckptclamp.reports.findings import Kind, Level, findings

    found = [finding for finding in findings(report) if finding.kind is Kind.NOTICE]
    if isinstance(report, Run):
        for failed in findings(report):
            if failed.kind is Kind.FAILURE:
                click.echo(f"ckptclamp: error: {failed.advised}", err=True)
    warnings = [finding for finding in found if finding.level is Level.WARNING]
    for warning in warnings[:_MOST_WARNINGS]:
        click.echo(f"ckptclamp: warning: {warning.advised}", err=True)
    if len(warnings) > _MOST_WARNINGS:
        click.echo(f"ckptclamp: and {len(warnings) - _MOST_WARNINGS:,} warnings more", err=True)


@contextmanager
def units_output(outputs: tuple[Output, ...]) -> Iterator[WriteUnit | None]:
    """What to call with every violating unit, where ``-o units=PATH`` asks for them."""
    if not outputs:
        yield None
        return
    from ckptclamp.reports import UNITS

    paths = [Path(output.path) for output in outputs if output.format == UNITS]
    if not paths:
        yield None
        return
    from ckptclamp.reports.formats.json import units_file

    with ExitStack() as opened:
        writers = [opened.enter_context(units_file(path)) for path in paths]

        def write(assignment: Assignment, unit: WorstUnit, checkpoint: str | None = None) -> None:
            for writer in writers:
                writer.write(assignment.tensor.name, assignment.rule, unit, checkpoint)

        yield write


def finish(
    report: AuditReport | ApplyReport | Run, reports: ReportOptions, gate: GateOptions
) -> None:
    """Write the statement about `report`, if one is asked for, and the report wherever it goes."""
    from ckptclamp.auditing.runs import Run

    report = _with_settings(report)
    try:
        if gate.attest is not None and not isinstance(report, Run):
            from ckptclamp.gate.attestation import render_attestation
            from ckptclamp.reports import write_whole

            write_whole(gate.attest, render_attestation(report))
    except CkptclampError as error:  # the report is written even if the statement cannot be
        notice = Notice("attestation-not-written", f"there is no attestation: {error.message}")
        emit(replace(report, notices=(*report.notices, notice)), reports)
        raise
    emit(report, reports)


def _with_settings(report: AuditReport | ApplyReport | Run) -> AuditReport | ApplyReport | Run:
    """Tell in the report which settings file gave options their defaults."""
    notice = settings_notice()
    return report if notice is None else replace(report, notices=(*report.notices, notice))


def settings_notice() -> Notice | None:
    """Which settings file gave options their defaults, if one did."""
    settings = click.get_current_context().meta.get(SETTINGS)
    names = settings_in_effect()
    if settings is None or not names:
        return None
    return Notice("settings", f"{', '.join(names)} set by {settings.path}", informational=True)


def program_exit(code: ExitCode, *, zero: bool) -> int:
    """The exit code that the program returns; with `zero`, violations do not count."""
    if zero and code is ExitCode.VIOLATIONS:
        click.echo("ckptclamp: exit code 1 is returned as 0 (--exit-zero)", err=True)
        return 0
    return int(code)
