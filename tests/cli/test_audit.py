"""``ckptclamp audit`` as a user meets it: what is printed where, and what it returns."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file


@pytest.fixture
def model(tmp_path):
    """Three columns of norm 1, 2 and 3."""
    path = tmp_path / "model.safetensors"
    columns = np.array([[1, 0, 0], [0, 2, 0], [0, 0, 3]], np.float32)
    save_file({"head/kernel": columns, "head/bias": np.zeros(3, np.float32)}, path)
    return path


MAX_NORM = ["--max-norm", 2, "--axis", 0, "--tensors", "**/kernel"]


def test_report_goes_to_stdout_alone(run, model):
    """A redirected report is the report and nothing else."""
    answer = run("audit", model, *MAX_NORM)
    assert answer.returncode == 1
    assert answer.stderr == ""
    assert "head/kernel" in answer.stdout
    assert answer.stdout.strip().splitlines()[-1].endswith("exit 1")
    assert "\x1b" not in answer.stdout


def test_json_is_json_alone(run, model):
    """--format json prints one JSON document with the census and the exit code."""
    answer = run("audit", model, *MAX_NORM, "--format", "json")
    report = json.loads(answer.stdout)
    assert answer.returncode == report["exit_code"] == 1
    (result,) = report["report"]["results"]
    assert result["units"] == 3
    assert result["violating"] == 1
    assert result["worst"][0]["index"] == [2]
    assert result["worst"][0]["measured"] == 3.0


def test_several_reports_of_one_run(run, model, tmp_path):
    """-o writes any number of reports beside the one on stdout."""
    outputs = [f"json={tmp_path / 'r.json'}", f"junit={tmp_path / 'r.xml'}"]
    answer = run("audit", model, *MAX_NORM, "-o", outputs[0], "--report", outputs[1])
    assert answer.returncode == 1
    assert json.loads((tmp_path / "r.json").read_text())["exit_code"] == 1
    assert (tmp_path / "r.xml").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    "arguments", [["-o", "out.sarif"], ["--format", "sarif", "-o", "out.sarif"]]
)
def test_a_report_goes_to_a_file_as_other_linters_have_it(run, model, tmp_path, arguments):
    """A path alone is enough, and people read text meanwhile."""
    answer = run("audit", model, *MAX_NORM, *arguments, cwd=tmp_path)
    assert answer.returncode == 1
    assert json.loads((tmp_path / "out.sarif").read_text())["version"] == "2.1.0"
    assert answer.stdout.splitlines()[-1].endswith("exit 1")


def test_two_formats_are_two_reports(run, model, tmp_path):
    """`-f` is about stdout where a file says by its name that it is something else."""
    answer = run(
        "audit", model, *MAX_NORM, "-f", "json", "-o", "out.xml", "-o", "b.sarif", cwd=tmp_path
    )
    assert json.loads((tmp_path / "b.sarif").read_text())["version"] == "2.1.0"
    assert (tmp_path / "out.xml").read_text().startswith("<?xml")
    assert json.loads(answer.stdout)["exit_code"] == 1
    refused = run("audit", model, *MAX_NORM, "-o", "out", cwd=tmp_path)
    assert refused.returncode == 2
    assert "does not tell a format" in refused.stderr


def test_quiet_keeps_the_failures_and_the_census(run, model):
    """-q prints a line for each failure, and the census."""
    answer = run("audit", model, *MAX_NORM, "-q")
    failure, census = answer.stdout.splitlines()
    assert failure.startswith("error[max-norm]: ")
    assert census.endswith("exit 1")
    assert answer.returncode == 1


def test_options_come_from_the_environment_too(run, model):
    """Every option is also CKPTCLAMP_NAME, or CKPTCLAMP_COMMAND_NAME; the command line wins."""
    env = {"CKPTCLAMP_MAX_NORM": "4", "CKPTCLAMP_AUDIT_AXIS": "0", "CKPTCLAMP_TENSORS": "**/kernel"}
    assert run("audit", model, env=env).returncode == 0
    assert run("audit", model, "--max-norm", 2, env=env).returncode == 1


def test_tolerance_zero_means_the_bound(run, model):
    """With tolerance 0 a norm on the bound passes and the next float32 above it does not."""
    assert run("audit", model, "--max-norm", 3, *MAX_NORM[2:], "--tolerance", 0).returncode == 0
    below = float(np.nextafter(np.float64(3), 0))
    assert run("audit", model, "--max-norm", below, *MAX_NORM[2:], "--tolerance", 0).returncode == 1
    assert run("audit", model, "--max-norm", below, *MAX_NORM[2:]).returncode == 0


@pytest.mark.parametrize("rule", [["--center", 0], ["--max-norm", 0], ["--clip", 0, 0]])
def test_a_bound_of_zero_is_a_bound(run, model, rule):
    """Zero is not nothing: alone, beside another rule, and beside a spec."""
    place = ["--tensors", "**/kernel"]
    assert run("audit", model, *rule, *place).returncode == 1
    assert run("audit", model, *rule, "--non-neg", *place).returncode == 1
    answer = run("audit", model, *rule, "--spec", "spec.yaml")
    assert answer.returncode == 2
    assert "exclude each other" in answer.stderr


def test_unit_axis_is_the_other_way_to_say_axis(run, model):
    """Keeping axis 1 of a matrix is reducing axis 0."""
    by_unit = run(
        "audit", model, "--max-norm", 2, "--unit-axis", -1, "--tensors", "**/kernel", "-f", "json"
    )
    by_axis = run("audit", model, *MAX_NORM, "-f", "json")
    assert (
        json.loads(by_unit.stdout)["report"]["results"][0]["worst"]
        == json.loads(by_axis.stdout)["report"]["results"][0]["worst"]
    )


def test_a_name_that_lies_is_told(run, fixtures, tmp_path):
    """The format is decided by content; a name that disagrees is said."""
    renamed = tmp_path / "model.safetensors"
    renamed.write_bytes((fixtures / "conforming" / "eegnet.h5").read_bytes())
    answer = run("audit", renamed)
    assert answer.returncode == 0
    assert "HDF5" in answer.stdout


def test_declared_constraints_need_no_spec(run, fixtures):
    """The model is its own spec."""
    for name in ("eegnet.h5", "eegnet.keras"):
        assert run("audit", fixtures / "conforming" / name).returncode == 0
    answer = run("audit", fixtures / "eegnet_drifted.keras", "-f", "json")
    assert answer.returncode == 1
    assert json.loads(answer.stdout)["census"]["violations"] >= 1


@pytest.mark.parametrize(
    "command", [["--help"], ["--version"], ["audit", "--help"], ["apply", "--help"]]
)
def test_help_imports_nothing_heavy(command):
    """Help and version answer at once: no NumPy, no h5py, no rich."""
    import subprocess
    import sys

    probe = (
        "import sys, ckptclamp.cli\n"
        f"sys.argv[1:] = {command!r}\n"
        "try: ckptclamp.cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'h5py', 'rich', 'yaml', 're2', 'safetensors'} & set(sys.modules)\n"
        "heavy |= {'shutil', 'subprocess'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr


def test_tiny_audit_imports_numpy_and_no_more(model):
    """A tiny safetensors file without a spec pays for no HDF5, no validation, no terminal library."""
    import subprocess
    import sys

    probe = (
        "import sys, ckptclamp\n"
        f"ckptclamp.inspect({str(model)!r}, norms=True)\n"
        f"ckptclamp.audit({str(model)!r})\n"
        "heavy = {'h5py', 'rich', 'yaml', 're2', 'html', 'subprocess'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr


def test_commands_of_the_readme_exist(run):
    """Schema and completion print what they say."""
    assert json.loads(run("schema").stdout)["type"] == "object"
    report = json.loads(run("schema", "report").stdout)
    assert report["properties"]["schema"] == {"const": "ckptclamp-report-1"}
    assert run("schema", "sarif").returncode == 2
    for shell in ("bash", "zsh", "fish"):
        assert "ckptclamp" in run("completion", shell).stdout
    assert run("--version").stdout.startswith("ckptclamp, version ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["au"], {"audit"}),
        (["co"], {"completion"}),
        ([""], {"audit", "apply", "verify-attestation"}),
        (["baseline", "pr"], {"prune"}),
        (["audit", "--max-n"], {"--max-norm"}),
    ],
)
def test_shells_complete_commands_and_options(run, shell, words, completed):
    """What the completion script asks for is answered with names alone, not with help or an error."""
    line = " ".join(["ckptclamp", *words])
    current = words[-1] if shell == "fish" else len(words)
    env = {
        "_CKPTCLAMP_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(current),
    }
    answer = run(env=env)
    assert (answer.returncode, answer.stderr) == (0, "")
    lines = answer.stdout.splitlines()
    names = lines[1::3] if shell == "zsh" else [re.split("[,\t]", line)[1] for line in lines]
    assert completed <= set(names)
    assert len(names) == len(completed) or words == [""]


def test_every_violating_unit_on_request(run, model, tmp_path):
    """-o units=PATH streams all of them, however few the report shows."""
    units = tmp_path / "units.jsonl"
    rule = ["--max-norm", 0.5, *MAX_NORM[2:]]
    answer = run("audit", model, *rule, "--worst", 1, "-o", f"units={units}", "-f", "json")
    assert len(json.loads(answer.stdout)["report"]["results"][0]["worst"]) == 1
    lines = [json.loads(line) for line in units.read_text().splitlines()]
    assert [line["index"] for line in lines] == [[0], [1], [2]]
    assert [line["measured"] for line in lines] == [1, 2, 3]


@pytest.mark.parametrize(
    ("options", "told"),
    [(["-f", "json"], True), (["-f", "junit"], True), ([], False), (["-f", "json", "-q"], False)],
)
def test_warnings_are_seen_beside_a_report_for_machines(run, tmp_path, options, told):
    """What a pass hides is said on stderr, unless the report itself is there to be read."""
    path = tmp_path / "model.safetensors"
    save_file({"kernel": np.full((1, 1, 4, 2), 0.9, np.float32)}, path)
    answer = run("audit", path, "--max-norm", 1, "--axis", 0, "--tensors", "kernel", *options)
    assert answer.returncode == 0
    assert ("ckptclamp: warning: kernel: over axis 0 of shape" in answer.stderr) is told
    assert told or answer.stderr == ""
