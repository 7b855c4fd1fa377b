"""Options as this program has them: what values may be, and where they come from if not given."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from ckptclamp.errors import UsageError

if TYPE_CHECKING:
    from ckptclamp.constraints.tolerance import History


class _GivenPath(click.Path):
    """A path, or an address, that says something: an empty one would mean the working directory."""

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
        if "://" in str(value):
            return self._address(str(value), param, ctx)
        return super().convert(value, param, ctx)

    def _address(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from ckptclamp.checkpoints.remote import as_path

        try:
            return as_path(text)
        except UsageError as error:
            self.fail(str(error), param, ctx)


PATH: click.Path = _GivenPath(path_type=Path, readable=False)
"""A path as it was given. What is wrong with the file is for whoever opens it to say."""


class Written(click.ParamType):  # type: ignore[type-arg] # generic only since click 8.5
    """A value that people write in several ways; `read` raises `ValueError` for what is none.

    `examples` are for whoever wrote something else.
    """

    def __init__(self, name: str, read: Callable[[str], Any], examples: str) -> None:
        self.name = name
        self._read, self._examples = read, examples

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:  # noqa: ANN401 - click's own
        """Return what `value` says; settings may hold a number for it."""
        if isinstance(value, tuple):  # read already
            return value
        try:
            return self._read(str(value).strip())
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no {self.name}; write {self._examples}", param, ctx)


_PREFIXES = {"": 1} | {
    prefix + binary: base**power
    for power, prefix in enumerate("kmgt", start=1)
    for binary, base in (("", 1000), ("i", 1024))
}


def _bytes(text: str) -> int:
    """``268435456``, ``256MiB``, ``2GB``: at least one byte."""
    text = text.lower().removesuffix("b")
    digits = text.rstrip("kmgti")
    size = int(float(digits) * _PREFIXES.get(text[len(digits) :], 0))
    if size < 1:
        raise ValueError(text)
    return size


def _share(text: str) -> float:
    """``5%``, ``0.05``: not negative, and finite."""
    share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 <= share < float("inf"):
        raise ValueError(text)
    return share


def _axes(text: str) -> tuple[int, ...] | Literal["all"]:
    """``0``, ``0,1,2``, ``-1``, or ``all``."""
    return "all" if text == "all" else tuple(int(part) for part in text.strip("[]()").split(","))


def _tolerance(text: str) -> float | History:
    """``0.01``, ``trained``, ``cast``."""
    from ckptclamp.constraints.tolerance import History

    if text in list(History):
        return History(text)
    number = float(text)
    if not 0 <= number < 1:
        raise ValueError(text)
    return number


SIZE = Written("size", _bytes, "bytes, or 256MiB, 2GB")
SHARE = Written("share", _share, "5%, or 0.05")
AXES = Written("axis", _axes, "0, or 0,1,2, or all")
TOLERANCE = Written("tolerance", _tolerance, "0.01, trained or cast")


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
    check_settings(ctx, checkpoint)
    return checkpoint


def check_settings(ctx: click.Context, checkpoint: Path) -> None:
    """Refuse what `outside_settings` refuses.

    Raises:
        UsageError: the settings in effect lie inside of `checkpoint`.
    """
    settings = ctx.meta.get(SETTINGS)
    if settings is None:
        return
    from ckptclamp.spec.settings import brought_along

    if brought_along(settings, checkpoint):
        raise UsageError(
            "these settings lie inside the checkpoint",
            path=settings.path,
            hint="--no-settings leaves them out; or run from the project's directory",
        )


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


def from_command_line(name: str) -> bool:
    """Whether a parameter has its value from the command line."""
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


def not_in_effect(name: str) -> None:
    """Take note that what the settings say of a parameter decides nothing in this run."""
    if from_settings(name):
        context = click.get_current_context()
        context.set_parameter_source(name, click.core.ParameterSource.DEFAULT)
