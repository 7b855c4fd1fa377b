"""``ckptclamp explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ckptclamp.cli.options import (
    checkpoint_argument,
    engine_options,
    load_rules,
    plain_format_option,
    spec_options,
    verbosity_options,
)


@click.command("explain")
@checkpoint_argument
@spec_options
@plain_format_option
@engine_options
@verbosity_options
@click.pass_context
def command(ctx: click.Context, /, checkpoint: Path, **options: Any) -> None:  # noqa: ANN401
    """Show which rule governs which tensor of CHECKPOINT and why, and what one unit is.

    No weight is read. What cannot be judged, and what matches nothing, is listed too.
    """
    from ckptclamp.auditing.inspection import explain
    from ckptclamp.cli.running import engine, render_options
    from ckptclamp.reports.explanation import render_explanation

    explanation = explain(checkpoint, load_rules(options), engine(options))
    click.echo(render_explanation(explanation, options["format"], render_options(options)))
    ctx.exit(explanation.exit_code)
