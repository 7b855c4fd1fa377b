"""Every command with its arguments and options, and where else an option may be said."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from _reference.markdown import heading, place, prose, table
from ckptclamp.cli import cli
from ckptclamp.cli.parameters import SharedOption
from ckptclamp.reports import REPORTERS
from ckptclamp.spec.settings import ALLOWED, COMMAND_LINE_ONLY, OWN_FILE, PROJECT_FILE


def page() -> str:
    """The commands in the order of use."""
    parts = [
        heading(1, "Commands and options"),
        "Most options can also be environment variables, and some may stand in a file: see"
        " [settings](settings.md). What commands return: [exit codes](exit-codes.md).\n",
        table(["command", ""], ([f"[`{c}`](#{slug(c)})", prose(_short(c))] for c in walk())),
    ]
    parts += [_command(context) for context in walk()]
    return "\n".join(parts)


def walk(command: click.Command = cli, above: click.Context | None = None) -> Iterator[Context]:
    """Every command that can be called, with how it is called."""
    context = Context(command, parent=above, info_name="ckptclamp" if above is None else None)
    if not isinstance(command, click.Group):
        yield context
        return
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        found.name = name
        yield from walk(found, context)


class Context(click.Context):
    """A context that is shown as the command line that leads to it."""

    def __str__(self) -> str:
        names = []
        context: click.Context | None = self
        while context is not None:
            names.append(context.info_name or context.command.name or "")
            context = context.parent
        return " ".join(reversed(names))


def slug(context: object) -> str:
    """The place of a command on the page."""
    return str(context).replace(" ", "-")


def _short(context: click.Context) -> str:
    return (context.command.help or "").partition("\n")[0]


def _command(context: Context) -> str:
    command = context.command
    usage = " ".join([str(context), *command.collect_usage_pieces(context)])
    help_text = prose(inspect.cleandoc(command.help or "").replace("\b\n", ""))
    options = [p for p in command.get_params(context) if isinstance(p, click.Option)]
    rows = ([_names(context, o), _meaning(context, o)] for o in options if not o.hidden)
    return "\n".join(
        [
            heading(2, f"`{context}`", slug(context)),
            f"```text\n{usage}\n```\n",
            help_text + "\n",
            table(["option", ""], rows),
        ]
    )


def _names(context: Context, option: click.Option) -> str:
    record = option.get_help_record(context)
    assert record is not None
    long = max(option.opts, key=len).lstrip("-")
    return place(f"`{record[0].strip()}`", f"{slug(context)}-{long}")


def _meaning(context: Context, option: click.Option) -> str:
    record = option.get_help_record(context)
    assert record is not None
    return prose(record[1].replace("[", r"\["))


def settings_page() -> str:
    """Which options settings files and the environment may decide."""
    allowed = ([f"`{key}`", _types(key), _on(key)] for key in sorted(ALLOWED))
    refused = (
        [f"`--{key}`", reason, _on(key)] for key, reason in sorted(COMMAND_LINE_ONLY.items())
    )
    formats = ([f"`{name}`"] for name in REPORTERS)
    return "\n".join(
        [
            heading(1, "Settings and environment"),
            f"Defaults of options stand in `{OWN_FILE}`, or under `[tool.ckptclamp]` in"
            f" `{PROJECT_FILE}`; [ckptclamp in CI](../ci.md#settings) says which file counts, and"
            " why. An environment variable `CKPTCLAMP_MAX_DRIFT`, or `CKPTCLAMP_DIFF_MAX_DRIFT` for"
            " one command, is the option `--max-drift`. The command line wins over a variable, and a"
            " variable over a file.\n",
            heading(2, "Keys of a settings file", "settings-keys"),
            table(["key", "value", "commands"], allowed),
            heading(2, "Only on the command line", "settings-refused"),
            "These are refused in a settings file, and as environment variables.\n",
            table(["option", "because it", "commands"], refused),
            heading(2, "Formats of a report", "formats"),
            "Values of `--format`, and what stands before the `=` in `-o FORMAT=PATH`; see"
            " [report format](../report-format.md#the-other-formats).\n",
            table(["format"], formats),
        ]
    )


_TOML = {str: "text", int: "integer", float: "number", bool: "true or false"}


def _types(key: str) -> str:
    return " or ".join(_TOML.get(kind, kind.__name__) for kind in ALLOWED[key])


def _on(key: str) -> str:
    """The commands that have the option."""
    shown = [
        f"[`{str(context).removeprefix('ckptclamp ')}`](commands.md#{slug(context)}-{key})"
        for context in walk()
        for option in context.command.params
        if isinstance(option, SharedOption) and option.long_name == key
    ]
    return ", ".join(shown)
