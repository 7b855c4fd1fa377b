"""What went wrong, wherever a report was to go: a failure is an answer, too.

A pipeline that collects reports must not be left with none, or with those of an earlier run. The
command line is read once more, leniently, since it may be what is wrong.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ckptclamp.errors import CkptclampError, ExitCode, SpecError, UsageError
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from ckptclamp.auditing.runs import Failure, Problem
    from ckptclamp.reports import Output

_ARGUMENTS = "ckptclamp.arguments"
_REPORTED = "ckptclamp.reported"

_SIGNALLED = 128


class ReportedCommand(click.Command):
    """A command whose failures go where its report was to go, and then on their way."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line, and remember it as it was given."""
        ctx.meta[_ARGUMENTS] = tuple(args)
        with _reporting(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own
        """Run the command."""
        with _reporting(ctx):
            return super().invoke(ctx)


def report_is_written() -> None:
    """Say that the command wrote its own report, which no failure after it replaces."""
    click.get_current_context().meta[_REPORTED] = True


def failure_of(error: BaseException, command: str, checkpoint: str | Path | None = None) -> Failure:
    """What `error` means to a reader of reports."""
    from ckptclamp import __version__
    from ckptclamp.auditing.runs import Failure

    code, exit_code = _kind(error)
    return Failure(
        command=command,
        code=code,
        exit_code=exit_code,
        problems=tuple(_problems(error)),
        checkpoint=None if checkpoint is None else str(checkpoint),
        tool_version=__version__,
    )


def _kind(error: BaseException) -> tuple[str, ExitCode]:
    match error:
        case CkptclampError():
            return error.code, ExitCode(error.exit_code)
        case click.UsageError():
            return UsageError.code, ExitCode.USAGE
        case OSError():
            return "system", ExitCode.INCOMPLETE
        case MemoryError():
            return "out-of-memory", ExitCode.INCOMPLETE
        case SystemExit():
            return CkptclampError.code, ExitCode.INCOMPLETE
    return "internal-error", ExitCode.INCOMPLETE


def _problems(error: BaseException) -> Iterator[Problem]:
    from ckptclamp.auditing.runs import Problem

    match error:
        case SpecError():
            for problem in error.problems:
                place = (error.path, problem.line, problem.column)
                yield Problem(problem.message, *place, hint=problem.hint)
        case CkptclampError():
            yield Problem(error.message, error.path, tensor=error.tensor, hint=error.hint)
        case click.ClickException():
            context = getattr(error, "ctx", None)
            hint = None if context is None else f"see {context.command_path} --help"
            yield Problem(error.format_message().rstrip("."), hint=hint)
        case OSError():
            name = None if error.filename is None else os.fsdecode(error.filename)
            yield Problem(error.strerror or str(error), name)
        case MemoryError():
            yield Problem("out of memory", hint="lower --memory or --jobs")
        case SystemExit():
            yield Problem("imported code ended the program before there was an answer")
        case _:
            yield Problem(f"internal error: {type(error).__name__}: {error}", hint="report it")


@contextmanager
def _reporting(ctx: click.Context) -> Iterator[None]:
    try:
        yield
    except (click.exceptions.Exit, click.exceptions.Abort, BrokenPipeError):
        raise
    except SystemExit as error:
        if not (isinstance(error.code, int) and error.code > _SIGNALLED):
            _report(error, ctx)
        raise
    except Exception as error:
        _report(error, ctx)
        raise


def _report(error: BaseException, ctx: click.Context) -> None:
    """Write what became of the run; what cannot be written does not hide why it failed."""
    if ctx.resilient_parsing or ctx.meta.get(_REPORTED):
        return
    ctx.meta[_REPORTED] = True
    from ckptclamp.reports import RenderOptions, write_reports

    asked = _Asked.of(ctx)
    failure = failure_of(error, ctx.info_name or "ckptclamp", asked.checkpoint)
    for output in asked.outputs:
        with suppress(CkptclampError):
            write_reports(failure, [output], RenderOptions())


@frozen
class _Asked:
    """What a command line asks for, as far as it can be understood: reports, and of what."""

    outputs: tuple[Output, ...]
    checkpoint: str | None

    @classmethod
    def of(cls, ctx: click.Context) -> _Asked:
        values = _leniently(ctx)
        checkpoints = list(_texts(values.get("checkpoint")))
        return cls(
            tuple(_outputs(values, _formats(ctx))),
            checkpoints[0] if len(checkpoints) == 1 else None,
        )


def _leniently(ctx: click.Context) -> Mapping[str, Any]:
    """The raw values on the command line and in the environment, by the names of parameters."""
    lenient = click.Context(ctx.command, info_name=ctx.info_name, resilient_parsing=True)
    parser = ctx.command.make_parser(lenient)
    parser.ignore_unknown_options = True
    try:
        values, rest, _ = parser.parse_args(list(ctx.meta.get(_ARGUMENTS, ())))
    except click.UsageError:
        values, rest = {}, list(ctx.meta.get(_ARGUMENTS, ()))
    if values.get("format") is None:
        with suppress(CkptclampError):
            for param in ctx.command.params:
                if param.name == "format":
                    values["format"] = param.resolve_envvar_value(lenient)
    return {**values, "": rest}


def _outputs(values: Mapping[str, Any], choices: Sequence[str]) -> Iterator[Output]:
    """The reports that were asked for, but for places where something else must stay.

    `choices` are the formats that the command has.
    """
    from ckptclamp.reports import (
        PARTIAL,
        REPORTERS,
        STDOUT,
        UNITS,
        Output,
        check_places,
        parse_outputs,
    )

    others = {name: value for name, value in values.items() if name not in ("written", "format")}
    read = [Path(text) for value in others.values() for text in _texts(value) if text]
    read += _named_by_settings()
    name = values.get("format")
    asked = name if name in REPORTERS and name in choices else None
    shown = asked not in (None, "text")  # text stands on stderr anyway
    found: dict[str, list[Output]] = {}
    for text in _texts(values.get("written")):
        with suppress(CkptclampError, OSError, ValueError):
            (output,) = parse_outputs([text], asked)
            if output.format == PARTIAL:  # so that an earlier part is not taken for this one
                output = replace(output, format="json")
            if output.format != UNITS:
                if output.path != STDOUT:
                    check_places(read, [Path(output.path)], _copy(values))
                found.setdefault(os.path.realpath(output.path), []).append(output)
    for outputs in found.values():
        if len(outputs) == 1:  # two reports in one place are what is wrong
            shown = shown and not (outputs[0].bare and outputs[0].format == asked)
            yield outputs[0]
    if shown and asked is not None:
        yield Output(asked, STDOUT)


def _formats(ctx: click.Context) -> Sequence[str]:
    """The formats that ``--format`` of the command knows."""
    from ckptclamp.reports import REPORTERS

    kinds = [param.type for param in ctx.command.params if param.name == "format"]
    chosen = [kind.choices for kind in kinds if isinstance(kind, click.Choice)]
    return chosen[0] if chosen else list(REPORTERS)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, (str, Path)):
        yield str(value)
    elif isinstance(value, Iterable):
        for item in value:
            yield from _texts(item)


def _copy(values: Mapping[str, Any]) -> Path | None:
    """Where a copy was to go: nothing is written into it."""
    output = values.get("output")
    return Path(output) if isinstance(output, str) and output else None


def _named_by_settings() -> list[Path]:
    """The settings, and what they name, are read as well as what the command line names."""
    from ckptclamp.spec.settings import find_settings

    with suppress(CkptclampError, OSError):
        settings = find_settings(Path.cwd())
        if settings is not None:
            named = [settings.values.get(name) for name in ("spec", "baseline")]
            return [settings.path, *(Path(text) for text in named if text)]
    return []
