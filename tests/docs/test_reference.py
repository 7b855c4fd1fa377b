"""The pages that are made from the program have all of it, each at a place to link to."""

from __future__ import annotations

import re

import _reference
import click
import pytest
from _reference import commands

import ckptclamp
from ckptclamp.constraints.registry import BUILTIN
from ckptclamp.errors import ExitCode
from ckptclamp.reports.catalogue import Section, anchor, explained
from ckptclamp.spec.schema import json_schema
from ckptclamp.spec.settings import ALLOWED, COMMAND_LINE_ONLY

PAGES = {name: make() for name, make in _reference.PAGES.items()}


def places(page):
    """Where links to a page can lead."""
    text = PAGES[page]
    named = re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE)
    return {*named, *re.findall(r"\]\{#([\w-]+)\}", text)}


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_one_document(page):
    """One title, and no place twice."""
    text = PAGES[page]
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1
    marks = re.findall(r"^\(([\w-]+)\)=$|\]\{#([\w-]+)\}", text, re.MULTILINE)
    assert len(marks) == len(set(marks))


def test_every_option_of_every_command_is_there():
    """Whoever looks for an option finds it."""
    there = places("commands")
    contexts = list(commands.walk())
    assert len(contexts) > 10
    for context in contexts:
        for parameter in context.command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                name = max(parameter.opts, key=len).lstrip("-")
                assert f"{commands.slug(context)}-{name}" in there


def test_every_key_of_a_spec_is_there_with_its_text():
    """The page says what an editor shows."""
    there, text = places("spec"), PAGES["spec"]
    schema = json_schema()
    for form in (schema, *schema["$defs"].values()):
        for key, value in form.get("properties", {}).items():
            assert any(place.endswith(f"-{key}".replace("_", "-")) for place in there)
            words = value.get("description", "").replace("``", "`").replace("|", r"\|")
            assert words in text


def test_every_code_has_its_place():
    """Reports link to these."""
    codes = [*explained(Section.NOTICES), *explained(Section.FINDINGS), *explained(Section.REASONS)]
    assert {anchor(code) for code in codes} <= places("findings")
    assert {f"exit-{int(code)}" for code in ExitCode} <= places("exit-codes")


def test_every_constraint_and_setting_is_there():
    """By name, with what the tables of the program say."""
    assert {name.lower() for name in BUILTIN} <= places("constraints")
    for key in (*ALLOWED, *COMMAND_LINE_ONLY):
        assert f"`{key}`" in PAGES["settings"] or f"`--{key}`" in PAGES["settings"]


def test_every_public_name_is_there():
    """What ``import ckptclamp`` offers."""
    names = [name for name in ckptclamp.__all__ if not name.startswith("__")]
    assert {f"api-{name.lower()}" for name in names} <= places("python")


def test_examples_of_patterns_are_told_apart():
    """The table shows what is true, and something of it."""
    rows = re.findall(r"^\| `.*` \| (.*) \|$", PAGES["patterns"], re.MULTILINE)
    assert len(set(rows)) > 4


def test_pages_are_written_once(tmp_path):
    """What has not changed is not written again, and what is no page any more is removed."""
    (tmp_path / "gone.md").write_text("x")
    _reference.write(tmp_path)
    first = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    _reference.write(tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == first
    assert first.keys() == {f"{name}.md" for name in PAGES}
