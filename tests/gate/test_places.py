"""The gate where releases are made: GitHub, GitLab, pre-commit, Docker, pytest."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent


def call(*command, cwd=None, **variables):
    """Run a program with only the given variables beside the search path."""
    return subprocess.run(
        list(map(str, command)),
        env={"PATH": f"{PROGRAMS}:{os.environ['PATH']}", "HOME": str(cwd or ROOT), **variables},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("vendor.github-actions", "action.yml"),
        ("vendor.gitlab-ci", "docs/examples/gitlab-ci.yml"),
    ],
)
def test_definitions_fit_the_schemas_of_their_services(schema, file):
    """A definition that its service rejects is found here, not by its first user."""
    done = call("check-jsonschema", "--builtin-schema", schema, ROOT / file)
    assert done.returncode == 0, done.stdout


def test_the_hook_is_a_valid_manifest_and_runs_the_program(run, save, folder):
    """pre-commit runs `entry args` without file names; that must be a whole command."""
    manifest = ROOT / ".pre-commit-hooks.yaml"
    done = call("pre-commit", "validate-manifest", manifest, PRE_COMMIT_HOME=str(folder / "home"))
    assert done.returncode == 0, done.stdout
    (hook,) = yaml.safe_load(manifest.read_text())
    assert hook["pass_filenames"] is False
    save(a=[2.0])
    program, *arguments = hook["entry"].split()
    assert program == "ckptclamp"
    assert run(*arguments, "model.safetensors", "--spec", "spec.yaml").returncode == 1


def test_gitlab_runs_a_command_that_exists(run, save, folder):
    """The example's script makes the reports that its artifacts name."""
    save(a=[2.0])
    job = yaml.safe_load((ROOT / "docs/examples/gitlab-ci.yml").read_text())["audit-checkpoint"]
    (folder / "constraints.yaml").write_text((folder / "spec.yaml").read_text())
    done = call("bash", "-c", job["script"][1], cwd=folder, **job["variables"])
    assert done.returncode == 1, done.stderr
    for report in (*job["artifacts"]["reports"].values(), *job["artifacts"]["paths"]):
        assert (folder / report).stat().st_size


class Action:
    """The action's script, run as a GitHub runner runs it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, step="audit", variables=None, **inputs):
        """Return the process, its outputs and the step summary."""
        given = {"program": "ckptclamp", **inputs}
        places = {
            name: self.folder / name.lower() for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")
        }
        for place in places.values():
            place.write_text("")
        done = call(
            "bash",
            ROOT / "ci/action.sh",
            step,
            cwd=self.folder,
            RUNNER_TEMP=str(self.folder),
            ACTION_ROOT=str(ROOT),
            **{name: str(place) for name, place in places.items()},
            **{f"INPUT_{name.upper()}": value for name, value in given.items()},
            **(variables or {}),
        )
        lines = places["GITHUB_OUTPUT"].read_text().splitlines()
        outputs = dict(line.split("=", 1) for line in lines)
        return done, outputs, places["GITHUB_STEP_SUMMARY"].read_text()


@pytest.fixture
def action(folder):
    """The action's script in a working directory with a spec."""
    return Action(folder)


@pytest.mark.parametrize(("norm", "code"), [(0.5, "0"), (2.0, "1")])
def test_the_action_answers_in_outputs_summary_and_annotations(action, save, norm, code):
    """The step itself passes, so that later steps can upload what was found."""
    save(a=[norm])
    done, outputs, summary = action(checkpoint="model.safetensors", spec="spec.yaml")
    assert done.returncode == 0, done.stderr
    assert outputs["exit-code"] == code
    assert outputs["violations"] == code
    assert "1 result" in summary
    assert ("::error" in done.stdout) == (code == "1")
    assert json.loads(Path(outputs["json"]).read_text())["exit_code"] == int(code)
    assert json.loads(Path(outputs["sarif"]).read_text())["version"] == "2.1.0"
    assert Path(outputs["junit"]).read_text().startswith("<?xml")


def test_the_action_passes_every_input_on(action, save, run, folder):
    """An input that is ignored would be a gate that its user does not have."""
    save(a=[1.005])
    spec = {"checkpoint": "model.safetensors", "spec": "spec.yaml"}
    assert action(**spec)[1]["exit-code"] == "1"
    assert action(**spec, tolerance="0.01")[1]["exit-code"] == "0"
    run("audit", "model.safetensors", "--spec", "spec.yaml", "--write-baseline", "known.json")
    _, outputs, summary = action(**spec, baseline="known.json", attest="statement.json")
    assert outputs["exit-code"] == "0"
    assert "1 suppressed" in summary
    assert (folder / "statement.json").exists()
    (folder / "spec.yaml").write_text(
        (folder / "spec.yaml").read_text() + "    severity: warning\n"
    )
    assert action(**spec)[1]["exit-code"] == "0"
    assert action(**spec, strict="true")[1]["exit-code"] == "1"


@pytest.mark.parametrize("name", ["strict", "upload_sarif", "fail", "cache"])
@pytest.mark.parametrize("value", ["yes", "1", "True", ""])
def test_the_action_refuses_what_is_neither_true_nor_false(action, save, name, value):
    """`fail: yes` is meant to fail; taken for false, a red gate would be green."""
    save(a=[0.5])
    given = {"checkpoint": "model.safetensors", "spec": "spec.yaml"}
    done, outputs, _ = action(**given, **{name: value})
    assert (done.returncode, outputs) == (2, {})
    assert f"`{name.replace('_', '-')}` must be true or false" in done.stdout
    for proper in ("true", "false"):
        done, outputs, _ = action(**given, **{name: proper})
        assert (done.returncode, outputs["exit-code"]) == (0, "0")


@pytest.mark.parametrize("inputs", [{}, {"checkpoint": ""}])
def test_the_action_refuses_an_empty_checkpoint(action, save, inputs):
    """A variable that was never set is no checkpoint, whatever lies in the working directory."""
    save(a=[0.5])
    done, outputs, _ = action(spec="spec.yaml", **inputs)
    assert (done.returncode, outputs) == (2, {})
    assert done.stdout.startswith("::error title=ckptclamp::the input `checkpoint` must name")
    assert action("prepare", **inputs)[0].returncode == 2
    done, outputs, _ = action(checkpoint=" \n\t\r\n", spec="spec.yaml")
    assert (done.returncode, outputs) == (2, {})


def test_the_action_answers_unless_it_was_told_not_to():
    """The last step is left out for `false` alone."""
    definition = yaml.safe_load((ROOT / "action.yml").read_text())
    assert definition["runs"]["steps"][-1]["if"] == "${{ inputs.fail != 'false' }}"


def test_the_action_says_so_when_no_audit_was_made(action):
    """A file that is missing is an annotation and a summary; it closes no alert of code scanning."""
    done, outputs, summary = action(checkpoint="missing.safetensors")
    assert outputs["exit-code"] == "3"
    assert outputs["violations"] == ""
    assert "audited" not in outputs
    assert "::error file=missing.safetensors" in done.stdout
    assert "missing.safetensors" in summary
    assert "missing.safetensors" in done.stderr
    assert Path(outputs["junit"]).stat().st_size


def test_the_action_takes_lists_globs_and_manifests(action, save, folder):
    """One line is one checkpoint or a glob; nothing in it is the shell's."""
    (folder / "out").mkdir()
    save(file="out/a b.safetensors", a=[0.5])
    save(file="out/c.safetensors", a=[2.0])
    save(a=[0.5])
    listed = "model.safetensors\r\n\n  \nout/*.safetensors\n"
    _, outputs, summary = action(checkpoint=listed, spec="spec.yaml")
    assert (outputs["exit-code"], outputs["violations"]) == ("1", "1")
    assert outputs["audited"] == "true"
    assert "3 checkpoints: 2 pass, 1 fail" in summary
    (folder / "gate.yaml").write_text(
        "version: 1\ncheckpoints: [{path: out/*.safetensors, spec: spec.yaml, severity: warning}]\n"
    )
    assert action(manifest="gate.yaml")[1]["exit-code"] == "0"
    assert action(manifest="gate.yaml", checkpoint="x")[0].returncode == 2
    assert action(checkpoint="out/*.keras")[1]["exit-code"] == "4"


def test_the_action_uploads_no_findings_where_nothing_was_audited(action, save, folder):
    """No findings would close every open alert; one audited checkpoint among others has some."""
    save(a=[0.5])
    optional = "version: 1\ncheckpoints: [{path: gone.keras, required: false}]\n"
    (folder / "gate.yaml").write_text(optional)
    for inputs in ({"checkpoint": "out/*.keras"}, {"manifest": "gate.yaml"}):
        _, outputs, _ = action(**inputs)
        assert outputs["exit-code"] == "4"
        assert "audited" not in outputs
    _, outputs, _ = action(checkpoint="model.safetensors\nout/*.keras", spec="spec.yaml")
    assert (outputs["exit-code"], outputs["audited"]) == ("4", "true")
    assert action(checkpoint="model.safetensors", spec="spec.yaml")[1]["audited"] == "true"


def old_python(folder, version):
    """A folder in which ``python3`` is too old, or missing."""
    place = folder / "programs"
    place.mkdir(parents=True)
    for name in ("bash", "env", "sed", "grep", "cat", "mktemp"):
        found = shutil.which(name)
        assert found
        (place / name).symlink_to(found)
    if version is not None:
        script = f'#!/bin/sh\ncase "$2" in *version_info*) exit 1;; *) echo {version};; esac\n'
        (place / "python3").write_text(script)
        (place / "python3").chmod(0o755)
    return {"PATH": str(place)}


@pytest.mark.parametrize("version", [None, "3.9.2"])
def test_a_python_that_is_too_old_is_an_annotation(action, folder, version):
    """A traceback of pip in the middle of a log tells nobody what to do."""
    given = {"checkpoint": "model.safetensors", "program": ""}
    for step in ("prepare", "audit"):
        done, outputs, _ = action(step, old_python(folder / step, version), **given)
        assert (done.returncode, outputs) == (2, {})
        assert done.stdout.startswith("::error title=ckptclamp::")
        assert (version or "no python3") in done.stdout
        assert "actions/setup-python" in done.stdout


def test_the_action_may_run_what_is_installed(action, save):
    """Without one that is named, what pip fetches is kept by what would be fetched."""
    save(a=[0.5])
    given = {"checkpoint": "model.safetensors", "spec": "spec.yaml"}
    assert action("prepare", **given)[1] == {}
    missing = action(**given, program="no-such-ckptclamp")[0]
    assert missing.returncode == 2
    assert "no program `no-such-ckptclamp`" in missing.stdout
    outputs = action("prepare", **given, program="")[1]
    assert outputs["cache-key"].startswith("ckptclamp-pip-")
    assert action("prepare", **given, program="", cache="false")[1] == {}


def test_actions_of_others_are_pinned_by_digest():
    """A tag can be moved to other code; the comment says which release it was."""
    lines = (ROOT / "action.yml").read_text().splitlines()
    uses = [line.strip() for line in lines if "uses:" in line]
    assert len(uses) == 2
    assert all(re.fullmatch(r"uses: [\w/-]+@[0-9a-f]{40} # v[\d.]+", line) for line in uses)


@pytest.mark.parametrize(
    "name", ["$(touch pwned).safetensors", "; touch pwned", "--help", "a b'\"`"]
)
def test_inputs_are_never_code(action, save, folder, name):
    """A file's name comes from a stranger; the shell and the options must not obey it."""
    save(file=name, a=[0.5])
    _, outputs, _ = action(checkpoint=name, spec="spec.yaml")
    assert outputs["exit-code"] == "0"
    assert not (folder / "pwned").exists()


def test_the_action_hands_inputs_to_the_shell_as_variables_only():
    """`${{ inputs.… }}` inside a script would be pasted into it as code."""
    definition = yaml.safe_load((ROOT / "action.yml").read_text())
    scripts = [step["run"] for step in definition["runs"]["steps"] if "run" in step]
    assert len(scripts) == 3
    assert not any("${{" in script for script in scripts)
    script = (ROOT / "ci/action.sh").read_text()
    names = {f"INPUT_{name.upper().replace('-', '_')}" for name in definition["inputs"]}
    (audit,) = [step for step in definition["runs"]["steps"] if step.get("id") == "audit"]
    assert {name for name in audit["env"] if name.startswith("INPUT_")} == names
    assert all(name in script for name in names)


def test_the_image_runs_without_rights():
    """What parses strangers' files needs no root."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    last_stage = lines[max(i for i, line in enumerate(lines) if line.startswith("FROM ")) :]
    (user,) = (line.removeprefix("USER ") for line in last_stage if line.startswith("USER "))
    assert int(user) > 0  # by its number, so that a cluster that asks for no root can tell
    copied = {word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]}
    assert all((ROOT / name).exists() for name in copied if not name.startswith(("-", "/")))


SUITE = """\
import pytest
from ckptclamp.pytest_plugin import assert_conforms


def test_release(ckptclamp):
    report = ckptclamp.assert_conforms("model.safetensors", "spec.yaml")
    assert report.census.passed == 1


def test_baseline():
    assert_conforms("model.safetensors", "spec.yaml", baseline="known.json")


def test_options():
    assert_conforms("model.safetensors", "spec.yaml", tolerance=0.75)


def test_nothing_evaluated(ckptclamp):
    with pytest.raises(AssertionError, match="exit 4"):
        ckptclamp.assert_conforms("model.safetensors")
"""


def test_the_pytest_plugin_asserts_with_the_report(run, save, folder):
    """A failed assertion tells which tensor, which rule and how far; no import is needed for it."""
    (folder / "test_it.py").write_text(SUITE)
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py")
    save(a=[1.5])
    run("audit", "model.safetensors", "--spec", "spec.yaml", "--write-baseline", "known.json")
    failed = call(*command, cwd=folder)
    assert failed.returncode == 1
    assert "1 failed, 3 passed" in failed.stdout
    assert "1 of 1 unit violates MaxNorm(max_value=1)" in failed.stdout
    (line,) = [line for line in failed.stdout.splitlines() if "does not conform" in line]
    after = failed.stdout.splitlines()[failed.stdout.splitlines().index(line) + 1 :][:2]
    assert "error[bounded]: a.weight: " in after[0]
    assert after[1].endswith("exit 1")
    save(a=[0.5])
    assert "4 passed" in call(*command, cwd=folder).stdout


def test_paths_of_the_fixture_lead_from_the_rootdir(save, folder):
    """A test passes wherever pytest is called."""
    save(a=[0.5])
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "below").mkdir()
    (folder / "below" / "test_it.py").write_text(
        "def test_release(ckptclamp):\n"
        "    ckptclamp.assert_conforms('model.safetensors', 'spec.yaml')\n"
    )
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert "1 passed" in call(*command, "test_it.py", cwd=folder / "below").stdout
