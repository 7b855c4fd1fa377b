"""Several checkpoints under one gate: one run, one report, one exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

SPEC = ("--spec", "spec.yaml")


@pytest.fixture
def models(save, folder):
    """Two conforming checkpoints and one that violates, in a folder of releases."""
    (folder / "releases").mkdir()
    save(file="releases/a.safetensors", a=[0.5])
    save(file="releases/b.safetensors", a=[0.7])
    save(file="bad.safetensors", a=[2.0], b=[0.1])
    return folder


def run_document(run, *arguments, **more):
    """The exit code and the JSON of a run."""
    done = run("audit", *arguments, "-f", "json", **more)
    return done.returncode, json.loads(done.stdout)


def paths(document):
    """The checkpoints of a run, in its order."""
    return [
        section.get("checkpoint") or section["report"]["checkpoint"]["path"]
        for section in document["checkpoints"]
    ]


def test_several_checkpoints_make_one_report(run, models):
    """One exit code by the documented order, a line for each and one for all."""
    named = ("releases/a.safetensors", "bad.safetensors", "releases/b.safetensors")
    done = run("audit", *named, *SPEC)
    assert done.returncode == 1
    lines = done.stdout.splitlines()[-4:]
    assert [line.split(":")[0] for line in lines] == [*named, "3 checkpoints"]
    assert lines[-1].startswith("3 checkpoints: 2 pass, 1 fail; 4 results: 3 pass, 1 violation")
    assert lines[-1].endswith("exit 1")
    code, document = run_document(run, *named, "gone.safetensors", *SPEC)
    assert (code, document["exit_code"]) == (3, 3)
    assert paths(document) == [*named, "gone.safetensors"]
    assert [section["exit_code"] for section in document["checkpoints"]] == [0, 1, 0, 3]


def test_the_report_of_one_checkpoint_stays_what_it_was(run, models):
    """Who reads reports of single checkpoints meets no other format."""
    _, document = run_document(run, "bad.safetensors", *SPEC)
    assert document["schema"] == "ckptclamp-report-1"
    _, several = run_document(run, "bad.safetensors", "releases/a.safetensors", *SPEC)
    section = several["checkpoints"][0]
    section["report"]["seconds"] = document["report"]["seconds"]
    assert section == document


def test_globs_stand_for_what_there_is(run, models):
    """`**` are any directories; each file is judged once, in the order of names."""
    code, document = run_document(run, "releases/*.safetensors", *SPEC)
    assert (code, document["schema"]) == (0, "ckptclamp-run-1")
    assert paths(document) == ["releases/a.safetensors", "releases/b.safetensors"]
    code, document = run_document(run, "**/*.safetensors", "./bad.safetensors", *SPEC)
    assert code == 1
    assert len(document["checkpoints"]) == 3
    shutil.copy("bad.safetensors", "[x].safetensors")
    code, document = run_document(run, "[x].safetensors", *SPEC)
    assert document["schema"] == "ckptclamp-report-1"


@pytest.mark.parametrize("pattern", ["releases/*.keras", "nowhere/**/*.h5", "?.safetensors"])
def test_a_glob_that_matches_nothing_fails(run, models, pattern):
    """A gate over nothing has not passed, whatever else it is about."""
    done = run("audit", "releases/a.safetensors", pattern, *SPEC, "-f", "github")
    assert done.returncode == 4
    assert f"{pattern}: no file has such a name" in done.stdout
    assert pattern in done.stderr
    assert run("audit", pattern, *SPEC).returncode == 4


MANIFEST = """\
version: 1
checkpoints:
  - path: releases/*.safetensors
    spec: spec.yaml
  - {path: bad.safetensors, spec: spec.yaml, severity: warning}
  - {path: later/*.keras, required: false}
"""


@pytest.mark.parametrize("where", ["manifest", "settings", "project"])
def test_a_manifest_says_how_each_is_judged(run, models, where):
    """A YAML file, or tables of the settings: the same keys, the same answer."""
    tables = (
        '[[{0}checkpoint]]\npath = "releases/*.safetensors"\nspec = "spec.yaml"\n'
        '[[{0}checkpoint]]\npath = "bad.safetensors"\nspec = "spec.yaml"\nseverity = "warning"\n'
        '[[{0}checkpoint]]\npath = "later/*.keras"\nrequired = false\n'
    )
    if where == "manifest":
        (models / "gate.yaml").write_text(MANIFEST)
    elif where == "settings":
        (models / "ckptclamp.toml").write_text(tables.format(""))
    else:
        (models / "pyproject.toml").write_text(tables.format("tool.ckptclamp."))
    asked = ("--manifest", "gate.yaml") if where == "manifest" else ()
    code, document = run_document(run, *asked)
    assert code == 0
    assert paths(document) == [
        "releases/a.safetensors",
        "releases/b.safetensors",
        "bad.safetensors",
    ]
    assert [notice["code"] for notice in document["notices"]] == ["checkpoint-not-there"]
    assert run_document(run, *asked, "--strict")[0] == 1
    (models / "elsewhere").mkdir()
    if where == "manifest":
        asked = ("--manifest", "../gate.yaml")
    (models / ".git").mkdir()
    code, document = run_document(run, *asked, cwd=models / "elsewhere")
    assert code == 0
    assert paths(document)[-1] == "../bad.safetensors"


def test_required_checkpoints_must_be_there(run, models):
    """By name, exit 3 as for one alone; by a pattern, exit 4."""
    for path, code in (("gone.safetensors", 3), ("later/*.keras", 4)):
        (models / "gate.yaml").write_text(f"version: 1\ncheckpoints: [{{path: '{path}'}}]\n")
        assert run("audit", "--manifest", "gate.yaml").returncode == code
        text = f"version: 1\ncheckpoints: [{{path: '{path}', required: false}}]\n"
        (models / "gate.yaml").write_text(text)
        assert run("audit", "--manifest", "gate.yaml").returncode == 4  # nothing was judged


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version: 1\ncheckpoints: []\n", "2:14: checkpoints is empty"),
        ("version: 1\ncheckpoints: [{spec: x}]\n", "2:15: path is missing"),
        ("version: 1\ncheckpoints: [{path: x, sevrity: error}]\n", "2:25: unknown key 'sevrity'"),
        ("version: 1\ncheckpoints: [{path: x, required: 1}]\n", "expected true or false"),
        ("version: 1\ncheckpoints: [{path: ''}]\n", "path is empty"),
        ("checkpoints: [{path: x}]\n", "version is missing"),
        ("- x\n", "expected a mapping"),
        ("version: 1\ncheckpoints: [x]\n", "2:15: checkpoints[0]: expected a mapping, not 'x'"),
        ("a: &b [*b]\n", "gate.yaml:1:"),
    ],
)
def test_a_manifest_that_cannot_be_understood_is_an_error(run, models, text, said):
    """Every problem has its place, and nothing is judged."""
    (models / "gate.yaml").write_text(text)
    done = run("audit", "--manifest", "gate.yaml", "-f", "github")
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout.startswith("::error file=gate.yaml")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--manifest", "gate.yaml", "bad.safetensors"],
        ["bad.safetensors", "releases/a.safetensors", "--attest", "x.json"],
        ["bad.safetensors", "releases/a.safetensors", "--checkpoint-name", "x"],
        ["bad.safetensors", "releases/a.safetensors", "-o", "json=releases/a.safetensors"],
        ["releases/*.safetensors", "-o", "json=releases/b.safetensors"],
        ["bad.safetensors", "releases/*.safetensors", "--spec", "gone.yaml"],
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_judged(run, models, arguments):
    """A mistake that is about all must not cost the hours of some."""
    (models / "gate.yaml").write_text(MANIFEST)
    before = {path: path.read_bytes() for path in models.rglob("*") if path.is_file()}
    done = run("audit", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert {path: path.read_bytes() for path in models.rglob("*") if path.is_file()} == before


def test_the_settings_of_a_stranger_judge_nothing(run, models):
    """Tables in a checkpoint's own directory would choose what it is compared with."""
    shutil.copytree("releases", "set")
    (models / "set" / "ckptclamp.toml").write_text('[[checkpoint]]\npath = "."\n')
    done = run("audit", cwd=models / "set")
    assert done.returncode == 2
    assert "inside the checkpoint" in done.stderr


def test_units_of_several_checkpoints_say_whose_they_are(run, models):
    """The same tensor may violate in two files."""
    shutil.copy("bad.safetensors", "worse.safetensors")
    run("audit", "bad.safetensors", "worse.safetensors", *SPEC, "-o", "units=u.jsonl")
    lines = [json.loads(line) for line in Path("u.jsonl").read_text().splitlines()]
    assert [line["checkpoint"] for line in lines] == ["bad.safetensors", "worse.safetensors"]


def test_reports_are_merged(run, models):
    """Jobs that ran apart are told together; a failure, and a run, are sections too."""
    run("audit", "releases/a.safetensors", *SPEC, "-o", "a.json")
    run("audit", "bad.safetensors", *SPEC, "-o", "b.json")
    run("audit", "gone.safetensors", *SPEC, "-o", "c.json")
    run("audit", "releases/*.safetensors", *SPEC, "-o", "d.json")
    done = run("report", "a.json", "b.json", "c.json", "d.json", "-f", "json", "-o", "all.html")
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert document["exit_code"] == 3
    assert len(document["checkpoints"]) == 5
    assert document["checkpoints"][1] == json.loads(Path("b.json").read_text())
    assert "gone.safetensors" in Path("all.html").read_text()
    assert run("report", "a.json", "b.json", "-o", "json=b.json").returncode == 2


def test_one_baseline_knows_several_checkpoints(run, models):
    """What is known of one file excuses nothing in another."""
    both = ("bad.safetensors", "releases/a.safetensors")
    assert run("audit", *both, *SPEC, "--write-baseline", "known.json").returncode == 0
    known = json.loads(Path("known.json").read_text())
    assert {name: len(part) for name, part in known["checkpoints"].items()} == {
        "bad.safetensors": 1,
        "releases/a.safetensors": 0,
    }
    gate = (*SPEC, "--baseline", "known.json")
    assert run("audit", *both, *gate).returncode == 0
    assert run("audit", "bad.safetensors", *gate, "--strict").returncode == 0
    shutil.copy("bad.safetensors", "releases/a.safetensors")
    code, document = run_document(run, *both, *gate)
    assert (code, [s["exit_code"] for s in document["checkpoints"]]) == (1, [0, 1])
    done = run("audit", "releases/b.safetensors", *gate)
    assert "written for bad.safetensors, releases/a.safetensors" in done.stdout
    assert "--checkpoint-name NAME says which of these it is" in done.stdout
    named = ("--checkpoint-name", "bad.safetensors")
    assert run("audit", "releases/a.safetensors", *gate, *named).returncode == 0
    save_file({"a.weight": np.zeros((1, 4), np.float32)}, "bad.safetensors")
    prune = ("baseline", "prune", "bad.safetensors", "--baseline", "known.json", *SPEC)
    assert run(*prune).stdout == "1 removed, 0 lowered, 0 known\n"
    assert set(json.loads(Path("known.json").read_text())["checkpoints"]) == set(both)


def test_a_baseline_of_one_is_no_baseline_of_another(run, models):
    """The same tensor in another model is another violation, and fails."""
    run("audit", "bad.safetensors", *SPEC, "--write-baseline", "known.json")
    shutil.copy("bad.safetensors", "other.safetensors")
    gate = (*SPEC, "--baseline", "known.json")
    done = run("audit", "other.safetensors", *gate)
    assert done.returncode == 1
    assert "written for bad.safetensors, and this is other.safetensors" in done.stdout
    assert run("audit", "bad.safetensors", "other.safetensors", *gate).returncode == 1
    named = ("--checkpoint-name", "bad.safetensors")
    assert run("audit", "other.safetensors", *gate, *named).returncode == 0


def test_a_baseline_follows_renamed_tensors(run, models):
    """A refactoring that renames layers neither forgives anything nor brings old debt back."""
    spec = Path("spec.yaml")
    spec.write_text(spec.read_text().replace('"*.weight"', '"**.weight"'))
    run("audit", "bad.safetensors", *SPEC, "--write-baseline", "known.json")
    tensors = load_file("bad.safetensors")
    save_file({f"model.{name}": value for name, value in tensors.items()}, "bad.safetensors")
    gate = ("audit", "bad.safetensors", *SPEC, "--baseline", "known.json")
    assert run(*gate).returncode == 1
    rename = ("--rename", "*.weight=>model.*.weight")
    assert run(*gate, *rename).returncode == 0
    assert run(*gate, "--rename", "x.*=>y.*").returncode == 2
    prune = ("baseline", "prune", "bad.safetensors", *SPEC, "--baseline", "known.json", *rename)
    assert run(*prune).returncode == 0
    assert '"tensor": "model.a.weight"' in Path("known.json").read_text()
    assert run(*gate).returncode == 0
    assert run("audit", "bad.safetensors", *SPEC, *rename).returncode == 2


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_cast_is_not_worse(run, models, dtype):
    """Rounding moves a norm by a roundoff at most; a real growth is found all the same."""
    import ml_dtypes

    narrow = np.dtype(getattr(ml_dtypes, dtype, dtype))
    rng = np.random.default_rng(7)
    weights = rng.normal(size=(64, 48)).astype(np.float32)
    save_file({"a.weight": weights}, "bad.safetensors")
    gate = ("audit", "bad.safetensors", *SPEC)
    run(*gate, "--write-baseline", "known.json")
    worst = json.loads(Path("known.json").read_text())["entries"][0]["worst_distance"]
    save_file({"a.weight": weights.astype(narrow)}, "bad.safetensors")
    done = run(*gate, "--baseline", "known.json")
    assert done.returncode == 0, done.stdout
    factor = 1 + 4 * float(ml_dtypes.finfo(narrow).eps) * (1 + 1 / worst)
    save_file({"a.weight": (weights * factor).astype(narrow)}, "bad.safetensors")
    assert run(*gate, "--baseline", "known.json").returncode == 1


INLINE = ("--max-norm", "100", "--tensors", "**", "--axis", "1")


@pytest.mark.parametrize("order", [slice(1), slice(2), slice(None, None, -1)])
@pytest.mark.parametrize("where", ["manifest", "settings"])
def test_an_inline_rule_displaces_no_spec_of_an_entry(run, models, where, order):
    """It was said of that checkpoint; a looser rule for all would let it pass unseen."""
    entries = ["{path: bad.safetensors, spec: spec.yaml}", "{path: releases/a.safetensors}"]
    listed = ", ".join(entries[order])
    (models / "gate.yaml").write_text(f"version: 1\ncheckpoints: [{listed}]\n")
    tables = ['path = "bad.safetensors"\nspec = "spec.yaml"\n', 'path = "releases/a.safetensors"\n']
    (models / "lax.yaml").write_text((models / "spec.yaml").read_text().replace("1.0", "9.0"))
    text = "".join(f"[[checkpoint]]\n{table}" for table in tables[order])
    (models / "ckptclamp.toml").write_text(f'spec = "lax.yaml"\n{text}')
    asked = ("--manifest", "gate.yaml") if where == "manifest" else ()
    assert run("audit", *asked).returncode == 1
    variables = {"CKPTCLAMP_MAX_NORM": "100", "CKPTCLAMP_TENSORS": "**", "CKPTCLAMP_AXIS": "1"}
    for more, env in ((INLINE, {}), ((), variables)):
        done = run("audit", *asked, *more, env=env)
        assert (done.returncode, done.stdout) == (2, "")
        assert "--spec and an inline rule exclude each other" in done.stderr
    done = run("audit", "bad.safetensors", "releases/a.safetensors", *INLINE)
    assert done.returncode == 0, done.stderr
    assert "spec set by" not in done.stdout


def test_settings_that_no_entry_needs_are_not_said_to_hold(run, models):
    """Who reads that a spec was set looks for its rules."""
    entry = '[[checkpoint]]\npath = "bad.safetensors"\nspec = "spec.yaml"\n'
    (models / "ckptclamp.toml").write_text(f'spec = "spec.yaml"\n{entry}')
    assert "spec set by" not in run("audit").stdout
    other = '[[checkpoint]]\npath = "releases/a.safetensors"\n'
    (models / "ckptclamp.toml").write_text(f'spec = "spec.yaml"\n{entry}{other}')
    assert "spec set by" in run("audit").stdout


@pytest.mark.parametrize("where", ["manifest", "settings", "command line"])
def test_braces_are_refused_where_they_would_be_a_name(run, models, where):
    """An entry that may be missing would never be audited, and nobody would hear of it."""
    pattern = "releases/{a,b}.safetensors"
    text = f"checkpoints: [{{path: '{pattern}', required: false}}, {{path: bad.safetensors}}]"
    (models / "gate.yaml").write_text(f"version: 1\n{text}\n")
    if where == "settings":
        table = f'[[checkpoint]]\npath = "{pattern}"\nrequired = false\n'
        (models / "ckptclamp.toml").write_text(table)
    asked = {"manifest": ["--manifest", "gate.yaml"], "command line": [pattern]}.get(where, [])
    done = run("audit", *asked, *SPEC)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{pattern}: nothing has this name, and braces are no alternatives" in done.stderr
    shutil.copy("releases/a.safetensors", pattern)
    assert run("audit", pattern, *SPEC).returncode == 0
    (models / "x{,}y").mkdir()
    assert run("audit", "x{,}y/*.safetensors", *SPEC).returncode == 2
    shutil.copy("releases/a.safetensors", "x{,}y/a.safetensors")
    assert run("audit", "x{,}y/*.safetensors", *SPEC).returncode == 0


def test_a_baseline_knows_a_directory_and_its_index_as_one(run, folder, fixtures):
    """Whoever names the directory, the index or the report of either means the same checkpoint."""
    import ckptclamp

    shutil.copytree(fixtures / "violating" / "sharded_transformer", "st")
    shutil.copy(fixtures / "specs" / "transformer.yaml", "rules.yaml")
    index = str(next(Path("st").glob("*.json")))
    rules = ("--spec", "rules.yaml")
    for name in ("st", index):
        assert run("audit", name, *rules, "--write-baseline", "known.json").returncode == 0
        for other in ("st", index):
            assert run("audit", other, *rules, "--baseline", "known.json").returncode == 0
            done = run("baseline", "prune", other, *rules, "--baseline", "known.json")
            assert done.returncode == 0, done.stderr
            report = ckptclamp.audit(other, "rules.yaml")
            assert ckptclamp.baseline(report, "known.json").passed
    assert run("audit", "st", *rules, "-o", "json=report.json").returncode == 1
    done = run("baseline", "prune", "report.json", "--baseline", "known.json")
    assert done.returncode == 0, done.stderr


def test_a_quiet_strict_run_names_what_failed_it(run, models):
    """Warnings fail it; a line for each, as where it is one checkpoint."""
    text = (models / "spec.yaml").read_text() + "    severity: warning\n"
    (models / "spec.yaml").write_text(text)
    both = ("audit", "bad.safetensors", "releases/a.safetensors", *SPEC, "-q")
    assert "warning[bounded]" not in run(*both).stdout
    done = run(*both, "--strict")
    assert done.returncode == 1
    assert "warning[bounded]: bad.safetensors: a.weight" in done.stdout


def test_a_missing_config_is_not_told_of_the_checkpoint(run, models):
    """Its name stands before what is wrong with it."""
    listed = "checkpoints: [{path: bad.safetensors, spec: spec.yaml, config: gone.json}]"
    (models / "gate.yaml").write_text(f"version: 1\n{listed}\n")
    done = run("audit", "--manifest", "gate.yaml", "-q")
    assert done.returncode == 3
    assert "bad.safetensors: no report: gone.json: " in done.stdout


def test_the_baseline_of_one_is_not_written_for_several(run, models):
    """Told before the first is measured, and nothing is changed."""
    run("audit", "bad.safetensors", *SPEC, "--write-baseline", "known.json")
    before = Path("known.json").read_bytes()
    both = ("audit", "bad.safetensors", "releases/a.safetensors", *SPEC)
    done = run(*both, "--write-baseline", "known.json")
    assert (done.returncode, done.stdout) == (2, "")
    assert "known.json: is the baseline of one checkpoint" in done.stderr
    assert Path("known.json").read_bytes() == before
    again = ("audit", "bad.safe*", *SPEC, "--write-baseline", "known.json")
    assert run(*again).returncode == 0


def test_a_report_shows_one_violation_as_one(models):
    """In a notebook it is the first thing that is read."""
    import ckptclamp

    assert "1 violation," in repr(ckptclamp.audit("bad.safetensors", "spec.yaml"))
    assert "0 violations," in repr(ckptclamp.audit("releases/a.safetensors", "spec.yaml"))


def test_what_to_do_about_a_baseline_can_be_done_in_a_run_of_several(run, models):
    """`--checkpoint-name` is about one checkpoint, and refused here."""
    run("audit", "bad.safetensors", *SPEC, "--write-baseline", "known.json")
    shutil.copy("bad.safetensors", "other.safetensors")
    both = ("audit", "releases/a.safetensors", "other.safetensors", *SPEC)
    for advised in (
        run(*both, "--baseline", "known.json").stdout,
        run(*both, "--baseline", "known.json", "-f", "json").stderr,
        run("audit", "other.safe*", *SPEC, "--write-baseline", "known.json").stderr,
    ):
        assert "correct its name in the baseline, or write another" in advised
        assert "--checkpoint-name" not in advised
    known = Path("known.json")
    known.write_text(known.read_text().replace("bad.safetensors", "other.safetensors"))
    assert run(*both, "--baseline", "known.json").returncode == 0


def test_a_quiet_run_says_what_to_do_where_there_is_no_report(run, models):
    """In the line itself, as where it is one checkpoint; on stderr, too, beside a report for machines."""
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    Path("pointer.safetensors").write_text(pointer)
    both = ("audit", "releases/a.safetensors", "pointer.safetensors", *SPEC)
    told = (
        "pointer.safetensors: not a checkpoint: a Git LFS pointer, not the file that it points to "
    )
    for said in (run(*both, "-q").stdout, run(*both, "-f", "json").stderr):
        assert f"{told}(run `git lfs pull`)\n" in said


@pytest.fixture
def refactored(run, models):
    """Two checkpoints whose tensors were renamed since their baselines were written."""
    both = ("bad.safetensors", "releases/a.safetensors")
    spec = Path("spec.yaml")
    spec.write_text(spec.read_text().replace('"*.weight"', '"**.weight"'))
    assert run("audit", *both, *SPEC, "--write-baseline", "known.json").returncode == 0
    assert run("audit", both[0], *SPEC, "--write-baseline", "one.json").returncode == 0
    for name in both:
        renamed = {f"model.{key}": value for key, value in load_file(name).items()}
        save_file(renamed, name)
    return both


RENAME = ("--rename", "*.weight=>model.*.weight")


def test_baselines_of_several_follow_renamed_tensors(run, refactored):
    """One refactoring renames the layers of every model; a rename must fit an entry of some."""
    gate = ("audit", *refactored, *SPEC, "--baseline", "known.json")
    assert run(*gate).returncode == 1
    assert run(*gate, *RENAME).returncode == 0
    done = run(*gate, *RENAME, "--rename", "x.*=>y.*")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'x.*=>y.*' fits no tensor of the baseline" in done.stderr
    done = run("audit", *refactored, *SPEC, *RENAME)
    assert (done.returncode, done.stdout) == (2, "")
    written = run("audit", *refactored, *SPEC, "--write-baseline", "known.json", *RENAME)
    assert written.returncode == 0
    assert run(*gate).returncode == 0


def test_baselines_of_a_manifest_follow_renamed_tensors(run, refactored):
    """Some of its checkpoints may have none."""
    entries = "[{path: bad.safetensors, baseline: one.json}, {path: releases/a.safetensors}]"
    Path("gate.yaml").write_text(f"version: 1\ncheckpoints: {entries}\n")
    gate = ("audit", "--manifest", "gate.yaml", *SPEC)
    assert run(*gate).returncode == 1
    assert run(*gate, *RENAME).returncode == 0
    assert run(*gate, "--rename", "x.*=>*.b").returncode == 2
