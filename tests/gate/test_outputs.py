"""What is written about a checkpoint never replaces what is read, nor gets into the checkpoint."""

from __future__ import annotations

import json
import os
import shutil

import pytest

GATE = ("audit", "model.safetensors", "--spec", "spec.yaml")


def content(folder):
    """Every file below `folder` and its bytes."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def unzipped(folder, fixtures):
    """A Keras directory that violates what it declares."""
    shutil.copytree(fixtures / "violating" / "unzipped_directory", folder / "model")
    return folder / "model"


@pytest.fixture
def sharded(folder, fixtures):
    """A sharded set, by the name of its index."""
    shutil.copytree(fixtures / "violating" / "sharded_transformer", folder / "set")
    shutil.copy(fixtures / "specs" / "transformer.yaml", folder / "rules.yaml")
    return next((folder / "set").glob("*.json"))


@pytest.mark.parametrize("place", ["model/config.json", "model/model.weights.h5", "link.json"])
@pytest.mark.parametrize("option", ["-o json={}", "--attest {}", "--write-baseline {}"])
def test_no_part_of_a_directory_checkpoint_is_written_over(run, folder, unzipped, option, place):
    """A report in the place of the config would be a part of the model."""
    (folder / "link.json").symlink_to(unzipped / "metadata.json")
    before = content(folder)
    done = run("audit", "model", *option.format(place).split())
    assert (done.returncode, done.stdout) == (2, "")
    assert place in done.stderr
    assert content(folder) == before
    for elsewhere in ("outside.json", "model/new.json"):
        done = run("audit", "model", *option.format(elsewhere).split())
        assert done.returncode in (0, 1)
        assert (folder / elsewhere).exists()


def test_a_part_that_was_missing_is_not_made_up(run, folder, unzipped):
    """A directory of Keras may have no metadata; what is written there would be taken for it."""
    (unzipped / "metadata.json").unlink()
    assert run("audit", "model", "-o", "json=model/metadata.json").returncode == 2
    assert not (unzipped / "metadata.json").exists()


def test_the_working_directory_may_be_the_checkpoint(run, folder, sharded):
    """Whoever audits where he stands writes reports there, and again the next day."""
    os.chdir(sharded.parent)
    for _ in range(2):
        done = run("audit", ".", "--spec", "../rules.yaml", "-o", "json=gate.json")
        assert done.returncode == 1
    assert json.loads((sharded.parent / "gate.json").read_text())["exit_code"] == 1


@pytest.mark.parametrize(
    ("target", "place"),
    [
        ("-o copy --force", "copy/config.json"),
        ("-o copy --force", "model/config.json"),
        ("--in-place", "model/config.json"),
    ],
)
def test_nothing_is_written_into_a_copy_or_its_original(run, folder, unzipped, target, place):
    """The copy is what was audited, so a report may not replace a file of it afterwards."""
    assert run("apply", "model", "-o", "copy").returncode == 0
    before = content(folder)
    for option in (("--report", f"json={place}"), ("--attest", place)):
        done = run("apply", "model", *target.split(), *option)
        assert (done.returncode, done.stdout) == (2, "")
    assert content(folder) == before


@pytest.mark.parametrize("follow", ["symlink", "hardlink"])
def test_shards_are_not_written_over_under_another_name(run, folder, sharded, follow):
    """A link leads to the same bytes, whatever it is called."""
    shard = next(sharded.parent.glob("*-00001-*"))
    link = folder / "link.json"
    link.symlink_to(shard) if follow == "symlink" else link.hardlink_to(shard)
    before = content(folder)
    for checkpoint in (sharded, sharded.parent):
        for place in (shard, sharded, link):
            done = run("audit", checkpoint, "--spec", "rules.yaml", "-o", f"json={place}")
            assert (done.returncode, done.stdout) == (2, "")
    assert content(folder) == before


def test_a_file_that_is_read_is_known_by_its_inode(run, save, folder):
    """A spec by another of its names is still the spec."""
    save(a=[0.5])
    (folder / "same.yaml").hardlink_to("spec.yaml")
    assert run(*GATE, "-o", "json=same.yaml").returncode == 2


def test_settings_and_their_baseline_are_not_written_over(run, save, folder):
    """What the project's settings name is read as well as what the command line names."""
    save(a=[2.0])
    (folder / "ckptclamp.toml").write_text('spec = "spec.yaml"\nbaseline = "known.json"\n')
    gate = ("audit", "model.safetensors")
    assert run(*gate, "--write-baseline", "known.json").returncode == 0
    before = content(folder)
    for place in ("known.json", "spec.yaml", "ckptclamp.toml"):
        done = run(*gate, "--write-baseline", "other.json", "-o", f"json={place}")
        assert done.returncode == 2
    assert content(folder) == before


def test_a_config_is_not_written_over(run, folder, fixtures):
    """It is read as the weights are."""
    shutil.copy(fixtures / "conforming" / "eegnet.keras", "model.keras")
    (folder / "config.json").write_text("{}")
    done = run("audit", "model.keras", "--config", "config.json", "-o", "json=./config.json")
    assert done.returncode == 2
    assert (folder / "config.json").read_text() == "{}"


def test_a_saved_report_is_not_written_over_by_another_format(run, save, folder):
    """It is the master, from which every other one can be made."""
    save(a=[0.5])
    run(*GATE, "-o", "json=report.json")
    before = content(folder)
    assert run("report", "report.json", "-o", "html=./report.json").returncode == 2
    assert content(folder) == before


def test_a_spec_is_not_written_over_by_its_schema(run, save, folder):
    """`init` writes two files, so they need two names."""
    save(a=[0.5])
    for force in ([], ["--force"]):
        done = run("init", "model.safetensors", "-o", "ckptclamp.schema.json", *force)
        assert done.returncode == 2
    assert not (folder / "ckptclamp.schema.json").exists()
    only = run("init", "model.safetensors", "-o", "ckptclamp.schema.json", "--no-schema")
    assert only.returncode == 0


def test_a_spec_is_not_written_over_by_the_copy(run, save, folder):
    """`--force` replaces an older copy, not the rules of this one."""
    save(a=[2.0])
    before = content(folder)
    done = run("apply", *GATE[1:], "-o", "./spec.yaml", "--force")
    assert (done.returncode, done.stdout) == (2, "")
    assert content(folder) == before


@pytest.mark.parametrize("option", ["--attest", "--write-baseline"])
@pytest.mark.parametrize("place", ["missing/x.json", "there"])
def test_a_place_that_cannot_be_written_is_found_before_the_work(run, save, folder, option, place):
    """A wrong path must cost neither the hour of measuring nor the report of it."""
    save(a=[2.0])
    (folder / "there").mkdir()
    done = run(*GATE, "-o", "json=report.json", option, place)
    assert (done.returncode, done.stdout) == (2, "")
    assert place in done.stderr
    assert json.loads((folder / "report.json").read_text())["exit_code"] == 2


def test_no_copy_is_made_whose_statement_cannot_be_written(run, save, folder):
    """A copy that is there without its statement looks like one that has it."""
    save(a=[2.0])
    done = run("apply", *GATE[1:], "-o", "copy.safetensors", "--attest", "missing/x.json")
    assert (done.returncode, done.stdout) == (2, "")
    assert not (folder / "copy.safetensors").exists()


def test_every_list_of_units_is_written(run, save, folder):
    """Two places that were asked for are two files."""
    save(a=[2.0, 3.0])
    done = run(*GATE, "-o", "units=one.jsonl", "-o", "units=other.jsonl")
    assert done.returncode == 1
    lines = (folder / "one.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == [[0], [1]]
    assert (folder / "other.jsonl").read_text().splitlines() == lines


def test_a_manifest_is_not_written_over(run, save, folder):
    """It says which checkpoints the next gate is about."""
    save(a=[0.5])
    text = "version: 1\ncheckpoints: [{path: model.safetensors, spec: spec.yaml}]\n"
    (folder / "gate.yaml").write_text(text)
    for option in (("-o", "json=./gate.yaml"), ("--write-baseline", "gate.yaml")):
        done = run("audit", "--manifest", "gate.yaml", *option)
        assert (done.returncode, done.stdout) == (2, "")
        assert (folder / "gate.yaml").read_text() == text


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json", "hf_quant_config.json"])
def test_a_config_beside_the_weights_is_not_written_over(run, save, folder, name):
    """It is read with them, though nobody names it."""
    save(a=[0.5])
    (folder / name).write_text("{}")
    assert run(*GATE, "-o", f"json={name}").returncode == 2
    assert (folder / name).read_text() == "{}"


@pytest.mark.parametrize("target", ["base.safetensors", "same.safetensors"])
def test_a_copy_does_not_replace_the_base_that_it_is_compared_with(run, save, folder, target):
    """Neither one of the command line nor one that the spec names, by whatever name."""
    save(a=[2.0])
    save(file="base.safetensors", a=[0.5])
    (folder / "same.safetensors").hardlink_to("base.safetensors")
    (folder / "near.yaml").write_text(
        "version: 1\nbase: base.safetensors\n"
        "rules: [{tensors: a.weight, constraint: Distance, max_value: 1, axis: 1}]\n"
    )
    inline = ("--base", "base.safetensors", "--max-distance", "1", "--tensors", "**", "--axis", "1")
    before = content(folder)
    for rules in (inline, ("--spec", "near.yaml")):
        for more in ((), ("--dry-run",)):
            done = run("apply", "model.safetensors", *rules, "-o", target, "--force", *more)
            assert (done.returncode, done.stdout) == (2, "")
            assert f"{target}: is the base that is read" in done.stderr
    assert content(folder) == before
    done = run("apply", "model.safetensors", *inline, "-o", "copy.safetensors")
    assert done.returncode == 0, done.stderr
