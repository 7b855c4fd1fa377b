"""From options to a run, and from its report to stdout and files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ckptclamp.cli.parameters import from_settings

if TYPE_CHECKING:
    from ckptclamp.auditing.options import AuditOptions, OnUnit
    from ckptclamp.auditing.results import ApplyReport, AuditReport, WorstUnit
    from ckptclamp.cli.options import EngineOptions, ReportOptions, RuleOptions
    from ckptclamp.engine.executors import Progress
    from ckptclamp.plan.build import Assignment
    from ckptclamp.reports.formats import RenderOptions
    from ckptclamp.reports.writing import Output
    from ckptclamp.spec.model import Spec


_INLINE = ("max_norm", "min_max_norm", "unit_norm", "non_neg", "clip", "center")
_MOST_WARNINGS = 20
"""On stderr; reports hold all."""


def load_rules(rules: RuleOptions) -> Spec | None:
    """Make the spec that options ask for; ``None`` if they say nothing."""
    given = {name: getattr(rules, name) for name in _INLINE}
    inline = {n: v for n, v in given.items() if v is not None and v is not False}  # 0 is a bound
    places = (rules.tensors, rules.axis, rules.unit_axis, rules.storage)
    path = rules.spec
    if (inline or any(places)) and from_settings("spec"):
        path = None
        default = click.core.ParameterSource.DEFAULT
        click.get_current_context().set_parameter_source("spec", default)
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

    config, source = _model_config(rules.config, isolated=engine.require_isolation, hashed=reported)
    return AuditOptions(
        **vars(engine),
        tolerance=rules.tolerance,
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
    **others: Any,  # noqa: ANN401
) -> Iterator[AuditOptions]:
    """The options of an audit whose report is written as `reports` say, while it is made."""
    with _units_output(reports.reports) as on_unit, progress_bar(reports) as progress:
        yield audit_options(
            rules,
            engine,
            reported=True,
            worst=reports.worst,
            histogram=_wants_histograms(reports),
            on_unit=on_unit,
            progress=progress,
            **others,
        )


def _wants_histograms(reports: ReportOptions) -> bool:
    """Only the HTML report draws them, and JSON is what an HTML report can be made from later."""
    wanted = [reports.format, *(output.format for output in reports.reports)]
    return bool({"html", "json"} & set(wanted))


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
    from ckptclamp.reports.formats import RenderOptions

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


def emit(report: AuditReport | ApplyReport, reports: ReportOptions) -> None:
    """Print the report on stdout and write it to every file that was asked for."""
    from ckptclamp.reports.writing import STDOUT, Output, write_reports

    outputs = [*reports.reports, Output(reports.format, STDOUT)]
    write_reports(report, outputs, render_options(reports))
    if reports.format != "text" and not reports.quiet:
        _warn(report)


def _warn(report: AuditReport | ApplyReport) -> None:
    """Say on stderr what a pass would hide; a report for machines may be read by nobody."""
    from ckptclamp.auditing.results import ApplyReport
    from ckptclamp.errors import printable

    if isinstance(report, ApplyReport):
        notices = (*(report.after or report.before).all_notices, *report.notices)
    else:
        notices = report.all_notices
    warnings = [notice for notice in notices if not notice.informational]
    for notice in warnings[:_MOST_WARNINGS]:
        place = f"{printable(notice.tensor)}: " if notice.tensor else ""
        hint = f" ({printable(notice.hint, limit=None)})" if notice.hint else ""
        message = printable(notice.message, limit=None)
        click.echo(f"ckptclamp: warning: {place}{message}{hint}", err=True)
    if len(warnings) > _MOST_WARNINGS:
        click.echo(f"ckptclamp: and {len(warnings) - _MOST_WARNINGS:,} warnings more", err=True)


@contextmanager
def _units_output(outputs: tuple[Output, ...]) -> Iterator[OnUnit | None]:
    """What to call with every violating unit, where ``-o units=PATH`` asks for them."""
    if not outputs:
        yield None
        return
    from ckptclamp.reports.writing import UNITS

    paths = [Path(output.path) for output in outputs if output.format == UNITS]
    if not paths:
        yield None
        return
    from ckptclamp.reports.writing import units_file

    with ExitStack() as opened:
        writers = [opened.enter_context(units_file(path)) for path in paths]

        def write(assignment: Assignment, unit: WorstUnit) -> None:
            for writer in writers:
                writer.write(assignment.tensor.name, assignment.rule, unit)

        yield write


@contextmanager
def progress_bar(reports: ReportOptions) -> Iterator[Progress | None]:
    """A bar on stderr while weights are read; nothing where stderr is no terminal."""
    if reports.quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    with Progress(
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
