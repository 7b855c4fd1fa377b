"""Where the program may write: never over what it reads, nor twice to one place."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from ckptclamp.checkpoints.file_names import CHECKPOINTS, PARTS
from ckptclamp.cli.options import SETTINGS
from ckptclamp.errors import UsageError

Name = str | tuple[int, int]
"""What a file is known by: its real path, or its device and inode."""


def check_outputs(checkpoint: Path, options: Mapping[str, Any]) -> None:
    """Refuse to write a report, a statement, a baseline or a copy over what is read, or twice.

    Called before anything is read.
    """
    output, recorded = options.get("output"), options.get("write_baseline")
    read = [options.get(name) for name in ("spec", "config")]
    if output is not None:
        _check_copy(output, read)
    read += [checkpoint, output]
    # The baseline that a project's settings name may be the one that is written again.
    check_places(read, [recorded])
    reports = [Path(report.path) for report in options["reports"] if report.path != "-"]
    known = [options.get("baseline"), recorded]
    copy = checkpoint if options.get("in_place") else output
    check_places([*read, *known], [*reports, options.get("attest")], copy)


def check_places(
    read: Iterable[Path | None], written: Iterable[Path | None], copy: Path | None = None
) -> None:
    """Refuse to write over what is `read`, into a directory that is a `copy`, or twice to one place.

    A file that is there and has a checkpoint's name is never replaced. Into a directory that is a
    checkpoint nothing goes that has the name of a part of it; the working directory may be one, so
    reports may. `None` stands for nothing.

    Raises:
        UsageError: one of `written` is such a place, or cannot be a file.
    """
    from ckptclamp.reports.writing import check_place

    kept = [path for path in (*read, _settings_file()) if path is not None]
    taken = {name for path in kept for file in _files(path) for name in _names(file)}
    folders = {name for path in kept if path.is_dir() for name in _names(path)}
    copied = set() if copy is None else _names(copy)
    for path in written:
        if path is None:
            continue
        check_place(path)
        names = _names(path)
        if names & taken or _is_checkpoint(path):
            raise UsageError("would be overwritten by what is written about it", path=path)
        around = list(Path(os.path.realpath(path)).parents)
        is_part = path.name.endswith(PARTS) and bool(_names(around[0]) & folders)
        if is_part or any(_names(folder) & copied for folder in around):
            raise UsageError(
                "would become a part of the checkpoint that it is about",
                path=path,
                hint="write it outside of that directory",
            )
        taken |= names


def _check_copy(output: Path, read: Iterable[Path | None]) -> None:
    """Refuse a copy that would replace what decides what it is; `--force` is about older copies."""
    for path in (*read, _settings_file()):
        if path is not None and _names(path) & _names(output):
            raise UsageError("is read, and would be replaced by the copy", path=path)


def _settings_file() -> Path | None:
    context = click.get_current_context(silent=True)
    settings = context.meta.get(SETTINGS) if context else None
    return None if settings is None else Path(settings.path)


def _files(path: Path) -> Iterator[Path]:
    """`path`, and what belongs to it if it is a checkpoint of several files.

    Which files an index names is not known before it is read; all that may be shards lie beside it.
    """
    yield path
    inside = path.is_dir()
    try:
        entries = list((path if inside else path.parent).iterdir())
    except OSError:  # whoever opens the checkpoint tells why
        return
    yield from (e for e in entries if e.name.endswith(PARTS if inside else CHECKPOINTS))


def _names(path: Path) -> set[Name]:
    """What `path` is known by; another path may lead to the same file."""
    names: set[Name] = {os.path.realpath(path)}
    try:
        status = path.stat()
    except OSError:
        return names
    return names | {(status.st_dev, status.st_ino)}


def _is_checkpoint(path: Path) -> bool:
    names = (path.name, Path(os.path.realpath(path)).name)
    return path.is_file() and any(name.endswith(CHECKPOINTS) for name in names)
