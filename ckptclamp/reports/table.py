"""A plain table: aligned columns, and names shortened in the middle where a terminal is narrow.

rich's tables cut a name at its end, where those of one model differ, and cost a gate their import.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_GAP = "  "


@dataclass(frozen=True, slots=True)
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


def cell_width(text: str) -> int:
    """Columns of a terminal that `text` takes: wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )


def elide(text: str, width: int) -> str:
    """Cut `text` so that it takes at most `width` columns, and keep more of its end.

    Names of one model differ most in their last part.
    """
    if cell_width(text) <= width:
        return text
    head = _fitting(text, (width - 1) * 2 // 5)
    tail = _fitting(text[::-1], width - 1 - cell_width(head))[::-1]
    return f"{head}…{tail}"


def _fitting(text: str, width: int) -> str:
    """As much of the beginning of `text` as `width` columns hold."""
    end = 0
    while end < len(text) and cell_width(text[: end + 1]) <= width:
        end += 1
    return text[:end]


def table_lines(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    *,
    width: int | None = None,
    paint: Callable[[str, str], str] | None = None,
) -> Iterator[str]:
    """Yield a heading and a line a row, without trailing spaces.

    With a `width`, columns of names are shortened in step until a line fits. `paint(cell, padded)`
    colours the last cell of a row.
    """
    widths = _widths(columns, rows, width)
    yield _line(columns, [column.title for column in columns], widths).rstrip()
    for row in rows:
        cells = [elide(cell, room) for cell, room in zip(row, widths, strict=True)]
        line = _line(columns, cells, widths).rstrip()
        if paint is not None and cells[-1]:
            line = line.removesuffix(cells[-1]) + paint(row[-1], cells[-1])
        yield line


def fits(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> bool:
    """Whether the table needs no shortening at `width`."""
    return _total(_widths(columns, rows, None)) <= width


def first_that_fits(tables: Sequence[Table], width: int | None) -> Table:
    """The first of `tables`, richest first, that needs no shortening at `width`, or the last."""
    if width is None:
        return tables[0]
    return next((table for table in tables if fits(*table, width)), tables[-1])


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
