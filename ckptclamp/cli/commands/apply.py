"""``ckptclamp apply``, and ``ckptclamp clean`` after one that was killed."""

from __future__ import annotations

from pathlib import Path

import click

from ckptclamp.cli.failures import ReportedCommand
from ckptclamp.cli.options import (
    EngineOptions,
    GateOptions,
    ReportOptions,
    RuleOptions,
    attest_option,
    checkpoint_argument,
    engine_options,
    format_option,
    gather,
    hash_option,
    report_option,
    spec_options,
    suppressed_option,
    verbosity_options,
)
from ckptclamp.cli.parameters import PATH, option


@click.command("apply", cls=ReportedCommand)
@checkpoint_argument
@option("-o", "--output", type=PATH, help="Where the copy goes.")
@spec_options
@option(
    "--projection",
    type=click.Choice(["exact", "keras"]),
    help="exact: the nearest conforming weights, of violating units only (the default). "
    "keras: Keras' own formula, for every unit that a rule applies to.",
)
@option("-n", "--dry-run", is_flag=True, help="Only report what would change.")
@option("--force", is_flag=True, help="Replace an existing output.")
@option(
    "--in-place",
    is_flag=True,
    help="Replace the input by the copy; of several files those that change.",
)
@option(
    "--allow-remaining",
    is_flag=True,
    help="Write the copy even if violations remain in it; they are listed.",
)
@option(
    "--resume",
    is_flag=True,
    help="Go on where an apply of shards to the same output was killed; stopped, leave what is done.",
)
@option(
    "--link",
    type=click.Choice(["reflink", "hard"]),
    help="Do not copy shards that nothing changes: reflink lets a new directory share their blocks, "
    "hard gives them second names. Where that cannot be, they are copied.",
)
@suppressed_option
@attest_option
@format_option
@report_option()
@hash_option
@engine_options
@verbosity_options
@click.pass_context
@gather(rules=RuleOptions, gate=GateOptions, reports=ReportOptions, engine=EngineOptions)
def apply_command(
    ctx: click.Context,
    /,
    checkpoint: Path,
    *,
    rules: RuleOptions,
    gate: GateOptions,
    reports: ReportOptions,
    engine: EngineOptions,
    projection: str | None,
    link: str | None,
    **how: bool,
) -> None:
    """Write a copy of CHECKPOINT in which every unit that a rule applies to conforms.

    The input is never touched. The copy appears under its name only when it is whole, has been
    audited as it is stored, and is on disk.
    """
    from ckptclamp.applying.apply import ApplyOptions, apply
    from ckptclamp.applying.staging.links import Link
    from ckptclamp.cli.places import check_outputs
    from ckptclamp.cli.progress import watching
    from ckptclamp.cli.running import (
        finish,
        load_rules,
        reported_options,
    )
    from ckptclamp.spec.model import Projection

    _check_output(gate, dry_run=how["dry_run"])
    if link is not None and gate.in_place:
        raise click.UsageError(
            "--in-place leaves shards that nothing changes as they are: no --link"
        )
    check_outputs(checkpoint, rules, reports, gate)
    spec = load_rules(rules)
    with reported_options(rules, engine, reports, gate) as audit:
        options = ApplyOptions(
            audit=audit,
            projection=Projection(projection) if projection else None,
            in_place=gate.in_place,
            link=None if link is None else Link(link),
            **how,
        )
        with watching(gate.output or checkpoint):
            report = apply(checkpoint, gate.output, spec, options)
    finish(report, reports, gate)
    ctx.exit(report.exit_code)


def _check_output(gate: GateOptions, *, dry_run: bool) -> None:
    from ckptclamp.reports import REPORTERS, UNITS

    given = [gate.output is not None, gate.in_place, dry_run]
    if not any(given):
        raise click.UsageError("say where the copy goes: -o OUT (or --dry-run, or --in-place)")
    if gate.output == Path("-"):
        raise click.UsageError("a copy cannot go to stdout: it is audited as it is stored")
    if gate.output is not None and gate.in_place:
        raise click.UsageError("-o and --in-place exclude each other")
    name, separator, _ = str(gate.output or "").partition("=")
    if separator and (name in REPORTERS or name == UNITS):
        raise click.UsageError(f"-o is where the copy goes; for a report: --report {name}=PATH")
    if gate.attest is not None and dry_run:
        raise click.UsageError("--attest tells of a copy, and --dry-run makes none")


@click.command("clean")
@click.argument("path", type=PATH)
@option("-n", "--dry-run", is_flag=True, help="Only say what would be done.")
@click.pass_context
def clean_command(ctx: click.Context, path: Path, *, dry_run: bool) -> None:
    """Finish or remove what killed runs of apply left at PATH.

    PATH is a directory, or an output. What an apply in place had begun to replace is finished;
    hidden files are removed. Only what is this program's and this user's is touched, and nothing that
    a run is at work on.
    """
    from ckptclamp.applying.leftovers import Outcome, clean
    from ckptclamp.errors import NotWrittenError, printable

    done = clean(path, dry_run=dry_run)
    for cleaned in done:
        size = f" ({cleaned.size:,} bytes)" if cleaned.outcome is Outcome.REMOVED else ""
        reason = f": {printable(cleaned.reason, limit=None)}" if cleaned.reason else ""
        would = "would be " * (dry_run and cleaned.outcome in (Outcome.REMOVED, Outcome.FINISHED))
        failed = cleaned.outcome is Outcome.FAILED
        said = f"{would}{cleaned.outcome}  {printable(str(cleaned.path), limit=None)}{size}"
        click.echo(f"{said}{reason}", err=failed)
    if not done:
        click.echo(f"nothing was left at {printable(str(path), limit=None)}")
    ctx.exit(NotWrittenError.exit_code if any(c.outcome is Outcome.FAILED for c in done) else 0)
