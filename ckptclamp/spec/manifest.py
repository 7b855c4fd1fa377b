"""Which checkpoints a gate is about, and how each is judged: a manifest, or tables of the settings.

    version: 1
    checkpoints:
      - path: releases/*.keras
        spec: constraints.yaml
      - {path: teacher.safetensors, baseline: known.json, severity: warning}

In settings the same stands as ``[[tool.ckptclamp.checkpoint]]``. Paths lead from the file that names
them. In a pattern ``*`` and ``?`` are any characters of one name, ``[a-z]`` one of these, and ``**`` any
directories; a file that has such a name itself is that file. Braces are no part of a pattern, and
refused where they look like one.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ckptclamp.checkpoints.remote.path import RemotePath
from ckptclamp.errors import SpecError, SpecProblem
from ckptclamp.frozen import frozen
from ckptclamp.spec.forms import Form, FormProblem, Key, ListOf, Schema, choice, optional
from ckptclamp.spec.model import Severity
from ckptclamp.spec.patterns import PatternChecker
from ckptclamp.spec.values import BOOLEAN, PATH, VERSION
from ckptclamp.spec.yaml_reader import MAX_BYTES, Document, read_yaml

_ALTERNATIVES = re.compile(r"\{.*,.*\}", re.DOTALL)
NO_ALTERNATIVES = "nothing has this name, and braces are no alternatives in a path"
ALTERNATIVES_HINT = "name each path by itself, or use *, ? and [a-z]"


@frozen
class Asked:
    """Checkpoints that are judged alike: a path, or a pattern that stands for several.

    `severity` is the loudest that a violation may be. What is not `required` may be missing.
    """

    path: str
    spec: Path | None = None
    baseline: Path | None = None
    config: Path | None = None
    severity: Severity = Severity.ERROR
    required: bool = True
    remote: RemotePath | None = None
    """The address that `path` shows, where it is one: no pattern, and always required."""

    @property
    def is_pattern(self) -> bool:
        """Whether it may stand for several files."""
        return self.remote is None and glob.has_magic(self.path) and not os.path.lexists(self.path)

    def found(self) -> list[Path]:
        """The files and directories that there are, in the order of their names."""
        if self.remote is not None:
            return [self.remote]
        if self.is_pattern:
            found = glob.glob(self.path, recursive=True)  # noqa: PTH207 - a path that may be absolute
            return [Path(path) for path in sorted(found)]
        there = self.required or os.path.lexists(self.path)
        return [Path(self.path)] if there else []

    @property
    def seems_alternatives(self) -> bool:
        """Whether nothing has this name, and its braces are as those of alternatives: ``{a,b}.h5``."""
        if self.remote is not None:
            return False
        there = bool(self.found()) if self.is_pattern else os.path.lexists(self.path)
        return not there and _ALTERNATIVES.search(self.path) is not None


class CheckpointForm(Form):
    """Checkpoints that are judged alike."""

    title = "Checkpoint"

    path = Key(PATH, "The file, the index of shards or the directory, or a glob for several.")
    spec = optional(PATH, "The spec that they are judged by.")
    baseline = optional(PATH, "Known violations.")
    config = optional(PATH, "The model config that a weights-only Keras file lacks.")
    severity = Key(
        choice(Severity),
        "The loudest that a violation may be; `warning` lets none of them fail the gate.",
        default=Severity.ERROR,
    )
    required = Key(BOOLEAN, "Whether it is a failure if there is none.", default=True)


class ManifestForm(Form):
    """The checkpoints that one gate is about."""

    title = "ckptclamp manifest"

    version = Key(VERSION, "The version of this form.", advice="write version: 1")
    checkpoints = Key(ListOf(CheckpointForm, nonempty=True), "The checkpoints.")


def load_manifest(path: Path) -> tuple[Asked, ...]:
    """Read the manifest at `path`, a YAML (or JSON) file of at most 1 MiB.

    Raises:
        SpecError: it cannot be read or understood; every problem is in it.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpecError(str(path), (SpecProblem(error.strerror or str(error)),)) from error
    document = read_yaml(raw)
    if document.problems:
        raise SpecError(str(path), tuple(document.problems))
    form, problems = ManifestForm.read(document.data, (), PatternChecker())
    if problems:
        raise _error(path, document, problems)
    asked = tuple(_asked(entry, path.parent) for entry in form.checkpoints.values())
    _check_names(path, document, asked, "checkpoints")
    return asked


def asked_by_settings(path: Path, tables: Sequence[Mapping[str, Any]]) -> tuple[Asked, ...]:
    """Read what the settings file at `path` says under ``checkpoint``.

    Raises:
        SpecError: it cannot be understood; every problem is in it.
    """
    kind = ListOf(CheckpointForm)
    forms, problems = kind.read(list(tables), ("checkpoint",), PatternChecker())
    if problems:
        raise _error(path, Document(), problems)
    # From where the program is called: reports know checkpoints by these paths, on any machine.
    folder = Path(os.path.relpath(path.parent))
    asked = tuple(_asked(entry, folder) for entry in forms.values())
    _check_names(path, Document(), asked, "checkpoint")
    return asked


def _check_names(path: Path, document: Document, asked: Sequence[Asked], key: str) -> None:
    """Refuse braces: what is not required and has a name that nothing can have is never audited."""
    problems = [
        FormProblem((key, n, "path"), f"{entry.path}: {NO_ALTERNATIVES}", ALTERNATIVES_HINT)
        for n, entry in enumerate(asked)
        if entry.seems_alternatives
    ]
    if problems:
        raise _error(path, document, problems)


def _asked(form: CheckpointForm, folder: Path) -> Asked:
    def place(text: str | None) -> Path | None:
        return None if text is None else folder / text

    return Asked(
        path=_from(folder, form.path),
        spec=place(form.spec),
        baseline=place(form.baseline),
        config=place(form.config),
        severity=form.severity,
        required=form.required,
    )


def _from(folder: Path, path: str) -> str:
    """`path` as it leads from `folder`, whose own name is no pattern."""
    if folder == Path():
        return path
    literal = glob.escape(str(folder)) if glob.has_magic(path) else str(folder)
    return os.path.join(literal, path)  # noqa: PTH118 - a pattern is no path


def _error(path: Path, document: Document, problems: Sequence[FormProblem]) -> SpecError:
    """All that is wrong, each with its place or, where the file has none, with its name."""
    told = []
    for problem in problems:
        places = document.keys if problem.is_key else document.values
        around = (problem.keys[:n] for n in range(len(problem.keys), -1, -1))
        place = next((places[keys] for keys in around if keys in places), None)
        message = problem.message
        if place is None:
            number = [int(key) + 1 for key in problem.keys if isinstance(key, int)]
            message = f"checkpoint {number[0]}: {message}" if number else message
        line, column = place or (None, None)
        told.append(SpecProblem(message, line, column, problem.hint))
    return SpecError(str(path), tuple(told))


def manifest_schema() -> Schema:
    """Return the JSON Schema (draft 2020-12) of a manifest, for editors."""
    definitions: dict[str, Schema] = {}
    whole = ManifestForm.definition(definitions)
    draft = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": draft, "$defs": definitions, **whole}
