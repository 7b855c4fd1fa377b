"""Options as this program has them: what values may be, and where they come from if not given."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import click

from ckptclamp.errors import UsageError

if TYPE_CHECKING:
    from ckptclamp.constraints.tolerance import History


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


class Tolerance(click.ParamType):  # type: ignore[type-arg] # generic only since click 8.5
    """A relative tolerance, or what it is derived from: ``0.01``, ``trained``, ``cast``."""

    name = "tolerance"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | History:
        """Return the number or the history that `value` says."""
        from ckptclamp.constraints.tolerance import History

        text = str(value).strip()
        if text in list(History):
            return History(text)
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        if not 0 <= number < 1:
            self.fail(f"{value!r} is no tolerance; write 0.01, trained or cast", param, ctx)
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


F = TypeVar("F", bound=Callable[..., Any])

SETTINGS = "ckptclamp.settings"
"""Where the context keeps the settings that were read."""


class SharedOption(click.Option):
    """An option that is also ``CKPTCLAMP_<NAME>``, for every command that has it."""

    @property
    def long_name(self) -> str:
        """The name by which settings and the environment know the option: ``max-norm``."""
        return max(self.opts, key=len).lstrip("-")

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Look for ``CKPTCLAMP_<COMMAND>_<NAME>`` first, then for ``CKPTCLAMP_<NAME>``.

        Raises:
            UsageError: there is one, and the option must be asked for where the program is called.
        """
        name = self.long_name.replace("-", "_").upper()
        command = (ctx.info_name or "").replace("-", "_").upper()
        for variable in (f"CKPTCLAMP_{command}_{name}", f"CKPTCLAMP_{name}"):
            if os.environ.get(variable):
                self._check_allowed(variable)
                return os.environ[variable]
        return None

    def _check_allowed(self, variable: str) -> None:
        from ckptclamp.spec.settings import COMMAND_LINE_ONLY

        reason = COMMAND_LINE_ONLY.get(self.long_name)
        if reason is not None:
            raise UsageError(
                f"{variable} is set, and --{self.long_name} {reason}: "
                "it is not taken from the environment",
                hint="say it on the command line, and unset the variable",
            )


def option(*names: str, **attributes: Any) -> Callable[[F], F]:  # noqa: ANN401 - click's own
    """Declare an option as `click.option` does, readable from the environment."""
    return click.option(*names, cls=SharedOption, show_envvar=False, **attributes)


def together(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, listed in help in the order given."""

    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def _load_settings(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    """Let the project's settings be the defaults of this command's options."""
    if not wanted:
        return
    from ckptclamp.spec.settings import find_settings

    settings = find_settings(Path.cwd())
    if settings is not None:
        ctx.default_map = {
            option.name: settings.values[option.long_name]
            for option in _shared_options(ctx)
            if option.name is not None and option.long_name in settings.values
        }
        ctx.meta[SETTINGS] = settings


def _shared_options(ctx: click.Context) -> Sequence[SharedOption]:
    return [param for param in ctx.command.params if isinstance(param, SharedOption)]


def settings_in_effect() -> list[str]:
    """The names of the options that have their value from the project's settings."""
    ctx = click.get_current_context()
    return sorted(o.long_name for o in _shared_options(ctx) if o.name and from_settings(o.name))


def outside_settings(ctx: click.Context, _param: click.Parameter, checkpoint: Path) -> Path:
    """Refuse settings that a checkpoint brings along: it would choose its own judge."""
    settings = ctx.meta.get(SETTINGS)
    if settings is None:
        return checkpoint
    from ckptclamp.spec.settings import brought_along

    if brought_along(settings, checkpoint):
        raise UsageError(
            "these settings lie inside the checkpoint",
            path=settings.path,
            hint="--no-settings leaves them out; or run from the project's directory",
        )
    return checkpoint


settings_option = option(
    "--settings/--no-settings",
    default=True,
    is_eager=True,
    expose_value=False,
    callback=_load_settings,
    help="Take defaults from ckptclamp.toml or pyproject.toml.",
)


def from_settings(name: str) -> bool:
    """Whether a parameter has its value from the project's settings."""
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.DEFAULT_MAP
