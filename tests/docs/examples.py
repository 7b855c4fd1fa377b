"""The examples of the documents, run as a reader would: block after block, in one directory.

What a fenced block means is told by its language:

``console``
    Lines that begin with ``$`` are typed; the rest is what is printed. A line ``…`` stands for any
    lines, and a promised ``exit 3`` at the end of a line is the exit code.
``sh``
    A script. A block ``text`` that follows is what it prints to stdout.
any other
    A file, if it begins with a comment that is nothing but a name (a ``#!`` may stand before it); else
    it is only shown.

``python -m tests.docs.examples`` writes into the pages what their examples print now.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_TYPED = re.compile(r"^```(?:console|sh)$", re.MULTILINE)
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("how-to/*.md")))
    if page.exists() and _TYPED.search(page.read_text("utf-8"))
]
"""The pages with examples that run."""

ANYTHING = "…"

_BLOCK = re.compile(
    r"^```(?P<language>\w+)\n(?P<text>.*?)^```\n"
    r"(?:\n```text\n(?P<printed>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)
_FILE = re.compile(r"(?:#!.*\n)?# (?P<name>[\w.-]+\.\w+)\n")
_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")


@dataclass(frozen=True)
class Step:
    """Something to type, and what it prints; `merged` where stderr is shown with stdout."""

    script: str
    printed: str
    merged: bool = False

    @property
    def code(self) -> int:
        """The exit code that the printed text tells."""
        told = re.findall(r"exit (\d)$", self.printed, re.MULTILINE)
        return int(told[-1]) if told else 0


@dataclass(frozen=True)
class Written:
    """A file that a page shows."""

    name: str
    text: str


def steps(page: Path) -> Iterator[Step | Written]:
    """What a reader of `page` does, in order."""
    for block in _BLOCK.finditer(page.read_text("utf-8")):
        yield from _steps(block)


def _steps(block: re.Match[str]) -> Iterator[Step | Written]:
    if block["language"] == "sh":
        yield Step(block["text"], block["printed"] or "")
    elif block["language"] == "console":
        for typed in re.split(r"^\$ ", block["text"], flags=re.MULTILINE)[1:]:
            lines = typed.splitlines(keepends=True)
            ends = next(i for i, line in enumerate(lines) if not line.endswith("\\\n")) + 1
            yield Step("".join(lines[:ends]), "".join(lines[ends:]), merged=True)
    elif name := _FILE.match(block["text"]):
        yield Written(name["name"], block["text"])


def prepare(directory: Path) -> None:
    """Lay out what a reader has who stands in a fresh clone."""
    shutil.copytree(ROOT / "fixtures", directory / "fixtures")


def run(step: Step, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run one step in `directory` as a user's shell would."""
    programs = Path(sys.executable).parent
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("CKPTCLAMP_", "SLURM_"))}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", step.script],
        cwd=directory,
        env={**clean, "PATH": f"{programs}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if step.merged else subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )


def same(printed: str, promised: str) -> bool:
    """Whether a step printed what its page shows.

    Digests may differ: they depend on the version of the library that wrote a file.
    """
    pattern = ""
    for line in _DIGEST.sub("DIGEST", promised).splitlines():
        pattern += r"(?:.*\n)*?" if line.strip() == ANYTHING else re.escape(line) + "\n"
    return re.fullmatch(pattern, _DIGEST.sub("DIGEST", printed)) is not None


def refreshed(page: Path, directory: Path) -> str:
    """The text of `page` with what its examples print now; what has a ``…`` stays."""
    text = page.read_text("utf-8")
    for step in steps(page):
        if isinstance(step, Written):
            (directory / step.name).write_text(step.text, "utf-8")
            continue
        printed = run(step, directory).stdout
        if step.printed and ANYTHING not in step.printed.split():
            shown = f"$ {step.script}" if step.merged else f"{step.script}```\n\n```text\n"
            text = text.replace(shown + step.printed, shown + printed, 1)
    return text


if __name__ == "__main__":  # then read the difference
    for page in PAGES:
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder))
            page.write_text(refreshed(page, Path(folder)), "utf-8")
