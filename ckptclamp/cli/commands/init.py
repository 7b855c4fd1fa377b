"""``ckptclamp init``, and ``ckptclamp schema``, by which editors check what it writes."""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

import click

from ckptclamp.cli.options import (
    EngineOptions,
    ReportOptions,
    RuleOptions,
    checkpoint_argument,
    config_option,
    engine_options,
    gather,
    verbosity_options,
)
from ckptclamp.cli.parameters import PATH, SHARE, option
from ckptclamp.errors import UsageError, printable

_SCHEMAS = {
    "report": ("ckptclamp.reports", "report-1.schema.json"),
    "failure": ("ckptclamp.reports", "failure-1.schema.json"),
    "run": ("ckptclamp.reports", "run-1.schema.json"),
    "attestation": ("ckptclamp.gate", "attestation-1.schema.json"),
}
"""Where the published schemas lie, by what they describe."""


@click.command("init")
@checkpoint_argument
@option("-o", "--output", type=PATH, help="Where the spec goes; else stdout.")
@option(
    "--headroom",
    type=SHARE,
    default="10%",
    show_default=True,
    metavar="PERCENT",
    help="How far above the largest norm a bound lies.",
)
@option(
    "--schema",
    type=PATH,
    help="Where the JSON Schema goes that the spec names for editors; by default "
    "ckptclamp.schema.json beside the spec.",
)
@option("--no-schema", is_flag=True, help="Neither write a schema nor name one.")
@option("--force", is_flag=True, help="Replace existing files.")
@config_option
@engine_options
@verbosity_options
@gather(rules=RuleOptions, engine=EngineOptions, reports=ReportOptions)
def init_command(
    checkpoint: Path,
    rules: RuleOptions,
    engine: EngineOptions,
    reports: ReportOptions,
    *,
    output: Path | None,
    headroom: float,
    schema: Path | None,
    no_schema: bool,
    force: bool,
) -> None:
    """Write a first spec for CHECKPOINT.

    Its rules are the constraints that the model declares; without any, what is known of tensors by
    their names and kept by their weights, and bounds on the norms that the others have now. Read it
    before you trust it: it says what is, not what should be.

    Its first line tells editors which schema to check it by; that is written beside it.
    """
    from ckptclamp.auditing.starting_spec import SCHEMA, render_spec, starting_spec
    from ckptclamp.cli.places import check_written
    from ckptclamp.cli.running import audit_options
    from ckptclamp.errors import plural
    from ckptclamp.reports import write_whole

    if schema is not None and no_schema:
        raise click.UsageError("--schema and --no-schema exclude each other")
    folder = output.parent if output is not None else Path()
    named = None if no_schema else schema or folder / SCHEMA
    # On stdout a spec has no place yet, so nothing is put beside it that nobody asked for.
    schema_path = named if schema is not None or output is not None else None
    check_written((checkpoint, rules.config), (output, schema_path))
    for path in (output, schema):
        if path is not None and path.exists() and not force:
            raise UsageError("exists already", path=path, hint="--force replaces it")
    spec = starting_spec(checkpoint, headroom=headroom, options=audit_options(rules, engine))
    text = render_spec(spec, None if named is None else os.path.relpath(named, folder))
    if schema_path is not None:
        _write_schema(schema_path, replaced=schema is not None or force)
    if spec.unknown:
        what = plural(len(spec.unknown), "declared constraint")
        click.echo(f"ckptclamp: warning: {what} got no rule; the spec says which", err=True)
    if output is None:
        click.echo(text, nl=False)
        return
    write_whole(output, text)
    if not reports.quiet:
        click.echo(f"{printable(str(output))}: {plural(len(spec.rules), 'rule')}", err=True)


def _write_schema(path: Path, *, replaced: bool) -> None:
    """Write the schema; one that is there serves several specs, and stays unless it is replaced."""
    from ckptclamp.reports import write_whole

    if replaced or not path.exists():
        write_whole(path, _spec_schema())


@click.command("schema")
@click.argument("what", type=click.Choice(["spec", "manifest", *_SCHEMAS]), default="spec")
def schema_command(what: str) -> None:
    """Print a JSON Schema, for editors and validators.

    That of a spec, of a manifest, of the JSON report, of what stands in its place after a failure, of a run
    over several checkpoints, or of an attestation.
    """
    if what == "spec":
        click.echo(_spec_schema(), nl=False)
        return
    if what == "manifest":
        from ckptclamp.spec.manifest import manifest_schema

        click.echo(json.dumps(manifest_schema(), indent=2))
        return
    document = _schema(what)
    if what == "run":  # it is made of the others, so they come along
        document["$defs"] = {name: _schema(name) for name in ("report", "failure")}
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def _schema(what: str) -> dict[str, Any]:
    package, name = _SCHEMAS[what]
    text = (resources.files(package) / "schemas" / name).read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def _spec_schema() -> str:
    from ckptclamp.spec.schema import json_schema

    return json.dumps(json_schema(), indent=2) + "\n"
