"""The manual page, made of the click program when a wheel is built, so that it says what `--help` says."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click


def man_page(program: click.Group, version: str) -> str:
    """The page of `program`, in the man macros of roff."""
    context = click.Context(program, info_name="ckptclamp")
    summary, _, rest = inspect.cleandoc(program.help or "").partition("\n\n")
    lines = [
        f'.TH CKPTCLAMP 1 "" "ckptclamp {version}" "User Commands"',
        ".SH NAME",
        rf"ckptclamp \- {_text(summary[0].lower() + summary[1:]).rstrip('.')}",
        ".SH SYNOPSIS",
        ".B ckptclamp",
        r"\fICOMMAND\fR [\fIOPTION\fR]... [\fIARGUMENT\fR]...",
        ".SH DESCRIPTION",
        _text(rest),
    ]
    for command in _commands(context):
        lines += _command(command)
    lines += [".SH EXIT STATUS", *_exit_status(program.epilog or "")]
    lines += [
        ".SH ENVIRONMENT",
        r"\fBCKPTCLAMP_\fIOPTION\fR is the option of that name, in capitals and with underscores; "
        r"\fBCKPTCLAMP_\fICOMMAND\fB_\fIOPTION\fR that of one command. Options that run code, write "
        "files or turn a failure into success are not taken from the environment.",
        ".SH FILES",
        r"\fIckptclamp.toml\fR, or the table \fB[tool.ckptclamp]\fR of \fIpyproject.toml\fR: the "
        "defaults of a project.",
        ".SH SEE ALSO",
        "https://ckptclamp.github.io/ckptclamp/",
    ]
    return "\n".join(lines) + "\n"


def _commands(context: click.Context) -> Iterator[click.Context]:
    """Every command that can be called, below `context`."""
    group = context.command
    assert isinstance(group, click.Group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            yield from _commands(inner)
        else:
            yield inner


def _command(context: click.Context) -> Iterator[str]:
    command = context.command
    yield f'.SH "{_text(context.command_path.upper())}"'
    pieces = " ".join(command.collect_usage_pieces(context))
    yield f".B {_text(context.command_path)}"
    yield _text(pieces)
    for paragraph in inspect.cleandoc(command.help or "").replace("\b", "").split("\n\n"):
        yield from (".PP", _text(paragraph))
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and isinstance(parameter, click.Option):
            yield from (".TP", rf"\fB{_text(record[0].strip())}\fR", _text(record[1]))


def _exit_status(epilog: str) -> Iterator[str]:
    for code, meaning in re.findall(r"^ +(\d)  (.+)$", epilog, re.MULTILINE):
        yield from (".TP", rf"\fB{code}\fR", _text(meaning))
    yield from (".PP", _text(epilog.strip().splitlines()[-1]))


def _text(text: str) -> str:
    """Plain `text`, of which roff takes nothing for a request."""
    line = " ".join(text.split()).replace("\\", r"\(rs").replace("-", r"\-")
    return rf"\&{line}" if line.startswith((".", "'")) else line
