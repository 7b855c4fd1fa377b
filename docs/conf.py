"""How the site is built: `make docs`. Nothing is fetched, here or by its readers."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for what lies beside this file

import _reference  # noqa: E402 - it lies beside this file

import ckptclamp  # noqa: E402
from ckptclamp.reports.catalogue import SITE, SOURCE  # noqa: E402

project = "ckptclamp"
author = "The ckptclamp authors"
version = release = ckptclamp.__version__
html_title = f"ckptclamp {release}"
html_baseurl = f"{SITE}/"
html_theme = "furo"
html_theme_options = {"top_of_page_buttons": []}  # most pages are made, and have no source to edit
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False

extensions = ["myst_parser"]
myst_enable_extensions = ["attrs_inline", "deflist"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown"}
exclude_patterns = ["_reference", "examples", "README.md"]
nitpicky = True
smartquotes = False  # two dashes are an option
pygments_style = "friendly"
pygments_dark_style = "native"
suppress_warnings = ["myst.header"]  # documents begin where an included one did

linkcheck_ignore = [re.escape(SITE), re.escape(SOURCE)]
linkcheck_anchors = False


def _outside(app: Sphinx, docname: str, source: list[str]) -> None:
    """Links to files beside `docs` lead to where the project is kept."""
    del app, docname
    source[0] = re.sub(
        r"\]\(\.\./([A-Z][^)#]*|fixtures/[^)#]*)", rf"]({SOURCE}/blob/main/\1", source[0]
    )
    source[0] = re.sub(r"\]\((examples/[^)]*)", rf"]({SOURCE}/blob/main/docs/\1", source[0])


def setup(app: Sphinx) -> None:
    """Make the reference before pages are looked for."""
    _reference.write(HERE / "reference")
    app.connect("source-read", _outside)
