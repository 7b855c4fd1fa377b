"""``ckptclamp schema``."""

from __future__ import annotations

import json

import click


@click.command("schema")
def command() -> None:
    """Print the JSON Schema of a spec, for editors and validators."""
    from ckptclamp.spec.schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
