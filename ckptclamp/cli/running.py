"""From options to a run, and from its report to stdout and files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ckptclamp.auditing.audit import AuditOptions
    from ckptclamp.auditing.results import ApplyReport, AuditReport, WorstUnit
    from ckptclamp.auditing.verdicts import OnUnit
    from ckptclamp.engine.executors import Progress
    from ckptclamp.plan.build import Assignment
    from ckptclamp.reports.formats import RenderOptions


_MOST_WARNINGS = 20
"""On stderr; reports hold all."""


def audit_options(options: dict[str, Any], progress: Progress | None) -> AuditOptions:
    """The options of an audit, from those of the command line."""
    return replace(
        engine(options, reported=True),
        strict=options.get("strict", False),
        worst=options.get("worst", 10),
        histogram=_wants_histograms(options),
        progress=progress,
    )


def engine(options: dict[str, Any], *, reported: bool = False) -> AuditOptions:
    """The options that every command has that opens a checkpoint.

    `reported` is whether a report will tell which model config was used.
    """
    from ckptclamp.auditing.audit import AuditOptions

    isolated = options["require_isolation"]
    config, source = _model_config(options["config"], isolated=isolated, hashed=reported)
    return AuditOptions(
        memory=options["memory"],
        jobs=options["jobs"],
        tolerance=options.get("tolerance"),
        hash=_hash(options),
        allow_import=frozenset(options.get("allow_import", ())),
        follow_symlinks=options["follow_symlinks"],
        require_isolation=isolated,
        header_limit=options["header_limit"],
        expansion_limit=options["expansion_limit"],
        unpacked_limit=options["unpacked_limit"],
        leave_cache=options["leave_cache"],
        config=config,
        config_source=source,
    )


def _hash(options: dict[str, Any]) -> bool | None:
    """A statement needs the digests, unless the user says otherwise (and then it is refused)."""
    chosen: bool | None = options.get("hash")
    return True if chosen is None and options.get("attest") is not None else chosen


def _wants_histograms(options: dict[str, Any]) -> bool:
    """Only the HTML report draws them, and JSON is what an HTML report can be made from later."""
    wanted = [options["format"], *(output.format for output in options["reports"])]
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

    source = Source.open(path)
    try:
        config = read_model_config(path)
        if not hashed:
            return config, None
        digest = sha256(source)
        source.verify_unchanged()  # so what was read, by the same name, is what was hashed
    finally:
        source.close()
    return config, f"sha256:{digest} {path.name}"


def render_options(options: dict[str, Any]) -> RenderOptions:
    """How the report on stdout is to look."""
    from ckptclamp.reports.formats import RenderOptions

    terminal = sys.stdout.isatty()
    return RenderOptions(
        width=_columns() if terminal else None,
        color=_wants_color(options["color"], terminal),
        verbose=-1 if options["quiet"] else options["verbose"],
        show_suppressed=options.get("show_suppressed", False),
        max_worst=options.get("worst", 10),
    )


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns


def _wants_color(choice: str, terminal: bool) -> bool:
    if choice != "auto":
        return choice == "always"
    return terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def emit(report: AuditReport | ApplyReport, options: dict[str, Any]) -> None:
    """Print the report on stdout and write it to every file that was asked for."""
    from ckptclamp.reports.writing import STDOUT, Output, write_reports

    outputs = [*options["reports"], Output(options["format"], STDOUT)]
    write_reports(report, outputs, render_options(options))
    if options["format"] != "text" and not options["quiet"]:
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
def units_output(options: dict[str, Any]) -> Iterator[OnUnit | None]:
    """What to call with every violating unit, where ``-o units=PATH`` asks for them."""
    from ckptclamp.reports.writing import UNITS

    paths = [Path(output.path) for output in options["reports"] if output.format == UNITS]
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
def progress_bar(options: dict[str, Any]) -> Iterator[Progress | None]:
    """A bar on stderr while weights are read; nothing where stderr is no terminal."""
    if options["quiet"] or not sys.stderr.isatty():
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
