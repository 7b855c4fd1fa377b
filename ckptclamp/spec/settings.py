"""A project's settings: ``ckptclamp.toml``, or ``[tool.ckptclamp]`` in ``pyproject.toml``.

The nearest one is taken, from the working directory upward to the root of the repository; outside
of a repository only the working directory counts, so that nobody else's directory above it does.

A settings file gives options their defaults: the command line and the environment win. It may only
hold options that choose what is judged and how it is shown. Whatever runs code, writes a file,
reaches through links or turns a failure into success must be asked for where the program is called,
because the working directory may be a checkpoint that somebody else made.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from ckptclamp.checkpoints.remote.path import RemotePath
from ckptclamp.errors import UnreadableError, UsageError
from ckptclamp.frozen import frozen

CHECKPOINT = "checkpoint"
"""The key whose tables name checkpoints, and is no option."""

OWN_FILE = "ckptclamp.toml"
PROJECT_FILE = "pyproject.toml"

ALLOWED: Mapping[str, tuple[type, ...]] = {
    "baseline": (str,),
    "checkpoint-name": (str,),
    "color": (str,),
    "epsilon": (float, int),
    "expansion-limit": (int,),
    "hash": (bool,),
    "header-limit": (str, int),
    "headroom": (str,),
    "jobs": (int,),
    "max-distance": (str,),
    "max-drift": (str,),
    "memory": (str, int),
    "no-cache-pollution": (bool,),
    "preset": (str,),
    "projection": (str,),
    "quiet": (bool,),
    "require-isolation": (bool,),
    "show-suppressed": (bool,),
    "spec": (str,),
    "strict": (bool,),
    "tolerance": (float, int, str),
    "unpacked-limit": (str, int),
    "verbose": (int,),
    "worst": (int,),
    "zero-units": (str,),
}
"""The options that a settings file may hold, and the TOML types of their values."""

COMMAND_LINE_ONLY: Mapping[str, str] = {
    "allow-import": "runs code",
    "allow-remaining": "lets a copy pass that does not conform",
    "attest": "writes a file",
    "base": "says which weights are judged",
    "dry-run": "makes no copy",
    "executor": "may reach other machines",
    "exit-zero": "turns a failure into success",
    "follow-symlinks": "leads out of the checkpoint",
    "force": "overwrites a file",
    "in-place": "overwrites a file",
    "link": "lets two files share their bytes",
    "manifest": "says which checkpoints are judged, and how loudly",
    "map": "says which file stands for which",
    "output": "writes a file",
    "part": "leaves the rest of the checkpoint to others",
    "rename": "says which tensors a baseline is about",
    "report": "writes a file",
    "resume": "takes over what an earlier run made",
    "schema": "writes a file",
    "write-baseline": "writes a file, and accepts what it finds",
}
"""What the environment may not decide either, and what each option does."""

_PATHS = frozenset({"baseline", "spec"})
_MAX_BYTES = 1 << 20


@frozen
class Settings:
    """What one settings file says: option names (``max-drift``) to values; paths are absolute.

    `checkpoints` are its ``checkpoint`` tables, as they stand there (see `manifest`).
    """

    path: Path
    values: Mapping[str, Any]
    checkpoints: tuple[Mapping[str, Any], ...] = ()


def find_settings(start: Path) -> Settings | None:
    """Read the settings that hold for the directory `start`; ``None`` where there are none.

    Raises:
        UsageError: a settings file cannot be read, or holds what does not belong there.
    """
    for directory in _upward(start.resolve()):
        for path in (directory / OWN_FILE, directory / PROJECT_FILE):
            if path.is_file():
                table = _table(path)
                if table is not None:
                    tables = table.pop(CHECKPOINT, [])
                    return Settings(path, dict(_checked(path, table)), _tables(path, tables))
    return None


def project_path(path: Path, start: Path) -> str:
    """What the project calls `path`: from the folder of the settings that hold for `start`.

    Without any it is the path from `start`. Links are followed but for the last, so that
    ``latest.safetensors`` keeps its name.

    Raises:
        UsageError: there are settings that cannot be read.
    """
    if isinstance(path, RemotePath):
        return str(path)
    settings = find_settings(start)
    root = start if settings is None else settings.path.parent
    place = path.absolute()
    return os.path.relpath(place.parent.resolve() / place.name, root.resolve())


def brought_along(settings: Settings, checkpoint: Path) -> bool:
    """Whether `settings` lie inside `checkpoint`, so that its author would choose his own judge.

    Inside are the directory that is named, and the directory of a set of which a file is named: its
    index, a shard beside the index, the weights of an unzipped Keras archive. A single file has no
    inside: settings beside it are those of the project in whose directory it lies.
    """
    if checkpoint.is_dir():
        return checkpoint.resolve() in settings.path.parents
    # Shards are looked for beside the name that is given, wherever the file itself may lie.
    return any(
        file.parent.resolve() in settings.path.parents and _is_of_a_set(file)
        for file in (checkpoint, checkpoint.resolve())
    )


def _is_of_a_set(file: Path) -> bool:
    """Whether `file` is an index, by its content, or by its name a member of a set beside it."""
    from ckptclamp.checkpoints.opening import KERAS_DIRECTORY, SHARDS

    try:
        names = {entry.name for entry in file.parent.iterdir()}
    except OSError:
        return False  # whoever opens it will say why it cannot be read
    if file.name in KERAS_DIRECTORY and names >= KERAS_DIRECTORY:
        return True
    return _is_index(file) or any(
        file.name.endswith(shard) and any(name.endswith(index) for name in names)
        for index, shard in SHARDS.items()
    )


def _is_index(file: Path) -> bool:
    from ckptclamp.checkpoints.opening import Kind, sniff
    from ckptclamp.checkpoints.source import Source

    try:
        with closing(Source.open(file)) as source:
            return sniff(source) is Kind.JSON
    except UnreadableError:
        return False  # whoever opens it will say why


def _upward(start: Path) -> Iterator[Path]:
    """`start` and the directories above it, down from the repository's root."""
    lineage = [start, *start.parents]
    roots = [i for i, directory in enumerate(lineage) if (directory / ".git").exists()]
    yield from lineage[: roots[0] + 1] if roots else [start]


def _table(path: Path) -> dict[str, Any] | None:
    """The settings in `path`; ``None`` for a project file that has none."""
    import tomllib

    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError("is too large for a settings file", path=path)
        document = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise UsageError(error.strerror or str(error), path=path) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        if path.name == PROJECT_FILE and b"ckptclamp" not in path.read_bytes():
            return None
        raise UsageError(f"is no TOML: {error}", path=path) from error
    if path.name == OWN_FILE:
        return document
    tool = document.get("tool", {})
    table = tool.get("ckptclamp") if isinstance(tool, dict) else None
    if table is not None and not isinstance(table, dict):
        raise UsageError("tool.ckptclamp must be a table", path=path)
    return table


def _tables(path: Path, value: object) -> tuple[Mapping[str, Any], ...]:
    """The tables under ``checkpoint``, whose keys are read where they are needed."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise UsageError(
            f"{CHECKPOINT} must be tables",
            path=path,
            hint=f"write [[{'tool.ckptclamp.' * (path.name == PROJECT_FILE)}{CHECKPOINT}]]",
        )
    return tuple(value)


def _checked(path: Path, table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if name not in ALLOWED:
            raise UsageError(f"{name!r} is no setting", path=path, hint=_meant(name))
        if type(value) not in ALLOWED[name]:
            words = " or ".join(kind.__name__ for kind in ALLOWED[name])
            raise UsageError(f"{name} must be of type {words}", path=path)
        yield name, str(path.parent / value) if name in _PATHS else value


def _meant(name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, [CHECKPOINT, *ALLOWED], n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"known here: {', '.join(ALLOWED)}; all else belongs on the command line"
