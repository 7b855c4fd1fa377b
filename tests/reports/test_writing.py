"""Reports on their way out: whole or not at all, and never over what they must not touch."""

import io
import os
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from ckptclamp.errors import CkptclampError, UsageError
from ckptclamp.reports import (
    REPORTERS,
    RenderOptions,
    parse_outputs,
    render,
    write_reports,
    write_stream,
    write_whole,
)
from ckptclamp.reports.formats.json import load_document
from tests.reports import samples

OPTIONS = RenderOptions(width=80, color=True)


@pytest.mark.parametrize(
    ("name", "asked", "format_"),
    [
        ("out.sarif", None, "sarif"),
        ("out.sarif.json", None, "sarif"),
        ("out.json", None, "json"),
        ("out.json", "sarif", "sarif"),
        ("out.json", "gitlab", "gitlab"),
        ("OUT.XML", None, "junit"),
        ("out.html", "json", "html"),
        ("summary.md", None, "markdown"),
        ("out.jsonl", "json", "units"),
        ("out", "sarif", "sarif"),
        ("out.xml", "json", "junit"),
        ("sarif=a=b.json", "junit", "sarif"),
    ],
)
def test_a_name_tells_its_format(tmp_path, monkeypatch, name, asked, format_):
    """The suffix says what a report is; where it may be several, the format that was asked for."""
    monkeypatch.chdir(tmp_path)
    (output,) = parse_outputs([name], asked)
    assert output.format == format_
    assert output.path == name.removeprefix("sarif=")


@pytest.mark.parametrize("name", ["out", "out.bin", "model.safetensors", "-"])
def test_a_name_that_tells_nothing_is_refused(name):
    """No format is guessed."""
    with pytest.raises(UsageError, match="does not tell a format"):
        parse_outputs([name])


def test_several_reports_in_one_run(tmp_path):
    """One audit serves the terminal, the gate and the archive."""
    out = io.StringIO()
    outputs = ["text=-", f"json={tmp_path}/a.json", f"text={tmp_path}/a.txt"]
    write_reports(samples.VIOLATIONS, parse_outputs(outputs), OPTIONS, out)
    assert "\x1b[" in out.getvalue()
    assert "\x1b[" not in (tmp_path / "a.txt").read_text()
    assert load_document((tmp_path / "a.json").read_bytes()) == samples.VIOLATIONS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.txt"]


def test_a_quiet_run_writes_whole_files(tmp_path):
    """Who wants one line on the terminal wants the report in the archive all the same."""
    out = io.StringIO()
    outputs = parse_outputs(["text=-", f"text={tmp_path}/a.txt"])
    write_reports(samples.VIOLATIONS, outputs, replace(OPTIONS, verbose=-1), out)
    assert "= unit:" not in out.getvalue()
    assert (tmp_path / "a.txt").read_text() == render("text", samples.VIOLATIONS, RenderOptions())


@pytest.mark.parametrize("name", REPORTERS)
@pytest.mark.parametrize("sample", samples.REPORTS)
def test_every_format_renders_every_report(name, sample):
    """No format fails on a kind of report that another one can show; all end with a line break."""
    text = render(name, samples.REPORTS[sample], RenderOptions())
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


@pytest.mark.parametrize("name", REPORTERS)
def test_nothing_is_suppressed_silently(name):
    """A baseline or an ignore rule that hides everything is still counted, in every format."""
    report = replace(samples.CLEAN, results=(samples.SUPPRESSED, samples.SUPPRESSED))
    text = render(name, report, RenderOptions())
    assert re.search(r"2 suppressed|\"suppressed\": 2", text)


def test_an_existing_report_stays_until_the_new_one_is_whole(tmp_path):
    """A reader of the old report sees the old one or the new one, never a part."""
    path = tmp_path / "report.txt"
    path.write_text("old")
    with path.open() as reader:
        write_whole(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


def test_a_report_that_cannot_be_written_is_an_error(tmp_path):
    """A gate whose report is lost must not pass; the message names the file."""
    path = tmp_path / "gone" / "report.txt"
    with pytest.raises(CkptclampError, match=r"report\.txt: the report could not be written"):
        write_whole(path, "text")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_an_error():
    """A device that is replaced by a rename would be the worse disaster; it is written to."""
    with pytest.raises(CkptclampError, match="could not be written"):
        write_whole(Path("/dev/full"), "text")
    assert not Path("/dev/full").is_file()


def test_a_pipe_is_written_to(tmp_path):
    """`-o json=>(jq …)` names a pipe, which no rename can replace."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    heard = []
    reader = threading.Thread(target=lambda: heard.append(pipe.read_text()))
    reader.start()
    write_whole(pipe, "text\n")
    reader.join(timeout=10)
    assert heard == ["text\n"]


def test_a_link_is_followed(tmp_path):
    """The file that a link names is replaced, and the link stays a link."""
    real = tmp_path / "real.txt"
    real.write_text("old")
    link = tmp_path / "link.txt"
    link.symlink_to(real)
    write_whole(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"


def test_the_umask_holds(tmp_path):
    """Others may read a report where the umask lets them read new files."""
    old = os.umask(0o027)
    try:
        write_whole(tmp_path / "report.txt", "text")
    finally:
        os.umask(old)
    assert (tmp_path / "report.txt").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("text", ["json", "json=", "=x", "jsn=x", "json=/no/such/dir/x", "json=/"])
def test_outputs_that_make_no_sense_are_refused_early(text):
    """A long audit must not run only to fail on its last line."""
    with pytest.raises(UsageError):
        parse_outputs([text])


def test_a_misspelt_format_gets_a_suggestion():
    """The nearest name is offered."""
    with pytest.raises(UsageError, match="did you mean sarif"):
        parse_outputs(["sarf=x"])


def test_a_path_may_hold_the_separator(tmp_path):
    """Only the first `=` separates."""
    (output,) = parse_outputs([f"json={tmp_path}/a=b.json"])
    assert output.path == f"{tmp_path}/a=b.json"


@pytest.mark.parametrize("second", ["same.txt", "./same.txt", "link.txt"])
def test_one_report_never_overwrites_another(tmp_path, monkeypatch, second):
    """Two outputs to one file, even by different names, are a mistake."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.txt").symlink_to("same.txt")
    with pytest.raises(UsageError, match="same place"):
        parse_outputs(["text=same.txt", f"json={second}"])


def test_a_poor_encoding_never_stops_a_report():
    """A terminal without `≤` gets an escape, not a traceback in the middle of an answer."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    write_stream("1.977 ≤ 2\n", stream)
    stream.flush()
    assert raw.getvalue() == b"1.977 \\u2264 2\n"


def test_a_text_report_costs_no_heavy_import():
    """The gate runs in every CI job: its start must not pay for what it does not use."""
    code = (
        "import sys; from tests.reports import samples;"
        "from ckptclamp.reports import RenderOptions, render;"
        "render('text', samples.MIXED, RenderOptions());"
        "print(sorted({'rich', 'h5py', 'yaml', 'xml', 'jinja2'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"
