"""``ckptclamp apply`` as a user meets it: what it writes, what it refuses, what it leaves alone."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file


@pytest.fixture
def model(tmp_path):
    """A kernel with two columns too long, and a bias that no rule governs."""
    path = tmp_path / "model.safetensors"
    kernel = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)
    kernel *= np.array([1, 2, 3, 0.5, 1.8], np.float32) / np.linalg.norm(kernel, axis=0)
    save_file(
        {"kernel": kernel, "bias": np.ones(5, np.float32)}, path, metadata={"made": "by hand"}
    )
    return path


RULE = ["--max-norm", 1.9, "--axis", 0, "--tensors", "kernel"]


def test_copy_conforms_exactly_and_differs_only_where_it_must(run, model, tmp_path):
    """Violating columns are on the bound at tolerance 0; every other byte is what it was."""
    out = tmp_path / "fixed.safetensors"
    before = model.read_bytes()
    answer = run("apply", model, *RULE, "-o", out)
    assert answer.returncode == 0, answer.stderr
    assert model.read_bytes() == before
    assert run("audit", out, *RULE, "--tolerance", 0).returncode == 0
    old, new = load_file(model)["kernel"], load_file(out)["kernel"]
    changed = (old != new).any(axis=0)
    assert changed.tolist() == [False, True, True, False, False]
    header = 8 + int.from_bytes(before[:8], "little")
    assert out.read_bytes()[:header] == before[:header]
    assert np.array_equal(load_file(out)["bias"], load_file(model)["bias"])


def test_applying_twice_changes_nothing(run, model, tmp_path):
    """The projection is idempotent, byte for byte."""
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    assert run("apply", model, *RULE, "-o", first).returncode == 0
    assert run("apply", first, *RULE, "-o", second, "--tolerance", 0).returncode == 0
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("how", [["-o", "fixed.safetensors"], ["--dry-run"]])
def test_units_of_the_input_are_listed_on_request(run, model, tmp_path, how):
    """What was mended, or would be: each violating unit of the input once, and none of the copy."""
    listed = ["--report", "units=units.jsonl", "-q"]
    done = run("apply", model, *RULE, *how, *listed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "units.jsonl").read_text().splitlines()]
    assert [(line["tensor"], line["index"]) for line in lines] == [("kernel", [1]), ("kernel", [2])]


def test_units_that_remain_are_listed_once(run, tmp_path):
    """A unit that stays outside is one of the input; it is not listed again for the copy."""
    path = tmp_path / "model.safetensors"
    save_file({"kernel": np.array([[np.nan, 3.0], [1.0, 4.0]], np.float32)}, path)
    done = run(
        "apply",
        *(path, *RULE, "-o", tmp_path / "fixed.safetensors", "--allow-remaining"),
        *("--report", f"units={tmp_path}/units.jsonl", "-q"),
    )
    assert done.returncode == 1, done.stderr
    lines = (tmp_path / "units.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == [[0], [1]]


def test_dry_run_writes_nothing(run, model, tmp_path):
    """--dry-run tells what would change and leaves the folder as it is."""
    answer = run(
        "apply", model, *RULE, "-o", tmp_path / "fixed.safetensors", "--dry-run", "-f", "json"
    )
    assert answer.returncode == 0
    assert json.loads(answer.stdout)["report"]["changes"][0]["changed"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_existing_output_is_not_replaced_unasked(run, model, tmp_path):
    """An existing file stays, unless --force."""
    out = tmp_path / "fixed.safetensors"
    out.write_text("precious")
    answer = run("apply", model, *RULE, "-o", out)
    assert answer.returncode == 2
    assert "--force" in answer.stderr
    assert out.read_text() == "precious"
    assert run("apply", model, *RULE, "-o", out, "--force").returncode == 0
    assert run("audit", out, *RULE).returncode == 0


def test_input_is_never_the_output_by_accident(run, model, tmp_path):
    """Neither its name, nor another path to it, nor a hard link, even with --force."""
    before = model.read_bytes()
    (tmp_path / "hard.safetensors").hardlink_to(model)
    (tmp_path / "soft.safetensors").symlink_to(model)
    for out in (
        model,
        tmp_path / "." / "model.safetensors",
        tmp_path / "hard.safetensors",
        tmp_path / "soft.safetensors",
    ):
        answer = run("apply", model, *RULE, "-o", out, "--force")
        assert answer.returncode == 2, (out, answer.stdout, answer.stderr)
        assert model.read_bytes() == before


def test_in_place_replaces_the_input(run, model, tmp_path):
    """--in-place is the same protocol with the input as its target."""
    assert run("apply", model, *RULE, "--in-place").returncode == 0
    assert run("audit", model, *RULE, "--tolerance", 0).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_what_cannot_be_mended_is_refused(run, tmp_path):
    """A non-finite weight: exit 5, nothing written; --allow-remaining lists it instead."""
    path, out = tmp_path / "nan.safetensors", tmp_path / "out.safetensors"
    kernel = np.full((4, 3), 2, np.float32)
    kernel[0, 1] = np.nan
    save_file({"kernel": kernel}, path)
    answer = run("apply", path, *RULE, "-o", out)
    assert answer.returncode == 5
    assert "kernel" in answer.stderr
    assert not out.exists()
    answer = run("apply", path, *RULE, "-o", out, "--allow-remaining", "-f", "json")
    assert answer.returncode == 1
    fixed = load_file(out)["kernel"]
    assert np.array_equal(fixed[:, 1], kernel[:, 1], equal_nan=True)
    assert np.linalg.norm(fixed[:, 0].astype(float)) <= 1.9


def test_zero_vector_under_unit_norm_is_refused(run, tmp_path):
    """No direction is nearer than another: it is named, not invented."""
    path = tmp_path / "zero.safetensors"
    save_file({"kernel": np.array([[0, 3], [0, 4]], np.float32)}, path)
    answer = run(
        "apply", path, "--unit-norm", "--axis", 0, "--tensors", "kernel", "-o", tmp_path / "o"
    )
    assert answer.returncode == 5
    assert not (tmp_path / "o").exists()


def test_rules_that_exclude_each_other_are_refused(run, tmp_path):
    """Two rules whose sets do not meet: exit 5, and nothing is written."""
    path, out = tmp_path / "m.safetensors", tmp_path / "out.safetensors"
    save_file({"kernel": np.ones((4, 3), np.float32)}, path)
    spec = tmp_path / "rules.yaml"
    spec.write_text(
        "version: 1\nrules:\n"
        "  - {id: short, tensors: kernel, constraint: MaxNorm, max_value: 1, axis: 0}\n"
        "  - {id: long, tensors: kernel, constraint: MinMaxNorm, min_value: 2, max_value: 3, axis: 0}\n"
    )
    answer = run("apply", path, "--spec", spec, "-o", out)
    assert answer.returncode == 5
    assert not out.exists()


def test_rules_that_meet_are_both_kept(run, tmp_path):
    """Two rules on one tensor take turns until both hold."""
    path, out = tmp_path / "m.safetensors", tmp_path / "out.safetensors"
    save_file({"kernel": np.random.default_rng(3).normal(size=(8, 6)).astype(np.float32) * 3}, path)
    spec = tmp_path / "rules.yaml"
    spec.write_text(
        "version: 1\nrules:\n"
        "  - {tensors: kernel, constraint: NonNeg}\n"
        "  - {tensors: kernel, constraint: MaxNorm, max_value: 1, axis: 0}\n"
    )
    assert run("apply", path, "--spec", spec, "-o", out).returncode == 0
    assert run("audit", out, "--spec", spec, "--tolerance", 0).returncode == 0


@pytest.mark.parametrize(
    "name",
    [
        "eegnet_drifted.keras",
        "violating/eegnet.h5",
        "violating/chunked_gzip.h5",
        "violating/deflated_zip.keras",
    ],
)
def test_declared_constraints_are_fixed_without_a_spec(run, fixtures, tmp_path, name):
    """apply with no spec mends what the model declares, in every container."""
    source = tmp_path / "source"
    shutil.copy(fixtures / name, source)
    out = tmp_path / "fixed"
    answer = run("apply", source, "-o", out)
    assert answer.returncode == 0, answer.stderr
    assert run("audit", out).returncode == 0


def test_nothing_is_left_behind(run, model, tmp_path):
    """Neither success nor refusal leaves a temporary file."""
    run("apply", model, *RULE, "-o", tmp_path / "fixed.safetensors")
    run("apply", model, *RULE, "-o", tmp_path / "missing" / "fixed.safetensors")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"model.safetensors", "fixed.safetensors"}


def test_a_report_is_not_mistaken_for_the_copy(run, model, tmp_path):
    """-o names the copy here; FORMAT=PATH after it is a slip, not a file name."""
    answer = run("apply", model, *RULE, "-o", f"html={tmp_path / 'r.html'}")
    assert answer.returncode == 2
    assert "--report" in answer.stderr


def test_a_rate_that_falls_short_is_told(run, model, tmp_path):
    """Keras' formula moves by the rate of a schedule only; the answer names the projection that does not."""
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "version: 1\nprojection: keras\nrules:\n"
        "  - {tensors: '**', constraint: MinMaxNorm, min_value: 0, max_value: 0.1, rate: 0.5, axis: 0}\n"
    )
    answer = run("apply", model, "--spec", spec, "-o", tmp_path / "copy.safetensors")
    assert answer.returncode == 5
    assert "--projection exact" in answer.stderr
    assert not (tmp_path / "copy.safetensors").exists()


def test_a_link_is_written_through_only_when_asked(run, fixtures, tmp_path):
    """A link at the output is refused, one at an input in place replaced; with leave, its file is."""
    source, link = tmp_path / "model.keras", tmp_path / "link.keras"
    shutil.copy(fixtures / "eegnet_drifted.keras", source)
    link.symlink_to(source)
    before = source.read_bytes()
    assert run("apply", source, "-o", link, "--force").returncode == 2
    assert source.read_bytes() == before
    done = run("apply", link, "--in-place")
    assert done.returncode == 0
    assert "link.keras was a symbolic link and is a file of its own now" in done.stdout
    assert not link.is_symlink()
    assert run("audit", link).returncode == 0
    assert source.read_bytes() == before
    link.unlink()
    link.symlink_to(source)
    done = run("apply", link, "--in-place", "--follow-symlinks")
    assert done.returncode == 0
    assert f"is a symbolic link: the copy was written to {source}" in done.stdout
    assert link.is_symlink()
    assert not source.is_symlink()
    assert run("audit", source).returncode == 0
    other = tmp_path / "other.keras"
    link.unlink()
    link.symlink_to(other)
    done = run("apply", fixtures / "eegnet_drifted.keras", "-o", link, "--follow-symlinks")
    assert done.returncode == 0
    assert link.is_symlink()
    assert run("audit", other).returncode == 0


def test_a_directory_with_one_file_is_mended_in_place(run, model, tmp_path):
    """The one file that a directory holds is what is audited there, and what is replaced."""
    (tmp_path / "other").mkdir()
    alone = tmp_path / "other" / "model.safetensors"
    shutil.move(model, alone)
    for how in (["--dry-run", "--in-place"], ["--in-place"]):
        assert run("apply", alone.parent, *RULE, *how).returncode == 0
    assert run("audit", alone.parent, *RULE, "--tolerance", 0).returncode == 0
    assert [path.name for path in alone.parent.iterdir()] == ["model.safetensors"]


def test_a_constraint_that_is_unknown_is_no_missing_one(run, fixtures, tmp_path):
    """Whoever allows what remains is told why nothing could be judged, not that nothing is declared."""
    source = fixtures / "conforming" / "custom_clip.keras"
    for more in ([], ["--allow-remaining"]):
        done = run("apply", source, "-o", tmp_path / "out.keras", *more)
        assert done.returncode == 3
        assert "is not known here" in done.stderr
