"""The words and numbers that every format shares, so that no two of them tell it differently."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ckptclamp.auditing.results import AuditReport, Verdict
from ckptclamp.errors import ExitCode, plural, printable
from ckptclamp.spec.model import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptclamp.auditing.parts.partial import PartialReport
    from ckptclamp.auditing.results import (
        CheckpointSummary,
        Result,
        Summary,
        TensorChange,
        WorstUnit,
    )
    from ckptclamp.plan import UnmatchedRule

NOT_EVALUATED_MARK = "-"
LEGEND = "'-': not evaluated; '0': no unit outside"


def sentence(text: str) -> str:
    """A message that may quote untrusted names, as one inert line of bounded length."""
    return printable(text, limit=2000)


def file_path(text: str) -> str:
    """A path as one inert line; whole, since no file system has one that is longer."""
    return printable(text, limit=8192)


def number(value: float, digits: int = 4) -> str:
    """`value` with `digits` significant digits; ``NaN`` and ``Infinity`` by name."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return f"{value + 0.0:.{digits}g}"  # the sum has no negative zero


def distinguishable(value: float, bound: float) -> tuple[str, str]:
    """Both numbers with the fewest digits, at least 4, that still tell them apart."""
    for digits in range(4, 18):
        shown = number(value, digits), number(bound, digits)
        if shown[0] != shown[1] or value == bound:
            return shown
    return shown


def comparison(value: float, bound: float) -> str:
    """``1.732 > 1``: a measured value against the bound that it lies outside of."""
    if math.isnan(value):
        return f"NaN, bound {number(bound)}"
    if value == bound:
        return f"every weight is {number(value)}"
    sign = ">" if value > bound else "<"
    shown = distinguishable(value, bound)
    return f"{shown[0]} {sign} {shown[1]}"


def unit_value(unit: WorstUnit, size: int = 1) -> str:
    """One violating unit's measurement against its bound; a unit has `size` weights."""
    if unit.nonfinite:
        return "non-finite"
    if unit.zero and size > 1:
        return "zero vector"
    return comparison(unit.measured, unit.bound)


def unit_index(index: tuple[int, ...]) -> str:
    """A unit's coordinates along the kept axes: ``3``, ``(0, 17)``, or ``whole tensor``."""
    if not index:
        return "whole tensor"
    return str(index[0]) if len(index) == 1 else str(tuple(index))


def zero_words(result: Result) -> str:
    """How many units of a result are zeros, and the first of them: ``3 zero vectors: 0, 4 to 5``."""
    count = result.zero or result.zero_allowed
    words = plural(count, "zero vector" if result.unit_size > 1 else "zero weight")
    if not all(result.zero_first):  # the whole tensor is one unit
        return words
    more = ", …" if count > len(result.zero_first) else ""
    return f"{words}: {', '.join(_runs(result.zero_first))}{more}"


def _runs(indices: Sequence[tuple[int, ...]]) -> Iterator[str]:
    """Units by their coordinates; of units that follow each other the first and the last."""
    runs: list[list[tuple[int, ...]]] = []
    for index in indices:
        follows = runs and index == (*runs[-1][-1][:-1], runs[-1][-1][-1] + 1)
        if follows:
            runs[-1].append(index)
        else:
            runs.append([index])
    for run in runs:
        first, last = unit_index(run[0]), unit_index(run[-1])
        yield first if len(run) == 1 else f"{first} to {last}"


def relative_excess(excess: float | None) -> str:
    """``+73.2 %`` outside the bound; ``-`` where nothing can be relative to it."""
    if excess is None or not math.isfinite(excess):
        return NOT_EVALUATED_MARK
    percent = 100 * excess
    return f"+{percent:,.0f} %" if 1000 <= percent < 1e9 else f"+{percent:.3g} %"


def worst_value(result: Result) -> str:
    """The worst of a result's measurements against its bound, whether it lies outside or inside."""
    if result.verdict is Verdict.NOT_EVALUATED:
        return NOT_EVALUATED_MARK
    if result.verdict is Verdict.VIOLATION and result.worst:
        return unit_value(result.worst[0], result.unit_size)
    if result.nonfinite:
        return "non-finite"
    return _outermost(result) or _span(result)


def _outermost(result: Result) -> str | None:
    """What lies farthest outside, where violating units were counted but not kept."""
    if result.verdict is not Verdict.VIOLATION:
        return None
    (low, high), smallest, largest = result.bound, result.measured_min, result.measured_max
    outside = []
    if high is not None and largest is not None and largest > high:
        outside.append((largest - high, largest, high))
    if low is not None and smallest is not None and smallest < low:
        outside.append((low - smallest, smallest, low))
    return comparison(*max(outside)[1:]) if outside else None


def _span(result: Result) -> str:
    """What conforming units measure; ``≈`` where only the tolerance lets them pass."""
    (low, high), smallest, largest = result.bound, result.measured_min, result.measured_max
    if smallest is None or largest is None:
        return NOT_EVALUATED_MARK
    if low is not None and high is not None:
        if low == high:
            return _near(max(smallest, largest, key=lambda value: abs(value - low)), low, "=")
        sign = "in" if low <= smallest and largest <= high else "≈"
        return f"{number(smallest)} … {number(largest)} {sign} {interval(result.bound)}"
    if high is not None:
        return _near(largest, high, "≤" if largest <= high else "≈")
    if low is not None:
        return _near(smallest, low, "≥" if smallest >= low else "≈")
    return f"{number(smallest)} … {number(largest)}"


def _near(value: float, bound: float, sign: str) -> str:
    shown = distinguishable(value, bound)
    return f"{shown[0]} {'≈' if sign == '=' and value != bound else sign} {shown[1]}"


def shape_words(shape: tuple[int, ...]) -> str:
    """``64 x 1 x 16 x 4``; a tensor without axes is a ``scalar``."""
    return " x ".join(str(extent) for extent in shape) or "scalar"


def interval(bound: tuple[float | None, float | None]) -> str:
    """The interval that a unit's measurement must lie in, in words: ``≤ 2``, ``[0.5, 1]``."""
    low, high = bound
    if low is None:
        return "any" if high is None else f"≤ {number(high)}"
    if high is None:
        return f"≥ {number(low)}"
    return f"= {number(low)}" if low == high else f"[{number(low)}, {number(high)}]"


def unmatched_words(unmatched: UnmatchedRule) -> str:
    """What a rule looked for in vain, and what it may have meant."""
    patterns = ", ".join(printable(pattern) for pattern in unmatched.patterns)
    meant = f" (did you mean {printable(unmatched.meant)}?)" if unmatched.meant else ""
    return sentence(f"matched no tensor{f' with {patterns}' if patterns else ''}{meant}")


def verdict_word(result: Result) -> str:
    """``pass``, ``VIOLATION`` or ``NOT EVALUATED``, and what softens it."""
    if result.suppressed is not None:
        return "suppressed"
    if result.verdict is Verdict.VIOLATION:
        return "VIOLATION" if result.severity is Severity.ERROR else "warning"
    return "pass" if result.verdict is Verdict.PASS else "NOT EVALUATED"


def tensor_name(result: Result) -> str:
    """The name a person knows a tensor by."""
    return printable(result.label or result.tensor)


class ResultCells(NamedTuple):
    """What a table shows of a result; the fields are the table's headings."""

    tensor: str
    rule: str
    constraint: str
    units: str
    violating: str
    worst: str
    verdict: str


def result_cells(result: Result, quote: Callable[[str], str] = printable) -> ResultCells:
    """A result's row, in which names are quoted with `quote`; ``-`` where a number is not known."""
    missing = result.verdict is Verdict.NOT_EVALUATED
    return ResultCells(
        quote(tensor_name(result)),
        quote(result.rule),
        quote(result.constraint),
        NOT_EVALUATED_MARK if missing else f"{result.units:,}",
        NOT_EVALUATED_MARK if missing else f"{result.violating:,}",
        quote(worst_value(result)),
        verdict_word(result),
    )


CHANGE_HEADS = ("tensor", "rules", "units", "changed", "largest change")


def change_cells(change: TensorChange, quote: Callable[[str], str] = printable) -> tuple[str, ...]:
    """A changed tensor's row, in which its name is quoted with `quote`."""
    return (
        quote(change.label or change.tensor),
        ", ".join(printable(rule) for rule in change.rules),
        f"{change.units:,}",
        f"{change.changed:,}",
        f"{100 * change.largest_change:.3g} %",
    )


WORST_HEADS = ("unit", "measured", "bound", "excess")


def worst_cells(unit: WorstUnit) -> tuple[str, ...]:
    """A violating unit's row."""
    measured, bound = distinguishable(unit.measured, unit.bound)
    if unit.nonfinite:
        measured, bound = f"{unit.nonfinite:,} non-finite", number(unit.bound)
    return unit_index(unit.index), measured, bound, relative_excess(unit.excess)


def about(summary: CheckpointSummary) -> str:
    """What kind of checkpoint it is: format, tensors, size, producer."""
    size = file_size(sum(file.size for file in summary.files))
    parts = [printable(summary.format), plural(summary.tensors, "tensor"), size]
    return ", ".join([*parts, printable(summary.producer)] if summary.producer else parts)


def fetched(summary: CheckpointSummary) -> str | None:
    """How much of a remote checkpoint was fetched; ``None`` of one that is on a disk."""
    known = summary.fetched
    if known is None:
        return None
    share = known.bytes / known.held if known.held else 0
    requests = plural(known.requests, "request")
    return f"{file_size(known.bytes)} of {file_size(known.held)} ({share:.1%}) in {requests}"


def isolation(summary: CheckpointSummary) -> str:
    """What the checkpoint was parsed behind, or ``none``."""
    return ", ".join(map(printable, summary.isolation)) or "none"


def unit_sentence(result: Result) -> str:
    """What one unit of a result is, in words."""
    if result.unit_words:
        return sentence(result.unit_words)
    axes = ", ".join(str(axis) for axis in result.axes)
    return plural(result.unit_size, "weight") + (f" along axis {axes}" if axes else "")


def file_size(size: int) -> str:
    """Bytes with a decimal prefix: ``43.2 kB``."""
    if size < 1000:
        return f"{size} B"
    value, prefix = float(size), ""
    for step in "kMGTPE":
        if value < 999.95:
            break
        value, prefix = value / 1000, step
    return f"{value:.1f} {prefix}B"


_VERDICTS = {
    ExitCode.OK: "Pass: everything governed was evaluated and conforms",
    ExitCode.VIOLATIONS: "Fail: violations found",
    ExitCode.INCOMPLETE: "Fail: not everything could be evaluated",
    ExitCode.NOTHING_EVALUATED: "Fail: nothing was evaluated",
}


def verdict_sentence(report: AuditReport) -> str:
    """The gate's answer in a few words; an unqualified pass only where everything conforms."""
    census, code = report.census, report.exit_code
    if code is ExitCode.NOTHING_EVALUATED and report.unmatched:
        return f"Fail: {plural(len(report.unmatched), 'rule')} matched nothing"
    if code is ExitCode.VIOLATIONS and not census.violations:
        return "Fail: warnings, and this gate is strict"
    if code is ExitCode.OK and census.violations:
        return "Pass: violations found, none of them an error"
    if code is ExitCode.OK and census.suppressed:
        return f"Pass: conforms but for {plural(census.suppressed, 'suppressed violation')}"
    return _VERDICTS[code]


def forgiven_words(census: Summary) -> Iterator[str]:
    """What lies outside and conforms all the same; a reader must know of it."""
    if census.within_tolerance:
        yield f"{plural(census.within_tolerance, 'unit')} within tolerance"
    if census.zero_allowed:
        yield f"{plural(census.zero_allowed, 'zero unit')} allowed"


def tolerance_words(result: Result) -> str:
    """The tolerance, what it was derived from, and how many units needed it."""
    words = f"{result.tolerance:.3g}"
    if result.shortfall:
        words += f" above and {result.tolerance + result.shortfall:.3g} below"
    if result.history is not None:
        words += f" ({result.history})"
    if result.within_tolerance:
        words += f"; {plural(result.within_tolerance, 'unit')} outside by no more than that"
    return words


def summary_line(report: AuditReport, exit_code: ExitCode) -> str:
    """The counts of an audit in one line that ends with the program's exit code."""
    return "; ".join(
        [*counted_words(report.census, len(report.unmatched)), f"exit {int(exit_code)}"]
    )


def part_line(part: PartialReport) -> str:
    """What one part of an audit comes to, in one line that says that it is no answer of the gate."""
    counted = "; ".join(counted_words(part.census, len(part.whole.unmatched)))
    return (
        f"part {part.part} of {part.of} ({file_size(part.nbytes)} of {file_size(part.total)}): {counted}; "
        f"exit {int(part.exit_code)} is that of this part alone, `ckptclamp merge` decides"
    )


def counted_words(census: Summary, unmatched: int) -> list[str]:
    """What was judged, and how it came out, part by part."""
    outside = f" ({census.violating_units:,} of {plural(census.units, 'unit')})"
    counts = [
        f"{census.passed:,} pass",
        plural(census.violations, "violation") + (outside if census.violations else ""),
        f"{census.not_evaluated:,} not evaluated",
    ]
    if census.suppressed:
        counts.append(f"{census.suppressed:,} suppressed")
    parts = [f"{plural(census.results, 'result')}: {', '.join(counts)}"]
    parts += forgiven_words(census)
    if unmatched:
        parts.append(f"{plural(unmatched, 'rule')} matched nothing")
    if census.warnings:
        parts.append(plural(census.warnings, "warning"))
    return parts
