"""An audit in parts: each judges its own tensors, all of them make the report of the whole."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ckptclamp import AuditOptions, audit, open_checkpoint
from ckptclamp.auditing.audit import as_spec
from ckptclamp.auditing.parts import MOST, Share, portion_of
from ckptclamp.auditing.parts.part import audit_part
from ckptclamp.auditing.parts.partial import merge
from ckptclamp.errors import UsageError
from ckptclamp.plan.build import build_plan
from ckptclamp.reports import RenderOptions
from ckptclamp.reports.formats import json as master
from ckptclamp.reports.formats.partial import read_part, stream

SPEC = ("--spec", "spec.yaml")
FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture
def parts(save):
    """Write the parts of an audit: ``parts(3, strict=True)`` gives the names of their files."""
    save(a=[0.5, 0.7], b=[2.0, 0.1], c=[0.3], d=[0.9, 1.5, 0.2], e=[0.1])

    def call(of, names="p{}.json", **options):
        return [write(Share(n, of), names.format(n), **options) for n in range(1, of + 1)]

    return call


def write(share, name, **options):
    """Write one part, as the command line does; its name."""
    asked = AuditOptions(histogram=True, **options)
    part = audit_part("model.safetensors", share, "spec.yaml", asked)
    Path(name).write_text("".join(stream(part)))
    return name


def report_of(text):
    """A JSON report without the time that it took."""
    document = json.loads(text)
    document["report"]["seconds"] = None
    return document


@pytest.mark.parametrize("of", [1, 2, 3, 7])
def test_merged_parts_are_the_report_of_the_whole(run, parts, of):
    """The same results in the same order, bit for bit, with the same exit code."""
    whole = run("audit", "model.safetensors", *SPEC, "-f", "json")
    merged = run("merge", *reversed(parts(of)), "-f", "json")
    assert merged.returncode == whole.returncode == 1
    assert report_of(merged.stdout) == report_of(whole.stdout)


def test_a_part_again_is_the_same_bytes(run, parts):
    """A job that is run again changes nothing for whoever merges."""
    first, again = parts(3), parts(3, names="again-{}.json")
    assert [Path(p).read_bytes() for p in first] == [Path(p).read_bytes() for p in again]
    run("audit", "model.safetensors", *SPEC, "--part", "2/3", "-o", "partial=by-cli.json", "-j", 1)
    assert Path("by-cli.json").read_bytes() == Path("p2.json").read_bytes()


def test_a_part_never_reads_as_a_pass(run, parts):
    """Its text says that it is a part, and its exit code is of what it judged itself."""
    codes = [int(read_part(Path(name)).exit_code) for name in parts(5)]
    assert codes == [0, 1, 0, 1, 0]
    done = run("audit", "model.safetensors", *SPEC, "--part", "1/5", "-o", "partial=p.json")
    assert done.stdout.splitlines()[-1].startswith("part 1 of 5 (32 B of 144 B): 1 result: 1 pass")
    assert done.stdout.splitlines()[-1].endswith("alone, `ckptclamp merge` decides")
    quiet = run(
        *("audit", "model.safetensors", *SPEC, "--part", "2/5"), "-o", "partial=p.json", "-q"
    )
    assert quiet.stdout.startswith("error[bounded]: b.weight: 1 of 2 units violates")


def test_a_part_with_nothing_in_it_is_no_failure(run, save):
    """There may be more parts than tensors; only a whole without results has judged nothing."""
    save(a=[0.5])
    names = [write(Share(n, 3), f"p{n}.json") for n in (1, 2, 3)]
    assert [int(read_part(Path(name)).exit_code) for name in names] == [0, 0, 0]
    done = run("audit", "model.safetensors", *SPEC, "--part", "1/3", "-o", "partial=p1.json")
    assert (done.returncode, "error" in done.stdout) == (0, False)
    assert run("merge", *names).returncode == 0
    Path("spec.yaml").write_text("version: 1\n")
    nothing = run("audit", "model.safetensors", *SPEC, "--part", "1/1", "-o", "partial=p1.json")
    assert nothing.returncode == 4
    assert run("merge", "p1.json").returncode == 4
    assert run("merge").returncode == 2


def test_a_rule_that_matches_nothing_fails_every_part(run, save):
    """It governs nothing anywhere, and each part knows."""
    save(a=[0.5], b=[0.5])
    with Path("spec.yaml").open("a") as spec:
        spec.write("  - {id: none, tensors: 'x*', constraint: NonNeg}\n")
    for n in (1, 2):
        assert read_part(Path(write(Share(n, 2), f"p{n}.json"))).exit_code == 4
    assert run("merge", "p1.json", "p2.json").returncode == 4


def test_parts_that_do_not_fit_together_are_refused(run, parts):
    """Missing, twice, of another cut, another spec, other options: one line that says which."""

    def refused(*names):
        done = run("merge", *names)
        assert (done.returncode, done.stdout) == (2, "")
        return done.stderr

    parts(3)
    assert "no part here to write" in refused("p1.json", "p2.json", "p3.json", "-o", "partial=p")
    assert "1 of 3 parts are missing: 2" in refused("p1.json", "p3.json")
    assert "p2.json: p2.json is part 2 of 3, too" in refused("p2.json", "p2.json")
    parts(2, names="two-{}.json")
    assert "two-1.json: is one of 2 parts, p2.json one of 3" in refused("p2.json", "two-1.json")
    parts(3, strict=True, names="strict-{}.json")
    assert "strict-1.json: was made with other options" in refused("p2.json", "strict-1.json")
    parts(3, worst=3, names="worst-{}.json")
    assert "worst-1.json: was made with --worst 3, p2.json with 10" in refused(
        "p2.json", "worst-1.json"
    )
    Path("spec.yaml").write_text(Path("spec.yaml").read_text().replace("1.0", "1.5"))
    parts(3, names="spec-{}.json")
    assert "spec-1.json: was judged by another spec than p2.json" in refused(
        "p2.json", "spec-1.json"
    )


@pytest.mark.parametrize("hashed", [True, False])
def test_parts_of_a_file_that_was_replaced_are_refused(run, parts, hashed):
    """The same tensors in the same places, but not the same weights."""
    parts(2, hash=hashed)
    weights = load_file("model.safetensors")
    weights["a.weight"][0, 0] = 0.25
    save_file(weights, "new.safetensors")
    status = Path("model.safetensors").stat()
    os.utime("new.safetensors", ns=(status.st_atime_ns, status.st_mtime_ns + (not hashed)))
    Path("new.safetensors").replace("model.safetensors")
    write(Share(2, 2), "p2.json", hash=hashed)
    done = run("merge", "p1.json", "p2.json")
    assert done.returncode == 2
    assert "p2.json: read another version of the files than p1.json" in done.stderr


def test_copies_with_digests_are_one_checkpoint(run, parts):
    """A job may have a copy of its own: what it holds counts, not when it was written."""
    parts(2, hash=True)
    os.utime("model.safetensors", ns=(1, 1))
    write(Share(2, 2), "p2.json", hash=True)
    assert run("merge", "p1.json", "p2.json").returncode == 1


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("exit_code",), 0),
        (("census", "violations"), 0),
        (("partial", "results"), []),
        (("partial", "answered"), [[0, 10**18]]),
        (("partial", "answered"), []),
        (("partial", "of"), 10**9),
        (("partial", "part"), 0),
        (("partial", "due"), -1),
        (("partial", "whole", "tool_version"), "9.9.9"),
        (("partial", "more"), 1),
        (("schema",), "ckptclamp-partial-2"),
    ],
)
def test_a_part_that_was_altered_is_refused(run, parts, place, value):
    """What is merged may have been anywhere since it was written."""
    parts(2)
    document = json.loads(Path("p1.json").read_text())
    *path, last = place
    inner = document
    for key in path:
        inner = inner[key]
    inner[last] = value
    Path("p1.json").write_text(json.dumps(document))
    done = run("merge", "p1.json", "p2.json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ckptclamp: error: p1.json: ")
    assert done.stderr.count("\n") == 1


def test_a_part_that_failed_leaves_why_in_its_place(run, parts):
    """An earlier part of the same name must not be taken for it."""
    parts(2)
    os.truncate("model.safetensors", 40)
    part = ("--part", "2/2", "-o", "partial=p2.json")
    assert run("audit", "model.safetensors", *SPEC, *part).returncode == 3
    done = run("merge", "p1.json", "p2.json")
    assert done.returncode == 3
    assert "p2.json: this part failed: " in done.stderr
    Path("p1.json").write_text("no JSON")
    assert run("merge", "p1.json", "p2.json").returncode == 3
    assert run("merge", "gone.json").returncode == 3


@pytest.mark.parametrize(
    "more",
    [
        ("--part", "1/2"),
        ("--part", "1/2", "-o", "json=r.json"),
        ("--part", "1/2", "-o", "partial=p.json", "-o", "json=r.json"),
        ("--part", "1/2", "-o", "partial=p.json", "-f", "json"),
        ("--part", "1/2", "-o", "partial=p.json", "--write-baseline", "b.json"),
        ("--part", "1/2", "-o", "partial=p.json", "--attest", "a.json"),
        ("--part", "1/2", "-o", "partial=-"),
        ("--part", "0/2", "-o", "partial=p.json"),
        ("--part", "3/2", "-o", "partial=p.json"),
        ("--part", "1", "-o", "partial=p.json"),
        ("--part", f"1/{MOST + 1}", "-o", "partial=p.json"),
        ("-o", "partial=p.json"),
        ("model.safetensors", "*.safetensors", "--part", "1/2", "-o", "partial=p.json"),
    ],
)
def test_what_makes_no_sense_of_a_part_is_refused(run, save, more):
    """Before anything is read, in one line; what is written is why."""
    save(a=[0.5])
    done = run("audit", "model.safetensors", *SPEC, *more)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    written = [Path(name) for name in ("p.json", "r.json") if Path(name).exists()]
    assert all("ckptclamp-failure-1" in path.read_text() for path in written)


def test_a_part_is_asked_for_where_the_program_is_called(run, save):
    """A variable that was left set would turn a gate into a part of one."""
    save(a=[0.5])
    done = run("audit", "model.safetensors", *SPEC, env={"CKPTCLAMP_PART": "1/2"})
    assert done.returncode == 2
    assert "CKPTCLAMP_PART is set" in done.stderr


def test_a_baseline_is_compared_with_all_parts(run, parts):
    """What is known is known of the whole checkpoint, where parts are merged."""
    names = parts(2)
    assert run("merge", *names, "--write-baseline", "known.json").returncode == 0
    assert run("merge", *names, "--baseline", "known.json").returncode == 0
    whole = run("audit", "model.safetensors", *SPEC, "--baseline", "known.json", "-f", "json")
    merged = run("merge", *names, "--baseline", "known.json", "-f", "json")
    assert report_of(merged.stdout) == report_of(whole.stdout)


def test_ignore_rules_are_judged_by_all_parts(run, parts):
    """One that suppresses something in any part is of use; one that does in none is not."""
    with Path("spec.yaml").open("a") as spec:
        spec.write(
            "ignore:\n"
            "  - {tensors: b.weight, reason: known}\n"
            "  - {tensors: a.weight, reason: never}\n"
            "  - {tensors: d.weight, reason: old, expires: 2020-01-01}\n"
        )
    names = parts(3)
    whole = run("audit", "model.safetensors", *SPEC, "-f", "json")
    merged = run("merge", *names, "-f", "json")
    assert report_of(merged.stdout) == report_of(whole.stdout)
    codes = [n["code"] for n in report_of(merged.stdout)["report"]["notices"]]
    assert codes == ["ignore-expired", "ignore-unused"]


def test_units_of_a_part_are_those_of_its_tensors(run, parts):
    """One behind the other they are the units of the whole."""
    parts(1)
    for n in (1, 2):
        part = ("--part", f"{n}/2", "-o", f"partial=p{n}.json", "-o", f"units=u{n}.jsonl")
        run("audit", "model.safetensors", *SPEC, *part)
    run("audit", "model.safetensors", *SPEC, "-o", "units=all.jsonl")
    both = Path("u1.jsonl").read_text() + Path("u2.jsonl").read_text()
    assert both == Path("all.jsonl").read_text() != ""


CASES = [
    ("hugging_face/sharded", "hugging_face/spec.yaml"),
    ("shared/torn.h5", None),
    ("shared/two_layers.h5", None),
    ("eegnet_drifted.keras", None),
]


@pytest.mark.parametrize(("model", "spec"), CASES)
def test_every_format_is_the_same_in_parts(model, spec):
    """Shards, ties, declared constraints and archives: what is merged is what a whole run says."""
    path = FIXTURES / model
    rules = None if spec is None else FIXTURES / spec
    options = AuditOptions(histogram=True)
    whole = audit(path, rules, options)
    merged = merge([audit_part(path, f"{n}/3", rules, options) for n in (1, 2, 3)])
    assert text(merged) == text(whole)
    assert merged.exit_code is whole.exit_code


def text(report):
    """A report as JSON, without the time that it took."""
    document = json.loads(master.render(report, RenderOptions()))
    document["report"]["seconds"] = None
    return document


def test_what_is_read_back_is_what_was_written(tmp_path):
    """Floats and all."""
    part = audit_part(FIXTURES / "shared/torn.h5", "1/2", {"version": 1, "preset": "health"})
    (tmp_path / "p.json").write_text("".join(stream(part)))
    assert read_part(tmp_path / "p.json") == part


def test_parts_have_about_as_many_bytes_each(tmp_path):
    """No part is further from its share than the largest tensor, and none is asked of two."""
    sizes = [7, 1, 1, 300, 2, 90, 5, 5, 5, 200, 1, 1, 1, 80]
    save_file({f"t{i:02}": np.zeros(n) for i, n in enumerate(sizes)}, tmp_path / "m.safetensors")
    rules = [{"tensors": "**", "constraint": "NonNeg"}, {"tensors": "t*2", "constraint": "NonNeg"}]
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        plan = build_plan(checkpoint, as_spec({"version": 1, "rules": rules}, frozenset()))
    whole = range(len(plan.assignments))
    for of in range(1, 20):
        portions = [portion_of(plan, Share(n, of)) for n in range(1, of + 1)]
        assert sorted(place for portion in portions for place in portion.assignments) == [*whole]
        assert {portion.total for portion in portions} == {8 * sum(sizes)}
        largest = max(portion.nbytes for portion in portions)
        assert largest <= 8 * (sum(sizes) / of + max(sizes))
        names = [{plan.assignments[p].tensor.name for p in x.assignments} for x in portions]
        assert sum(map(len, names)) == len(sizes)


def test_nothing_cannot_be_merged():
    """A merge of nothing would be a gate that judged nothing."""
    with pytest.raises(UsageError, match="nothing cannot be merged"):
        merge([])
