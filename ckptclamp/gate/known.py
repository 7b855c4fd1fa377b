"""Baseline files: the violations that are known, of one checkpoint or of several.

The file is JSON, sorted and a line an entry, so that a change of it reads well in review. Of one
checkpoint it holds entries, of several the entries of each by what it is called.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path

from ckptclamp.auditing.results import Result
from ckptclamp.checkpoints.documents import parse_strict
from ckptclamp.checkpoints.remote import as_path, content
from ckptclamp.errors import RefusedError, UsageError
from ckptclamp.frozen import frozen
from ckptclamp.reports.codec import MisfitError, codec, json_text

SCHEMA = "ckptclamp-baseline-1"
SEVERAL = "ckptclamp-baselines-1"

_MAX_BYTES = 1 << 28
_SHOWN = 5
"""How many checkpoints of a file are named in a message."""

_ITS_OWN = "else it needs a baseline of its own"

Identity = tuple[str, str]


@frozen
class Entry:
    """One known violation.

    `constraint` and `axes` are what the numbers were measured against. `worst_distance` is how far
    outside the bound the worst unit with finite weights lay, ``None`` where there was none.
    `base` is the name of the checkpoint that a distance was one to; ``None`` where it is none, and in
    files of earlier versions. `reason` and `expires` (``2027-01-31``, the last day on which it holds) are
    for people to write.
    """

    tensor: str
    rule: str
    constraint: str
    axes: tuple[int, ...]
    violating: int
    nonfinite: int
    worst_distance: float | None = None
    base: str | None = None
    reason: str | None = None
    expires: str | None = None

    @property
    def identity(self) -> Identity:
        """What the entry is known by."""
        return self.tensor, self.rule

    def expired(self, today: datetime.date) -> bool:
        """Whether its last day has passed."""
        return self.expires is not None and datetime.date.fromisoformat(self.expires) < today

    def same_rule(self, result: Result, base: str | None) -> bool:
        """Whether its numbers can be compared with those of `result`, whose distances are to `base`."""
        same = (self.constraint, self.axes) == (result.constraint, result.axes)
        return same and self.base in (None, base)


@frozen
class Baseline:
    """Known violations, one for each identity, and which checkpoint they are of.

    `checkpoint` is as `checkpoint_identity` says; ``None`` in files of earlier versions.
    """

    entries: tuple[Entry, ...] = ()
    checkpoint: str | None = None

    def of_another(self, checkpoint: str) -> bool:
        """Whether it is known to be for another checkpoint."""
        return self.checkpoint not in (None, checkpoint)

    @property
    def same(self) -> str:
        """How to say that what is audited is what it is for."""
        return f"--checkpoint-name {self.checkpoint} says that it is the same one; {_ITS_OWN}"

    def by_identity(self) -> dict[Identity, Entry]:
        """The entries by what they are known by."""
        return {entry.identity: entry for entry in self.entries}


@frozen
class _Unlisted(Baseline):
    """Nothing, of a checkpoint that a file of several does not list; it names those that it does."""

    @property
    def same(self) -> str:
        """As `Baseline.same`."""
        return f"--checkpoint-name NAME says which of these it is; {_ITS_OWN}"


@frozen
class Baselines:
    """What one file knows: of one checkpoint, or `several` by what they are called."""

    parts: Mapping[str | None, Baseline]
    several: bool = False

    def of(self, checkpoint: str) -> Baseline:
        """The baseline that is compared with `checkpoint`; it may be one of another."""
        if not self.several:
            (only,) = self.parts.values()
            return only
        return self.parts.get(checkpoint) or _Unlisted((), self._listed())

    def _listed(self) -> str:
        names = [str(name) for name in self.parts]
        more = [f"and {len(names) - _SHOWN:,} more"] if len(names) > _SHOWN else []
        return ", ".join([*names[:_SHOWN], *more]) or "no checkpoint"

    def replaced(self, baseline: Baseline) -> Baselines:
        """These, with `baseline` in the place of what is known of its checkpoint."""
        kept = self.parts if self.several else {}
        return Baselines({**kept, baseline.checkpoint: baseline}, self.several)


def load_baselines(path: str | Path) -> Baselines:
    """Read what `render_baselines` wrote, and what people added to it.

    Raises:
        UsageError: the file cannot be read, or is no baseline of this version.
    """
    try:
        data = content(as_path(path), _MAX_BYTES + 1)
        document = parse_strict(data, max_depth=8, max_bytes=_MAX_BYTES, what="baseline", path=path)
    except OSError as error:
        raise UsageError(error.strerror or str(error), path=path) from error
    except RefusedError as error:
        raise UsageError(error.message, path=path) from error
    try:
        return _read(document)
    except MisfitError as error:
        raise UsageError(
            f"this is no baseline that can be read: {error}",
            path=path,
            hint=f"it must be a `{SCHEMA}` file, as --write-baseline writes it",
        ) from None


def render_baselines(baselines: Baselines) -> str:
    """The text of a baseline file: JSON, a line an entry, sorted by checkpoint, tensor and rule."""
    if not baselines.several:
        return render_baseline(next(iter(baselines.parts.values())))
    parts = sorted((str(name), part) for name, part in baselines.parts.items())
    lines = [f"  {json_text(name)}: {_entries(part, '  ')}" for name, part in parts]
    held = "{\n" + ",\n".join(lines) + "\n }" if lines else "{}"
    return f'{{\n "schema": "{SEVERAL}",\n "checkpoints": {held}\n}}\n'


def render_baseline(baseline: Baseline) -> str:
    """The text of the file for one checkpoint; see `render_baselines`."""
    of = (
        "" if baseline.checkpoint is None else f' "checkpoint": {json_text(baseline.checkpoint)},\n'
    )
    return f'{{\n "schema": "{SCHEMA}",\n{of} "entries": {_entries(baseline, " ")}\n}}\n'


def _entries(baseline: Baseline, indent: str) -> str:
    encode = codec(Entry).encode
    lines = []
    for entry in sorted(baseline.entries, key=lambda entry: entry.identity):
        members = {name: value for name, value in encode(entry).items() if value is not None}
        lines.append(f"{indent} {json_text(members)}")
    return "[\n" + ",\n".join(lines) + f"\n{indent}]" if lines else "[]"


def _read(document: object) -> Baselines:
    if isinstance(document, dict) and document.get("schema") == SEVERAL:
        if document.keys() != {"schema", "checkpoints"}:
            raise MisfitError("$ must have schema and checkpoints, and nothing else")
        parts = codec(Mapping[str, tuple[Entry, ...]]).decode(
            document["checkpoints"], "$.checkpoints"
        )
        for name, entries in parts.items():
            _check_entries(entries, f"$.checkpoints.{name}")
        return Baselines({n: Baseline(entries, n) for n, entries in parts.items()}, several=True)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise MisfitError(f"$.schema must be {SCHEMA!r}")
    members = {name: value for name, value in document.items() if name != "schema"}
    baseline = codec(Baseline).decode(members, "$")
    assert isinstance(baseline, Baseline)
    _check_entries(baseline.entries, "$.entries")
    return Baselines({baseline.checkpoint: baseline})


def _check_entries(entries: Sequence[Entry], place: str) -> None:
    seen: set[Identity] = set()
    for i, entry in enumerate(entries):
        if entry.identity in seen:
            raise MisfitError(f"{place}[{i}] repeats the tensor and rule of another entry")
        seen.add(entry.identity)
        _check_date(entry.expires, f"{place}[{i}].expires")


def _check_date(text: str | None, place: str) -> None:
    try:
        valid = text is None or datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        valid = False
    if not valid:
        raise MisfitError(f"{place} must be a date such as 2027-01-31")
