"""``ckptclamp verify-attestation``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ckptclamp.cli.parameters import PATH, option
from ckptclamp.errors import printable

if TYPE_CHECKING:
    from ckptclamp.gate.attestation import Checked, Verification


@click.command("verify-attestation")
@click.argument("statement", type=PATH)
@option(
    "--directory",
    type=PATH,
    help="Where the files are; by default beside the statement.",
)
@option(
    "--spec",
    type=PATH,
    help="Require that this spec was audited against, byte for byte.",
)
@option("--follow-symlinks", is_flag=True, help="Allow files that are symbolic links.")
@click.pass_context
def verify_attestation_command(
    ctx: click.Context,
    statement: Path,
    directory: Path | None,
    spec: Path | None,
    follow_symlinks: bool,
) -> None:
    """Compare STATEMENT, as --attest wrote it, with the files on disk.

    Returns 0 if every file is the one that was audited and the audit passed, 1 if a file or the
    spec differs or the audit had failed, 3 if a file cannot be read. Who wrote the statement is
    not checked here; that is what a signature over it is for.
    """
    from ckptclamp.gate.attestation import verify

    verification = verify(statement, directory, spec=spec, follow_symlinks=follow_symlinks)
    for line in _lines(verification):
        click.echo(line)
    ctx.exit(verification.exit_code)


def _lines(verification: Verification) -> list[str]:
    lines = [_line(checked) for checked in verification.files]
    if verification.spec is not None:
        lines.append(f"spec {_line(verification.spec)}")
    answer = "passed" if verification.attested == 0 else "did not pass"
    lines.append(
        f"the attested audit {answer} (exit {verification.attested}, "
        f"ckptclamp {printable(verification.version)}); exit {int(verification.exit_code)}"
    )
    return lines


def _line(checked: Checked) -> str:
    detail = f": {printable(checked.detail)}" if checked.detail else ""
    return f"{printable(checked.name)}: {checked.match}{detail}"
