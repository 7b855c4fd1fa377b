"""What codes mean, and where that can be read: the one text behind reports and reference pages.

The texts stand in ``catalogue.toml``. Whoever links to the documentation asks here for the address,
so that the scheme of its pages is known in one place.
"""

from __future__ import annotations

import re
import tomllib
from enum import StrEnum
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

SOURCE: Final = "https://github.com/ckptclamp/ckptclamp"
"""Where the project is kept."""

SITE: Final = "https://ckptclamp.github.io/ckptclamp"
"""Where its documentation is served."""


class Section(StrEnum):
    """What kind of code it is; also the table of the file, and a part of its reference page."""

    EXIT_CODES = "exit-codes"
    FAILURES = "failures"
    FINDINGS = "findings"
    NOTICES = "notices"
    REASONS = "reasons"


@frozen
class Explained:
    """What one code means: a line, where it comes from and what to do, both as Markdown.

    Links lead from a page in ``reference``. `says`, of a reason, are words by which it is told.
    """

    code: str
    title: str
    cause: str
    cure: str
    says: tuple[str, ...] = ()

    @property
    def markdown(self) -> str:
        """Cause and cure, with links that lead to the site from anywhere."""
        return _LINK.sub(_absolute, f"{self.cause}\n\n{self.cure}")

    @property
    def text(self) -> str:
        """Cause and cure without marks, for readers that know no Markdown."""
        return _LINK.sub(r"\g<words>", f"{self.cause} {self.cure}").replace("`", "")


_LINK: Final = re.compile(
    r"\[(?P<words>[^\]]+)\]\((?P<page>\.\./[\w/-]+\.md)?(?P<place>#[\w-]+)?\)"
)


def _absolute(link: re.Match[str]) -> str:
    page = (link["page"] or "").removeprefix("../").removesuffix(".md") or "reference/findings"
    return f"[{link['words']}]({page_url(page, (link['place'] or '').removeprefix('#'))})"


@cache
def explained(section: Section) -> Mapping[str, Explained]:
    """Everything that `section` explains, by its code."""
    text = files("ckptclamp.reports").joinpath("catalogue.toml").read_text("utf-8")
    table = tomllib.loads(text)[section]
    return MappingProxyType(
        {
            code: Explained(
                code, entry["title"], entry["cause"], entry["cure"], tuple(entry.get("says", ()))
            )
            for code, entry in table.items()
        }
    )


def explanation(code: str) -> Explained | None:
    """What the code of a finding means: a notice's, a failure's, or one that is always known."""
    sections = (Section.NOTICES, Section.FINDINGS, Section.FAILURES)
    return next((e for e in (explained(section).get(code) for section in sections) if e), None)


def explained_reason(code: str | None) -> Explained | None:
    """What the code of a reason means; ``None`` for what no version of this program gives."""
    return explained(Section.REASONS).get(code or "")


def help_url(code: str, constraint: str = "") -> str:
    """The page about a finding: by its `code`, or by the name of its rule's `constraint`.

    A rule of the user's own is explained by its constraint; where that is not built in, by the page
    about all findings.
    """
    from ckptclamp.constraints.registry import BUILTIN

    name = constraint.partition("(")[0]
    if explanation(code) is None and name in BUILTIN:
        return page_url("reference/constraints", anchor(name))
    return page_url("reference/findings", anchor(code) if explanation(code) else "")


def exit_code_url(code: int) -> str:
    """The page about an exit code."""
    return page_url("reference/exit-codes", f"exit-{code}")


def page_url(page: str, fragment: str = "") -> str:
    """The address of a page of the documentation, such as ``reference/spec``."""
    return f"{SITE}/{page}.html{'#' + fragment if fragment else ''}"


def anchor(code: str) -> str:
    """The place of a code on its page."""
    return code.lower().replace("/", "-")
