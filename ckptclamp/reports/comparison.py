"""A comparison of two checkpoints, as text for people or as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptclamp.auditing.comparison import Comparison
from ckptclamp.auditing.comparison.drift import worst_first
from ckptclamp.errors import plural, printable
from ckptclamp.reports.codec import codec, json_text
from ckptclamp.reports.inspection import sparkline
from ckptclamp.reports.tables import Column, first_that_fits, table_lines
from ckptclamp.reports.wording import sentence, shape_words, unit_index

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptclamp.auditing.comparison.drift import TensorDrift
    from ckptclamp.reports import RenderOptions

SCHEMA = "ckptclamp-diff-1"

_SHOWN = 20
_COLUMNS = (
    Column("tensor", shrinks=True, least=14),
    Column("units", right=True),
    Column("changed", right=True),
    Column("norm drift", right=True),
    Column("distance", right=True),
    Column("worst unit"),
    Column("distances"),
    Column(""),
)


def render_comparison(comparison: Comparison, format_: str, options: RenderOptions) -> str:
    """Return the comparison as ``text`` or ``json``, without a line break at the end."""
    if format_ == "json":
        encoded = codec(Comparison).encode(comparison)
        return json_text({"schema": SCHEMA, "exit_code": int(comparison.exit_code), **encoded})
    return "\n".join(_lines(comparison, options))


def _lines(comparison: Comparison, options: RenderOptions) -> Iterator[str]:
    if options.verbose >= 0:
        yield f"{printable(comparison.old)} => {printable(comparison.new)}"
        different = list(_differences(comparison, options))
        yield from ["", *different, ""] if different else [""]
    yield _summary(comparison)


def _differences(comparison: Comparison, options: RenderOptions) -> Iterator[str]:
    everything = options.verbose > 0
    yield from _drifts(comparison, options)
    yield from _listed("added", comparison.added, everything)
    yield from _listed("removed", comparison.removed, everything)
    for tensor in comparison.reshaped:
        old, new = shape_words(tensor.old), shape_words(tensor.new)
        yield f"reshaped: {printable(tensor.tensor)}: {old} => {new}"
    for entry in comparison.not_compared:
        yield f"not compared: {printable(entry.tensor)}: {sentence(entry.reason)}"


def _drifts(comparison: Comparison, options: RenderOptions) -> Iterator[str]:
    moved = [drift for drift in worst_first(comparison.drifts) if _moved(drift)]
    shown = moved if options.verbose > 0 else moved[:_SHOWN]
    if shown:
        rows = [_row(drift, comparison) for drift in shown]
        tables = [(_COLUMNS, rows), (_COLUMNS[:-2], [row[:-2] for row in rows])]
        columns, cells = first_that_fits(tables, options.width)
        heading, *lines = table_lines(columns, cells, width=options.width)
        yield heading
        for row, line in zip(rows, lines, strict=True):
            yield line
            if columns is not _COLUMNS and row[-1]:
                yield f"  {row[-1]}"
    if len(moved) > len(shown):
        yield f"… {plural(len(moved) - len(shown), 'tensor')} more that moved (-v lists all)"


def _moved(drift: TensorDrift) -> bool:
    return bool(drift.changed or drift.nonfinite or drift.old_dtype != drift.new_dtype)


def _row(drift: TensorDrift, comparison: Comparison) -> tuple[str, ...]:
    remarks = []
    if comparison.fails(drift):
        remarks.append("EXCEEDS LIMIT")
    if drift.nonfinite:
        remarks.append(f"{plural(drift.nonfinite, 'unit')} not finite")
    if drift.old_dtype != drift.new_dtype:
        remarks.append(f"{printable(drift.old_dtype)} => {printable(drift.new_dtype)}")
    if drift.old_name is not None:
        remarks.append(f"was {printable(drift.old_name)}")
    return (
        printable(drift.tensor),
        f"{drift.units:,}",
        f"{drift.changed:,}",
        percent(drift.norm_drift),
        percent(drift.distance),
        unit_index(drift.unit) if drift.changed else "-",
        sparkline(drift.histogram) if drift.histogram is not None and drift.changed else "",
        ", ".join(remarks),
    )


def percent(fraction: float) -> str:
    """``0 %``, ``0.0123 %``, ``Infinity`` where nothing can be relative to an old norm of 0."""
    return "Infinity" if fraction == float("inf") else f"{100 * fraction:.3g} %"


def _listed(what: str, names: Sequence[str], everything: bool) -> Iterator[str]:
    shown = names if everything else names[:_SHOWN]
    for name in shown:
        yield f"{what}: {printable(name)}"
    if len(names) > len(shown):
        yield f"… {len(names) - len(shown):,} more {what} (-v lists all)"


def _summary(comparison: Comparison) -> str:
    moved = sum(bool(drift.changed) for drift in comparison.drifts)
    retyped = sum(drift.old_dtype != drift.new_dtype for drift in comparison.drifts)
    parts = [
        f"{plural(len(comparison.drifts), 'tensor')} compared: {moved:,} moved, {retyped:,} retyped",
        f"{len(comparison.added):,} added",
        f"{len(comparison.removed):,} removed",
        f"{len(comparison.reshaped):,} reshaped",
        f"{len(comparison.not_compared):,} not compared",
    ]
    for what, limit in (("drift", comparison.max_drift), ("distance", comparison.max_distance)):
        if limit is not None:
            largest = max((_value(d, what) for d in comparison.drifts), default=0.0)
            parts.append(f"largest {what} {percent(largest)} of at most {percent(limit)}")
    return f"{'; '.join(parts)}; exit {int(comparison.exit_code)}"


def _value(drift: TensorDrift, what: str) -> float:
    return drift.norm_drift if what == "drift" else drift.distance
