"""Reports made later from the JSON master are those that the audit would have made."""

from __future__ import annotations

import pytest

GATE = ("audit", "model.safetensors", "--spec", "spec.yaml")


@pytest.mark.parametrize("rows", [[0.5, 0.5], [0.5, 2.0]])
def test_a_format_made_later_is_the_one_made_at_once(run, save, folder, rows):
    """A pipeline can keep one file and decide on formats afterwards."""
    save(a=rows)
    later = ("sarif", "junit", "markdown", "gitlab", "github", "html")
    outputs = [part for name in later for part in ("-o", f"{name}=at_once.{name}")]
    gate = run(*GATE, "-o", "json=report.json", *outputs)
    outputs = [part for name in later for part in ("-o", f"{name}=later.{name}")]
    done = run("report", "report.json", *outputs)
    assert (done.returncode, done.stdout) == (0, gate.stdout)
    for name in later:
        assert (folder / f"later.{name}").read_text() == (folder / f"at_once.{name}").read_text()


def test_the_report_of_an_apply_can_be_made_later(run, save):
    """What was changed is told as well as what was found."""
    save(a=[2.0])
    done = run("apply", *GATE[1:], "-o", "copy.safetensors", "--report", "json=report.json")
    assert run("report", "report.json").stdout == done.stdout


def test_units_cannot_be_made_of_a_saved_report(run, save, folder):
    """It has the worst of them only; a list that looks whole and is not would be worse than none."""
    save(a=[2.0])
    run(*GATE, "-o", "json=report.json")
    done = run("report", "report.json", "-o", "units=units.jsonl")
    assert (done.returncode, done.stdout) == (2, "")
    assert not (folder / "units.jsonl").exists()


@pytest.mark.parametrize("text", ["", "{}", '{"schema": "ckptclamp-report-1"}', "\x93HDF"])
def test_what_is_no_report_is_one_clear_line(run, folder, text):
    """A broken file fails, and never as a traceback."""
    (folder / "report.json").write_text(text)
    done = run("report", "report.json")
    assert done.returncode in (2, 3)
    assert done.stderr.count("\n") == 1
    assert "report.json" in done.stderr
    assert run("report", "missing.json").returncode == 3


@pytest.mark.parametrize(
    "option", [("-f", "sariff"), ("-o", "json"), ("-o", "xml=a.xml"), ("-o", "json=missing/a.json")]
)
def test_wrong_report_options_are_found_before_the_work(run, save, option):
    """A typo must not cost the hour that an audit may take."""
    save(a=[0.5])
    done = run(*GATE, *option)
    assert (done.returncode, done.stdout) == (2, "")


def test_two_reports_at_one_place_are_refused(run, save, folder):
    """One of them would be lost."""
    save(a=[0.5])
    assert run(*GATE, "-o", "json=x", "-o", "sarif=./x").returncode == 2
    assert not (folder / "x").exists()


def test_exit_zero_forgives_violations_and_nothing_else(run, save, folder):
    """A trial run may find something; a run that could not look has still failed."""
    save(a=[2.0])
    done = run(*GATE, "--exit-zero")
    assert done.returncode == 0
    assert "exit 1" in done.stdout
    assert "--exit-zero" in done.stderr
    assert run("audit", "model.safetensors", "--exit-zero").returncode == 4
    assert run("audit", "missing", "--spec", "spec.yaml", "--exit-zero").returncode == 3
    assert run(*GATE, "--exit-zero", "--nonsense").returncode == 2


@pytest.mark.parametrize(
    "option",
    [
        ("-o", "json=model.safetensors"),
        ("--attest", "./model.safetensors"),
        ("--write-baseline", "spec.yaml"),
        ("--attest", "other.safetensors"),
        ("-o", "json=x", "--attest", "x"),
    ],
)
def test_what_is_read_is_never_written_over(run, save, folder, option):
    """A slip of the hand must not cost a checkpoint."""
    path = save(a=[0.5])
    save("other.safetensors", a=[0.5])
    before = {file: file.read_bytes() for file in folder.iterdir()}
    assert run(*GATE, *option).returncode == 2
    assert {file: file.read_bytes() for file in folder.iterdir()} == before
    done = run("apply", path, "--spec", "spec.yaml", "-o", "x", "--attest", "x")
    assert done.returncode == 2


def test_what_cannot_be_converted_leaves_no_older_report(run, save, folder):
    """A pipeline that collects reports must not collect those of yesterday."""
    save(a=[0.5])
    run(*GATE, "-o", "json=report.json")
    assert run("report", "report.json", "-o", "r.md", "-o", "r.xml").returncode == 0
    (folder / "report.json").write_text("{}")
    for given, code in ((["report.json"], 2), (["gone.json"], 3), (["report.json", "--x"], 2)):
        (folder / "r.md").write_text("yesterday's")
        done = run("report", *given, "-o", "r.md", "-o", "r.xml")
        assert done.returncode == code
        assert "Fail" in (folder / "r.md").read_text()
        assert "<error" in (folder / "r.xml").read_text()
    done = run("report", "report.json", "-o", "json=report.json")
    assert (done.returncode, (folder / "report.json").read_text()) == (2, "{}")
