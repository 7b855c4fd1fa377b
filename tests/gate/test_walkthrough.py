"""The walk-through in docs/ci.md does what it says."""

from __future__ import annotations

import re

from tests.gate import walkthrough


def _without_digests(text):
    """sha256 digests depend on the version of the library that wrote the model."""
    return re.sub(r"\b[0-9a-f]{64}\b", "DIGEST", text)


def test_every_block_prints_what_the_page_shows(tmp_path):
    """Whoever follows the page sees what it promises, and each exit code is the one it tells."""
    steps = walkthrough.steps()
    assert len(steps) == 11
    for step in steps:
        done = walkthrough.run(step, tmp_path)
        told = re.findall(r"exit (\d)$", step.output, re.MULTILINE)
        assert done.stderr == "", step.script
        assert _without_digests(done.stdout) == _without_digests(step.output), step.script
        assert done.returncode == (int(told[-1]) if told else 0), step.script


def test_the_walk_through_covers_the_life_of_a_release():
    """The page passes, fails, tolerates, fails again, mends, attests and verifies, in this order."""
    commands = [
        re.search(r"^ckptclamp ([\w-]+)", step.script, re.MULTILINE) for step in walkthrough.steps()
    ]
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
    ]
