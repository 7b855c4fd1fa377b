"""The check of the built site finds what is wrong with one."""

from __future__ import annotations

import _links
import pytest

from ckptclamp.reports.catalogue import SITE

PAGE = '<html><body><h1 id="top">x</h1>{}</body></html>'


@pytest.fixture
def problems(tmp_path, monkeypatch):
    """What is wrong with a site of two pages, of which the first has something in it."""
    monkeypatch.setattr(_links, "_of_reports", lambda: ())
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "other.html").write_text(
        PAGE.format('<a href="../index.html#top">x</a>')
    )
    (tmp_path / "picture.svg").write_text("<svg/>")

    def call(content: str, *others):
        (tmp_path / "index.html").write_text(PAGE.format(content))
        return list(_links.problems(tmp_path, list(others)))

    return call


@pytest.mark.parametrize(
    "content",
    [
        '<a href="folder/other.html">x</a>',
        '<a href="folder/other.html#top">x</a>',
        '<a href="#top">x</a>',
        '<img src="picture.svg"><a href="picture.svg">x</a>',
        '<a href="https://example.org/else">x</a>',
        f'<link rel="canonical" href="{SITE}/index.html">',
    ],
)
def test_what_leads_somewhere_is_no_problem(problems, content):
    """Pages, places on them, files, and other sites."""
    assert problems(content) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('<a href="folder/gone.html">x</a>', "folder/gone.html leads nowhere"),
        ('<a href="folder/other.html#gone">x</a>', "other.html#gone leads nowhere"),
        (
            '<script src="https://cdn.example.org/x.js"></script>',
            "loads https://cdn.example.org/x.js",
        ),
        ('<link rel="stylesheet" href="//cdn.example.org/x.css">', "loads //cdn.example.org/x.css"),
    ],
)
def test_what_leads_nowhere_or_elsewhere_is_found(problems, content, said):
    """A page that is gone, a place that is gone, and whatever a reader's browser would fetch."""
    (problem,) = problems(content)
    assert problem.startswith("index.html: ")
    assert problem.endswith(said)


def test_pages_beside_the_site_are_checked(problems, tmp_path):
    """The README leads to the site by its whole address."""
    readme = tmp_path / "README.md"
    readme.write_text(f"[x]({SITE}/folder/other.html#top) [y]({SITE}/gone.html)\n")
    assert problems("", readme) == [f"README.md: {SITE}/gone.html leads nowhere"]
