"""``ckptclamp init``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from ckptclamp.cli.options import (
    checkpoint_argument,
    config_option,
    engine_options,
    option,
    verbosity_options,
)
from ckptclamp.cli.parameters import PATH, Fraction
from ckptclamp.errors import UsageError
from ckptclamp.printable import printable


@click.command("init")
@checkpoint_argument
@option("-o", "--output", type=PATH, help="Where the spec goes; else stdout.")
@option(
    "--headroom",
    type=Fraction(),
    default="10%",
    show_default=True,
    metavar="PERCENT",
    help="How far above the largest norm a bound lies.",
)
@option(
    "--schema",
    type=PATH,
    help="Write the JSON Schema there, and let the spec name it for editors.",
)
@option("--force", is_flag=True, help="Replace existing files.")
@config_option
@engine_options
@verbosity_options
def command(checkpoint: Path, **options: Any) -> None:  # noqa: ANN401
    """Write a first spec for CHECKPOINT.

    Its rules are the constraints that the model declares; without any, bounds on the norms that its
    weights have now. Read it before you trust it: it says what is, not what should be.
    """
    from ckptclamp.cli.running import engine
    from ckptclamp.reports.wording import plural
    from ckptclamp.reports.writing import write_whole
    from ckptclamp.spec.writing import render_spec
    from ckptclamp.starting_spec import starting_spec

    output, schema = options["output"], options["schema"]
    for path in (output, schema):
        if path is not None and path.exists() and not options["force"]:
            raise UsageError("exists already", path=path, hint="--force replaces it")
    spec = starting_spec(checkpoint, headroom=options["headroom"], options=engine(options))
    text = render_spec(spec, None if schema is None else _beside(schema, output))
    if schema is not None:
        from ckptclamp.spec.schema import json_schema

        write_whole(schema, json.dumps(json_schema(), indent=2) + "\n")
    if output is None:
        click.echo(text, nl=False)
        return
    write_whole(output, text)
    if not options["quiet"]:
        click.echo(f"{printable(str(output))}: {plural(len(spec.rules), 'rule')}", err=True)


def _beside(schema: Path, output: Path | None) -> str:
    """The schema's path as seen from the spec."""
    return os.path.relpath(schema, output.parent if output is not None else Path.cwd())
