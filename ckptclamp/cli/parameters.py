"""What the values of options may be: sizes, shares, axes and paths."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar, Literal

import click


class _GivenPath(click.Path):
    """A path that says something: an empty one would mean the working directory."""

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str | bytes | os.PathLike[str]:
        """Return `value` as a path."""
        if not str(value):
            self.fail("an empty path names no file", param, ctx)
        if "\0" in str(value):
            self.fail("a path with a NUL in it names no file", param, ctx)
        return super().convert(value, param, ctx)


PATH: click.Path = _GivenPath(path_type=Path, readable=False)
"""A path as it was given. What is wrong with the file is for whoever opens it to say."""


class Size(click.ParamType):  # type: ignore[type-arg] # generic only since click 8.5
    """A number of bytes, at least one: ``268435456``, ``256MiB``, ``2GB``."""

    name = "size"
    _units: ClassVar = {
        "": 1,
        "k": 10**3,
        "m": 10**6,
        "g": 10**9,
        "t": 10**12,
        "ki": 2**10,
        "mi": 2**20,
        "gi": 2**30,
        "ti": 2**40,
    }

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return the bytes that `value` says."""
        text = str(value).strip().lower().removesuffix("b")
        digits = text.rstrip("kmgti")
        try:
            size = int(float(digits) * self._units[text[len(digits) :]])
        except (ValueError, KeyError, OverflowError):
            size = 0
        if size < 1:
            self.fail(f"{value!r} is no size; write bytes, or 256MiB, 2GB", param, ctx)
        return size


class Fraction(click.ParamType):  # type: ignore[type-arg] # generic only since click 8.5
    """A share, not negative: ``5%``, ``0.05``."""

    name = "fraction"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number that `value` says."""
        text = str(value).strip()
        try:
            number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            number = -1.0
        if not 0 <= number < float("inf"):
            self.fail(f"{value!r} is no share; write 5%, or 0.05", param, ctx)
        return number


class Axes(click.ParamType):  # type: ignore[type-arg] # generic only since click 8.5
    """Axes of a tensor: ``0``, ``0,1,2``, ``-1``, or ``all``."""

    name = "axes"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...] | Literal["all"]:
        """Return the axes that `value` says."""
        if isinstance(value, tuple):
            return value
        text = str(value).strip()
        if text == "all":
            return "all"
        try:
            return tuple(int(part) for part in text.strip("[]()").split(","))
        except ValueError:
            self.fail(f"{value!r} is no axis; write 0, or 0,1,2, or all", param, ctx)
