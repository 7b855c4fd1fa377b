"""The commands that show what is there and judge nothing: ``inspect``, ``explain``, ``diff``."""

from __future__ import annotations

from pathlib import Path

import click

from ckptclamp.cli.baselines import rename_option
from ckptclamp.cli.options import (
    EngineOptions,
    GateOptions,
    ReportOptions,
    RuleOptions,
    checkpoint_argument,
    config_option,
    engine_options,
    gather,
    hash_option,
    jobs_option,
    plain_format_option,
    spec_options,
    symlinks_option,
    units_options,
    verbosity_options,
)
from ckptclamp.cli.parameters import PATH, SHARE, option, outside_settings


@click.command("inspect")
@checkpoint_argument
@option("--norms", is_flag=True, help="Measure the norms of the units of every tensor.")
@units_options
@plain_format_option
@config_option
@hash_option
@engine_options
@verbosity_options
@gather(rules=RuleOptions, gate=GateOptions, engine=EngineOptions, reports=ReportOptions)
def inspect_command(
    checkpoint: Path,
    *,
    rules: RuleOptions,
    gate: GateOptions,
    engine: EngineOptions,
    reports: ReportOptions,
    norms: bool,
) -> None:
    """Show what CHECKPOINT holds and declares: format, producer, tensors, constraints."""
    if not norms and (rules.axis is not None or rules.unit_axis is not None):
        raise click.UsageError("--axis and --unit-axis belong to --norms")
    from ckptclamp.auditing.inspection import inspect
    from ckptclamp.cli.running import audit_options, render_options
    from ckptclamp.reports.inspection import render_inspection

    inspection = inspect(
        checkpoint,
        norms=norms,
        units=rules.units,
        options=audit_options(rules, engine, hash=gate.hash),
    )
    click.echo(render_inspection(inspection, reports.format, render_options(reports)))


@click.command("explain")
@checkpoint_argument
@spec_options
@plain_format_option
@engine_options
@verbosity_options
@click.pass_context
@gather(rules=RuleOptions, engine=EngineOptions, reports=ReportOptions)
def explain_command(
    ctx: click.Context,
    /,
    checkpoint: Path,
    *,
    rules: RuleOptions,
    engine: EngineOptions,
    reports: ReportOptions,
) -> None:
    """Show which rule applies to which tensor of CHECKPOINT and why, and what one unit is.

    Nothing is measured. What cannot be judged, and what matches nothing, is listed too.
    """
    from ckptclamp.auditing.inspection import explain
    from ckptclamp.cli.running import audit_options, load_rules, render_options
    from ckptclamp.reports.explanation import render_explanation

    explanation = explain(checkpoint, load_rules(rules), audit_options(rules, engine))
    click.echo(render_explanation(explanation, reports.format, render_options(reports)))
    ctx.exit(explanation.exit_code)


@click.command("diff")
@click.argument("old", type=PATH, callback=outside_settings)
@click.argument("new", type=PATH, callback=outside_settings)
@option(
    "--max-drift",
    type=SHARE,
    metavar="PERCENT",
    help="Fail if the norm of a unit changed by more (5%, or 0.05).",
)
@option(
    "--max-distance",
    type=SHARE,
    metavar="PERCENT",
    help="Fail if the weights of a unit moved by more of its old norm.",
)
@rename_option
@units_options
@plain_format_option
@jobs_option
@symlinks_option
@verbosity_options
@click.pass_context
@gather(rules=RuleOptions, reports=ReportOptions)
def diff_command(
    ctx: click.Context,
    /,
    old: Path,
    new: Path,
    *,
    rules: RuleOptions,
    reports: ReportOptions,
    renames: tuple[str, ...],
    max_drift: float | None,
    max_distance: float | None,
    jobs: int | None,
    follow_symlinks: bool,
) -> None:
    """Show what differs between two checkpoints, and how far the units moved from OLD to NEW.

    Returns 0 unless a gate was set (--max-drift, --max-distance) and does not hold; under a gate a
    tensor that was added, removed or reshaped fails too.
    """
    from ckptclamp.auditing.comparison import compare_checkpoints
    from ckptclamp.auditing.options import Opening
    from ckptclamp.cli.running import render_options
    from ckptclamp.reports.comparison import render_comparison

    comparison = compare_checkpoints(
        old,
        new,
        renames=renames,
        units=rules.units,
        max_drift=max_drift,
        max_distance=max_distance,
        opening=Opening(follow_symlinks=follow_symlinks),
        jobs=jobs,
    )
    click.echo(render_comparison(comparison, reports.format, render_options(reports)))
    ctx.exit(comparison.exit_code)
