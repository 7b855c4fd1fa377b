"""The options that several commands share, each defined once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ckptclamp.cli.parameters import PATH, Axes, Size
from ckptclamp.errors import UsageError

if TYPE_CHECKING:
    from ckptclamp.reports.writing import Output
    from ckptclamp.spec.model import Spec

F = TypeVar("F", bound=Callable[..., Any])


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


SETTINGS = "ckptclamp.settings"
"""Where the context keeps the settings that were read."""

settings_option = option(
    "--settings/--no-settings",
    default=True,
    is_eager=True,
    expose_value=False,
    callback=_load_settings,
    help="Take defaults from ckptclamp.toml or pyproject.toml.",
)

checkpoint_argument = click.argument("checkpoint", type=PATH, callback=outside_settings)

config_option = option(
    "--config",
    type=PATH,
    help="The model config (JSON, or a .keras) that a weights-only Keras file lacks.",
)

units_options = together(
    option(
        "--axis",
        type=Axes(),
        metavar="AXES",
        help="The axes that a norm is taken over: 0, or 0,1,2, or all.",
    ),
    option(
        "--unit-axis",
        type=Axes(),
        metavar="AXES",
        help="The axes that are kept: one unit for each index.",
    ),
)

spec_options = together(
    option("--spec", type=PATH, help="The rules, a YAML file."),
    option(
        "--tensors",
        multiple=True,
        metavar="GLOB",
        help="Which tensors the inline rule governs; `!` excludes. May be repeated.",
    ),
    units_options,
    option("--max-norm", type=float, metavar="MAX", help="Inline rule: norms of at most MAX."),
    option(
        "--min-max-norm",
        type=(float, float),
        metavar="MIN MAX",
        help="Inline rule: norms from MIN to MAX.",
    ),
    option("--unit-norm", is_flag=True, help="Inline rule: norms of 1."),
    option("--non-neg", is_flag=True, help="Inline rule: no negative weight."),
    option(
        "--clip",
        type=(float, float),
        metavar="LOW HIGH",
        help="Inline rule: weights from LOW to HIGH.",
    ),
    option(
        "--center", type=float, metavar="MEAN", help="Inline rule: a mean of MEAN in each unit."
    ),
    option(
        "--storage",
        type=click.Choice(["effective", "raw"]),
        help="Inline rule: raw judges what is stored, even where it only stands for weights.",
    ),
    option(
        "--allow-import",
        multiple=True,
        metavar="MODULE",
        help="Allow custom constraints from this Python module.",
    ),
    option(
        "--tolerance",
        type=click.FloatRange(min=0, max=1, max_open=True),
        help="Relative tolerance for every rule; the default follows the storage dtype.",
    ),
    config_option,
)

jobs_option = option(
    "-j", "--jobs", type=click.IntRange(min=1), help="Threads; the default is one a core."
)
symlinks_option = option(
    "--follow-symlinks", is_flag=True, help="Allow symbolic links: shards, and the output of apply."
)

engine_options = together(
    option(
        "--memory",
        type=Size(),
        default="256MiB",
        show_default=True,
        help="Budget for weights in memory.",
    ),
    jobs_option,
    symlinks_option,
    option(
        "--require-isolation",
        is_flag=True,
        help="Open nothing unless every wall around the HDF5 parser stands.",
    ),
    option(
        "--header-limit",
        type=Size(),
        default="16MiB",
        show_default=True,
        help="Longest header of a safetensors file.",
    ),
    option(
        "--expansion-limit",
        type=click.IntRange(min=1),
        metavar="TIMES",
        default=1000,
        show_default=True,
        help="How many times its stored bytes may something unpack to, from 64 MiB on.",
    ),
    option(
        "--unpacked-limit",
        type=Size(),
        default="1TiB",
        show_default=True,
        help="How many bytes may all that is compressed unpack to.",
    ),
    option(
        "--no-cache-pollution",
        "leave_cache",
        is_flag=True,
        help="Read without filling the page cache (Linux 6.14 or later).",
    ),
)


def _report_format(_ctx: click.Context, _param: click.Parameter, name: str) -> str:
    """Refuse an unknown format before the hour of work that a report may take."""
    from ckptclamp.reports.formats import reporter_named

    return reporter_named(name).name


def _outputs(
    _ctx: click.Context, _param: click.Parameter, texts: Sequence[str]
) -> tuple[Output, ...]:
    """Read every ``FORMAT=PATH``, before the work begins."""
    from ckptclamp.reports.writing import parse_outputs

    return tuple(parse_outputs(texts))


def report_option(*short: str, units: bool = True) -> Callable[[F], F]:
    """The repeatable ``FORMAT=PATH``; `short` adds spellings where a command has room for them.

    `units` says whether the command can list every unit.
    """
    listed = "; units=PATH lists every violating unit" if units else ""
    return option(
        *short,
        "--report",
        "reports",
        multiple=True,
        metavar="FORMAT=PATH",
        callback=_outputs,
        help=f"Write a report to a file as well{listed}. May be repeated.",
    )


def _complete_format(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> Sequence[str]:
    from ckptclamp.reports.formats import REPORTERS

    return [name for name in REPORTERS if name.startswith(incomplete)]


format_option = option(
    "-f",
    "--format",
    shell_complete=_complete_format,
    default="text",
    show_default=True,
    callback=_report_format,
    help="The report on stdout: text, json, sarif, junit, markdown, github, gitlab, html.",
)
plain_format_option = option(
    "-f",
    "--format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How to print it.",
)
hash_option = option(
    "--hash/--no-hash",
    default=None,
    help="sha256 of every file in the report; by default up to 64 MiB.",
)

verbosity_options = together(
    option("-q", "--quiet", is_flag=True, help="Print only the census line."),
    option("-v", "--verbose", count=True, help="Print more; may be repeated."),
    option(
        "--color",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        show_default=True,
        help="Colours; NO_COLOR is heeded too.",
    ),
    settings_option,
)

suppressed_option = option(
    "--show-suppressed", is_flag=True, help="List suppressed violations too; they always count."
)
attest_option = option(
    "--attest",
    type=PATH,
    help="Write an in-toto statement: which bytes, which spec, which answer.",
)

baseline_options = together(
    option(
        "--baseline",
        type=PATH,
        help="Known violations: fail only on what is new or worse.",
    ),
    option(
        "--write-baseline",
        type=PATH,
        help="Record today's violations as known.",
    ),
)


def load_rules(options: dict[str, Any]) -> Spec | None:
    """Make the spec of the options that `spec_options` declares; ``None`` if they say nothing."""
    from ckptclamp.spec.rules import inline_spec

    inline = {
        name: options[name]
        for name in ("max_norm", "min_max_norm", "unit_norm", "non_neg", "clip", "center")
        if options[name] is not None and options[name] is not False  # 0 is a bound
    }
    places = any(options[name] for name in ("tensors", "axis", "unit_axis", "storage"))
    if (inline or places) and from_settings("spec"):
        options["spec"] = None
        default = click.core.ParameterSource.DEFAULT
        click.get_current_context().set_parameter_source("spec", default)
    if options["spec"] is not None:
        if inline or places:
            raise click.UsageError("--spec and an inline rule exclude each other")
        from ckptclamp.spec.loader import load_spec

        return load_spec(options["spec"], allow_import=frozenset(options["allow_import"]))
    if not inline:
        if places:
            raise click.UsageError(
                "--tensors, --axis, --unit-axis and --storage belong to an inline rule such as "
                "--max-norm"
            )
        return None
    if not options["tensors"]:
        raise click.UsageError("an inline rule needs --tensors, for example --tensors '**/kernel'")
    return inline_spec(
        **inline,
        tensors=tuple(options["tensors"]),
        axis=options["axis"],
        unit_axis=options["unit_axis"],
        storage=options["storage"] or "effective",
    )


def from_settings(name: str) -> bool:
    """Whether a parameter has its value from the project's settings."""
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.DEFAULT_MAP
