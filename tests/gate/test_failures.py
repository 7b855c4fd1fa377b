"""A run that fails leaves reports that say so, as a user's pipeline collects them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ckptclamp.reports import REPORTERS

GATE = ("audit", "model.safetensors", "--spec", "spec.yaml")
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def outputs():
    """A file for every format."""
    return [part for name in REPORTERS for part in ("-o", f"{name}=r.{name}")]


def check(done, code, words):
    """Every report is there, says what happened, and is no report of a pass."""
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("ckptclamp: error: ")
    assert "Traceback" not in done.stderr
    for name in REPORTERS:
        assert words in Path(f"r.{name}").read_text(), name
    assert json.loads(Path("r.json").read_text())["exit_code"] == code


def test_a_truncated_download_is_told_by_every_report(run, save):
    """The file that came half is the failure that a pipeline meets most."""
    path = save(a=[0.5])
    path.write_bytes(path.read_bytes()[:-4])
    done = run(*GATE, "-f", "github", *outputs())
    check(done, 3, "model.safetensors")
    assert done.stdout.startswith("::error file=model.safetensors,")


def test_a_pointer_is_told_by_every_report(run, folder):
    """Who forgot to fetch large files learns it from the pull request."""
    (folder / "model.safetensors").write_text(POINTER)
    done = run(*GATE, "-f", "github", *outputs())
    check(done, 3, "Git LFS pointer")
    assert "git lfs pull" in done.stdout


def test_a_typo_in_the_spec_is_told_by_every_report(run, save, folder):
    """Each problem is an annotation at its line."""
    save(a=[0.5])
    (folder / "spec.yaml").write_text((folder / "spec.yaml").read_text().replace("axis", "axes:x"))
    done = run(*GATE, "-f", "github", *outputs())
    check(done, 2, "unknown key")
    assert "::error file=spec.yaml,line=7," in done.stdout


@pytest.mark.parametrize(
    "wrong",
    [["--bogus"], ["--tolerance", "loose"], ["--max-norm", "1"], ["-f"], ["--attest", "no/x.json"]],
)
def test_a_wrong_command_line_is_told_by_every_report(run, save, wrong):
    """What was asked for is understood as far as it goes."""
    save(a=[0.5])
    done = run(*GATE, *outputs(), *wrong)
    assert done.returncode == 2
    for name in REPORTERS:
        assert Path(f"r.{name}").stat().st_size, name
    assert json.loads(Path("r.json").read_text())["code"] == "usage"


def test_a_copy_that_is_not_made_is_told_by_every_report(run, save):
    """Exit codes 3, 4 and 5 of an apply, which has no report then."""
    save(a=[float("nan")])
    reports = [word.replace("-o", "--report") for word in outputs()]
    check(run("apply", *GATE[1:], "-o", "copy.safetensors", *reports), 5, "non-finite")
    Path("spec.yaml").write_text(Path("spec.yaml").read_text().replace("*.weight", "*.kernel"))
    check(run("apply", *GATE[1:], "-o", "copy.safetensors", *reports), 4, "bounded")
    check(run("apply", "gone.safetensors", "-o", "copy.safetensors", *reports), 3, "No such file")
    assert not Path("copy.safetensors").exists()


def test_an_old_report_does_not_outlive_a_failure(run, save):
    """A pass of yesterday in the place of today's failure would be collected as today's."""
    path = save(a=[0.5])
    run(*GATE, *outputs())
    assert json.loads(Path("r.json").read_text())["exit_code"] == 0
    path.unlink()
    check(run(*GATE, *outputs()), 3, "No such file")


def test_a_failure_replaces_nothing_that_is_read(run, save, folder):
    """The command line is wrong, so what it names must not be trusted to be a report."""
    save(a=[0.5])
    (folder / "ckptclamp.toml").write_text('baseline = "known.json"\n')
    (folder / "known.json").write_text("{}")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for place in before:
        done = run(*GATE, "--bogus", "-o", f"json={place}", "-o", f"sarif=./{place}")
        assert done.returncode == 2
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_format_may_come_from_the_environment(run, save):
    """The step that says which format it reads need not be the one that names the spec."""
    save(a=[0.5])
    done = run(*GATE, "--bogus", env={"CKPTCLAMP_FORMAT": "github"})
    assert done.stdout.startswith("::error ")
    assert run(*GATE, "--bogus").stdout == ""


def test_one_report_that_cannot_be_written_costs_no_other(run, save, folder):
    """The answer is known by then; who collects another format gets it."""
    save(a=[2.0])
    done = run(*GATE, "-f", "github", "-o", "json=/dev/full", "-o", "sarif=r.sarif")
    assert done.returncode == 3
    assert "/dev/full" in done.stderr
    assert "1 violation" in done.stdout
    assert json.loads((folder / "r.sarif").read_text())["runs"][0]["results"]


def test_a_statement_that_cannot_be_written_is_a_warning_in_the_report(run, save, folder):
    """The report is of an audit that was made, and must not look as if all had gone well."""
    save(a=[0.5])
    done = run(*GATE, "--attest", "/dev/full", "-o", "json=r.json", "-f", "github")
    assert done.returncode == 3
    assert "attestation-not-written" in done.stdout
    notices = json.loads((folder / "r.json").read_text())["report"]["notices"]
    assert "attestation-not-written" in {notice["code"] for notice in notices}


def test_a_format_that_a_command_lacks_is_not_written(run, folder):
    """What cannot be asked for is no answer to asking for it."""
    (folder / "x.json").write_text("{}")
    done = run("verify-attestation", "x.json", "-f", "sarif")
    assert (done.returncode, done.stdout) == (2, "")
    assert run("verify-attestation", "x.json", "-f", "json").stdout.startswith("{")
