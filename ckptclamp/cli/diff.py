"""``ckptclamp diff``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ckptclamp.cli.options import (
    jobs_option,
    option,
    outside_settings,
    plain_format_option,
    symlinks_option,
    units_options,
    verbosity_options,
)
from ckptclamp.cli.parameters import PATH, Fraction


@click.command("diff")
@click.argument("old", type=PATH, callback=outside_settings)
@click.argument("new", type=PATH, callback=outside_settings)
@option(
    "--max-drift",
    type=Fraction(),
    metavar="PERCENT",
    help="Fail if the norm of a unit changed by more (5%, or 0.05).",
)
@option(
    "--max-distance",
    type=Fraction(),
    metavar="PERCENT",
    help="Fail if the weights of a unit moved by more of its old norm.",
)
@option(
    "--rename",
    "renames",
    multiple=True,
    metavar="OLD=>NEW",
    help="Names that changed; each * stands for the same text on both sides. May be repeated.",
)
@units_options
@plain_format_option
@jobs_option
@symlinks_option
@verbosity_options
@click.pass_context
def command(ctx: click.Context, /, old: Path, new: Path, **options: Any) -> None:  # noqa: ANN401
    """Show what differs between two checkpoints, and how far the units moved from OLD to NEW.

    Returns 0 unless a gate was set (--max-drift, --max-distance) and does not hold; under a gate a
    tensor that was added, removed or reshaped fails too.
    """
    from ckptclamp.auditing.audit import AuditOptions
    from ckptclamp.auditing.comparison import compare_checkpoints
    from ckptclamp.cli.running import render_options
    from ckptclamp.reports.comparison import render_comparison
    from ckptclamp.spec.rules import units

    comparison = compare_checkpoints(
        old,
        new,
        renames=options["renames"],
        units=units(options["axis"], options["unit_axis"]),
        max_drift=options["max_drift"],
        max_distance=options["max_distance"],
        options=AuditOptions(jobs=options["jobs"], follow_symlinks=options["follow_symlinks"]),
    )
    click.echo(render_comparison(comparison, options["format"], render_options(options)))
    ctx.exit(comparison.exit_code)
