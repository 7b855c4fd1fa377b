"""What a person reads in a terminal, and what a log keeps of it."""

import re
from dataclasses import replace

import pytest

from ckptclamp.auditing.results import Verdict
from ckptclamp.errors import ExitCode
from ckptclamp.reports import RenderOptions
from ckptclamp.reports.findings import Level, findings
from ckptclamp.reports.formats.text import render
from ckptclamp.reports.names import cell_width
from tests.reports import samples


def table_of(text: str) -> list[str]:
    """The lines from the table's heading to the blank line after it."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("tensor "))
    return lines[start : lines.index("", start)]


def test_what_is_not_a_pass_is_a_row_with_full_names_when_piped():
    """A log must hold every name whole, whatever the width of a terminal would have been."""
    text = render(samples.MIXED, RenderOptions())
    rows = table_of(text)
    for result in samples.MIXED.results[:5]:
        if result.verdict is Verdict.PASS:
            continue
        (row,) = [line for line in rows if line.startswith(f"{result.label} ")]
        assert result.rule in row
        assert result.constraint in row
    assert "\x1b" not in text


def test_not_evaluated_is_no_zero():
    """A dash says that nobody looked; a zero would say that nothing was found."""
    rows = table_of(render(samples.MIXED, RenderOptions()))
    (row,) = [line for line in rows if line.endswith("NOT EVALUATED")]
    assert re.search(r"\s-\s+-\s+-\s+NOT EVALUATED$", row)
    assert "'-': not evaluated; '0': no unit outside" in rows


@pytest.mark.parametrize("width", [74, 80, 100, 200])
def test_a_row_is_a_line_on_a_terminal(width):
    """On a terminal no row of the table may wrap, and a shortened name can still be known."""
    rows = table_of(render(samples.MIXED, RenderOptions(width=width)))
    assert max(cell_width(row) for row in rows) <= width
    assert rows[2].removeprefix("…").startswith("dep")
    assert rows[2].endswith("VIOLATION")


def test_verdict_colours_only_where_asked():
    """Colours belong on terminals; the words stay the same under them."""
    plain = render(samples.MIXED, RenderOptions(width=80))
    coloured = render(samples.MIXED, RenderOptions(width=80, color=True))
    assert coloured != plain
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


def test_the_last_line_is_the_census():
    """CI logs are read from the end: one line holds every count and the exit code."""
    assert render(samples.MIXED, RenderOptions()).splitlines()[-1] == (
        "6 results: 1 pass, 3 violations (13 of 2,090 units), 1 not evaluated, 1 suppressed; "
        "1 rule matched nothing; 2 warnings; exit 3"
    )
    assert render(samples.CLEAN, RenderOptions()).splitlines()[-1] == (
        "1 result: 1 pass, 0 violations, 0 not evaluated; exit 0"
    )


def test_an_empty_report_does_not_look_clean():
    """An audit of nothing says so in its exit code, with no table to mistake for an answer."""
    text = render(samples.EMPTY, RenderOptions())
    assert text.splitlines()[-1] == "0 results: 0 pass, 0 violations, 0 not evaluated; exit 4"
    assert samples.EMPTY.exit_code is ExitCode.NOTHING_EVALUATED
    assert "error[nothing-evaluated]" in text
    assert "= help: give a spec" in text


def test_worst_units_are_told_with_their_numbers():
    """The worst unit comes first with its index, measurement, bound and excess."""
    lines = render(samples.VIOLATIONS, RenderOptions(max_worst=2)).splitlines()
    heading = next(i for i, line in enumerate(lines) if "excess" in line)
    assert lines[heading + 1].split() == ["(3,", "1)", "1.732", "1", "+73.2", "%"]
    assert lines[heading + 2].split() == ["(0,", "0)", "1.25", "1", "+25", "%"]
    assert lines[heading + 3].strip() == "… 5 more violating units"


def test_a_violation_never_reads_as_its_bound():
    """1.0000012 against 1 needs its digits: "1 > 1" would look like a fault of the program."""
    rows = table_of(render(samples.MIXED, RenderOptions()))
    (row,) = [line for line in rows if line.startswith("dense_1/kernel")]
    assert "1.000001 > 1" in row


def test_findings_name_place_and_help():
    """Each finding says where its rule stands and what to do."""
    text = render(samples.MIXED, RenderOptions())
    assert "error[bounded-filters]: depthwise_conv2d/kernel: 7 of 16 units violate" in text
    assert "  --> spec.yaml:9:5" in text
    assert "  = help: name it under custom_objects in a spec" in text
    assert (
        "error[embeddings]: matched no tensor with embed*/** (did you mean embedding/table?)"
        in text
    )
    assert "--> spec.yaml:9:5" in text
    assert "warning[degenerate-axis]: " in text
    assert "note[aliases]: " in text


def test_suppressed_violations_are_counted_and_shown_on_request():
    """A suppression hides a row, never the fact that there is one."""
    hidden = render(samples.MIXED, RenderOptions())
    shown = render(samples.MIXED, RenderOptions(show_suppressed=True))
    assert "old_head/kernel" not in hidden
    assert "1 suppressed" in hidden
    assert "suppressed by baseline.json: known since March" in shown


def test_passes_are_counted_and_listed_on_request():
    """Nobody looks for three failures among three hundred passes; who wants them all asks."""
    calm = render(samples.MIXED, RenderOptions())
    assert not [line for line in calm.splitlines() if line.startswith("conv2d/kernel ")]
    assert "1 result passes; `-v` lists what does" in calm
    whole = table_of(render(samples.MIXED, RenderOptions(verbose=1)))
    assert [line for line in whole if line.startswith("conv2d/kernel ")] == whole[-2:-1]


def test_what_is_wrong_is_nearest_to_the_prompt():
    """A reader begins at the end: notes stand above the table, errors below it, worst first."""
    lines = render(samples.MIXED, RenderOptions()).splitlines()
    notes = [i for i, line in enumerate(lines) if line.startswith("note[")]
    table = next(i for i, line in enumerate(lines) if line.startswith("tensor "))
    wrong = [i for i, line in enumerate(lines) if line.startswith(("error[", "warning["))]
    assert max(notes) < table < min(wrong)
    assert lines[table + 1].endswith("VIOLATION")


def test_quiet_names_the_failures_in_a_line_each():
    """-q is for a log that must say what failed, and no more."""
    lines = render(samples.MIXED, RenderOptions(verbose=-1)).splitlines()
    assert lines[-1].endswith("exit 3")
    assert all(line.startswith("error[") for line in lines[:-1])
    assert len(lines) == 1 + sum(
        finding.level is Level.ERROR for finding in findings(samples.MIXED)
    )
    strict = render(replace(samples.MIXED, strict=True), RenderOptions(verbose=-1))
    assert "warning[degenerate-axis]" in strict
    assert render(samples.CLEAN, RenderOptions(verbose=-1)).count("\n") == 1


def test_verbose_tells_why_and_with_what():
    """-v adds why a rule governs a tensor, its tolerance, and the parameters of the run."""
    text = render(samples.CLEAN, RenderOptions(verbose=1))
    assert "= why: tensors: **/kernel" in text
    assert "= tolerance: 1e-06" in text
    assert "isolation: landlock, seccomp, rlimits" in text


def test_apply_tells_changes_verification_and_where_the_copy_is():
    """After an apply a user needs: what changed, whether what was written conforms, and where."""
    lines = render(samples.APPLIED, RenderOptions()).splitlines()
    assert any(re.match(r"depthwise_conv2d/kernel .* 16 +7 +42\.3 %", line) for line in lines)
    assert "7 units in 1 tensor changed (projection: exact)" in lines
    assert lines[-3] == "after: 2 results: 2 pass, 0 violations, 0 not evaluated; exit 0"
    assert lines[-2] == "copy: models/eegnet.clamped.keras"
    assert lines[-1] == f"  sha256: {samples.COPY.files[0].sha256}"


def test_a_dry_run_says_that_nothing_was_written():
    """A dry run must never read like a finished copy."""
    text = render(samples.DRY_RUN, RenderOptions())
    assert text.splitlines()[-1] == "dry run: nothing was written"
    assert "7 units in 1 tensor would change" in text
    assert "copy:" not in text


def test_a_flood_of_violations_stays_readable():
    """Of 1,000 violations all are rows, the worst are told, and the rest is counted."""
    text = render(samples.many(1000), RenderOptions(max_findings=10, width=200))
    assert len(table_of(text)) == 1001
    assert text.count("error[") == 10
    assert "block_999/" in text.split("error[")[1]
    assert "990 more findings, less bad" in text
    for whole in (
        RenderOptions(max_findings=10),
        RenderOptions(max_findings=10, width=200, verbose=1),
    ):
        assert render(samples.many(1000), whole).count("error[") == 1000


def test_wide_characters_keep_the_table_aligned():
    """A Chinese or combining name takes the columns that a terminal gives it."""
    wide = replace(samples.PASSING, label="卷积/核")
    report = replace(samples.CLEAN, results=(samples.PASSING, wide))
    rows = table_of(render(report, RenderOptions(verbose=1)))
    assert len({cell_width(row) for row in rows[1:]}) == 1


def test_sentences_break_between_words_on_a_terminal():
    """At 80 columns no word is cut in two by the terminal, and piped nothing is broken at all."""
    narrow = render(samples.MIXED, RenderOptions(width=80)).splitlines()
    piped = render(samples.MIXED, RenderOptions()).splitlines()
    (whole,) = [line for line in piped if line.startswith("error[embeddings]")]
    start = next(i for i, line in enumerate(narrow) if line.startswith("error[embeddings]"))
    end = next(i for i, line in enumerate(narrow[start:], start) if line.startswith("  -->"))
    assert " ".join(line.strip() for line in narrow[start:end]) == whole
    assert all(len(line) <= 80 for line in narrow[start:end])
