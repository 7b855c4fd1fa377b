"""``ckptclamp baseline``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ckptclamp.cli.options import (
    engine_options,
    load_rules,
    option,
    spec_options,
    verbosity_options,
)
from ckptclamp.cli.parameters import PATH
from ckptclamp.errors import UsageError


@click.group("baseline", no_args_is_help=False)
def command() -> None:
    """Look after a baseline, the violations that a gate takes for known.

    One is made by: ckptclamp audit CHECKPOINT --write-baseline PATH
    """


@command.command("prune")
@click.argument("audited", type=PATH)
@option("--baseline", required=True, type=PATH, help="The one to tighten.")
@spec_options
@engine_options
@verbosity_options
def prune(audited: Path, **options: Any) -> None:  # noqa: ANN401
    """Drop what is resolved from a baseline, and lower the limits of what got better.

    AUDITED is a checkpoint, or the JSON report of an audit of it. Nothing is added or raised.
    """
    from ckptclamp.baseline import load_baseline, render_baseline
    from ckptclamp.baseline import prune as pruned
    from ckptclamp.reports.writing import write_whole

    old = load_baseline(options["baseline"])
    new = pruned(old, _report(audited, options))
    if new != old:
        write_whole(options["baseline"], render_baseline(new))
    if not options["quiet"]:
        kept = {entry.identity: entry for entry in new.entries}
        lowered = sum(e.identity in kept and kept[e.identity] != e for e in old.entries)
        click.echo(
            f"{len(old.entries) - len(new.entries)} removed, {lowered} lowered, "
            f"{len(new.entries)} known"
        )


def _report(audited: Path, options: dict[str, Any]) -> Any:  # noqa: ANN401 - an AuditReport
    from ckptclamp.auditing import audit
    from ckptclamp.cli.running import engine, progress_bar
    from ckptclamp.reports.saved import is_report, read_report
    from ckptclamp.results import AuditReport

    if is_report(audited):
        report = read_report(audited)
        if not isinstance(report, AuditReport):
            raise UsageError("is the report of an apply, not of an audit", path=audited)
        return report
    rules = load_rules(options)
    with progress_bar(options):
        return audit(audited, rules, engine(options))
