"""``ckptclamp inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ckptclamp.cli.options import (
    axes,
    checkpoint_argument,
    config_option,
    engine_options,
    hash_option,
    option,
    verbosity_options,
)


@click.command("inspect")
@checkpoint_argument
@option("--norms", is_flag=True, help="Measure the norms of the units of every tensor.")
@option("--axis", metavar="AXES", help="The axes that a norm is taken over: 0, or 0,1,2, or all.")
@option("--unit-axis", metavar="AXES", help="The axes that are kept: one unit for each index.")
@option(
    "-f",
    "--format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How to print it.",
)
@config_option
@hash_option
@engine_options
@verbosity_options
def command(checkpoint: Path, **options: Any) -> None:  # noqa: ANN401
    """Show what CHECKPOINT holds and declares: format, producer, tensors, constraints."""
    from ckptclamp.cli.running import engine, render_options
    from ckptclamp.inspection import inspect
    from ckptclamp.reports.inspection import render_inspection
    from ckptclamp.spec.inline import units

    inspection = inspect(
        checkpoint,
        norms=options["norms"],
        units=units(axes(options["axis"]), axes(options["unit_axis"])),
        options=engine(options),
    )
    click.echo(render_inspection(inspection, options["format"], render_options(options)))
