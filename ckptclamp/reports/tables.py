"""Plain tables: a row is a line, numbers stand right, and where space is short names are shortened."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ckptclamp.frozen import frozen
from ckptclamp.reports.names import cell_width, shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_GAP = "  "


@frozen
class Column:
    """A heading and how its cells are set.

    Where space is short a column of names `shrinks`, to `least` columns and no further.
    """

    title: str
    right: bool = False
    shrinks: bool = False
    least: int = 8


Table = tuple[Sequence[Column], Sequence[Sequence[str]]]
"""The columns and the rows of one table."""


def table_lines(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    *,
    width: int | None = None,
    paint: Callable[[str, str], str] | None = None,
) -> Iterator[str]:
    """Yield a heading and a line a row, without trailing spaces.

    With a `width`, columns of names are shortened in step until a line fits, or until names could no
    longer be told apart. `paint(cell, padded)` colours the last cell of a row.
    """
    widths = _widths(columns, rows, width)
    shown = [
        shortened((row[i] for row in rows), room) if column.shrinks else {}
        for i, (column, room) in enumerate(zip(columns, widths, strict=True))
    ]
    widths = [
        max([room, *map(cell_width, forms.values())])
        for room, forms in zip(widths, shown, strict=True)
    ]
    yield _line(columns, [column.title for column in columns], widths).rstrip()
    for row in rows:
        cells = [forms.get(cell) or cell for cell, forms in zip(row, shown, strict=True)]
        line = _line(columns, cells, widths).rstrip()
        if paint is not None and cells[-1]:
            line = line.removesuffix(cells[-1]) + paint(row[-1], cells[-1])
        yield line


def fits(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> bool:
    """Whether the table needs no shortening at `width`."""
    return _total(_widths(columns, rows, None)) <= width


def first_that_fits(tables: Iterable[Table], width: int | None) -> Table:
    """The first of `tables`, richest first, that needs no shortening at `width`, or the last."""
    for table in tables:
        if width is None or fits(*table, width):
            break
    return table


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _widths(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None
) -> list[int]:
    widths = [
        max([len(column.title), *(cell_width(row[i]) for row in rows)])
        for i, column in enumerate(columns)
    ]
    while width is not None and _total(widths) > width:
        longest = [
            i for i, column in enumerate(columns) if column.shrinks and widths[i] > column.least
        ]
        if not longest:
            break
        widths[max(longest, key=lambda i: widths[i] / columns[i].least)] -= 1
    return widths


def _line(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int]) -> str:
    return _GAP.join(
        " " * (room - cell_width(cell)) + cell
        if column.right
        else cell + " " * (room - cell_width(cell))
        for column, cell, room in zip(columns, cells, widths, strict=True)
    )


def wrapped(text: str, width: int | None) -> list[str]:
    """One line, or within a `width` several that are broken between words."""
    if width is None or cell_width(text) <= width:
        return [text]
    return textwrap.wrap(
        text, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
