"""The baseline of a run: read before anything is measured, compared with each report, written last."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ckptclamp.cli.parameters import PATH, from_settings, option, together
from ckptclamp.errors import Notice, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptclamp.auditing.comparison.renames import Renames
    from ckptclamp.auditing.results import AuditReport
    from ckptclamp.cli.options import GateOptions
    from ckptclamp.gate.known import Baseline, Baselines

rename_option = option(
    "--rename",
    "renames",
    multiple=True,
    metavar="OLD=>NEW",
    help="Names that changed; each * stands for the same text on both sides. May be repeated.",
)
name_option = option(
    "--checkpoint-name",
    metavar="NAME",
    help="What a baseline knows the checkpoint by; by default its path from the project's settings "
    "or from the baseline.",
)
baseline_options = together(
    option(
        "--baseline",
        type=PATH,
        help="Known violations: fail only on what is new or worse.",
    ),
    option(
        "--write-baseline",
        type=PATH,
        help="Record today's violations as accepted.",
    ),
    name_option,
    rename_option,
)


_OF_SEVERAL = (
    "in a run of several each is known by its path: correct its name in the baseline, or write "
    "another with --write-baseline"
)


def renaming(texts: tuple[str, ...]) -> Renames | None:
    """What ``--rename`` says, if it says anything.

    Raises:
        UsageError: one cannot be understood.
    """
    if not texts:
        return None
    from ckptclamp.gate.baseline import renames_of

    return renames_of(texts)


def check_renames(renames: Renames | None, baselines: Iterable[RunBaseline]) -> None:
    """Refuse renames of names that are in none of `baselines`; each was checked before.

    Raises:
        UsageError: there are such.
    """
    if renames is None:
        return
    if not any(baseline.was_read for baseline in baselines):
        raise click.UsageError("--rename is about the names in a --baseline")
    renames.refuse_idle()


class RunBaseline:
    """What is known of the checkpoints of one run, or will be.

    Read when it is made, so that a wrong path costs no hour of measuring. `several` is whether one
    that is written has an entry for each checkpoint; `path` is what a manifest says in place of
    ``--baseline``.

    Raises:
        UsageError: it cannot be read, or options exclude each other.
    """

    def __init__(
        self,
        gate: GateOptions,
        renames: Renames | None = None,
        *,
        several: bool = False,
        path: Path | None = None,
    ) -> None:
        old, new = gate.baseline, gate.write_baseline
        if old is not None and new is not None and not from_settings("baseline"):
            raise click.UsageError("--baseline and --write-baseline exclude each other")
        self._name = gate.checkpoint_name
        self._advice = _OF_SEVERAL if several else ""
        self._renames = renames
        self._written = new
        self._place = new or path or old
        self._known: Baselines | None = None
        read = self._place if new is None or new.exists() else None
        if read is not None:
            from ckptclamp.gate.known import load_baselines

            self._known = load_baselines(read)
        elif new is not None and several:
            from ckptclamp.gate.known import Baselines

            self._known = Baselines({}, several=True)

    @property
    def was_read(self) -> bool:
        """Whether there is a file that knows anything yet."""
        return self._known is not None and bool(self._known.parts)

    def refuse_of_one(self) -> None:
        """Refuse to write what is known of several into the baseline of one checkpoint.

        Raises:
            UsageError: it is that of one.
        """
        if self._written is not None and self._known is not None and not self._known.several:
            raise UsageError(
                "is the baseline of one checkpoint, and these are several",
                path=self._written,
                hint="write another file",
            )

    def check(self, checkpoint: Path) -> None:
        """Refuse to write it where it is that of another checkpoint than this one.

        Raises:
            UsageError: it is, or renames make two names one.
        """
        if self._place is None or self._known is None:
            return
        from ckptclamp.gate.baseline import refuse_another

        if self._written is not None and not self._known.several:
            identity = self._identity(checkpoint)
            refuse_another(self._known.of(identity), identity, self._advice)
        self._part(checkpoint)

    def judged(self, report: AuditReport, checkpoint: Path) -> AuditReport:
        """Mark what is known in `report`, or take it for known where that is asked for.

        Nothing is taken from an audit that did not judge what it was to: its exit code is not 0 anyway.
        """
        if self._place is None:
            return report
        from ckptclamp.gate.baseline import compare, record, unfit
        from ckptclamp.gate.known import Baselines, render_baseline

        identity = self._identity(checkpoint)
        known = self._part(checkpoint)
        if self._written is not None:
            reason = unfit(report)
            if reason is not None:
                return _not_recorded(report, reason)
            known = record(report, identity, known)
            kept = self._known or Baselines({identity: known})
            self._known = kept.replaced(known)
            self._write()
        assert known is not None
        digest = hashlib.sha256(render_baseline(known).encode()).hexdigest()
        parameters = {**report.parameters, "baseline": f"sha256:{digest}"}
        if self._name:
            parameters["checkpoint-name"] = self._name
        compared = compare(report, identity, known, advice=self._advice)
        return replace(compared, parameters=parameters)

    def _identity(self, checkpoint: Path) -> str:
        from ckptclamp.gate.baseline import checkpoint_identity

        assert self._place is not None
        return checkpoint_identity(checkpoint, self._place, self._name)

    def _part(self, checkpoint: Path) -> Baseline | None:
        """What is known of `checkpoint`, by the names that its tensors have now."""
        if self._known is None:
            return None
        known = self._known.of(self._identity(checkpoint))
        if self._renames is None:
            return known
        from ckptclamp.gate.baseline import renamed

        return renamed(known, self._renames)

    def _write(self) -> None:
        from ckptclamp.gate.known import render_baselines
        from ckptclamp.reports import write_whole

        assert self._written is not None
        assert self._known is not None
        write_whole(self._written, render_baselines(self._known))


def _not_recorded(report: AuditReport, reason: str) -> AuditReport:
    notice = Notice("baseline-not-written", f"the baseline was not written: {reason}")
    return replace(report, notices=(*report.notices, notice))
