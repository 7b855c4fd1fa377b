"""What is published beside the wheel says the same as the project does."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import click
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import ckptclamp
from ckptclamp.cli import cli
from ckptclamp.reports.catalogue import SITE, SOURCE

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
REQUIRED = [Requirement(text) for text in PROJECT["project"]["dependencies"]]
WORKFLOWS = [ROOT / "action.yml", *sorted((ROOT / ".github" / "workflows").glob("*.yml"))]


def pins(name):
    """The versions in a lock file, by name; more than one where they depend on the Python."""
    text = (ROOT / "ci" / name).read_text("utf-8")
    found = re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE)
    assert all(
        block.count("--hash=sha256:") for block in re.split(r"^(?=\w)", text, flags=re.M)[1:]
    )
    return {canonicalize_name(n): [Version(v) for m, v in found if m == n] for n, _ in found}


def test_addresses_are_the_same_everywhere():
    """One repository, one site."""
    urls = PROJECT["project"]["urls"]
    assert urls["Source"] == SOURCE
    assert urls["Documentation"] == f"{SITE}/"
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    recipe = (ROOT / "ci" / "conda-forge" / "recipe.yaml").read_text("utf-8")
    for text in (citation["repository-code"], recipe, (ROOT / "Dockerfile").read_text("utf-8")):
        assert SOURCE in text


def test_versions_are_the_same_everywhere():
    """A release that forgot one of them would be cited, or packaged, as another."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    recipe = yaml.safe_load((ROOT / "ci" / "conda-forge" / "recipe.yaml").read_text("utf-8"))
    assert citation["version"] == recipe["context"]["version"] == ckptclamp.__version__


def test_the_recipe_asks_for_what_the_project_does():
    """conda-forge resolves by these."""
    recipe = yaml.safe_load((ROOT / "ci" / "conda-forge" / "recipe.yaml").read_text("utf-8"))
    run = {Requirement(text.replace(" ", "")) for text in recipe["requirements"]["run"][1:]}
    # There, zlib-ng is the library in C.
    named = {canonicalize_name(r.name.removeprefix("python-")): r.specifier for r in run}
    assert named == {canonicalize_name(r.name): r.specifier for r in REQUIRED}


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        ("requirements.txt", REQUIRED),
        ("build-requirements.txt", [Requirement(r) for r in PROJECT["build-system"]["requires"]]),
    ],
)
def test_locks_hold_what_the_project_asks_for(lock, wanted):
    """What the action and the image install is what the project says it needs; `make lock`."""
    locked = pins(lock)
    for requirement in wanted:
        versions = locked[canonicalize_name(requirement.name)]
        assert all(version in requirement.specifier for version in versions), requirement


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_of_others_are_pinned(path):
    """A tag can be moved to other code; a digest cannot."""
    used = re.findall(r"uses: (\S+)(.*)", path.read_text("utf-8"))
    assert path.name != "ci.yml" or used
    for action, comment in used:
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v[\d.]+", comment), action


def test_images_are_pinned_by_digest_and_say_where_they_are_from():
    """The base is one image; who runs it finds its source."""
    lines = (ROOT / "Dockerfile").read_text("utf-8").splitlines()
    bases = {line.split()[1] for line in lines if line.startswith("FROM ")}
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.\d+-slim@sha256:[0-9a-f]{64}", bases.pop())
    text = "\n".join(lines)
    for label in ("title", "source", "licenses", "documentation", "base.digest"):
        assert f"org.opencontainers.image.{label}=" in text


@pytest.mark.parametrize("schema", ["vendor.github-workflows", "vendor.dependabot"])
def test_definitions_fit_the_schemas_of_their_services(schema):
    """A workflow that its service rejects is found here."""
    folder = ROOT / ".github"
    files = (
        [*(folder / "workflows").glob("*.yml")]
        if "workflows" in schema
        else [folder / "dependabot.yml"]
    )
    program = Path(sys.executable).with_name("check-jsonschema")
    command = [program, "--builtin-schema", schema, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_classifiers_and_matrix_name_the_same_pythons():
    """What is promised is what is tried."""
    said = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))
    assert set(said) <= set(workflow["jobs"]["test"]["strategy"]["matrix"]["python"])


MAN = Path(sysconfig.get_path("data")) / "share" / "man" / "man1" / "ckptclamp.1"


@pytest.mark.skipif(not MAN.exists(), reason="no installed wheel")
def test_the_manual_page_has_every_command_and_option():
    """`man ckptclamp` says what `--help` says."""
    text = MAN.read_text("utf-8").replace(r"\-", "-")
    context = click.Context(cli, info_name="ckptclamp")
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        assert f"CKPTCLAMP {name.upper()}" in text
        if not isinstance(command, click.Group):
            for parameter in command.params:
                if isinstance(parameter, click.Option) and not parameter.hidden:
                    assert max(parameter.opts, key=len) in text
    assert "EXIT STATUS" in text


def test_no_recipe_puts_compiled_kernels_into_a_package_for_all_systems():
    """`noarch` is built on one system: its library would be found, and not be loaded, on the others."""
    recipe = yaml.safe_load((ROOT / "ci" / "conda-forge" / "recipe.yaml").read_text("utf-8"))
    assert "noarch" not in recipe["build"]
    assert recipe["build"]["script"]["env"] == {"CKPTCLAMP_REQUIRE_KERNELS": "1"}
    assert '${{ compiler("c") }}' in recipe["requirements"]["build"]
