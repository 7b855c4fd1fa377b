"""The program's last line of defence, way by way: every failure has its line and its code."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

import ckptclamp
from ckptclamp import cli as program
from ckptclamp import errors

PATH = "model.h5"


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """What `main` answers where the command raises, or returns, something: code, stdout, stderr."""

    def call(outcome: object) -> tuple[object, str, str]:
        def command(**_: object) -> object:
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        before = signal.getsignal(signal.SIGTERM)
        monkeypatch.setattr(program.cli, "main", command)
        monkeypatch.setattr("ckptclamp.reports.WRITTEN", [])
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", os.environ.get("OPENBLAS_NUM_THREADS", "1"))
        try:
            program.main()
        except SystemExit as leaving:
            return leaving.code, *capfd.readouterr()
        finally:
            signal.signal(signal.SIGTERM, before)
        raise AssertionError("main returned")

    return call


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (errors.UsageError("no sense", path=PATH), 2, "model.h5: no sense"),
        (errors.UnreadableError("unread", path=PATH), 3, "model.h5: unread"),
        (errors.NothingEvaluatedError("nothing"), 4, "nothing"),
        (errors.NotWrittenError("full"), 5, "full"),
        (errors.CkptclampError("two\nlines"), 3, r"two\u{a}lines"),
        (OSError(errno.ENOSPC, "No space left on device", "r.json"), 3, "r.json: No space left"),
        (OSError(errno.EIO, "Input/output error"), 3, "output: Input/output error"),
        (OSError("odd"), 3, "output: odd"),
        (MemoryError(), 3, "out of memory (lower --memory or --jobs)"),
        (RuntimeError("a\x1bb"), 3, r"internal error, please report it: RuntimeError: a\u{1b}b"),
        (SystemExit(0), 3, "imported code ended the program"),
        (SystemExit(None), 3, "imported code ended the program"),
        (SystemExit(128), 3, "imported code ended the program"),
        (SystemExit("text"), 3, "imported code ended the program"),
    ],
)
def test_every_failure_is_one_line_and_a_code(ended, raised, code, said):
    """No failure is a traceback, and none is a success."""
    answered, out, err = ended(raised)
    assert answered == code
    assert out == ""
    assert err.startswith(f"ckptclamp: error: {said}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(("outcome", "code"), [(0, 0), (1, 1), (SystemExit(143), 143)])
def test_an_answer_is_passed_on(ended, outcome, code):
    """The command's own code, and that of a signal."""
    assert ended(outcome) == (code, "", "")


def test_leaving_by_ctrl_c(ended):
    """A shell knows 130."""
    said = "ckptclamp: interrupted: nothing was written\n"
    assert ended(click.exceptions.Abort()) == (130, "", said)


def test_errors_of_click(ended):
    """A wrong command line says where help is; what click shows itself is shown."""
    with click.Context(click.Command("audit"), info_name="ckptclamp audit") as context:
        code, _, err = ended(click.UsageError("No such option: --x.", context))
    assert code == 2
    assert err == "ckptclamp: error: No such option: --x (see ckptclamp audit --help)\n"
    code, _, err = ended(click.ClickException("said"))
    assert (code, err) == (1, "Error: said\n")


def test_a_traceback_on_request(ended, monkeypatch: pytest.MonkeyPatch):
    """Whoever looks for a mistake of ours sees where it is."""
    monkeypatch.setenv("CKPTCLAMP_TRACEBACK", "1")
    with pytest.raises(RuntimeError):
        ended(RuntimeError("mistake"))


def test_being_terminated():
    """SIGTERM leaves through every `finally`, with the code that a shell gives it."""
    with pytest.raises(SystemExit) as leaving:
        program._terminate(signal.SIGTERM, None)
    assert leaving.value.code == 143


def test_threads_of_the_mathematics_are_not_started(ended, monkeypatch: pytest.MonkeyPatch):
    """They would only cost their start; a user's own number is kept."""
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    ended(0)
    assert os.environ["OPENBLAS_NUM_THREADS"] == "1"
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    ended(0)
    assert os.environ["OPENBLAS_NUM_THREADS"] == "3"


@pytest.mark.parametrize("arguments", [["schema"], ["--help"], ["audit", "--help"]])
def test_a_closed_pipe_is_no_error(arguments: list[str]):
    """As of any filter: whoever reads the report may stop."""
    command = [str(Path(sys.executable).with_name("ckptclamp")), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_closed_streams(tmp_path: Path):
    """A program that was started without streams answers by its code."""
    name = str(Path(sys.executable).with_name("ckptclamp"))
    shell = f"{name} audit {tmp_path} >&- 2>&-"
    assert subprocess.run(["sh", "-c", shell], check=False).returncode == 3


def test_commands_are_told(ended, capfd: pytest.CaptureFixture[str]):
    """An empty command line is a failure; a wrong name is answered by the one that was meant."""
    assert ended(errors.CkptclampError("x"))[0] == 3
    context = click.Context(program.cli, info_name="ckptclamp")
    with pytest.raises(click.UsageError, match="'audti'; did you mean audit"):
        program.cli.get_command(context, "audti")
    with pytest.raises(click.UsageError, match=r"there is no command 'zzz'$"):
        program.cli.get_command(context, "zzz")
    assert program.cli.list_commands(context)[0] == "audit"
    with pytest.raises(click.exceptions.Exit) as leaving:
        program.cli.parse_args(context, [])
    assert leaving.value.exit_code == 2
    assert "Exit codes:" in capfd.readouterr().err


def test_the_version_tells_what_does_the_arithmetic(run):
    """Where a report is doubted, the first question is which kernels made it."""
    plain = run("--version")
    assert plain.stdout == f"ckptclamp, version {ckptclamp.__version__}\n"
    for arguments in (["--version", "-v"], ["-v", "--version"]):
        lines = run(*arguments, env={"CKPTCLAMP_KERNELS": "numpy"}).stdout.splitlines()
        assert lines[0] == plain.stdout.strip()
        assert lines[-1] == "kernels: NumPy"


@pytest.mark.parametrize("command", ["audit", "clean"])
def test_more_is_asked_for_behind_the_command(run, command):
    """Whoever puts -v before it would wait for words that never come."""
    done = run("-v", command, "missing.h5")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"-v comes after the command: ckptclamp {command} -v" in done.stderr


@pytest.mark.parametrize(
    "variable", ["CKPTCLAMP_VERSION", "CKPTCLAMP_HELP", "CKPTCLAMP_AUDIT_HELP"]
)
def test_no_variable_answers_instead_of_the_audit(run, variable):
    """A pipeline that pins ``CKPTCLAMP_VERSION=1`` for itself must not get the version, and a 0."""
    done = run("audit", "missing.h5", env={variable: "1"})
    assert (done.returncode, done.stdout) == (3, "")
