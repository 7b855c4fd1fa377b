"""What the command line does with reports, specs and statements, for Python.

`ckptclamp.audit`, `apply`, `inspect` and `explain` are functions of rooms below; what takes several
rooms together is here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ckptclamp.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptclamp.auditing.comparison import Comparison
    from ckptclamp.auditing.options import AuditOptions, Opening
    from ckptclamp.auditing.results import ApplyReport, AuditReport
    from ckptclamp.gate.attestation import Verification
    from ckptclamp.reports import RenderOptions
    from ckptclamp.spec.rules import Axis


def init(
    path: str | Path,
    output: str | Path | None = None,
    *,
    headroom: float = 0.1,
    force: bool = False,
    options: AuditOptions | None = None,
) -> str:
    """Return a first spec for the checkpoint at `path`, as YAML, and write it to `output` if given.

    `headroom` is the share by which a bound lies above the largest norm (0.1 is ten percent);
    `force` replaces an `output` that is there.

        >>> import ckptclamp
        >>> text = ckptclamp.init("model.safetensors", headroom=0.5)
        >>> "constraint: MaxNorm" in text, "max_value: 9" in text
        (True, True)

    Raises:
        UnreadableError: the checkpoint cannot be opened.
        NothingEvaluatedError: it has no weight that a rule could govern.
        UsageError: `output` exists, or is a checkpoint.
    """
    from ckptclamp.auditing.starting_spec import render_spec, starting_spec

    target = _free(output, (path,), force=force)
    text = render_spec(starting_spec(path, headroom=headroom, options=options), schema=None)
    _write(target, text)
    return text


def diff(
    old: str | Path,
    new: str | Path,
    *,
    renames: Sequence[str] = (),
    axis: Axis = None,
    unit_axis: Axis = None,
    max_drift: float | None = None,
    max_distance: float | None = None,
    opening: Opening | None = None,
    jobs: int | None = None,
) -> Comparison:
    """Compare the weights of two checkpoints: which tensors came or went, and how far units moved.

    `renames` are pairs ``old=>new`` in which each ``*`` stands for the same text on both sides.
    `axis` or `unit_axis` say what a unit is, as in a spec. `max_drift` and `max_distance` are gates:
    fractions (0.05 is five percent) that no unit may exceed, or `exit_code` is 1.

        >>> import ckptclamp
        >>> comparison = ckptclamp.diff("model.safetensors", "model.safetensors", max_drift=0.01)
        >>> int(comparison.exit_code), comparison.added
        (0, ())

    Raises:
        UnreadableError: a checkpoint cannot be opened, or changed while it was read.
        UsageError: a rename cannot be understood, or axes make no sense.
    """
    from ckptclamp.auditing.comparison import compare_checkpoints
    from ckptclamp.spec.rules import units

    return compare_checkpoints(
        old,
        new,
        renames=renames,
        units=units(axis, unit_axis),
        max_drift=max_drift,
        max_distance=max_distance,
        opening=opening,
        jobs=jobs,
    )


def baseline(
    report: AuditReport,
    path: str | Path,
    *,
    write: bool = False,
    checkpoint_name: str | None = None,
) -> AuditReport:
    """Return `report` with the violations suppressed that the baseline at `path` knows.

    With `write`, today's violations are recorded in it first, and reasons that it holds are kept.
    `checkpoint_name` is what it knows the checkpoint by, if not by its path.

        >>> import ckptclamp
        >>> report = ckptclamp.audit("model.safetensors", "constraints.yaml")
        >>> ckptclamp.baseline(report, "known.json", write=True).passed
        True
        >>> ckptclamp.baseline(report, "known.json").census.suppressed
        1

    Raises:
        UsageError: it cannot be read or is no baseline, is that of another checkpoint and would be
            replaced, or the report did not judge what it was to.
    """
    from ckptclamp.gate.baseline import checkpoint_identity, compare, record, refuse_another, unfit
    from ckptclamp.gate.known import Baselines, load_baselines, render_baselines

    identity = checkpoint_identity(report.checkpoint.path, path, checkpoint_name)
    file = load_baselines(path) if not write or Path(path).exists() else None
    known = None if file is None else file.of(identity)
    if write:
        reason = unfit(report)
        if reason is not None:
            raise UsageError(f"the baseline was not written: {reason}", path=path)
        if file is not None and known is not None and not file.several:
            refuse_another(known, identity)
        known = record(report, identity, known)
        whole = (file or Baselines({identity: known})).replaced(known)
        _write(_free(path, (report.checkpoint.path,), force=True), render_baselines(whole))
    assert known is not None
    return compare(report, identity, known)


def attest(
    report: AuditReport | ApplyReport, output: str | Path | None = None, *, force: bool = False
) -> str:
    """Return an in-toto statement about `report`, as JSON, and write it to `output` if given.

    The report must have digests: ``AuditOptions(hash=True)``.

        >>> import ckptclamp
        >>> options = ckptclamp.AuditOptions(hash=True)
        >>> report = ckptclamp.audit("model.safetensors", "constraints.yaml", options)
        >>> text = ckptclamp.attest(report, "model.intoto.json")
        >>> "https://in-toto.io/Statement/v1" in text
        True

    Raises:
        UsageError: files were not hashed, nothing was written (a dry run), or `output` exists.
    """
    from ckptclamp.auditing.results import AuditReport
    from ckptclamp.gate.attestation import render_attestation

    text = render_attestation(report)
    audits = (report,) if isinstance(report, AuditReport) else (report.before, report.after)
    read = [audit.checkpoint.path for audit in audits if audit is not None]
    target = _free(output, read, force=force)
    _write(target, text)
    return text


def verify(
    statement: str | Path,
    directory: str | Path | None = None,
    *,
    spec: str | Path | None = None,
    renamed: Mapping[str, str | Path] | None = None,
    follow_symlinks: bool = False,
) -> Verification:
    """Compare the in-toto statement at a path with the files in `directory` (by default beside it).

    With `spec`, the audit must have been made with that very file; `renamed` says where a file of the
    statement is now, if it has another name. An envelope around the statement is opened. Who wrote the
    statement is not checked here; that is what a signature over it is for.

        >>> import ckptclamp
        >>> options = ckptclamp.AuditOptions(hash=True)
        >>> report = ckptclamp.audit("model.safetensors", "constraints.yaml", options)
        >>> _ = ckptclamp.attest(report, "model.intoto.json", force=True)
        >>> verification = ckptclamp.verify("model.intoto.json", spec="constraints.yaml")
        >>> [str(file.match) for file in verification.files], int(verification.exit_code)
        (['same'], 1)

    Raises:
        UnreadableError: the statement cannot be read, or is none that this program wrote.
    """
    from ckptclamp.gate.attestation import verify as verified

    return verified(
        statement, directory, spec=spec, renamed=renamed, follow_symlinks=follow_symlinks
    )


def render(
    report: AuditReport | ApplyReport,
    format: str = "text",
    options: RenderOptions | None = None,
) -> str:
    """Return `report` in a format: text, json, sarif, junit, markdown, github, gitlab or html.

        >>> import ckptclamp
        >>> report = ckptclamp.audit("model.safetensors", "constraints.yaml")
        >>> print(ckptclamp.render(report, "text").splitlines()[-1])
        1 result: 0 pass, 1 violation (3 of 3 units), 0 not evaluated; exit 1

    Raises:
        UsageError: there is no such format.
    """
    from ckptclamp.reports import RenderOptions
    from ckptclamp.reports import render as rendered

    return rendered(format, report, options or RenderOptions())


def _free(output: str | Path | None, read: Sequence[str | Path], *, force: bool) -> Path | None:
    """`output`, where a file may be written: not over what is `read`, nor unasked over a file."""
    if output is None:
        return None
    from ckptclamp.reports import check_places

    target = Path(output)
    check_places(map(Path, read), [target])
    if target.exists() and not force:
        raise UsageError("exists already", path=target, hint="force=True replaces it")
    return target


def _write(target: Path | None, text: str) -> None:
    if target is not None:
        from ckptclamp.reports import write_whole

        write_whole(target, text)
