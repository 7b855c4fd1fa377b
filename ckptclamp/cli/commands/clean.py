"""``ckptclamp clean``."""

from __future__ import annotations

from pathlib import Path

import click

from ckptclamp.cli.parameters import PATH, option


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
