"""What a command may write where: never over what it reads, nor into what it is about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ckptclamp.cli.parameters import SETTINGS
from ckptclamp.errors import UsageError

if TYPE_CHECKING:
    from ckptclamp.cli.options import GateOptions, ReportOptions, RuleOptions
    from ckptclamp.spec.manifest import Asked


def check_outputs_of_run(
    asked: Sequence[tuple[Asked, Path]],
    rules: RuleOptions,
    reports: ReportOptions,
    gate: GateOptions,
    *,
    manifest: Path | None = None,
) -> None:
    """Refuse what `check_outputs` refuses, for reports about several checkpoints."""
    read: list[Path | None] = [manifest, rules.spec, rules.config, rules.base]
    for entry, path in asked:
        read += [path, entry.spec, entry.config]
    check_written(read, [gate.write_baseline])
    known = [gate.baseline, gate.write_baseline, *(entry.baseline for entry, _ in asked)]
    check_written([*read, *known], report_files(reports))


def check_outputs(
    checkpoint: Path, rules: RuleOptions, reports: ReportOptions, gate: GateOptions
) -> None:
    """Refuse to write a report, a statement, a baseline or a copy over what is read, or twice.

    A statement that could not be made is refused too. Called before anything is read.
    """
    read = [rules.spec, rules.config]
    if gate.output is not None:
        _check_copy(gate.output, read)
    read += [checkpoint, gate.output, rules.base]
    # The baseline that a project's settings name may be the one that is written again.
    check_written(read, [gate.write_baseline])
    known = [gate.baseline, gate.write_baseline]
    copy = checkpoint if gate.in_place else gate.output
    check_written([*read, *known], [*report_files(reports), gate.attest], copy)
    if gate.attest is not None:
        _check_attest(checkpoint, rules, gate)


def _check_attest(checkpoint: Path, rules: RuleOptions, gate: GateOptions) -> None:
    from ckptclamp.gate.attestation import check_attestable

    if gate.hash is False:
        raise UsageError("--attest needs the digests that --no-hash leaves out", hint="pass --hash")
    # The files of a directory have names of their own, the copy of a file that of the output.
    attested = [] if checkpoint.is_dir() else [checkpoint, gate.output]
    named = [*attested, rules.spec, rules.config]
    check_attestable(path.name for path in named if path is not None)


def report_files(reports: ReportOptions) -> list[Path]:
    """The files that reports go to."""
    return [Path(report.path) for report in reports.reports if report.path != "-"]


def check_written(
    read: Iterable[Path | None], written: Iterable[Path | None], copy: Path | None = None
) -> None:
    """Refuse what `check_places` refuses; the project's settings are read as well."""
    from ckptclamp.reports import check_places

    check_places([*read, _settings_file()], written, copy)


def _check_copy(output: Path, read: Iterable[Path | None]) -> None:
    """Refuse a copy that would replace what decides what it is; `--force` is about older copies."""
    from ckptclamp.reports import known_as

    for path in (*read, _settings_file()):
        if path is not None and known_as(path) & known_as(output):
            raise UsageError("is read, and would be replaced by the copy", path=path)


def _settings_file() -> Path | None:
    context = click.get_current_context(silent=True)
    settings = context.meta.get(SETTINGS) if context else None
    return None if settings is None else Path(settings.path)
