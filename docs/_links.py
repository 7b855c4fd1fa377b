"""Check the built site: every link leads somewhere, and nothing is fetched from elsewhere.

python docs/_links.py DIRECTORY [PAGE.md …]: pages beside the site may link to it, too.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

from ckptclamp.errors import ExitCode
from ckptclamp.reports.catalogue import SITE, Section, exit_code_url, explained, help_url

_BASE = f"{SITE}/"
_FETCHED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src")}


class _Page(HTMLParser):
    """The places of one page, where it leads, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.places: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an element is called and what it refers to."""
        values = {name: value for name, value in attrs if value is not None}
        self.places |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        is_loaded = values.get("rel") not in ("canonical", "search", "index", "next", "prev")
        self.loads += [v for n, v in values.items() if (tag, n) in _FETCHED and is_loaded]


def problems(site: Path, others: list[Path]) -> Iterator[str]:
    """What is wrong, in words."""
    pages = {path.relative_to(site).as_posix(): _Page(path) for path in site.rglob("*.html")}
    for name, page in pages.items():
        for link in page.links:
            yield from _dead(site, pages, name, urljoin(_BASE + name, link))
        yield from (f"{name}: loads {url}" for url in page.loads if re.match(r"(https?:)?//", url))
    for path in others:
        for link in re.findall(rf"{re.escape(_BASE)}[^\s)>\"]*", path.read_text("utf-8")):
            yield from _dead(site, pages, path.name, link)
    for link in _of_reports():
        yield from _dead(site, pages, "reports", link)


def _of_reports() -> Iterator[str]:
    """Where reports lead to."""
    for section in (Section.NOTICES, Section.FINDINGS):
        yield from map(help_url, explained(section))
    yield from map(exit_code_url, ExitCode)


def _dead(site: Path, pages: dict[str, _Page], source: str, link: str) -> Iterator[str]:
    if not link.startswith(_BASE):
        return
    address, place = urldefrag(link)
    name = unquote(address.removeprefix(_BASE)) or "index.html"
    if name in pages and (not place or unquote(place) in pages[name].places):
        return
    if name not in pages and (site / name).is_file():
        return
    yield f"{source}: {link} leads nowhere"


if __name__ == "__main__":
    found = sorted({*problems(Path(sys.argv[1]), list(map(Path, sys.argv[2:])))})
    print("\n".join(found) or "every link leads somewhere")
    sys.exit(bool(found))
