"""Settings: defaults from the project, never from a stranger, never for what is dangerous."""

from __future__ import annotations

import json
import shutil

import click
import numpy as np
import pytest
from safetensors.numpy import save_file

from ckptclamp.cli import cli
from ckptclamp.errors import UsageError
from ckptclamp.spec.settings import ALLOWED, COMMAND_LINE_ONLY, find_settings

FORBIDDEN = {
    **COMMAND_LINE_ONLY,
    "directory": "belongs to one call",
    "no-schema": "is about one new file",
    "config": "belongs to one checkpoint",
    "format": "commands differ in their formats",
    "rename": "belongs to two checkpoints",
    "settings": "is this",
    **dict.fromkeys(
        (
            "tensors",
            "axis",
            "unit-axis",
            "finite",
            "max-l1-norm",
            "max-norm",
            "min-max-norm",
            "min-norm",
            "unit-norm",
            "non-neg",
            "clip",
            "center",
            "norms",
            "storage",
        ),
        "is about one rule or one look",
    ),
}


def every_option():
    """The longest name of each option of every command."""
    context = click.Context(cli)
    names = set()
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        inner = list(command.commands.values()) if isinstance(command, click.Group) else [command]
        for one in inner:
            options = [p for p in one.params if isinstance(p, click.Option)]
            names |= {max(option.opts, key=len).removeprefix("--") for option in options}
    return names


def test_every_option_is_allowed_or_forbidden_on_purpose():
    """A new option must not become settable from a file without anybody having thought of it."""
    assert not set(ALLOWED) & set(FORBIDDEN)
    assert every_option() == set(ALLOWED) | set(FORBIDDEN) & every_option()
    assert every_option() >= set(ALLOWED)


GATE = ("audit", "model.safetensors")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("ckptclamp.toml", 'spec = "spec.yaml"\n'),
        ("pyproject.toml", '[project]\nname = "x"\n[tool.ckptclamp]\nspec = "spec.yaml"\n'),
    ],
)
def test_either_file_gives_the_spec_and_the_report_says_so(run, save, folder, file, text):
    """A gate whose rules come from a file must name the file."""
    save(a=[2.0])
    assert run(*GATE).returncode == 4
    (folder / file).write_text(text)
    done = run(*GATE)
    assert done.returncode == 1
    assert f"spec set by {folder / file}" in done.stdout
    assert run(*GATE, "--no-settings").returncode == 4
    assert run(*GATE, env={"CKPTCLAMP_SETTINGS": "0"}).returncode == 4


def test_command_line_and_environment_win(run, save, folder):
    """A default is what holds where nobody says otherwise."""
    save(a=[1.005])
    (folder / "ckptclamp.toml").write_text('spec = "spec.yaml"\ntolerance = 0.0\n')
    assert run(*GATE).returncode == 1
    assert run(*GATE, "--tolerance", "0.01").returncode == 0
    assert run(*GATE, env={"CKPTCLAMP_TOLERANCE": "0.01"}).returncode == 0
    inline = ("--tensors", "*.weight", "--max-norm", "2", "--axis", "1")
    assert run(*GATE, *inline).returncode == 0


def test_settings_are_found_up_to_the_root_of_the_repository(run, save, folder):
    """Paths are those of the file, and what lies above the repository is somebody else's."""
    save(a=[2.0])
    (folder / "ckptclamp.toml").write_text('spec = "spec.yaml"\n')
    repository = folder / "repository"
    inner = repository / "inner"
    inner.mkdir(parents=True)
    assert find_settings(inner) is None
    (folder / ".git").mkdir()
    assert run("audit", folder / "model.safetensors", cwd=inner).returncode == 1
    (repository / ".git").write_text("gitdir: elsewhere\n")
    assert find_settings(inner) is None


def test_a_baseline_in_the_settings_can_be_written_again(run, save, folder):
    """The file that holds every day is the one that is recorded anew."""
    save(a=[2.0])
    (folder / "ckptclamp.toml").write_text('spec = "spec.yaml"\nbaseline = "known.json"\n')
    assert run(*GATE).returncode == 2
    assert run(*GATE, "--write-baseline", "known.json").returncode == 0
    assert run(*GATE).returncode == 0
    assert run("baseline", "prune", "model.safetensors").stdout == "0 removed, 0 lowered, 1 known\n"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("toleranse = 0.1\n", "did you mean tolerance?"),
        ('allow-import = ["evil"]\n', "command line"),
        ("exit-zero = true\n", "command line"),
        ("force = true\n", "command line"),
        ('strict = "yes"\n', "strict must be of type bool"),
        ("jobs = true\n", "jobs must be of type int"),
        ("strict = \n", "is no TOML"),
        ("tolerance = -1.0\n", "tolerance"),
    ],
)
def test_settings_that_do_not_belong_there_stop_the_program(run, save, folder, text, what):
    """A misspelt key must not leave a gate without its rule, nor a file loosen it in secret."""
    save(a=[0.5])
    (folder / "ckptclamp.toml").write_text(text)
    done = run(*GATE, "--spec", "spec.yaml")
    assert done.returncode == 2
    assert what in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broken_project_file_of_others_is_not_our_affair(folder):
    """Only what speaks of this program is read strictly."""
    (folder / "pyproject.toml").write_text("[broken")
    assert find_settings(folder) is None
    (folder / "pyproject.toml").write_text("[broken\n[tool.ckptclamp]")
    with pytest.raises(UsageError, match="no TOML"):
        find_settings(folder)


def test_a_checkpoint_cannot_bring_its_own_settings(run, folder, fixtures):
    """Who audits a downloaded directory from inside it is not judged by its author's rules."""
    stranger = folder / "stranger"
    shutil.copytree(fixtures / "violating" / "unzipped_directory", stranger)
    assert run("audit", ".", cwd=stranger).returncode == 1
    (stranger / "ckptclamp.toml").write_text("tolerance = 1e9\n")
    done = run("audit", ".", cwd=stranger)
    assert done.returncode == 2
    assert "inside the checkpoint" in done.stderr
    assert run("audit", ".", "--no-settings", cwd=stranger).returncode == 1
    assert run("audit", stranger, cwd=folder).returncode == 1


@pytest.fixture
def download(folder):
    """A sharded checkpoint that violates, with settings that would let it pass."""
    download = folder / "download"
    download.mkdir()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for i, name in enumerate(names):
        save_file({f"{i}.weight": np.full((2, 4), 9.0, np.float32)}, download / name)
    index = {"metadata": {}, "weight_map": {f"{i}.weight": name for i, name in enumerate(names)}}
    for name in ("model.safetensors.index.json", "index"):
        (download / name).write_text(json.dumps(index))
    (download / "ckptclamp.toml").write_text('quiet = true\nspec = "mild.yaml"\n')
    mild = (folder / "spec.yaml").read_text().replace("1.0", "100.0")
    (download / "mild.yaml").write_text(mild)
    return download


FILES = ["model.safetensors.index.json", "index", "model-00001-of-00002.safetensors"]


@pytest.mark.parametrize("name", FILES)
def test_naming_a_file_of_a_set_is_naming_the_set(run, folder, download, name):
    """An index, or a shard of it, stands in the directory of the checkpoint as `.` does."""
    done = run("audit", name, cwd=download)
    assert done.returncode == 2
    assert "inside the checkpoint" in done.stderr
    link = folder / "link.safetensors"
    link.symlink_to(download / name)
    assert run("audit", link, cwd=download).returncode == 2
    rules = ("--spec", folder / "spec.yaml")
    assert run("audit", name, "--no-settings", *rules, cwd=download).returncode == 1
    assert run("audit", download / name, *rules).returncode == 1


def test_the_weights_of_an_unzipped_model_are_a_file_of_it(run, folder, fixtures):
    """The config beside them makes them part of a directory that somebody else may have packed."""
    stranger = folder / "stranger"
    shutil.copytree(fixtures / "violating" / "unzipped_directory", stranger)
    (stranger / "ckptclamp.toml").write_text("tolerance = 0.5\n")
    assert run("audit", "model.weights.h5", cwd=stranger).returncode == 2
    (stranger / "config.json").unlink()
    assert "inside" not in run("audit", "model.weights.h5", cwd=stranger).stderr


def test_every_command_refuses_a_checkpoints_own_settings(run, folder, download):
    """A baseline that is tightened, and a comparison, are judged by settings too."""
    index = FILES[0]
    prune = ("baseline", "prune", "--spec", folder / "spec.yaml", "--baseline", folder / "k.json")
    audit = ("audit", download / index, "--spec", folder / "spec.yaml")
    report = ("-o", "json=report.json", "--write-baseline", "k.json")
    assert run(*audit, *report).returncode == 0
    for name in (".", index):
        assert run(*prune, name, cwd=download).returncode == 2
        assert run("diff", name, folder / "spec.yaml", cwd=download).returncode == 2
        assert run("diff", folder / "spec.yaml", name, cwd=download).returncode == 2
    shutil.copy(folder / "report.json", download / "report.json")
    saved = ("baseline", "prune", "report.json", *prune[4:])
    assert run(*saved, cwd=download).returncode == 0


def test_settings_beside_a_single_file_are_the_projects(run, save, folder):
    """The root of a project holds its settings and, often, its model."""
    save(a=[2.0])
    (folder / "pyproject.toml").write_text('[tool.ckptclamp]\nspec = "spec.yaml"\n')
    assert run(*GATE).returncode == 1
    assert run("audit", ".").returncode == 2


@pytest.mark.parametrize("name", COMMAND_LINE_ONLY)
def test_the_environment_cannot_loosen_a_gate(run, save, folder, name):
    """What was exported long ago is refused, not obeyed; the command line still decides."""
    save(a=[2.0])
    others = {"output": "apply", "schema": "init", "map": "verify-attestation"}
    command = others.get(name, "audit")
    if name in {"allow-remaining", "dry-run", "in-place", "force", "link", "resume"}:
        command = "apply"
    for variable in (f"CKPTCLAMP_{name}", f"CKPTCLAMP_{command}_{name}"):
        env = {variable.replace("-", "_").upper(): "1"}
        done = run(command, "model.safetensors", env=env)
        assert done.returncode == 2, done.stderr
        assert f"--{name} {COMMAND_LINE_ONLY[name]}" in done.stderr
        assert len(list(folder.iterdir())) == 2


def test_what_the_command_line_says_need_not_be_unset(run, save, folder):
    """A variable that nobody asks is nobody's affair."""
    save(a=[2.0])
    env = {"CKPTCLAMP_EXIT_ZERO": "1"}
    assert run(*GATE, "--spec", "spec.yaml", "--exit-zero", env=env).returncode == 0
    assert run("inspect", "model.safetensors", env=env).returncode == 0


@pytest.mark.parametrize("value", ["1", "1e300", "inf", "nan", "-0.1"])
def test_a_tolerance_is_less_than_the_bound_itself(run, save, folder, value):
    """Wherever it is said: a factor of two is no tolerance."""
    save(a=[2.0])
    gate = (*GATE, "--spec", "spec.yaml")
    assert run(*gate, "--tolerance", value).returncode == 2
    assert run(*gate, env={"CKPTCLAMP_TOLERANCE": value}).returncode == 2
    (folder / "ckptclamp.toml").write_text(f"tolerance = {value}\n")
    assert run(*gate).returncode == 2


def test_what_is_forgiven_may_be_a_setting(run, save, folder):
    """Where a tolerance may stand, the epsilon and the zeros may, too; a report tells of them."""
    save(a=[2.0])
    text = 'tolerance = "cast"\nepsilon = 1e-5\nzero-units = "allow"\n'
    (folder / "ckptclamp.toml").write_text(text)
    done = run(*GATE, "--spec", "spec.yaml", "-f", "json")
    parameters = json.loads(done.stdout)["report"]["parameters"]
    told = {key: parameters[key] for key in ("tolerance", "epsilon", "zero-units")}
    assert told == {"tolerance": "cast", "epsilon": "1e-05", "zero-units": "allow"}


def test_only_settings_in_effect_are_told(run, save, folder):
    """Not what the command line overrode, nor what the command does not have."""
    save(a=[2.0])
    text = 'spec = "spec.yaml"\ntolerance = 0.5\nmax-drift = "5%"\nno-cache-pollution = true\n'
    (folder / "ckptclamp.toml").write_text(text)
    place = f" set by {folder / 'ckptclamp.toml'}"
    assert f": no-cache-pollution, spec, tolerance{place}" in run(*GATE).stdout
    given = run(*GATE, "--spec", "spec.yaml", "--tolerance", "0").stdout
    assert f": no-cache-pollution{place}" in given
    inline = run(*GATE, "--tensors", "*.weight", "--max-norm", "2", "--axis", "1").stdout
    assert f": no-cache-pollution, tolerance{place}" in inline


def test_every_setting_reaches_its_option(folder):
    """Whatever the parameter of an option is called."""
    (folder / "ckptclamp.toml").write_text("no-cache-pollution = true\njobs = 3\n")
    command = cli.get_command(click.Context(cli), "audit")
    assert command is not None
    context = command.make_context("audit", ["model.safetensors"])
    assert context.params["leave_cache"] is True
    assert context.params["jobs"] == 3


def test_an_inline_rule_of_the_environment_displaces_no_spec(run, save, folder):
    """A variable that was left over must not be what a checkpoint is judged by."""
    save(a=[2.0])
    (folder / "ckptclamp.toml").write_text('spec = "spec.yaml"\n')
    assert run("audit", "model.safetensors").returncode == 1
    variables = {"CKPTCLAMP_FINITE": "1", "CKPTCLAMP_TENSORS": "**"}
    done = run("audit", "model.safetensors", env=variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--spec and an inline rule exclude each other" in done.stderr
    assert run("audit", "model.safetensors", "--finite", "--tensors", "**").returncode == 0


def test_the_plural_of_a_table_is_taken_for_it(run, save, folder):
    """Its tables would be refused otherwise with a list of all that is known."""
    save(a=[0.5])
    (folder / "pyproject.toml").write_text('[[tool.ckptclamp.checkpoints]]\npath = "x"\n')
    assert "did you mean checkpoint?" in run("audit", "model.safetensors").stderr
