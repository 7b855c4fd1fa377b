"""The reference pages of the site, made from the program, so that they say what it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from _reference import api, codes, commands, patterns, spec

PAGES: Mapping[str, Callable[[], str]] = {
    "commands": commands.page,
    "spec": spec.page,
    "constraints": spec.constraints_page,
    "patterns": patterns.page,
    "findings": codes.findings_page,
    "exit-codes": codes.exit_codes_page,
    "settings": commands.settings_page,
    "python": api.page,
}
"""What stands in ``docs/reference``, by name."""


def write(directory: Path) -> None:
    """Write every page that has changed into `directory`, and remove what is no page any more."""
    directory.mkdir(exist_ok=True)
    for old in set(directory.glob("*.md")) - {directory / f"{name}.md" for name in PAGES}:
        old.unlink()
    for name, make in PAGES.items():
        path = directory / f"{name}.md"
        text = make()
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
