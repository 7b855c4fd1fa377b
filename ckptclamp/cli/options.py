"""The options that several commands share: each declared once, and gathered into one dataclass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ckptclamp.cli.parameters import (
    AXES,
    PATH,
    SHARE,
    SIZE,
    TOLERANCE,
    option,
    outside_settings,
    settings_option,
    together,
)
from ckptclamp.frozen import frozen_with_dict

if TYPE_CHECKING:
    from ckptclamp.constraints.tolerance import History
    from ckptclamp.reports import Output
    from ckptclamp.spec.model import Units
    from ckptclamp.spec.rules import Axis

F = TypeVar("F", bound=Callable[..., Any])


@frozen_with_dict
class RuleOptions:
    """What is judged; `config` is where a weights-only Keras file's model config is.

    `base` is the checkpoint that the audited one was made from.
    """

    spec: Path | None = None
    preset: str | None = None
    tensors: tuple[str, ...] = ()
    axis: Axis = None
    unit_axis: Axis = None
    max_norm: float | None = None
    min_max_norm: tuple[float, float] | None = None
    unit_norm: bool = False
    non_neg: bool = False
    clip: tuple[float, float] | None = None
    center: float | None = None
    finite: bool = False
    min_norm: float | None = None
    max_l1_norm: float | None = None
    distance: float | None = None
    storage: str | None = None
    allow_import: tuple[str, ...] = ()
    tolerance: float | History | None = None
    epsilon: float | None = None
    zero_units: str | None = None
    config: Path | None = None
    base: Path | None = None

    @property
    def units(self) -> Units:
        """What a unit is, as far as that is stated."""
        from ckptclamp.spec.rules import units

        return units(self.axis, self.unit_axis)


@frozen_with_dict
class EngineOptions:
    """How checkpoints are opened and measured; the names are those of `AuditOptions`."""

    memory: int
    jobs: int | None
    follow_symlinks: bool
    require_isolation: bool
    header_limit: int
    expansion_limit: int
    unpacked_limit: int
    leave_cache: bool
    executor: str | None = None


@frozen_with_dict
class ReportOptions:
    """What is shown, how, and where it goes besides stdout."""

    quiet: bool
    verbose: int
    color: str
    format: str = "text"
    written: tuple[str, ...] = ()
    show_suppressed: bool = False
    worst: int = 10

    @cached_property
    def reports(self) -> tuple[Output, ...]:
        """What is written to files; a path alone may mean the format of stdout, if it was asked for.

        Raises:
            UsageError: as `parse_outputs` does; ask before the work begins.
        """
        from ckptclamp.reports import PARTIAL, parse_outputs

        source, sources = (
            click.get_current_context().get_parameter_source,
            click.core.ParameterSource,
        )
        asked = source("format") in (sources.COMMANDLINE, sources.ENVIRONMENT)
        outputs = tuple(parse_outputs(self.written, self.format if asked else None))
        if click.get_current_context().params.get("part") is None:
            for output in outputs:
                if output.format == PARTIAL:
                    from ckptclamp.errors import UsageError

                    hint = "`ckptclamp audit --part 1/16 -o partial=FILE` makes one"
                    raise UsageError("there is no part here to write", path=output.path, hint=hint)
        return outputs


@frozen_with_dict
class GateOptions:
    """What decides whether a run passes, besides its rules, and the files that it reads or writes for it."""

    hash: bool | None = None
    attest: Path | None = None
    output: Path | None = None
    in_place: bool = False
    baseline: Path | None = None
    write_baseline: Path | None = None
    checkpoint_name: str | None = None
    renames: tuple[str, ...] = ()
    strict: bool = False

    @property
    def hashed(self) -> bool | None:
        """A statement needs digests, unless the user says otherwise (and then it is refused)."""
        return True if self.hash is None and self.attest is not None else self.hash


def gather(**groups: type) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Give a command one dataclass for each group, made of those of its options that are fields."""

    def decorate(function: Callable[..., Any]) -> Callable[..., None]:
        @wraps(function)
        def gathered(*args: Any, **values: Any) -> None:  # noqa: ANN401 - click's own
            for group, kind in groups.items():
                names = [field.name for field in fields(kind) if field.name in values]
                values[group] = kind(**{name: values.pop(name) for name in names})
            function(*args, **values)

        return gathered

    return decorate


checkpoint_argument = click.argument("checkpoint", type=PATH, callback=outside_settings)

config_option = option(
    "--config",
    type=PATH,
    help="The model config (JSON, or a .keras) that a weights-only Keras file lacks.",
)

base_option = option(
    "--base",
    type=PATH,
    help="The checkpoint that this was made from: distances are to it, adapters (LoRA) added to it.",
)

units_options = together(
    option(
        "--axis",
        type=AXES,
        metavar="AXES",
        help="The axes that a norm is taken over: 0, or 0,1,2, or all.",
    ),
    option(
        "--unit-axis",
        type=AXES,
        metavar="AXES",
        help="The axes that are kept: one unit for each index.",
    ),
)

spec_options = together(
    option("--spec", type=PATH, help="The rules, a YAML file."),
    option(
        "--preset",
        type=click.Choice(["health"]),
        help="Rules that come along, besides others: health asks for finite weights, none all one "
        "value, positive scales and equal tied tensors.",
    ),
    option(
        "--tensors",
        multiple=True,
        metavar="GLOB",
        help="Which tensors the inline rule applies to; `!` excludes. May be repeated.",
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
    option("--center", type=float, metavar="MEAN", help="Inline rule: units of the mean MEAN."),
    option("--finite", is_flag=True, help="Inline rule: no NaN and no infinity."),
    option("--min-norm", type=float, metavar="MIN", help="Inline rule: norms of at least MIN."),
    option("--max-l1-norm", type=float, metavar="MAX", help="Inline rule: L1 norms up to MAX."),
    option("--max-distance", "distance", type=SHARE, help="Inline rule: share off --base."),
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
        type=TOLERANCE,
        metavar="NUMBER|trained|cast",
        help="Tolerance for every rule: relative to the bound, or what training in the storage dtype, "
        "or casting to it, leaves behind; the default follows the producer.",
    ),
    option(
        "--epsilon",
        type=click.FloatRange(min=0, max=1, max_open=True),
        help="What Keras added to norms in training, if keras.config.set_epsilon changed it.",
    ),
    option(
        "--zero-units",
        type=click.Choice(["violation", "allow"]),
        help="allow: units of zeros alone (padding, unseen rows) may lie outside, for every rule.",
    ),
    config_option,
    base_option,
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
        type=SIZE,
        default="256MiB",
        show_default=True,
        help="Budget for weights in memory.",
    ),
    jobs_option,
    symlinks_option,
    option(
        "--require-isolation",
        is_flag=True,
        help="Open nothing unless the HDF5 parser is fully sandboxed.",
    ),
    option(
        "--header-limit",
        type=SIZE,
        default="16MiB",
        show_default=True,
        help="Maximum header size of a safetensors file.",
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
        type=SIZE,
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
    from ckptclamp.reports import reporter_named

    return reporter_named(name).name


def report_option(*short: str, units: bool = True) -> Callable[[F], F]:
    """The repeatable ``[FORMAT=]PATH``; `short` adds spellings where a command has room for them.

    `units` says whether the command can list every unit.
    """
    listed = "; units=PATH lists every violating unit" if units else ""
    return option(
        *short,
        "--report",
        "written",
        multiple=True,
        metavar="[FORMAT=]PATH",
        help=f"Write a report to a file as well, in the format that its suffix tells{listed}. May be "
        "repeated.",
    )


def _complete_format(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> Sequence[str]:
    from ckptclamp.reports import REPORTERS

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
    option("-q", "--quiet", is_flag=True, help="Print failures in a line each, and the summary."),
    option(
        "-v", "--verbose", count=True, help="Print more: what passes, and why; may be repeated."
    ),
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
    help="Write an in-toto attestation: which bytes, which spec, which answer.",
)
