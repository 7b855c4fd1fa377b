"""The page: self-contained, readable everywhere, and true to its numbers."""

import base64
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptclamp.auditing.results import Verdict, WorstUnit
from ckptclamp.engine.histogram import Histogram
from ckptclamp.reports import RenderOptions
from ckptclamp.reports.formats.charts import Axis, axis_of, histogram_plot
from ckptclamp.reports.formats.html import render
from tests.reports import samples
from tests.reports import test_hostile_text as hostile

OPTIONS = RenderOptions()
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FINITE = st.floats(allow_nan=False, allow_infinity=False)


class Page(HTMLParser):
    """A page as an independent parser sees it: elements with attributes, and the text."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.mark.parametrize("name", samples.REPORTS)
def test_nothing_is_fetched_and_nothing_runs(name):
    """A report from a stranger's model opens where scripts and networks are blocked."""
    text = render(samples.REPORTS[name], OPTIONS)
    page = Page(text)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    for _, attributes in page.elements:
        assert not [key for key in attributes if key.startswith("on") or key in ("src", "style")]
        assert attributes.get("href", "#").startswith("#")
    assert "url(" not in text
    assert "@import" not in text


def test_the_policy_allows_the_style_sheet_alone():
    """The digest must be that of the style sheet as it stands, or browsers drop it."""
    text = render(samples.MIXED, OPTIONS)
    (policy,) = [m["content"] for m in Page(text).all("meta") if "http-equiv" in m]
    style = re.search("<style>(.*)</style>", text, re.DOTALL)
    assert style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def test_every_plot_has_words():
    """Who cannot see a plot is told what it shows."""
    text = render(samples.MIXED, OPTIONS)
    page = Page(text)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(set(ids)) == len(ids)
    plots = page.all("svg")
    assert len(plots) >= 5
    for plot in plots:
        assert plot["role"] == "img"
        assert set(plot["aria-labelledby"].split()) <= set(ids)
    assert "16 units measure 0.4 to 1.8; the bound is ≤ 1; 7 outside." in page.words


def test_the_verdict_is_the_heading():
    """One look tells pass from fail."""
    for report, heading, kind in (
        (samples.CLEAN, "Pass: everything governed was evaluated and conforms", "pass"),
        (samples.VIOLATIONS, "Fail: violations found", "violation"),
        (samples.MIXED, "Fail: not everything could be evaluated", "not-evaluated"),
        (samples.EMPTY, "Fail: nothing was evaluated", "not-evaluated"),
        (samples.DRY_RUN, "Dry run: nothing was written", "dry-run"),
    ):
        text = render(report, OPTIONS)
        assert f"<h1>{heading}</h1>" in text
        assert Page(text).all("header")[0]["class"] == f"banner {kind}"


def test_the_strip_shows_every_result_in_order_and_links_to_it():
    """Where in the model it is bad can be seen, and the cell leads to the numbers."""
    page = Page(render(samples.MIXED, OPTIONS))
    links = [a["href"] for a in page.all("a")]
    rows = [f"#{tr['id']}" for tr in page.all("tr") if "id" in tr]
    assert links == rows == [f"#r{i}" for i in range(len(samples.MIXED.results))]
    cells = [r["class"] for r in page.all("rect") if r["class"].startswith("cell")]
    assert cells == [
        "cell pass",
        "cell violation",
        "cell violation",
        "cell violation",
        "cell not-evaluated",
        "cell suppressed",
    ]


def test_apply_shows_before_and_after_on_one_axis():
    """Two plots can be compared only if a place means the same value in both."""
    page = Page(render(samples.APPLIED, OPTIONS))
    assert "Before: 7 of 16 units outside" in page.words
    assert "After: 0 of 16 units outside" in page.words
    assert page.words.count("bound 1") >= 2
    assert "7 of 16 units rewritten" in page.words
    for summary in (samples.CHECKPOINT, samples.COPY):
        assert summary.path in page.words
        assert str(summary.files[0].sha256) in page.words


def test_digests_and_version_are_told():
    """A page says which bytes, which spec and which program it speaks of."""
    words = Page(render(samples.CLEAN, OPTIONS)).words
    assert samples.SHA in words
    assert samples.SHA[::-1] in words
    assert "ckptclamp 0.1.0" in words


def test_a_flood_is_bounded_and_counted():
    """A flood of violations makes no page that a browser cannot open; the rest is counted."""
    text = render(samples.many(3000), OPTIONS)
    assert len(text) < 5_000_000
    page = Page(text)
    assert "2,800 more findings, less bad, left out of this page." in page.words
    assert "1,000 more results, less bad, left out of this page." in page.words
    assert len(page.all("a")) <= 400
    ids = {a["id"] for _, a in page.elements if "id" in a}
    assert {a["href"][1:] for a in page.all("a")} <= ids


@given(low=FINITE, high=FINITE, bound=st.none() | FINITE, values=st.lists(FINITE, max_size=5))
def test_places_stay_inside_the_plot_and_in_order(low, high, bound, values):
    """Whatever the weights are, no mark leaves the plot and a larger value is never further left."""
    low, high = min(low, high), max(low, high)
    axis = axis_of([Histogram((low, high), (1,))], (None, bound))
    places = [axis.place(value) for value in sorted([*values, low, high])]
    assert all(math.isfinite(place) and 0 <= place <= 320 for place in places)
    assert places == sorted(places)


def test_a_bound_near_the_data_is_in_sight_and_a_far_one_is_not():
    """A far bound must not squeeze all bars into one."""
    histogram = Histogram((0.5, 1.0, 1.5), (1, 1))
    assert axis_of([histogram], (None, 2.0)) == Axis(0.5, 2.0)
    assert axis_of([histogram], (None, 50.0)) == Axis(0.5, 1.5)
    assert axis_of([Histogram((2.24, 2.242), (1,))], (None, 0.9)) == Axis(0.9, 2.242)
    assert axis_of([Histogram((1e-6, 1.0, 2.0), (1, 1))], (None, 3.0)).logarithmic


def test_numbers_at_the_ends_of_float64_are_drawn():
    """The largest and smallest floats make no broken path."""
    extreme = replace(
        samples.VIOLATING,
        bound=(-1e308, 1e308),
        worst=(WorstUnit((0,), 1.7e308, 1e308, 7e307, 0.7),),
        histogram=Histogram((-1.7e308, 0.0, 5e-324, 1.7e308), (1, 2, 3)),
    )
    text = render(replace(samples.VIOLATIONS, results=(extreme,)), OPTIONS)
    paths = [a["d"] for a in Page(text).all("path")]
    assert paths
    assert not [path for path in paths if "nan" in path or "inf" in path]


def test_units_outside_are_drawn_apart():
    """A bin that the bound crosses is cut at it, so that red starts at the bound."""
    result = replace(samples.VIOLATING, histogram=Histogram((0.5, 1.5), (16,)), tolerance=0.0)
    paths = Page(render(replace(samples.VIOLATIONS, results=(result,)), OPTIONS)).all("path")
    assert [p["class"] for p in paths[:2]] == ["bars", "bars out"]
    passing = replace(result, violating=0, verdict=Verdict.PASS)
    paths = Page(render(replace(samples.VIOLATIONS, results=(passing,)), OPTIONS)).all("path")
    assert "bars out" not in [p["class"] for p in paths]


def contrast(one, other):
    """The WCAG 2 contrast ratio of two #rrggbb colours."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_text_has_contrast_in_light_dark_and_print():
    """WCAG AA asks for 4.5 to 1 wherever text stands on a card or the page."""
    text = render(samples.CLEAN, OPTIONS)
    palettes = re.findall(r":root \{(.*?)\}", text, re.DOTALL)
    assert len(palettes) == 3
    for palette in palettes:
        colour = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", palette))
        for ink in ("ink", "soft", "pass", "bad", "open", "bound"):
            for paper in ("page", "card"):
                assert contrast(colour[ink], colour[paper]) >= 4.5, (ink, paper)
        for bars in ("bars", "bad"):
            assert contrast(colour[bars], colour["card"]) >= 3


LONG = "layers/" + "averylongnamewithoutanybreak" * 8
PAGES = {
    "long names": replace(
        samples.MIXED,
        results=tuple(
            replace(r, tensor=LONG, label=None, rule=LONG) for r in samples.MIXED.results
        ),
        spec_path=LONG,
    ),
    "apply": samples.APPLIED,
    "many": samples.many(1000),
    "hostile": hostile.infected("</style><script>document.title = 'run'</script>" + "x" * 300),
}
LOOK = """
onload = () => {
  const page = document.querySelector('iframe').contentDocument;
  const width = page.documentElement.clientWidth;
  const shown = [...page.body.querySelectorAll('*')].filter(
    (e) => getComputedStyle(e.closest('thead') ?? e).clipPath === 'none' && !e.closest('svg'));
  const beyond = shown.filter((e) => e.getBoundingClientRect().right > width + 0.5 ||
    getComputedStyle(e).display === 'block' && e.scrollWidth > e.clientWidth + 1);
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const drawn = (text, font) => {
    canvas.clearRect(0, 0, 40, 40);
    canvas.font = font;
    canvas.fillText(text, 5, 30);
    return canvas.getImageData(0, 0, 40, 40).data.join();
  };
  const font = '20px ' + getComputedStyle(page.body).fontFamily;
  const box = drawn('\\u{10fffe}', font);
  const missing = [...new Set(page.body.textContent)].filter((c) => c > '~' && drawn(c, font) === box);
  document.querySelector('pre').textContent = JSON.stringify(
    { wide: page.documentElement.scrollWidth, missing,
      beyond: beyond.map((e) => e.outerHTML.slice(0, 80)), title: page.title });
};
"""


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", PAGES)
def test_pages_fit_and_every_sign_is_drawn(tmp_path, name, width):
    """In a real browser nothing leaves a phone's screen or a window, and no glyph is missing."""
    report = PAGES[name]
    (tmp_path / "report.html").write_text(render(report, OPTIONS))
    (tmp_path / "frame.html").write_text(
        f'<meta charset="utf-8"><iframe src="report.html" style="border:0;width:{width}px;'
        f'height:900px"></iframe><pre></pre><script>{LOOK}</script>'
    )
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--allow-file-access-from-files",
        f"--user-data-dir={tmp_path}/profile",
        "--dump-dom",
        f"file://{tmp_path}/frame.html",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=True, env=dict(os.environ)
    )
    (seen,) = re.findall(r"<pre>(.+)</pre>", done.stdout) or [done.stderr[-2000:]]
    found = json.loads(unescape(seen))
    assert found["beyond"] == []
    assert found["wide"] <= width
    assert found["missing"] == []
    assert found["title"].startswith("ckptclamp")


def bars_of(histogram, bound, violating):
    """The bars that a chart of these units draws: each path's class, and its heights."""
    result = replace(
        samples.VIOLATING, histogram=histogram, bound=bound, violating=violating, nonfinite=0
    )
    bars = {p.kind: p.data for p in histogram_plot(result).paths if p.kind.startswith("bars")}
    return {
        name: [round(86 - float(top), 1) for top in re.findall(r"V([\d.]+)H", path)]
        for name, path in bars.items()
    }


def test_a_crossed_bin_is_red_only_for_units_that_violate():
    """Ten units of norm 1 share a bin with the bound of 1; only the two far from it are outside."""
    edges = (0.59, 0.6, 0.97, 1.01, 1.39, 1.4)
    assert bars_of(Histogram(edges, (1, 0, 10, 0, 1)), (1.0, 1.0), 2) == {
        "bars": [68.0],
        "bars out": [6.8, 6.8],
    }
    assert bars_of(Histogram((0.97, 1.01), (10,)), (1.0, 1.0), 10) == {"bars out": [68.0]}


def test_a_crossed_bin_shows_both_kinds_in_their_numbers():
    """One of four units in the bin of the bound is outside: its red part is a third as high."""
    assert bars_of(Histogram((0.0, 2.0), (4,)), (None, 1.0), 1) == {
        "bars": [51.0],
        "bars out": [17.0],
    }
