"""The README and the documents keep their word: what they show can be typed, and answers as shown."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import _reference
import click
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from safetensors.numpy import save_file

from ckptclamp.cli import cli
from ckptclamp.constraints.registry import BUILTIN, arguments_of
from ckptclamp.errors import ExitCode
from ckptclamp.reports import REPORTERS, parse_outputs
from ckptclamp.reports.catalogue import SITE
from ckptclamp.spec.loader import load_spec, spec_from_mapping
from ckptclamp.spec.model import Leeway, ZeroUnits
from ckptclamp.spec.settings import ALLOWED

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
CI = ROOT / "docs" / "ci.md"
MADE = ROOT / "docs" / "reference"
"""Pages that are made from the program, and need no check against it."""

PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    *(p for p in sorted((ROOT / "docs").rglob("*.md")) if MADE not in p.parents),
]

pytestmark = pytest.mark.skipif(
    not README.exists(), reason="the documents are not beside the tests"
)

_BLOCK = re.compile(r"(?:^ {4}.*\n|^\n)+|^```\w*\n(?:.*\n)*?^```$", re.MULTILINE)
_INLINE = re.compile(r"`(?P<code>[^`\n]+)`")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")

OTHER_PROGRAMS = {"--rm", "--network", "--read-only", "--statement", "--predicate", "--key"}
"""Options of docker and cosign, which the documents speak of too."""


def section(page: Path, title: str) -> str:
    """What stands under one heading."""
    text = page.read_text()
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def blocks(text: str) -> Iterator[str]:
    """The code of a page: indented by four, or fenced."""
    for match in _BLOCK.finditer(text):
        if match[0].strip():
            yield dedent(match[0].replace("```", "").strip("\n"))


def command_lines(page: Path) -> Iterator[str]:
    """Every command line of ckptclamp that a page shows, in blocks and in sentences."""
    text = page.read_text()
    for block in blocks(text):
        for line in block.replace("\\\n", " ").splitlines():
            if line.removeprefix("$ ").startswith("ckptclamp "):
                yield line.removeprefix("$ ")
    for match in _INLINE.finditer(text):
        if match["code"].startswith("ckptclamp "):
            yield match["code"]


COMMANDS = sorted({line for page in PAGES if page.exists() for line in command_lines(page)})


def resolved(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that `words` name, and the words after its name."""
    command: click.Command = cli
    while isinstance(command, click.Group) and not words[0].startswith("-"):
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, f"there is no command {words[0]!r}"
        command, words = found, words[1:]
    return command, words


def all_commands(group: click.Group = cli) -> Iterator[click.Command]:
    """Every command that can be called."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from all_commands(command)
        else:
            yield command


def all_options() -> set[str]:
    """The long options of all commands."""
    names = {
        name for c in all_commands() for p in c.params for name in (*p.opts, *p.secondary_opts)
    }
    return {name for name in names if name.startswith("--")} | {"--version", "--help"}


def test_there_are_command_lines_to_check():
    """The search must not find nothing."""
    assert len(COMMANDS) > 15
    assert any("--write-baseline" in line for line in COMMANDS)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_line_parses(line):
    """What a reader copies is understood: the command and each of its options exist."""
    words = [word for word in shlex.split(re.split(r"[|>]", line)[0]) if word != "…"]
    command, arguments = resolved(words[1:])
    parser = command.make_parser(click.Context(command))
    values, rest, _ = parser.parse_args(arguments)
    assert len(rest) == len([r for r in rest if not r.startswith("-")])
    if values.get("format") and "written" in {parameter.name for parameter in command.params}:
        assert values["format"] in REPORTERS
    for report in values.get("written") or []:
        assert parse_outputs([report])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_that_is_spoken_of_exists(page):
    """A sentence about an option that is gone would send a reader astray."""
    spoken = {o for match in _INLINE.finditer(page.read_text()) for o in _OPTION.findall(match[0])}
    assert spoken - OTHER_PROGRAMS <= all_options()


def test_exit_codes_are_the_same_everywhere():
    """The README's table, the help and the code give each number the same meaning."""
    table = dict(re.findall(r"^\| (\d) \| (.+) \|$", section(README, "Exit codes"), re.MULTILINE))
    help_text = CliRunner().invoke(cli, ["--help"]).output
    told = dict(re.findall(r"^ +(\d)  (.+)$", help_text, re.MULTILINE))
    assert {int(code) for code in table} == set(map(int, ExitCode))
    assert {code: words.replace("`", "") for code, words in table.items()} == told


def test_formats_are_the_same_everywhere():
    """The README and the help list the formats that there are."""
    text = section(README, "In CI").replace("\n", " ")
    listed = text.partition("Formats: ")[2].partition(". ")[0]
    assert [name for name in _INLINE.findall(listed) if name in REPORTERS] == list(REPORTERS)
    audit, _ = resolved(["audit"])
    (option,) = [p for p in audit.params if isinstance(p, click.Option) and p.name == "format"]
    assert option.help is not None
    assert option.help.removesuffix(".").partition(": ")[2].split(", ") == list(REPORTERS)


def test_constraints_are_the_same_everywhere():
    """The README's table has the built-in constraints, all of them, and arguments that they take."""
    table = re.findall(r"^\| (`.+?`) \|", section(README, "Constraints"), re.MULTILINE)
    rows = re.findall(r"`(\w+)(?:\((.*?)\))?`", "".join(table))
    assert {name for name, _ in rows} == set(BUILTIN)
    for name, arguments in rows:
        assert set(filter(None, arguments.split(", "))) <= set(arguments_of(name))


def test_the_spec_of_the_readme_loads(tmp_path):
    """A reader begins with this file; every key of it means what is said beside it."""
    (text,) = [block for block in blocks(README.read_text()) if "# constraints.yaml" in block]
    path = tmp_path / "constraints.yaml"
    path.write_text(text.removeprefix("yaml\n"))
    spec = load_spec(path)
    assert [rule.id for rule in spec.rules] == ["attention", "feed-forward", "word-vectors"]
    assert spec.rules[1].leeway == Leeway(2e-3)
    assert spec.rules[2].leeway == Leeway(zero_units=ZeroUnits.ALLOW)


def test_the_session_of_the_readme_is_real(tmp_path, monkeypatch):
    """The first thing that a reader sees is what the program prints."""
    shutil.copy(ROOT / "fixtures" / "eegnet_drifted.keras", tmp_path)
    monkeypatch.chdir(tmp_path)
    session = next(block for block in blocks(README.read_text()) if block.startswith("$ "))
    for step in session.split("$ ")[1:]:
        line, *promised = step.strip("\n").splitlines()
        printed = CliRunner().invoke(cli, shlex.split(line)[1:]).stdout.splitlines()
        rest = iter(printed)
        for promise in promised:
            assert promise == "…" or promise in rest, f"{promise!r} is not printed by {line}"


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    """The names exist, the fields exist, and the example ends."""
    monkeypatch.chdir(tmp_path)
    save_file({"a/kernel": np.ones((3, 4), np.float32)}, "model.safetensors")
    shutil.copy(ROOT / "fixtures" / "eegnet_drifted.keras", "model.keras")
    Path("constraints.yaml").write_text(
        "version: 1\nrules:\n  - {tensors: a/kernel, constraint: MaxNorm, max_value: 1}\n"
    )
    (code,) = [b for b in blocks(section(README, "From Python")) if b.startswith("import")]
    exec(compile(code, str(README), "exec"), {})
    assert "a/kernel violation 4 of 4" in capsys.readouterr().out
    assert Path("fixed.safetensors").exists()


def test_the_settings_of_the_documents_exist():
    """A key that the documents show is one that a settings file may have."""
    (block,) = [b for b in blocks(CI.read_text()) if b.startswith("[tool.ckptclamp]")]
    keys = re.findall(r"^(\w+) =", block, re.MULTILINE)
    assert set(keys) <= set(ALLOWED)
    assert keys


def test_the_action_of_the_documents_has_these_inputs():
    """What the example sets is what the action takes; an unknown input is only a warning there."""
    (block,) = [b for b in blocks(CI.read_text()) if b.startswith("permissions:")]
    steps = yaml.safe_load(block)["steps"]
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    (gate,) = [step for step in steps if step["uses"].startswith("ckptclamp/ckptclamp@")]
    assert gate["with"].keys() <= action["inputs"].keys()


def test_the_ignore_rule_of_the_documents_loads():
    """The shape of an ignore rule is the one that is shown."""
    (block,) = [b for b in blocks(CI.read_text()) if b.startswith("ignore:")]
    rule = {"id": "bounded-kernels", "tensors": "**", "constraint": "NonNeg"}
    spec = spec_from_mapping({"version": 1, "rules": [rule], **yaml.safe_load(block)})
    assert spec.ignore[0].tensors == ("teacher/**",)
    assert spec.ignore[0].expires is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_there(page):
    """A page that is linked to exists, or is made from the program."""
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    made = {MADE / f"{name}.md" for name in _reference.PAGES}
    targets = {(page.parent / link).resolve() for link in links}
    assert {path for path in targets if not path.exists()} <= made


@pytest.mark.parametrize("page", [README, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_of_the_readme_lead_there_from_anywhere(page):
    """A package index shows the README, without the files beside it."""
    assert re.findall(r"\]\((?!https://|#)[^)]*", page.read_text()) == []
    of_the_site = re.findall(rf"{re.escape(SITE)}/([^)#]+)\.html", page.read_text())
    there = {path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in PAGES[2:]}
    assert {*of_the_site} <= there | {f"reference/{name}" for name in _reference.PAGES}


def test_the_first_word_of_units_defines_them():
    """A reader who does not know what a unit is would understand nothing of the rest."""
    text = README.read_text()
    said = text.index("What one norm belongs to is called a *unit*")
    assert re.search(r"\bunits?\b", text[:said]) is None
