"""One gate over several checkpoints: those of a command line, of a manifest or of the settings."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ckptclamp.checkpoints.remote.path import RemotePath
from ckptclamp.cli.parameters import SETTINGS, check_settings, not_in_effect
from ckptclamp.errors import CkptclampError, ExitCode, Notice, UsageError
from ckptclamp.frozen import frozen
from ckptclamp.spec.manifest import (
    ALTERNATIVES_HINT,
    NO_ALTERNATIVES,
    Asked,
    asked_by_settings,
    load_manifest,
)

if TYPE_CHECKING:
    from ckptclamp.auditing.results import AuditReport
    from ckptclamp.auditing.runs import Answer, Failure, Run
    from ckptclamp.cli.baselines import RunBaseline
    from ckptclamp.cli.options import EngineOptions, GateOptions, ReportOptions, RuleOptions
    from ckptclamp.cli.running import WriteUnit
    from ckptclamp.engine.executors import Progress
    from ckptclamp.spec.model import Spec


def asked_for(named: Sequence[Path], manifest: Path | None) -> tuple[Asked, ...] | None:
    """What is asked for, or ``None`` where it is one checkpoint that is named itself.

    Raises:
        click.UsageError: nothing is asked for, or in two ways.
        UsageError: a path looks as if it had alternatives, which none has.
        SpecError: the manifest, or what the settings say, cannot be understood.
    """
    ctx = click.get_current_context()
    if manifest is not None:
        if named:
            raise click.UsageError(
                "--manifest and checkpoints on the command line exclude each other"
            )
        return load_manifest(manifest)
    if not named:
        settings = ctx.meta.get(SETTINGS)
        if settings is None or not settings.checkpoints:
            raise click.UsageError("Missing argument 'CHECKPOINT'")
        return asked_by_settings(settings.path, settings.checkpoints)
    asked = tuple(
        Asked(str(path), remote=path if isinstance(path, RemotePath) else None) for path in named
    )
    for entry in asked:
        if entry.seems_alternatives:
            raise UsageError(NO_ALTERNATIVES, path=entry.path, hint=ALTERNATIVES_HINT)
    return None if len(asked) == 1 and not asked[0].is_pattern else asked


@frozen
class _Judge:
    """How the checkpoints of one entry are judged."""

    rules: RuleOptions
    spec: Spec | None
    baseline: RunBaseline


class SeveralCheckpoints:
    """The audit of several checkpoints: what is wrong for all is found before the first is opened.

    Raises:
        UsageError: an option is about one checkpoint alone, or makes no sense.
        SpecError: a spec cannot be understood.
    """

    def __init__(
        self,
        asked: Sequence[Asked],
        rules: RuleOptions,
        engine: EngineOptions,
        reports: ReportOptions,
        gate: GateOptions,
        *,
        manifest: Path | None = None,
    ) -> None:
        from ckptclamp.cli.baselines import check_renames, renaming
        from ckptclamp.cli.places import check_outputs_of_run
        from ckptclamp.cli.running import with_spec_settled

        _check_options(gate, asked)
        self._rules, self._engine = with_spec_settled(rules), engine
        self._reports, self._gate = reports, gate
        self._asked, self._renames = asked, renaming(gate.renames)
        self._missing = [entry for entry in asked if not entry.found()]
        self._found = _each_once(asked)
        for _, path in self._found:
            check_settings(click.get_current_context(), path)
        check_outputs_of_run(self._found, rules, reports, gate, manifest=manifest)
        for name in ("spec", "baseline"):
            if all(getattr(entry, name) for entry in asked):
                not_in_effect(name)
        self._baselines: dict[Path | None, RunBaseline] = {}
        self._specs: dict[Path | None, Spec | None] = {}
        self._judges = {entry: self._judge(entry) for entry in asked}
        if len(self._found) > 1:
            for baseline in self._baselines.values():
                baseline.refuse_of_one()
        for entry, path in self._found:
            self._judges[entry].baseline.check(path)
        check_renames(self._renames, self._baselines.values())

    def _judge(self, entry: Asked) -> _Judge:
        from ckptclamp.cli.baselines import RunBaseline
        from ckptclamp.cli.running import load_rules

        rules = replace(
            self._rules,
            spec=entry.spec or self._rules.spec,
            config=entry.config or self._rules.config,
        )
        if entry.spec not in self._specs:
            self._specs[entry.spec] = load_rules(rules)
        if entry.baseline not in self._baselines:
            self._baselines[entry.baseline] = RunBaseline(
                self._gate, self._renames, several=True, path=entry.baseline
            )
        return _Judge(rules, self._specs[entry.spec], self._baselines[entry.baseline])

    def run(self) -> Run:
        """Audit them one by one; what fails for one is its answer, and the others are audited."""
        from ckptclamp import __version__
        from ckptclamp.auditing.runs import Run
        from ckptclamp.cli.progress import progress_bar
        from ckptclamp.cli.running import units_output

        started = time.monotonic()
        answers: list[Answer] = []
        with units_output(self._reports.reports) as write, progress_bar(self._reports) as progress:
            for entry in self._asked:
                if entry.required and entry in self._missing:
                    answers.append(_nothing_found(entry))
                paths = [path for of, path in self._found if of is entry]
                answers += [self._answer(entry, path, write, progress) for path in paths]
        return Run(
            answers=tuple(answers),
            notices=tuple(_not_there(entry) for entry in self._missing if not entry.required),
            tool_version=__version__,
            seconds=time.monotonic() - started,
        )

    def _answer(
        self, entry: Asked, path: Path, write: WriteUnit | None, progress: Progress | None
    ) -> Answer:
        from ckptclamp.cli.failures import failure_of

        try:
            return self._audited(entry, path, write, progress)
        except Exception as error:
            if os.environ.get("CKPTCLAMP_TRACEBACK") and not isinstance(error, CkptclampError):
                raise
            return failure_of(error, "audit", path)

    def _audited(
        self, entry: Asked, path: Path, write: WriteUnit | None, progress: Progress | None
    ) -> AuditReport:
        from ckptclamp.auditing.audit import audit
        from ckptclamp.cli.running import audit_options, wants_histograms

        judge = self._judges[entry]
        reporting: dict[str, Any] = {
            "worst": self._reports.worst,
            "histogram": wants_histograms(self._reports),
            "on_unit": None if write is None else partial(write, checkpoint=str(path)),
            "progress": progress,
        }
        options = audit_options(
            judge.rules,
            self._engine,
            reported=True,
            hash=self._gate.hashed,
            strict=self._gate.strict,
            **reporting,
        )
        report = _softened(audit(path, judge.spec, options), entry)
        return judge.baseline.judged(report, path)


def _check_options(gate: GateOptions, asked: Sequence[Asked]) -> None:
    """Refuse what is about one checkpoint, or would be of two minds about several."""
    alone = {
        "--attest": gate.attest is not None,
        "--checkpoint-name": gate.checkpoint_name is not None,
    }
    for name, given in alone.items():
        if given:
            raise UsageError(f"{name} is about one checkpoint", hint="audit it by itself")
    if gate.write_baseline is not None and any(entry.baseline for entry in asked):
        raise UsageError("--write-baseline and baselines of a manifest exclude each other")


def _each_once(asked: Sequence[Asked]) -> list[tuple[Asked, Path]]:
    """Every file with what is asked of it; one that is found twice by the same judge is judged once."""
    seen: set[tuple[object, ...]] = set()
    found = []
    for entry in asked:
        for path in entry.found():
            key = (os.path.realpath(path), replace(entry, path="", required=True))
            if key not in seen:
                seen.add(key)
                found.append((entry, path))
    return found


def _softened(report: AuditReport, entry: Asked) -> AuditReport:
    """No violation is louder than the manifest lets it be."""
    from ckptclamp.spec.model import Severity

    if entry.severity is Severity.ERROR:
        return report
    results = tuple(replace(result, severity=entry.severity) for result in report.results)
    return replace(report, results=results)


def _nothing_found(entry: Asked) -> Failure:
    from ckptclamp import __version__
    from ckptclamp.auditing.runs import Failure, Problem

    problem = Problem("no file has such a name", hint="correct the pattern, or fetch the files")
    return Failure(
        command="audit",
        code="nothing-evaluated",
        exit_code=ExitCode.NOTHING_EVALUATED,
        problems=(problem,),
        checkpoint=entry.path,
        tool_version=__version__,
    )


def _not_there(entry: Asked) -> Notice:
    return Notice(
        "checkpoint-not-there",
        f"there is no {entry.path}, which is not required",
        informational=True,
    )
