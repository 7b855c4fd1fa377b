"""The examples of the documents do what they say."""

from __future__ import annotations

import re

import pytest

from tests.docs import examples
from tests.docs.examples import DOCS, PAGES, Step, Written

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="the documents are not beside the tests")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_example_prints_what_the_page_shows(page, tmp_path):
    """Whoever follows a page sees what it promises, and each exit code is the one it tells."""
    examples.prepare(tmp_path)
    for step in examples.steps(page):
        if isinstance(step, Written):
            (tmp_path / step.name).write_text(step.text, "utf-8")
            continue
        done = examples.run(step, tmp_path)
        assert done.stderr in ("", None), step.script
        if step.printed or not step.merged:
            assert examples.same(done.stdout, step.printed), f"{step.script}\n{done.stdout}"
        assert done.returncode == step.code, f"{step.script}\n{done.stdout}"


def test_there_are_examples():
    """The search must not find nothing."""
    told = {page.stem for page in PAGES}
    assert {"README", "tutorial", "ci", "units", "keras", "hugging-face", "slurm"} <= told
    assert all(any(isinstance(step, Step) for step in examples.steps(page)) for page in PAGES)


def test_the_walk_through_covers_the_life_of_a_release():
    """The page passes, fails, tolerates, fails again, mends, attests and verifies, in this order."""
    scripts = [step.script for step in examples.steps(DOCS / "ci.md") if isinstance(step, Step)]
    commands = [re.search(r"^ckptclamp ([\w-]+)", script, re.MULTILINE) for script in scripts]
    assert [match[1] for match in commands if match] == [
        "init",
        "audit",
        "audit",
        "audit",
        "audit",
        "apply",
        "diff",
        "audit",
        "verify-attestation",
        "verify-attestation",
        "audit",
        "report",
    ]


@pytest.mark.parametrize(
    ("printed", "promised", "is_same"),
    [
        ("a\nb\n", "a\nb\n", True),
        ("a\nb\n", "a\n", False),
        ("a\nb\nc\n", "a\n…\nc\n", True),
        ("a\nc\n", "a\n…\nc\n", True),
        ("a\nb\n", "a\n…\nc\n", False),
        (f"sha256: {'0' * 64}\n", f"sha256: {'f' * 64}\n", True),
    ],
)
def test_the_comparison_compares(printed, promised, is_same):
    """A page whose promise is not kept must be found."""
    assert examples.same(printed, promised) is is_same
