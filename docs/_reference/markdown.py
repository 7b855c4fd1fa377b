"""Pieces of Markdown that several pages are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_DOUBLE = re.compile(r"``([^`]+)``")


def heading(level: int, text: str, place: str = "") -> str:
    """A heading, which other pages can link to by `place`."""
    target = f"({place})=\n" if place else ""
    return f"{target}{'#' * level} {text}\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, cells)) + " |" for cells in lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")


def prose(text: str) -> str:
    """A sentence of the program as Markdown: its doubled marks are plain ones here."""
    return _DOUBLE.sub(r"`\1`", text)


def place(text: str, slug: str) -> str:
    """Inline `text` that a link can lead to."""
    return f"[{text}]{{#{slug}}}"
