"""What one part of an audit answers, and the report that all parts together make.

Every part opens the whole checkpoint and makes the whole plan, which costs no more than its headers do,
and measures its own tensors alone. So each part knows all that is not about weights, and states it; what
is merged must state the same.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptclamp import __version__
from ckptclamp.auditing.parts import MOST
from ckptclamp.auditing.results import AuditReport, Result, Summary
from ckptclamp.errors import ExitCode, Notice, UsageError
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from ckptclamp.auditing.parts import Portion, Share
    from ckptclamp.checkpoints.checkpoint import Checkpoint
    from ckptclamp.checkpoints.source import Source
    from ckptclamp.plan import Plan

_SAME_OPTIONS = "give every part the same spec and options"

Span = tuple[int, int]
"""Places that follow each other: the first, and the one after the last."""


@frozen
class PartialReport:
    """One part of an audit: what all parts have alike, and what this one found.

    `whole` is the report but for results, time, and notices that weights decide. `versions` tell of each
    file which one was read: its digest where it was taken, else when it was last changed. `layout` is
    the digest of where every tensor lies, `plan` of all that is judged, and how. Results have places:
    those of the plan's assignments, then of what it says cannot be judged, which are `due` in all, then
    of tied pairs, which have one only where the health preset finds them to differ; there are `places`
    in all, of which this part answers those in `answered`. `tied` are notices of tied
    pairs by their place, `ignoring` is said of ignore rules by whoever has seen these results alone,
    `closing` comes last. `nbytes` are those of the weights that were to be measured here, of `total`.
    """

    part: int
    of: int
    whole: AuditReport
    versions: tuple[str, ...]
    layout: str
    plan: str
    worst: int
    due: int
    places: int
    answered: tuple[Span, ...]
    results: tuple[tuple[int, Result], ...]
    tied: tuple[tuple[int, Notice], ...] = ()
    ignoring: tuple[Notice, ...] = ()
    closing: tuple[Notice, ...] = ()
    nbytes: int = 0
    total: int = 0

    @property
    def report(self) -> AuditReport:
        """What is known here, in the form of a report that it is not."""
        notices = (*self.whole.notices, *(n for _, n in self.tied), *self.ignoring, *self.closing)
        return replace(self.whole, results=tuple(r for _, r in self.results), notices=notices)

    @property
    def census(self) -> Summary:
        """Count the results of this part."""
        return self.report.census

    @property
    def exit_code(self) -> ExitCode:
        """What this part alone decides; 0 says that nothing in it fails, not that the gate is passed.

        A part without results is no failure, unless the whole plan has none.
        """
        report = self.report
        nothing = not report.results and self.places and not report.unmatched
        if not nothing:
            return report.exit_code
        failed = report.strict and report.census.warnings
        return ExitCode.VIOLATIONS if failed else ExitCode.OK


def layout_digest(checkpoint: Checkpoint) -> str:
    """The digest of where every tensor of `checkpoint` lies, and of how long its files are."""
    digest = hashlib.sha256()
    for tensor in checkpoint.tensors.values():
        digest.update(f"{tensor!r}\n".encode("utf-8", "backslashreplace"))
    for source in files_of(checkpoint):
        digest.update(f"{source.path.name!r} {source.size}\n".encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def files_of(checkpoint: Checkpoint) -> list[Source]:
    """Every file that weights may come from: those of a base, too."""
    return list(dict.fromkeys((*checkpoint.files, *checkpoint.companions)))


def plan_digest(plan: Plan) -> str:
    """The digest of everything that is judged, and how."""
    digest = hashlib.sha256()
    for a in plan.assignments:
        judged = (
            *(
                a.tensor.name,
                a.tensor.shape,
                str(a.constraint),
                a.constraint.epsilon,
                a.axes,
                a.rule,
            ),
            *(a.origin, a.tolerance, a.shortfall, a.history, a.severity, a.allow_zero, a.meant),
        )
        digest.update(f"{judged!r}\n".encode("utf-8", "backslashreplace"))
    for one, other in plan.tied:
        digest.update(f"{one.name!r} {other.name!r}\n".encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def spans(places: Iterable[int]) -> tuple[Span, ...]:
    """`places`, which grow, as runs."""
    found: list[Span] = []
    for place in places:
        if found and found[-1][1] == place:
            found[-1] = (found[-1][0], place + 1)
        else:
            found.append((place, place + 1))
    return tuple(found)


def merge(parts: Sequence[PartialReport], names: Sequence[str] | None = None) -> AuditReport:
    """The report of the audit of which `parts` are all the parts, in any order.

    It is the one that a whole run gives, but for `seconds`, which is 0. `names` are what to call the
    parts in a message; by default their numbers.

    Raises:
        UsageError: they are not all the parts of one audit: some are missing, or there twice, or were
            made of other files, by another spec, with other options or by another release.
    """
    names = names or [f"part {part.part}/{part.of}" for part in parts]
    if not parts:
        raise UsageError("nothing cannot be merged", hint="name the files that --part wrote")
    first = parts[0]
    for part, name in zip(parts, names, strict=True):
        _check_release(part, name)
        _check_same(first, names[0], part, name)
    _check_all_there(parts, names)
    results = sorted((pair for part in parts for pair in part.results), key=lambda pair: pair[0])
    tied = sorted((pair for part in parts for pair in part.tied), key=lambda pair: pair[0])
    ignoring = Counter(first.ignoring)
    for part in parts:
        ignoring &= Counter(part.ignoring)
    return replace(
        first.whole,
        results=tuple(result for _, result in results),
        notices=(
            *first.whole.notices,
            *(notice for _, notice in tied),
            *_each(first.ignoring, ignoring),
            *first.closing,
        ),
    )


def _each(notices: Iterable[Notice], wanted: Counter[Notice]) -> Iterable[Notice]:
    """Those of `notices` that are `wanted`, the last ones where there are fewer."""
    left = Counter(notices) - wanted
    for notice in notices:
        if left[notice]:
            left[notice] -= 1
        else:
            yield notice


def _check_release(part: PartialReport, name: str) -> None:
    if part.whole.tool_version != __version__:
        raise UsageError(
            f"was made by ckptclamp {part.whole.tool_version}, and this is {__version__}",
            path=name,
            hint="merge by the release that made the parts",
        )


_ALIKE: tuple[tuple[str, str, str], ...] = (
    ("of", "is one of {theirs} parts, {first} one of {ours}", "cut all parts in the same way"),
    ("layout", "is about other files than {first}", "every part must read the same checkpoint"),
    (
        "versions",
        "read another version of the files than {first}",
        "run every part again; where each has a copy of its own, with --hash, so that digests decide",
    ),
    ("checkpoint", "is about another checkpoint than {first}", "name it to every part alike"),
    ("spec_sha256", "was judged by another spec than {first}", _SAME_OPTIONS),
    ("spec_path", "was judged by another spec than {first}", _SAME_OPTIONS),
    ("parameters", "was made with other options than {first}", _SAME_OPTIONS),
    ("strict", "was made with --strict, or {first} was, and not both", _SAME_OPTIONS),
    ("worst", "was made with --worst {theirs}, {first} with {ours}", _SAME_OPTIONS),
    ("plan", "was judged by other rules than {first}", _SAME_OPTIONS),
    ("unmatched", "was judged by other rules than {first}", _SAME_OPTIONS),
    ("due", "has {theirs} results in all, {first} {ours}", _SAME_OPTIONS),
    ("places", "has {theirs} results in all, {first} {ours}", _SAME_OPTIONS),
    ("notices", "tells other things of the checkpoint than {first}", "run every part again"),
    ("closing", "was made with other settings than {first}", "run all in the same project"),
)
"""What all parts have alike: its name, what to say where it is not so, and what to do."""


def _check_same(first: PartialReport, first_name: str, part: PartialReport, name: str) -> None:
    """Refuse a part of another audit; what is most telling is said."""
    for field, message, hint in _ALIKE:
        ours, theirs = (
            getattr(one if hasattr(one, field) else one.whole, field) for one in (first, part)
        )
        if ours != theirs:
            told = message.format(first=first_name, ours=ours, theirs=theirs)
            raise UsageError(told, path=name, hint=hint)


def _check_all_there(parts: Sequence[PartialReport], names: Sequence[str]) -> None:
    """Refuse parts that are missing or there twice, and answers that are."""
    of = parts[0].of
    numbers: dict[int, str] = {}
    for part, name in zip(parts, names, strict=True):
        if part.part in numbers:
            same = f"{numbers[part.part]} is part {part.part} of {of}, too"
            raise UsageError(same, path=name, hint="name each part once")
        numbers[part.part] = name
    missing = [number for number in range(1, of + 1) if number not in numbers]
    if missing:
        few = ", ".join(map(str, missing[:5])) + ", …" * (len(missing) > 5)
        raise UsageError(
            f"{len(missing)} of {of} parts are missing: {few}",
            hint="merge takes all of them at once",
        )
    answered = sorted(span for part in parts for span in part.answered)
    edges = [0, *(edge for span in answered for edge in span), parts[0].places]
    if any(stop != start for stop, start in zip(edges[::2], edges[1::2], strict=True)):
        raise UsageError("the parts do not answer each question once", hint="run every part again")


def check_answers(part: PartialReport) -> None:
    """Refuse a part whose results are not those that it says it answers.

    Raises:
        ValueError: that is so.
    """
    if not 1 <= part.part <= part.of <= MOST or not 0 <= part.due <= part.places:
        raise ValueError("there is no such part")
    at, owed = 0, 0
    for start, stop in part.answered:
        if not at <= start < stop <= part.places:
            raise ValueError("the places that it answers are none")
        at, owed = stop, owed + max(0, min(stop, part.due) - start)
    places = [place for place, _ in part.results]
    if any(a >= b for a, b in itertools.pairwise(places)):
        raise ValueError("its results are not in order")
    within = all(_is_in(place, part.answered) for place in places)
    if not within or sum(place < part.due for place in places) != owed:
        raise ValueError("its results are not those that it says it answers")


def _is_in(place: int, answered: Sequence[Span]) -> bool:
    after = bisect.bisect_right(answered, place, key=lambda span: span[0])
    return after > 0 and place < answered[after - 1][1]


def answered_by(portion: Portion, plan: Plan, share: Share) -> tuple[Span, ...]:
    """The places that a part answers: what cannot be judged belongs to the first one."""
    judged, unjudged = len(plan.assignments), len(plan.not_evaluated)
    places = [*portion.assignments]
    if share.number == 1:
        places += range(judged, judged + unjudged)
    places += [judged + unjudged + place for place in portion.tied]
    return spans(places)
