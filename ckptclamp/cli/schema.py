"""``ckptclamp schema``."""

from __future__ import annotations

import json
from importlib import resources

import click


@click.command("schema")
@click.argument("what", type=click.Choice(["spec", "report"]), default="spec")
def command(what: str) -> None:
    """Print a JSON Schema, for editors and validators.

    That of a spec, or with `report` that of the JSON report.
    """
    if what == "report":
        file = resources.files("ckptclamp.reports") / "schemas" / "report-1.schema.json"
        click.echo(file.read_text(encoding="utf-8"), nl=False)
        return
    from ckptclamp.spec.schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
