"""Plots as inline SVG: histograms of units with the bound drawn in, and the strip of all results.

Colours come from the page's style sheet by class, so that they follow light, dark and print.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count, pairwise
from typing import TYPE_CHECKING

from ckptclamp.auditing.results import Verdict
from ckptclamp.reports.markup import element
from ckptclamp.reports.wording import (
    beside,
    interval,
    number,
    plural,
    tensor_name,
    verdict_word,
    worst_value,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from xml.etree import ElementTree as ET

    from ckptclamp.auditing.results import Result
    from ckptclamp.engine.histogram import Histogram

_WIDTH, _HEIGHT = 320.0, 104.0
_TOP, _BASE = 18.0, 86.0
_SIDE = 10.0
_THIN = 3.0
_LOG_RATIO = 100.0
_FAR = 3.0
"""A bound further away than this many widths of the data is shown at the edge, by an arrow."""

_NARROW = 0.25
"""Data are taken to be at least this wide, relative to the largest, when a bound is called far."""

_MOST_CELLS = 180
"""A cell stays two pixels wide on a phone, so that a single bad layer is seen."""

_CELL = 28
_LEAST_FILL = 12.0


@dataclass(frozen=True, slots=True)
class Axis:
    """From values to horizontal places; logarithmic where all values are positive and wide."""

    low: float
    high: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Where `value` stands, held within the plot."""
        scaled = _log if self.logarithmic else _half
        low, high, at = scaled(self.low), scaled(self.high), scaled(value)
        share = (at - low) / (high - low) if high > low else 0.5
        return _SIDE + min(max(share, 0.0), 1.0) * (_WIDTH - 2 * _SIDE)


def axis_of(histograms: Sequence[Histogram], bound: tuple[float | None, float | None]) -> Axis:
    """The axis that holds every bin, and the bounds that are not far away."""
    low = min(histogram.edges[0] for histogram in histograms)
    high = max(histogram.edges[-1] for histogram in histograms)
    logarithmic = low > 0 and high / low > _LOG_RATIO
    for limit in bound:
        if limit is None or (logarithmic and limit <= 0):
            continue
        wide = Axis(min(low, limit), max(high, limit), logarithmic)
        narrow = 0.0 if logarithmic else _NARROW * _half(max(abs(low), abs(high)))
        if _extent(wide) <= _FAR * max(narrow, _extent(Axis(low, high, logarithmic))):
            low, high = wide.low, wide.high
    return Axis(low, high, logarithmic)


def _extent(axis: Axis) -> float:
    scaled = _log if axis.logarithmic else _half
    return scaled(axis.high) - scaled(axis.low)


def _half(value: float) -> float:
    """Halved, so that the distance of two values never overflows."""
    return value / 2


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def drawable(result: Result | None) -> bool:
    """Whether a result has a histogram with anything in it."""
    return result is not None and result.histogram is not None and bool(result.histogram.counts)


def histogram_chart(
    result: Result, ids: count[int], *, axis: Axis | None = None, words: str = ""
) -> ET.Element:
    """The units of `result` by measured value, those outside in the colour of a violation.

    `axis` is shared with another chart where the two are to be compared; `words` tell which it is.
    """
    histogram = result.histogram
    assert histogram is not None
    axis = axis or axis_of([histogram], result.bound)
    finite = result.violating - result.nonfinite
    inside, outside = _bars(histogram, axis, _inner(result), finite)
    title = f"{words or 'Units'} of {tensor_name(result)}"
    spread = f"{number(histogram.edges[0])} to {number(histogram.edges[-1])}"
    description = (
        f"{plural(result.units, 'unit')} measure {spread}; the bound is {interval(result.bound)}; "
        f"{result.violating:,} outside."
    )
    return _figure(
        (_WIDTH, _HEIGHT),
        (title, description),
        ids,
        element("path", d=inside, class_="bars") if inside else None,
        element("path", d=outside, class_="bars out") if outside else None,
        element("path", d=f"M0 {_BASE:g}H{_WIDTH:g}", class_="axis"),
        *_axis_labels(axis),
        *(mark for limit in _limits(result) for mark in _bound_mark(limit, axis)),
        class_="histogram",
    )


def _limits(result: Result) -> list[float]:
    return sorted({limit for limit in result.bound if limit is not None})


def _inner(result: Result) -> tuple[float, float]:
    """The interval in which bars are drawn as conforming."""
    if not result.violating:
        return -math.inf, math.inf
    low, high = result.bound
    slack = result.tolerance
    return (
        -math.inf if low is None else low - slack * abs(low),
        math.inf if high is None else high + slack * abs(high),
    )


def _bars(
    histogram: Histogram, axis: Axis, inner: tuple[float, float], violating: int
) -> tuple[str, str]:
    """Two paths, conforming and outside.

    Of a bin that a bound crosses no more is drawn outside than is left of `violating` units when the
    bins that lie outside as a whole have had theirs.
    """
    most = max(histogram.counts) or 1
    bins = list(zip(pairwise(histogram.edges), histogram.counts, strict=True))
    left_over = violating - sum(units for edges, units in bins if _is_outside(edges, inner))
    inside: list[str] = []
    outside: list[str] = []
    for edges, units in bins:
        beyond = units if _is_outside(edges, inner) else 0
        if not beyond and _is_crossed(edges, inner):
            beyond = min(units, max(left_over, 0))
            left_over -= beyond
        within, without = _parts(edges, inner) if 0 < beyond < units else ([edges], [edges])
        for part, count_, path in ((within, units - beyond, inside), (without, beyond, outside)):
            height = max(2.0, (_BASE - _TOP) * count_ / most)
            path.extend(_bar(axis, *ends, height) for ends in part if count_)
    return "".join(inside), "".join(outside)


def _is_outside(edges: tuple[float, float], inner: tuple[float, float]) -> bool:
    return edges[1] <= inner[0] or edges[0] > inner[1]


def _is_crossed(edges: tuple[float, float], inner: tuple[float, float]) -> bool:
    return edges[0] < inner[0] or edges[1] > inner[1]


def _parts(
    edges: tuple[float, float], inner: tuple[float, float]
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """What of a bin lies within `inner`, and what beside it."""
    low, high = max(edges[0], inner[0]), min(edges[1], inner[1])
    beside_ = [(edges[0], low), (high, edges[1])]
    return [(low, high)], [(start, stop) for start, stop in beside_ if start < stop]


def _bar(axis: Axis, start: float, stop: float, height: float) -> str:
    left, right = axis.place(start), axis.place(stop) - 0.5
    left = min(left, right - _THIN)  # however thin, it must show beside the line of a bound
    return f"M{left:.1f} {_BASE:g}V{_BASE - height:.1f}H{right:.1f}V{_BASE:g}Z"


def _axis_labels(axis: Axis) -> Iterator[ET.Element]:
    low, high = beside(axis.low, axis.high)
    line = _HEIGHT - 4
    yield element("text", low, x=0, y=line)
    if axis.logarithmic:
        yield element("text", "log scale", x=_WIDTH / 2, y=line, text_anchor="middle")
    yield element("text", high, x=_WIDTH, y=line, text_anchor="end")


def _bound_mark(limit: float, axis: Axis) -> Iterator[ET.Element]:
    """A line at the bound with its number, or an arrow where it is out of sight."""
    at = axis.place(limit)
    anchor = "start" if at < _WIDTH / 3 else "end" if at > 2 * _WIDTH / 3 else "middle"
    words = f"bound {number(limit)}"
    if limit < axis.low:
        words = f"← {words}"
    elif limit > axis.high:
        words = f"{words} →"
    else:
        yield element("path", d=f"M{at:.1f} {_TOP - 4:g}V{_BASE:g}", class_="bound")
    yield element("text", words, x=at, y=11, text_anchor=anchor, class_="bound-label")


def strip_chart(results: Sequence[tuple[Result, str]], ids: count[int]) -> ET.Element:
    """One cell a result in the order of the file: where in the model is it bad?

    `results` come with the places on the page that their cells link to. The share of violating
    units fills a cell from below. Long models have several results in a cell, the worst of which it
    shows.
    """
    size = -(-len(results) // _MOST_CELLS)
    groups = [results[i : i + size] for i in range(0, len(results), size)]
    width = len(groups) * _CELL
    cells = [_cell(group, i * _CELL) for i, group in enumerate(groups)]
    bad = sum(result.verdict is Verdict.VIOLATION for result, _ in results)
    missing = sum(result.verdict is Verdict.NOT_EVALUATED for result, _ in results)
    description = (
        f"{plural(len(results), 'result')} in the order of the file: {plural(bad, 'violation')}, "
        f"{missing:,} not evaluated."
    )
    strip = _figure(
        (width, 48.0), ("All results in order", description), ids, *cells, class_="strip"
    )
    strip.set("preserveAspectRatio", "none")
    return strip


def _cell(group: Sequence[tuple[Result, str]], x: int) -> ET.Element:
    ranks = (Verdict.PASS, Verdict.NOT_EVALUATED, Verdict.VIOLATION)
    result, link = max(group, key=lambda pair: (ranks.index(pair[0].verdict), _share(pair[0])))
    words = f"{tensor_name(result)}: {verdict_word(result)}, {worst_value(result)}"
    more = f"; worst of {len(group)} results" if len(group) > 1 else ""
    kind = "suppressed" if result.suppressed else result.verdict.value
    filled = max(_LEAST_FILL, 44 * _share(result)) if kind == Verdict.VIOLATION else 0.0
    box = {"x": x + 1, "width": _CELL - 2}
    return element(
        "a",
        element("title", words + more),
        element("rect", **box, y=2, height=44, class_=f"cell {kind}"),
        element("rect", **box, y=46 - filled, height=filled, class_="fill") if filled else None,
        element("path", d=f"M{x + 6} 40L{x + 22} 8", class_="slash")
        if result.verdict is Verdict.NOT_EVALUATED
        else None,
        href=f"#{link}",
    )


def _share(result: Result) -> float:
    return result.violating / result.units if result.units else 0.0


def _figure(
    size: tuple[float, float],
    words: tuple[str, str],
    ids: count[int],
    *children: ET.Element | None,
    class_: str,
) -> ET.Element:
    """An SVG that tells a screen reader what it shows."""
    number_ = next(ids)
    title, description = f"t{number_}", f"d{number_}"
    return element(
        "svg",
        element("title", words[0], id=title),
        element("desc", words[1], id=description),
        *children,
        viewBox=f"0 0 {size[0]:g} {size[1]:g}",
        width=f"{size[0]:g}",
        height=f"{size[1]:g}",
        role="img",
        aria_labelledby=f"{title} {description}",
        class_=class_,
    )
