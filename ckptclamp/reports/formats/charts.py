"""What the plots of a page show, as numbers: histograms of units with the bound, and a strip.

`page.html.jinja` makes SVG of it; colours come from the style sheet by class, so that they follow
light, dark and print.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from ckptclamp.auditing.results import Verdict
from ckptclamp.errors import plural
from ckptclamp.frozen import frozen
from ckptclamp.reports.wording import (
    distinguishable,
    interval,
    number,
    tensor_name,
    verdict_word,
    worst_value,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
"""From one cell to the next; the template draws a box of 26."""

_LEAST_FILL = 12.0


class Path(NamedTuple):
    """One SVG path and its class in the style sheet."""

    kind: str
    data: str


class Text(NamedTuple):
    """Words in a plot, and where they stand."""

    words: str
    x: float
    y: float
    anchor: str = "start"
    kind: str = "label"


class Cell(NamedTuple):
    """One cell of the strip: a box that is `filled` from below, and the place that it links to."""

    kind: str
    words: str
    link: str
    x: int
    filled: float


class Plot(NamedTuple):
    """What one SVG shows, in the coordinates of a view box of `width` x `height`."""

    title: str
    description: str
    width: float
    height: float
    paths: tuple[Path, ...] = ()
    texts: tuple[Text, ...] = ()
    cells: tuple[Cell, ...] = ()


@frozen
class Axis:
    """From values to horizontal places; logarithmic where all values are positive and wide."""

    low: float
    high: float
    logarithmic: bool = False

    def scaled(self, value: float) -> float:
        """`value` on the axis; halved, so that the distance of two values never overflows."""
        if self.logarithmic:
            return math.log(value) if value > 0 else -math.inf
        return value / 2

    @property
    def extent(self) -> float:
        """The distance of the two ends."""
        return self.scaled(self.high) - self.scaled(self.low)

    def place(self, value: float) -> float:
        """Where `value` stands, held within the plot."""
        extent = self.extent
        share = (self.scaled(value) - self.scaled(self.low)) / extent if extent > 0 else 0.5
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
        narrow = 0.0 if logarithmic else _NARROW * max(abs(low), abs(high)) / 2
        if wide.extent <= _FAR * max(narrow, Axis(low, high, logarithmic).extent):
            low, high = wide.low, wide.high
    return Axis(low, high, logarithmic)


def drawable(result: Result | None) -> bool:
    """Whether a result has a histogram with anything in it."""
    return result is not None and result.histogram is not None and bool(result.histogram.counts)


def histogram_plot(result: Result, axis: Axis | None = None, words: str = "Units") -> Plot:
    """The units of `result` by measured value, those outside in the colour of a violation.

    `axis` is shared with another plot where the two are to be compared; `words` tell which it is.
    """
    histogram = result.histogram
    assert histogram is not None
    axis = axis or axis_of([histogram], result.bound)
    inside, outside = _bars(histogram, axis, _inner(result), result.violating - result.nonfinite)
    limits = sorted({limit for limit in result.bound if limit is not None})
    paths = [Path("bars", inside), Path("bars out", outside)]
    paths += [Path("axis", f"M0 {_BASE:g}H{_WIDTH:g}"), *(_line(limit, axis) for limit in limits)]
    low, high = number(histogram.edges[0]), number(histogram.edges[-1])
    return Plot(
        f"{words} of {tensor_name(result)}",
        f"{plural(result.units, 'unit')} measure {low} to {high}; the bound is "
        f"{interval(result.bound)}; {result.violating:,} outside.",
        _WIDTH,
        _HEIGHT,
        tuple(path for path in paths if path.data),
        (*_axis_labels(axis), *(_bound_label(limit, axis) for limit in limits)),
    )


def _inner(result: Result) -> tuple[float, float]:
    """The interval in which bars are drawn as conforming."""
    if not result.violating:
        return -math.inf, math.inf
    low, high = result.bound
    slack = result.tolerance
    return (
        -math.inf if low is None else low - (slack + result.shortfall) * abs(low),
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


def _axis_labels(axis: Axis) -> Iterator[Text]:
    low, high = distinguishable(axis.low, axis.high)
    line = _HEIGHT - 4
    yield Text(low, 0, line)
    if axis.logarithmic:
        yield Text("log scale", _WIDTH / 2, line, "middle")
    yield Text(high, _WIDTH, line, "end")


def _line(limit: float, axis: Axis) -> Path:
    """A line at the bound; none where it is out of sight."""
    shown = axis.low <= limit <= axis.high
    return Path("bound", f"M{axis.place(limit):.1f} {_TOP - 4:g}V{_BASE:g}" if shown else "")


def _bound_label(limit: float, axis: Axis) -> Text:
    """The number of the bound, with an arrow where it is out of sight."""
    at = axis.place(limit)
    anchor = "start" if at < _WIDTH / 3 else "end" if at > 2 * _WIDTH / 3 else "middle"
    before, after = "← " * (limit < axis.low), " →" * (limit > axis.high)
    return Text(f"{before}bound {number(limit)}{after}", at, 11, anchor, "bound-label")


def strip(results: Sequence[tuple[Result, str]]) -> Plot:
    """One cell a result in the order of the file: where in the model is it bad?

    `results` come with the places on the page that their cells link to. The share of violating
    units fills a cell from below. Long models have several results in a cell, the worst of which it
    shows.
    """
    size = -(-len(results) // _MOST_CELLS)
    groups = [results[i : i + size] for i in range(0, len(results), size)]
    cells = tuple(_cell(group, i * _CELL) for i, group in enumerate(groups))
    bad = sum(result.verdict is Verdict.VIOLATION for result, _ in results)
    missing = sum(result.verdict is Verdict.NOT_EVALUATED for result, _ in results)
    description = (
        f"{plural(len(results), 'result')} in the order of the file: {plural(bad, 'violation')}, "
        f"{missing:,} not evaluated."
    )
    return Plot("All results in order", description, len(cells) * _CELL, 48, cells=cells)


def _cell(group: Sequence[tuple[Result, str]], x: int) -> Cell:
    ranks = (Verdict.PASS, Verdict.NOT_EVALUATED, Verdict.VIOLATION)
    result, link = max(group, key=lambda pair: (ranks.index(pair[0].verdict), _share(pair[0])))
    words = f"{tensor_name(result)}: {verdict_word(result)}, {worst_value(result)}"
    more = f"; worst of {len(group)} results" if len(group) > 1 else ""
    kind = "suppressed" if result.suppressed else result.verdict.value
    filled = max(_LEAST_FILL, 44 * _share(result)) if kind == Verdict.VIOLATION else 0.0
    return Cell(kind, words + more, link, x, filled)


def _share(result: Result) -> float:
    return result.violating / result.units if result.units else 0.0
