"""Baselines: what is known passes, what is new or worse fails, nothing is hidden silently."""

from __future__ import annotations

import datetime
import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from ckptclamp.auditing.results import AuditReport, CheckpointSummary, Result, Verdict, WorstUnit
from ckptclamp.errors import ExitCode, UsageError
from ckptclamp.gate import baseline as baselines
from ckptclamp.gate.known import Baseline, Entry, load_baselines, render_baseline
from ckptclamp.plan import Origin
from ckptclamp.pytest_plugin import assert_conforms

TODAY = datetime.date(2026, 11, 23)


def violation(tensor="a", *, violating=1, nonfinite=0, distance=0.5, **changes):
    """A result with so many violating units, the worst finite one `distance` above a bound of 1."""
    finite = violating > nonfinite
    return replace(
        Result(
            tensor=tensor,
            rule="bounded",
            constraint="MaxNorm(max_value=1)",
            origin=Origin.SPEC,
            verdict=Verdict.VIOLATION,
            axes=(1,),
            units=max(violating, 8),
            violating=violating,
            nonfinite=nonfinite,
            bound=(None, 1.0),
            measured_min=0.0,
            measured_max=1.0 + distance if finite else 0.5,
            worst=(WorstUnit((0,), 1.0 + distance, 1.0, distance, distance),) if finite else (),
        ),
        **changes,
    )


def passing(tensor="a", **changes):
    """A result of the same rule without a violation."""
    return violation(tensor, violating=0, verdict=Verdict.PASS, measured_max=0.9, **changes)


def report(*results):
    """An audit with these results."""
    return AuditReport(CheckpointSummary("m.safetensors", "safetensors", (), 1), results)


MODEL = "m.safetensors"


def record(audit, previous=None):
    """The baseline of an audit of the one model that these tests are about."""
    return baselines.record(audit, MODEL, previous)


def compare(audit, known, today):
    """An audit of that model, compared with a baseline."""
    return baselines.compare(audit, MODEL, known, today)


def prune(known, audit):
    """A baseline, tightened by an audit of that model."""
    return baselines.prune(known, audit, MODEL)


def codes(audit):
    """The notices of an audit."""
    return [notice.code for notice in audit.all_notices]


badness = st.tuples(
    st.integers(1, 9),
    st.integers(0, 9),
    st.floats(1e-9, 1e9, allow_nan=False),
).filter(lambda b: b[1] <= b[0])


@given(st.dictionaries(st.text(min_size=1, max_size=8), badness, max_size=4))
def test_what_was_recorded_is_known(found):
    """An audit compared with its own baseline passes, and every violation is counted."""
    audit = report(
        *(violation(t, violating=v, nonfinite=n, distance=d) for t, (v, n, d) in found.items()),
        passing("fine"),
    )
    known = compare(audit, record(audit), TODAY)
    assert known.exit_code is ExitCode.OK
    assert known.census.suppressed == len(found)
    assert known.census.violating_units == 0
    assert known.results[:-1] == tuple(
        replace(before, suppressed=after.suppressed, notices=after.notices)
        for before, after in zip(audit.results[:-1], known.results[:-1], strict=True)
    )


@given(badness, badness)
def test_a_gate_fails_exactly_when_something_grew(old, new):
    """More units, more non-finite ones, or a greater distance: each alone must fail the gate."""
    before, after = (violation(violating=v, nonfinite=n, distance=d) for v, n, d in (old, new))
    known = compare(report(after), record(report(before)), TODAY)
    old_distance = old[2] if old[0] > old[1] else None
    new_distance = new[2] if new[0] > new[1] else None
    grew = new[0] > old[0] or new[1] > old[1]
    if new_distance is not None:
        grew = grew or old_distance is None or new_distance > old_distance * (1 + 2e-9)
    if grew:
        assert known.exit_code is ExitCode.VIOLATIONS
        assert "baseline-worse" in codes(known)
    elif new_distance is None or new_distance <= (old_distance or 0):
        assert known.exit_code is ExitCode.OK


@given(badness, badness)
def test_pruning_only_tightens(old, new):
    """No limit rises by pruning, and what passed before pruning for today's weights still does."""
    before, after = (violation(violating=v, nonfinite=n, distance=d) for v, n, d in (old, new))
    baseline = record(report(before))
    (entry,) = baseline.entries
    (tight,) = prune(baseline, report(after)).entries
    assert tight.violating <= entry.violating
    assert tight.nonfinite <= entry.nonfinite
    assert (tight.worst_distance or 0) <= (entry.worst_distance or 0)
    if compare(report(after), baseline, TODAY).exit_code is ExitCode.OK:
        assert compare(report(after), Baseline((tight,), MODEL), TODAY).exit_code is ExitCode.OK


def test_pruning_removes_what_is_resolved_and_keeps_what_was_not_judged():
    """A tensor that could not be read has not been mended."""
    baseline = record(report(violation("mended"), violation("unread"), violation("gone")))
    unread = violation("unread", verdict=Verdict.NOT_EVALUATED, violating=0, reason="torn")
    pruned = prune(baseline, report(passing("mended"), unread))
    assert [entry.tensor for entry in pruned.entries] == ["unread"]


@pytest.mark.parametrize("changes", [{}, {"distance": 0.6}, {"violating": 2}, {"rule": "other"}])
def test_an_entry_holds_for_what_is_tied_to_its_tensor_and_as_bad(changes):
    """A tied tensor that is not known by its own name is no worse than the one that it is equal to."""
    tied = violation("head", **changes, tied_to="a")
    compared = compare(report(violation(), tied), record(report(violation())), TODAY)
    assert (compared.results[1].suppressed is not None) is (not changes)
    grown = report(violation(distance=1.0), violation("head", distance=1.0, tied_to="a"))
    assert len(compare(grown, record(report(violation())), TODAY).violations) == 2
    alone = compare(report(violation("head", tied_to="a")), record(report(violation())), TODAY)
    assert len(alone.violations) == 1


def test_what_is_new_fails():
    """A violation that the baseline does not hold is not suppressed by those that it holds."""
    known = compare(report(violation("a"), violation("b")), record(report(violation("a"))), TODAY)
    assert known.exit_code is ExitCode.VIOLATIONS
    assert [r.suppressed is not None for r in known.results] == [True, False]


def test_another_rule_or_another_bound_is_not_known():
    """Numbers that were measured against something else say nothing about today's rule."""
    baseline = record(report(violation()))
    other = compare(report(violation(rule="other")), baseline, TODAY)
    assert other.exit_code is ExitCode.VIOLATIONS
    for change in ({"constraint": "MaxNorm(max_value=0.5)"}, {"axes": (0,)}):
        changed = compare(report(violation(**change)), baseline, TODAY)
        assert changed.exit_code is ExitCode.VIOLATIONS
        assert "baseline-outdated" in codes(changed)


def test_non_finite_weights_are_known_only_if_recorded_so_and_never_silently():
    """A NaN must not hide behind an entry for a norm, and a recorded one is told each time."""
    baseline = record(report(violation(violating=3)))
    hidden = compare(report(violation(violating=3, nonfinite=1)), baseline, TODAY)
    assert hidden.exit_code is ExitCode.VIOLATIONS
    audit = report(violation(violating=3, nonfinite=1))
    known = compare(audit, record(audit), TODAY)
    assert known.exit_code is ExitCode.OK
    assert "baseline-nonfinite" in codes(known)
    assert known.census.warnings == 1


def test_what_was_not_evaluated_is_never_suppressed():
    """An entry for a tensor that cannot be read any more does not make the audit complete."""
    baseline = record(report(violation()))
    unread = violation(verdict=Verdict.NOT_EVALUATED, violating=0, reason="torn")
    assert compare(report(unread, passing("b")), baseline, TODAY).exit_code is ExitCode.INCOMPLETE


@pytest.mark.parametrize(("expires", "known"), [("2026-11-23", True), ("2026-11-22", False)])
def test_an_entry_holds_up_to_its_last_day(expires, known):
    """Debt with a date comes due the day after."""
    audit = report(violation())
    entries = tuple(replace(e, expires=expires) for e in record(audit).entries)
    compared = compare(audit, Baseline(entries, MODEL), TODAY)
    assert (compared.exit_code is ExitCode.OK) == known
    assert ("baseline-expired" in codes(compared)) != known


def test_resolved_and_outdated_entries_are_told_and_do_not_fail_a_strict_gate():
    """Good news is news, not a warning."""
    baseline = record(report(violation("mended"), violation("gone")))
    audit = replace(report(passing("mended")), strict=True)
    compared = compare(audit, baseline, TODAY)
    assert codes(compared) == ["baseline-resolved", "baseline-outdated"]
    assert compared.exit_code is ExitCode.OK


def test_a_result_that_kept_no_worst_unit_and_has_no_bound_is_refused():
    """A baseline without a distance would accept any."""
    opaque = violation(bound=(None, None), worst=())
    with pytest.raises(UsageError, match="does not tell how bad"):
        record(report(opaque))


entries = st.builds(
    Entry,
    tensor=st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    rule=st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    constraint=st.text(max_size=5, alphabet="abc"),
    axes=st.lists(st.integers(0, 4), max_size=3).map(tuple),
    violating=st.integers(0),
    nonfinite=st.integers(0),
    worst_distance=st.none() | st.floats(0, math.inf),
    reason=st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    expires=st.none() | st.dates().map(datetime.date.isoformat),
)


@given(st.lists(entries, max_size=4, unique_by=lambda entry: entry.identity))
def test_a_baseline_survives_its_file(tmp_path_factory, found):
    """Every digit of a limit counts, and names may hold anything."""
    path = tmp_path_factory.getbasetemp() / "baseline.json"
    path.write_text(render_baseline(Baseline(tuple(found))), encoding="utf-8")
    (loaded,) = load_baselines(path).parts.values()
    assert set(loaded.entries) == set(found)
    assert render_baseline(loaded) == path.read_text(encoding="utf-8")


def _entry(**changes):
    return json.loads(render_baseline(record(report(violation()))))["entries"][0] | changes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"schema": "ckptclamp-baseline-2", "entries": []}',
        '{"schema": "ckptclamp-baseline-1", "entries": [], "extra": 1}',
        json.dumps({"schema": "ckptclamp-baseline-1", "entries": [_entry(violating="many")]}),
        json.dumps({"schema": "ckptclamp-baseline-1", "entries": [_entry(expires="soon")]}),
        json.dumps({"schema": "ckptclamp-baseline-1", "entries": [_entry(), _entry(violating=9)]}),
        '{"schema": "ckptclamp-baseline-1", "entries": [], "entries": []}',
    ],
)
def test_a_baseline_that_cannot_be_understood_is_a_usage_error(run, save, text, folder):
    """A broken baseline must stop the gate before it measures anything, not loosen it."""
    save(a=[0.5])
    (folder / "known.json").write_text(text)
    done = run("audit", "model.safetensors", "--spec", "spec.yaml", "--baseline", "known.json")
    assert done.returncode == 2
    assert "known.json" in done.stderr
    assert done.stdout == ""


def test_the_ratchet_on_the_command_line(run, save, folder):
    """Record, pass, get worse, fail, mend, prune: as a release pipeline does it."""
    gate = ("audit", "model.safetensors", "--spec", "spec.yaml")
    save(a=[2.0, 0.5], b=[0.5, 3.0])
    assert run(*gate).returncode == 1
    assert run(*gate, "--write-baseline", "known.json").returncode == 0
    assert run(*gate, "--baseline", "known.json").returncode == 0
    save(a=[2.0, 0.5], b=[1.5, 3.0])
    worse = run(*gate, "--baseline", "known.json")
    assert worse.returncode == 1
    assert "2 units violate, 1 are known" in worse.stdout
    save(a=[0.5, 0.5], b=[0.5, 2.5])
    done = run(
        "baseline", "prune", "model.safetensors", "--spec", "spec.yaml", "--baseline", "known.json"
    )
    assert (done.returncode, done.stdout) == (0, "1 removed, 1 lowered, 1 known\n")
    save(a=[0.5, 0.5], b=[0.5, 3.0])
    assert run(*gate, "--baseline", "known.json").returncode == 1


def test_pruning_by_a_saved_report_is_pruning_by_the_checkpoint(run, save, folder):
    """The machine that prunes need not have the weights."""
    gate = ("audit", "model.safetensors", "--spec", "spec.yaml")
    save(a=[2.0], b=[3.0])
    run(*gate, "--write-baseline", "one.json")
    run(*gate, "--write-baseline", "other.json")
    save(a=[1.5], b=[0.5])
    run(*gate, "-o", "json=report.json")
    run("baseline", "prune", "report.json", "--baseline", "one.json")
    run("baseline", "prune", "model.safetensors", "--spec", "spec.yaml", "--baseline", "other.json")
    text = (folder / "one.json").read_text()
    assert text == (folder / "other.json").read_text()
    assert [e["tensor"] for e in json.loads(text)["entries"]] == ["a.weight"]


@pytest.fixture
def explained(run, save, folder):
    """A baseline to which somebody wrote a reason."""
    save(a=[2.0])
    run("audit", "model.safetensors", "--spec", "spec.yaml", "--write-baseline", "known.json")
    document = json.loads((folder / "known.json").read_text())
    document["entries"][0]["reason"] = "teacher"
    (folder / "known.json").write_text(json.dumps(document))
    return folder / "known.json"


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ([], 4),
        (["--max-norm", "1", "--axis", "1", "--tensors", "*.wieght"], 4),
        (["--max-norm", "1", "--axis", "1", "--tensors", "*.weight"], 4),  # by another id
    ],
)
def test_a_run_that_judged_nothing_prunes_nothing(run, explained, rules, code):
    """A spec that was forgotten or a pattern with a typo must not cost what people wrote."""
    before = explained.read_bytes()
    done = run("baseline", "prune", "model.safetensors", "--baseline", "known.json", *rules)
    assert (done.returncode, done.stdout) == (code, "")
    assert "the baseline stays as it is" in done.stderr
    assert explained.read_bytes() == before


def test_the_report_of_another_checkpoint_prunes_nothing(run, save, explained):
    """It says nothing about what the baseline knows, not even under the same name."""
    before = explained.read_bytes()
    save("other.safetensors", other=[0.5])
    run("audit", "other.safetensors", "--spec", "spec.yaml", "-o", "json=other.json")
    prune = ("baseline", "prune", "other.json", "--baseline", "known.json")
    done = run(*prune)
    assert (done.returncode, done.stdout) == (2, "")
    assert "written for model.safetensors, and this is other.safetensors" in done.stderr
    done = run(*prune, "--checkpoint-name", "model.safetensors")
    assert (done.returncode, done.stdout) == (4, "")
    assert explained.read_bytes() == before


@pytest.mark.parametrize("rules", [[], ["--max-norm", "1", "--axis", "1", "--tensors", "lost"]])
def test_a_run_that_judged_nothing_writes_no_baseline(run, explained, rules):
    """The report says so, and that of the run is the exit code."""
    before = explained.read_bytes()
    done = run("audit", "model.safetensors", *rules, "--write-baseline", "known.json")
    assert done.returncode == 4
    assert "baseline-not-written" in done.stdout
    assert explained.read_bytes() == before


def test_what_could_not_be_evaluated_stays_recorded():
    """A tensor that cannot be read today keeps its reason and its limit."""
    (entry,) = record(report(violation("unread"))).entries
    previous = Baseline((replace(entry, reason="teacher"),), MODEL)
    unread = violation("unread", verdict=Verdict.NOT_EVALUATED, violating=0, reason="torn")
    assert record(report(unread, passing("b")), previous) == previous
    assert record(report(unread, passing("b"))) == Baseline((), MODEL)


@pytest.mark.parametrize(
    "option", [("--spec", "spec.yaml"), ("--max-norm", "1"), ("--tolerance", "1"), ("--jobs", "1")]
)
def test_options_of_an_audit_are_refused_beside_a_report(run, explained, option):
    """An option that is ignored would be a rule that its user believes in."""
    run("audit", "model.safetensors", "--spec", "spec.yaml", "-o", "json=report.json")
    done = run("baseline", "prune", "report.json", "--baseline", "known.json", *option)
    assert (done.returncode, done.stdout) == (2, "")
    assert option[0] in done.stderr
    done = run(
        "baseline", "prune", "report.json", "--baseline", "known.json", "--no-settings", "-v"
    )
    assert (done.returncode, done.stdout) == (0, "0 removed, 0 lowered, 1 known\n")


def test_suppressed_violations_are_counted_in_every_format(run, save, folder):
    """Whichever report a person reads, they see that something is tolerated."""
    save(a=[2.0], b=[0.5])
    gate = ("audit", "model.safetensors", "--spec", "spec.yaml")
    run(*gate, "--write-baseline", "known.json")
    for name in ("text", "markdown", "html", "github"):
        assert "1 suppressed" in run(*gate, "--baseline", "known.json", "-f", name).stdout
    document = json.loads(run(*gate, "--baseline", "known.json", "-f", "json").stdout)
    assert document["census"]["suppressed"] == 1
    assert document["report"]["parameters"]["baseline"].startswith("sha256:")
    shown = run(*gate, "--baseline", "known.json", "--show-suppressed")
    assert "suppressed by baseline" in shown.stdout
    assert shown.returncode == 0


def test_writing_again_keeps_what_people_wrote(run, save, folder):
    """A reason that somebody gave must survive the next recording."""
    gate = ("audit", "model.safetensors", "--spec", "spec.yaml", "--write-baseline", "known.json")
    save(a=[2.0])
    run(*gate)
    document = json.loads((folder / "known.json").read_text())
    document["entries"][0] |= {"reason": "teacher", "expires": "2999-01-31"}
    (folder / "known.json").write_text(json.dumps(document))
    save(a=[3.0], b=[2.0])
    assert run(*gate).returncode == 0
    entries = json.loads((folder / "known.json").read_text())["entries"]
    assert [(e["tensor"], e.get("reason")) for e in entries] == [
        ("a.weight", "teacher"),
        ("b.weight", None),
    ]


def test_recording_does_not_make_an_incomplete_audit_pass(run, save, folder):
    """A rule that matches nothing stays a failure, however much is recorded."""
    save(a=[2.0])
    spec = (folder / "spec.yaml").read_text()
    (folder / "spec.yaml").write_text(
        spec + '  - {id: lost, tensors: "no/**", constraint: NonNeg}\n'
    )
    done = run(
        "audit", "model.safetensors", "--spec", "spec.yaml", "--write-baseline", "known.json"
    )
    assert done.returncode == 4
    assert not (folder / "known.json").exists()


def test_a_nan_that_appears_is_not_covered(run, save, folder):
    """The worst that can happen to weights must not pass as the debt of yesterday."""
    path = save(a=[2.0, 2.0])
    gate = ("audit", "model.safetensors", "--spec", "spec.yaml")
    run(*gate, "--write-baseline", "known.json")
    weights = load_file(path)["a.weight"].copy()
    weights[1, 2] = np.nan
    save_file({"a.weight": weights}, path)
    assert run(*gate, "--baseline", "known.json").returncode == 1


def test_baseline_and_write_baseline_exclude_each_other(run, save):
    """Whether the gate compares or records must not depend on the order of options."""
    save(a=[0.5])
    options = ("--baseline", "a.json", "--write-baseline", "b.json")
    assert run("audit", "model.safetensors", "--spec", "spec.yaml", *options).returncode == 2


AUDIT = ("audit", "--spec", "spec.yaml", "--strict")


@pytest.fixture
def known(run, save, folder):
    """The baseline of ``model.safetensors``, beside another model with the same violation."""
    save(a=[0.5, 2.0])
    save("other.safetensors", a=[0.5, 2.0])
    run(*AUDIT, "model.safetensors", "--write-baseline", "known.json", "--quiet")
    return folder / "known.json"


def test_a_baseline_excuses_its_own_checkpoint_alone(run, known):
    """Another model's violation of the same name is another one, and no pass."""
    own = run(*AUDIT, "model.safetensors", "--baseline", known)
    assert (own.returncode, "warning" in own.stdout) == (0, False)
    other = run(*AUDIT, "other.safetensors", "--baseline", known)
    assert other.returncode == 1
    assert "warning[baseline-of-another]" in other.stdout
    assert "written for model.safetensors, and this is other.safetensors" in other.stdout
    gate = ("audit", "--spec", "spec.yaml", "other.safetensors", "--baseline", known)
    assert run(*gate).returncode == 1


def test_a_name_says_that_it_is_the_same_checkpoint(run, save, folder, known):
    """A release has another file name each time; its name may be given, or stand in the settings."""
    named = ("--checkpoint-name", "model.safetensors")
    done = run(*AUDIT, "other.safetensors", "--baseline", known, *named, "-f", "json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["report"]["parameters"]["checkpoint-name"] == named[1]
    (folder / "ckptclamp.toml").write_text('checkpoint-name = "encoder"\n')
    run(*AUDIT, "model.safetensors", "--write-baseline", "encoder.json")
    assert json.loads((folder / "encoder.json").read_text())["checkpoint"] == "encoder"
    assert run(*AUDIT, "other.safetensors", "--baseline", "encoder.json").returncode == 0


def test_a_report_keeps_the_name_for_the_pruning_of_its_baseline(run, save, folder):
    """Whoever gave a name to the audit need not give it again with its report."""
    save(a=[0.5, 2.0])
    named = ("--checkpoint-name", "encoder", "-o", "json=result.json")
    run(*AUDIT, "model.safetensors", "--write-baseline", "known.json", *named)
    done = run("baseline", "prune", "result.json", "--baseline", "known.json")
    assert (done.returncode, done.stdout) == (0, "0 removed, 0 lowered, 1 known\n")


def test_a_baseline_of_an_earlier_version_is_read_and_told(run, folder, known):
    """It names no checkpoint; the advice says what to add, and then it is as good as a new one."""
    document = json.loads(known.read_text())
    known.write_text(json.dumps({n: v for n, v in document.items() if n != "checkpoint"}))
    done = run(*AUDIT, "model.safetensors", "--baseline", known)
    assert (done.returncode, "1 suppressed" in done.stdout) == (1, True)
    assert 'add "checkpoint": "model.safetensors" to it' in done.stdout
    assert (
        run("audit", "--spec", "spec.yaml", "model.safetensors", "--baseline", known).returncode
        == 0
    )
    known.write_text(json.dumps(document))
    assert run(*AUDIT, "model.safetensors", "--baseline", known).returncode == 0


def test_the_path_in_a_baseline_is_that_of_the_project(run, save, folder):
    """It is the same from every working directory, and names the link that was given."""
    (folder / "gate").mkdir()
    (folder / "models").mkdir()
    save("models/v1.safetensors", a=[2.0])
    (folder / "models" / "latest.safetensors").symlink_to("v1.safetensors")
    latest = ("audit", "models/latest.safetensors", "--spec", "spec.yaml")
    run(*latest, "--write-baseline", "gate/known.json")
    known = folder / "gate" / "known.json"
    assert json.loads(known.read_text())["checkpoint"] == "../models/latest.safetensors"
    (folder / "gate" / "ckptclamp.toml").write_text("")
    assert run(*latest, "--strict", "--baseline", known).returncode == 0
    elsewhere = ("audit", folder / "models" / "latest.safetensors", "--spec", folder / "spec.yaml")
    done = run(*elsewhere, "--strict", "--baseline", known, cwd=folder / "models")
    assert done.returncode == 0


def test_settings_say_where_the_path_in_a_baseline_begins(run, save, folder):
    """A baseline may be moved within its project."""
    (folder / ".git").mkdir()
    (folder / "gate").mkdir()
    (folder / "ckptclamp.toml").write_text('spec = "spec.yaml"\n')
    save(a=[2.0])
    run("audit", "model.safetensors", "--write-baseline", "gate/known.json")
    moved = (folder / "gate" / "known.json").rename(folder / "known.json")
    assert json.loads(moved.read_text())["checkpoint"] == "model.safetensors"
    assert run("audit", "model.safetensors", "--strict", "--baseline", moved).returncode == 0


def test_the_baseline_of_another_checkpoint_is_not_written_over(run, known):
    """The reasons in it are about that one, and would be lost, or excuse what they do not mean."""
    before = known.read_bytes()
    done = run(*AUDIT, "other.safetensors", "--write-baseline", known)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--checkpoint-name model.safetensors says that it is the same one" in done.stderr
    assert known.read_bytes() == before


def test_an_assertion_compares_with_the_baseline_of_its_checkpoint(known, folder):
    """The fixture of pytest knows a checkpoint by the same path as the command line."""
    conforms = partial(assert_conforms, spec="spec.yaml", baseline="known.json", strict=True)
    conforms("model.safetensors")
    conforms("other.safetensors", checkpoint_name="model.safetensors")
    with pytest.raises(AssertionError, match="baseline-of-another"):
        conforms(folder / "other.safetensors")


def test_a_distance_is_known_from_its_base(run, save, folder):
    """Far from one base says nothing of another; an entry without a base is one of earlier versions."""
    save(a=[2.0])
    save("m.safetensors", a=[1.0])
    save("other.safetensors", a=[1.0])
    rule = ("--tensors", "*.weight", "--max-distance", "5%", "--axis", "1")
    gate = ("audit", "model.safetensors", *rule, "--baseline", "known.json", "--base")
    assert run(
        *gate[:-3], "--write-baseline", "known.json", "--base", "m.safetensors"
    ).returncode in (0, 1)
    known = (folder / "known.json").read_text()
    assert '"base": "m.safetensors"' in known
    assert run(*gate, "m.safetensors").returncode == 0
    done = run(*gate, "other.safetensors")
    assert done.returncode == 1
    assert "baseline-outdated" in done.stdout
    assert "from m.safetensors" in " ".join(done.stdout.split())
    (folder / "known.json").write_text(known.replace(', "base": "m.safetensors"', ""))
    assert run(*gate, "other.safetensors").returncode == 0
