"""The code blocks of the walk-through in docs/ci.md, and the output that it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "ci.md"

_BLOCK = re.compile(
    r"^```sh\n(?P<script>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Step:
    """One block: a script, and the output that stands below it."""

    script: str
    output: str


def steps() -> list[Step]:
    """The blocks of the page in order."""
    return [
        Step(match["script"], match["output"] or "") for match in _BLOCK.finditer(PAGE.read_text())
    ]


def run(step: Step, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run one block in `directory` as a user's shell would."""
    programs = Path(sys.executable).parent
    clean = {name: v for name, v in os.environ.items() if not name.startswith("CKPTCLAMP_")}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", step.script],
        cwd=directory,
        env={**clean, "PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refreshed(directory: Path) -> str:
    """The page with the output that its blocks print now."""
    page = PAGE.read_text()
    for match in _BLOCK.finditer(page):
        printed = run(Step(match["script"], ""), directory).stdout
        if match["output"] is not None:
            block = f"```sh\n{match['script']}```\n\n```text\n"
            page = page.replace(block + match["output"] + "```\n", block + printed + "```\n", 1)
    return page


if __name__ == "__main__":  # python -m tests.gate.walkthrough, then read the difference
    with tempfile.TemporaryDirectory() as folder:
        PAGE.write_text(refreshed(Path(folder)))
