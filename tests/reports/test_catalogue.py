"""Every code that a report can carry is explained, and nothing is explained that is gone."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import ckptclamp
from ckptclamp.errors import CkptclampError, ExitCode
from ckptclamp.plan import health
from ckptclamp.reports.catalogue import (
    SITE,
    Section,
    anchor,
    exit_code_url,
    explained,
    explanation,
    help_url,
)

PACKAGE = Path(ckptclamp.__file__).parent
SOURCES = {path: path.read_text("utf-8") for path in PACKAGE.rglob("*.py")}
_CODE = re.compile(r"[a-z]+(?:-[a-z]+)*")
_MAKERS = {"Notice", "_note", "_leftover"}
"""What takes the code of a notice as its first argument."""


def _codes(tree, makers=_MAKERS):
    """The codes in a module: first arguments of what makes notices, and what `code` is."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[first, *_]):
                chosen = [first.body, first.orelse] if isinstance(first, ast.IfExp) else [first]
                values = chosen if name in makers else []
            case ast.Assign(targets=[ast.Name(id="code")], value=value):
                values = [value]
            case ast.Assign(
                targets=[ast.Tuple(elts=[ast.Name(id="code"), *_])],
                value=ast.Tuple(elts=[first, *_]),
            ):
                values = [first]
            case _:
                values = []
        for value in values:
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value.value


def _made():
    trees = [ast.parse(text) for text in SOURCES.values()]
    return {code for tree in trees for code in _codes(tree) if _CODE.fullmatch(code)}


def test_every_notice_is_explained():
    """A reader who meets a code finds what it means; add a new one to ``catalogue.toml``."""
    made = _made()
    assert len(made) > 30
    assert made - explained(Section.NOTICES).keys() == set()


def test_no_notice_is_explained_that_is_never_given():
    """The reference speaks of this version."""
    assert explained(Section.NOTICES).keys() - _made() == set()


def test_what_reports_call_findings_of_their_own_is_explained():
    """The rules of the preset, and the answer where nothing was judged."""
    own = {health.WEIGHTS, health.VARIED, health.SCALES, health.TIED, "nothing-evaluated"}
    assert own == explained(Section.FINDINGS).keys()
    assert 'code="nothing-evaluated"' in SOURCES[PACKAGE / "reports" / "findings.py"]


def _failures(kind=CkptclampError):
    """The codes of all classes of failures."""
    return {kind.code}.union(*map(_failures, kind.__subclasses__()))


def test_every_failure_is_explained():
    """What stands in place of a report; `findings` explains that nothing was evaluated."""
    known = explained(Section.FAILURES).keys() | {"nothing-evaluated"}
    assert known == _failures() | {"system", "out-of-memory", "internal-error"}


def test_every_exit_code_is_explained():
    """The numbers of the program, and no others."""
    assert {int(code) for code in explained(Section.EXIT_CODES)} == set(map(int, ExitCode))


def test_every_reason_is_explained_and_none_that_is_never_given():
    """Whoever reads the code of a reason finds what to do; its words may change at any time."""
    trees = [ast.parse(text) for text in SOURCES.values()]
    made = {code for tree in trees for code in _codes(tree, {"Reason"})} - _made_by_name()
    assert made == explained(Section.REASONS).keys()


def _made_by_name():
    """What `_codes` finds besides: whatever is called ``code`` is that of a notice."""
    return {code for text in SOURCES.values() for code in _codes(ast.parse(text), set())}


def test_no_two_codes_of_the_reference_are_one():
    """They share a page, and in SARIF the list of notifications."""
    sections = (Section.FAILURES, Section.FINDINGS, Section.NOTICES, Section.REASONS)
    codes = [code for section in sections for code in explained(section)]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("reason", explained(Section.REASONS).values(), ids=lambda r: r.code)
def test_the_words_of_a_reason_are_the_programs(reason):
    """Whoever searches the page for what the report says finds it."""
    said = " ".join(re.sub(r'"\s*\n\s*f?"', "", text) for text in SOURCES.values())
    assert [words for words in reason.says if words not in said] == []
    assert reason.says


@pytest.mark.parametrize("section", Section)
def test_texts_are_whole_sentences(section):
    """One line as a title, and something to do."""
    for entry in explained(section).values():
        assert "\n" not in entry.title
        assert entry.cause.endswith((".", "…"))
        assert entry.cure.endswith((".", "…"))


def test_addresses():
    """One scheme, whatever is linked to."""
    assert help_url("degenerate-axis") == f"{SITE}/reference/findings.html#degenerate-axis"
    assert help_url("health/tied") == f"{SITE}/reference/findings.html#health-tied"
    of_a_rule = help_url("my-rule", "MaxNorm(max_value=2)")
    assert of_a_rule == f"{SITE}/reference/constraints.html#maxnorm"
    assert help_url("my-rule", "our_pkg:Ring(radius=1)") == f"{SITE}/reference/findings.html"
    assert exit_code_url(3) == f"{SITE}/reference/exit-codes.html#exit-3"
    assert explanation("my-rule") is None


def test_links_lead_to_the_site_from_reports_too():
    """A report is read far away from the pages."""
    entry = explained(Section.NOTICES)["computed"]
    assert f"[effective weights]({SITE}/effective-weights.html)" in entry.markdown
    assert "See effective weights." in entry.text
    for section in Section:
        for entry in explained(section).values():
            assert not re.search(r"\]\((?!https:)", entry.markdown)
            assert "](" not in entry.text


def test_anchors_do_not_meet():
    """On one page each code has a place of its own."""
    codes = [code for section in Section for code in explained(section)]
    assert len({anchor(code) for code in codes}) == len(codes)
