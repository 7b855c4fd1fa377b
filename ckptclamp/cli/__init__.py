"""The program `ckptclamp`: commands, loaded when called, and the last line of defence.

A command parses, calls and chooses the exit code. Nothing here looks at weights.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

import click

from ckptclamp import __version__

_COMMANDS = {
    "audit": "Judge a checkpoint against its constraints.",
    "apply": "Write a copy in which every unit that a rule applies to conforms.",
    "inspect": "Show what a checkpoint holds and declares.",
    "explain": "Show which rule applies to which tensor, and what one unit is.",
    "init": "Write a first spec for a checkpoint.",
    "merge": "Merge the parts of an audit into its report.",
    "diff": "Show how far the weights of two checkpoints lie apart.",
    "baseline": "Maintain the baseline: the violations that a gate accepts.",
    "report": "Convert a saved JSON report into other formats.",
    "verify-attestation": "Verify an attestation against the files on disk.",
    "clean": "Finish or remove what killed runs of apply left.",
    "schema": "Print the JSON Schema of a spec, a report or an attestation.",
    "completion": "Print the shell completion script.",
}
_HOMES = {
    "baseline": "saved",
    "clean": "apply",
    "diff": "inspect",
    "explain": "inspect",
    "merge": "saved",
    "report": "saved",
    "schema": "init",
    "verify_attestation": "saved",
}
"""The modules of commands that share one; another command's module has its own name."""

_EXIT_CODES = """\b
Exit codes:
  0  all that is governed was evaluated and conforms
  1  violations
  2  usage or spec error
  3  incomplete: something could not be read or evaluated
  4  nothing was evaluated, or a rule matched nothing
  5  apply could not make a conforming copy; nothing was written
When several hold, 3 outranks 4, and 4 outranks 1; all are printed."""


_PAGE = 80
"""How wide the help is at most."""
_YOUNG = 50_000
"""How many new objects Python looks through for dead ones at a time: imports make many, and none dies."""
_SIGNALLED = 128
"""What a shell adds to the number of the signal that ended a program."""


class LazyGroup(click.Group):
    """A group that imports a command's module when it is called, so that help costs nothing."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Answer an empty command line with the help, and as a failure: it asked for nothing."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of use."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module in `ckptclamp.cli.commands` and return it, ``<name>_command``."""
        if cmd_name not in _COMMANDS:
            if ctx.resilient_parsing:  # a shell completes the name
                return None
            import difflib

            close = difflib.get_close_matches(cmd_name, _COMMANDS, n=1)
            meant = f"; did you mean {close[0]}?" if close else ""
            ctx.fail(f"there is no command {cmd_name!r}{meant}")
        if cmd_name in self.commands:
            return self.commands[cmd_name]
        name = cmd_name.replace("-", "_")
        module = importlib.import_module(f"ckptclamp.cli.commands.{_HOMES.get(name, name)}")
        command = getattr(module, f"{name}_command")
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


def _verbose(ctx: click.Context, _option: click.Parameter, given: bool) -> None:
    ctx.meta["verbose"] = given


def _show_version(ctx: click.Context, _option: click.Parameter, given: bool) -> None:
    """Print the version; with ``-v`` what the arithmetic is done by, too."""
    if not given or ctx.resilient_parsing:
        return
    click.echo(f"ckptclamp, version {__version__}")
    if ctx.meta["verbose"]:
        import platform

        import numpy as np

        from ckptclamp.engine import kernels

        click.echo(f"Python {platform.python_version()}, NumPy {np.__version__}")
        click.echo(f"kernels: {kernels.in_use()}")
    ctx.exit()


@click.group(
    cls=LazyGroup,
    epilog=_EXIT_CODES,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "-v",
    "--verbose",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    allow_from_autoenv=False,
    callback=_verbose,
    help="With --version: what it runs on, too.",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    allow_from_autoenv=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Audit and fix the weight constraints of neural-network checkpoints.

    Reads .h5, .weights.h5, .keras, .safetensors and .npz without a training framework.
    """
    if ctx.meta["verbose"]:
        ctx.fail(f"-v comes after the command: {ctx.info_name} {ctx.invoked_subcommand} -v")


@cli.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print the completion script for SHELL.

    For bash, for example: ckptclamp completion bash > ~/.local/share/bash-completion/completions/ckptclamp
    """
    from click.shell_completion import get_completion_class

    completion = get_completion_class(shell)
    assert completion is not None
    root = ctx.find_root().command
    click.echo(completion(root, {}, "ckptclamp", "_CKPTCLAMP_COMPLETE").source())


def main() -> NoReturn:
    """Run the program; every failure ends in one line on stderr and an exit code."""
    gc.set_threshold(_YOUNG)
    _open_closed_streams()
    stdout = sys.stdout
    signal.signal(signal.SIGTERM, _terminate)
    # The kernels run in threads of their own; BLAS threads would only cost their start.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        code = cli.main(prog_name="ckptclamp", standalone_mode=False, terminal_width=_width())
        sys.stdout.flush()
    except BrokenPipeError:
        code = _closed_pipe()
    except SystemExit as error:
        # Where the reader of stdout is gone, click puts another stream in its place and exits.
        code = _left_by(error) if sys.stdout is stdout else _closed_pipe()
    except Exception as error:  # noqa: BLE001 - the one place where every failure becomes an answer
        code = _explain(error)
    # The system takes back all memory at once; to look for what is dead in it takes longer than many an
    # audit.
    gc.freeze()
    sys.exit(code)


def _width() -> int:
    """As wide as click makes its help; whom it asks, `shutil`, imports every compressor."""
    try:
        columns = int(os.environ.get("COLUMNS") or 0) or os.get_terminal_size(1).columns
    except (ValueError, OSError):
        columns = 0
    return max(min(columns or _PAGE, _PAGE) - 2, 50)


def _open_closed_streams() -> None:
    """Give a program that was started with ``>&-`` a stream to write to; its answer is its code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            from pathlib import Path

            nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open to the end
            setattr(sys, name, nowhere)


def _left_by(error: SystemExit) -> int:
    """Keep the code of a signal, and of click's completion; nobody else may choose the answer."""
    if "_CKPTCLAMP_COMPLETE" in os.environ:
        raise error
    if isinstance(error.code, int) and error.code > _SIGNALLED:
        return error.code
    from ckptclamp.errors import CkptclampError

    _complain("imported code ended the program before there was an answer (SystemExit)")
    return CkptclampError.exit_code


def _explain(error: Exception) -> int:
    """Say what went wrong in one line and return the exit code that it means."""
    from ckptclamp.errors import CkptclampError, printable

    match error:
        case click.exceptions.Abort():
            from ckptclamp.cli.progress import after_interrupt

            click.echo(f"ckptclamp: interrupted: {after_interrupt(error.__cause__)}", err=True)
            return 130
        case click.UsageError() if error.ctx is not None:
            message = error.format_message().rstrip(".")
            _complain(printable(f"{message} (see {error.ctx.command_path} --help)", limit=None))
            return error.exit_code
        case click.ClickException():
            error.show()
            return error.exit_code
        case CkptclampError():
            _complain(str(error))
            return error.exit_code
        case OSError():
            _complain(printable(f"{error.filename or 'output'}: {error.strerror or error}"))
        case MemoryError():
            _complain("out of memory (lower --memory or --jobs)")
        case _:
            if os.environ.get("CKPTCLAMP_TRACEBACK"):
                raise error
            kind = f"{type(error).__name__}: {error}"
            _complain(
                f"internal error, please report it: {printable(kind)} "
                "(CKPTCLAMP_TRACEBACK=1 shows where)"
            )
    return CkptclampError.exit_code


def _complain(lines: str) -> None:
    for line in lines.splitlines():
        click.echo(f"ckptclamp: error: {line}", err=True)


def _terminate(_signum: int, _frame: FrameType | None) -> NoReturn:
    """Leave through every `finally`, so that no temporary file stays behind."""
    raise SystemExit(_SIGNALLED + signal.SIGTERM)


def _closed_pipe() -> int:
    """The code of a program that writes to nobody; nothing is flushed into the pipe once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _SIGNALLED + int(getattr(signal, "SIGPIPE", 13))
