"""Statements: which bytes were judged by what, and what became of them."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from safetensors.numpy import save_file

from ckptclamp.auditing.audit import audit
from ckptclamp.auditing.options import AuditOptions

GATE = ("audit", "model.safetensors", "--spec", "spec.yaml")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def attested(run, *command):
    """The statement that a command writes."""
    done = run(*command, "--attest", "statement.json")
    assert done.returncode in (0, 1), done.stderr
    return json.loads(Path("statement.json").read_text())


def test_a_statement_binds_the_answer_to_bytes_spec_and_parameters(run, save, folder):
    """Everything that could change the answer is in the statement, in the form of in-toto."""
    path = save(a=[0.5])
    statement = attested(run, *GATE, "--tolerance", "0.01")
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["subject"] == [
        {"name": "model.safetensors", "digest": {"sha256": sha256(path)}}
    ]
    predicate = statement["predicate"]
    assert predicate["spec"] == {
        "name": "spec.yaml",
        "digest": {"sha256": sha256(folder / "spec.yaml")},
    }
    assert predicate["parameters"]["tolerance"] == "0.01"
    assert predicate["exitCode"] == 0
    assert predicate["census"]["passed"] == 1
    (rule,) = predicate["rules"]
    assert (rule["rule"], rule["constraint"]) == ("bounded", "MaxNorm(max_value=1)")


def test_every_file_of_a_sharded_set_is_a_subject(run, folder, fixtures):
    """A shard that is not named could be replaced unnoticed."""
    shutil.copytree(fixtures / "conforming" / "sharded_transformer", folder / "set")
    statement = attested(run, "audit", "set", "--spec", fixtures / "specs" / "transformer.yaml")
    named = {s["name"]: s["digest"]["sha256"] for s in statement["subject"]}
    assert named == {path.name: sha256(path) for path in (folder / "set").iterdir()}
    assert run("verify-attestation", "statement.json", "--directory", "set").returncode == 0
    shard = next((folder / "set").glob("*-00002-*"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x7f")
    done = run("verify-attestation", "statement.json", "--directory", "set")
    assert done.returncode == 1
    assert f"{shard.name}: differs" in done.stdout
    shard.unlink()
    assert run("verify-attestation", "statement.json", "--directory", "set").returncode == 3


@pytest.mark.parametrize(
    "name", ["builtin_constraints.keras", "builtin_constraints.h5", "unzipped_directory"]
)
def test_a_projected_copy_names_its_parent(run, folder, fixtures, name):
    """The digests are those of the published files, under the names that they have now."""
    source = fixtures / "violating" / name
    statement = attested(run, "apply", source, "-o", f"mended_{name}")
    target = folder / f"mended_{name}"
    files = [target] if target.is_file() else [p for p in target.rglob("*") if p.is_file()]
    root = target.parent if target.is_file() else target
    assert {s["name"]: s["digest"]["sha256"] for s in statement["subject"]} == {
        path.relative_to(root).as_posix(): sha256(path) for path in files
    }
    predicate = statement["predicate"]
    parents = {parent["digest"]["sha256"] for parent in predicate["parents"]}
    originals = [source] if source.is_file() else [p for p in source.rglob("*") if p.is_file()]
    assert parents == {sha256(path) for path in originals}
    assert predicate["projection"] == "exact"
    assert predicate["exitCode"] == 0
    assert predicate["changedUnits"] > 0
    assert run("verify-attestation", "statement.json", "--directory", root).returncode == 0


def test_a_statement_of_a_failed_audit_verifies_nothing(run, save):
    """Right bytes with a wrong answer are no release."""
    save(a=[2.0])
    assert attested(run, *GATE)["predicate"]["exitCode"] == 1
    done = run("verify-attestation", "statement.json")
    assert done.returncode == 1
    assert "did not pass" in done.stdout


def test_a_laxer_spec_is_noticed(run, save, folder):
    """An audit against another spec than the one that was asked for proves nothing."""
    save(a=[0.5])
    attested(run, *GATE)
    verify = ("verify-attestation", "statement.json", "--spec", "spec.yaml")
    assert run(*verify).returncode == 0
    (folder / "spec.yaml").write_text((folder / "spec.yaml").read_text() + "# other\n")
    assert run(*verify).returncode == 1
    attested(
        run, "audit", "model.safetensors", "--tensors", "*.weight", "--max-norm", "9", "--axis", "1"
    )
    assert run(*verify).returncode == 1


def test_a_config_that_decided_the_answer_is_compared(run, folder):
    """Another scale of an adapter makes other weights of the same bytes."""
    model = folder / "adapter"
    model.mkdir()
    parts = {"lora_A": np.ones((1, 4), np.float32), "lora_B": np.full((4, 1), 0.1, np.float32)}
    save_file(
        {f"base_model.model.q.{n}.weight": p for n, p in parts.items()},
        model / "adapter_model.safetensors",
    )
    config = model / "adapter_config.json"
    config.write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1}))
    save_file({"q.weight": np.zeros((4, 4), np.float32)}, folder / "m.safetensors")
    gate = ("audit", model, "--base", "m.safetensors", "--spec", "spec.yaml")
    attested(run, *gate)
    mapped = ("--map", "m.safetensors=m.safetensors")
    verify = ("verify-attestation", "statement.json", "--directory", model, *mapped)
    done = run(*verify)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "adapter_config.json: same" in done.stdout
    config.write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 100}))
    done = run(*verify)
    assert done.returncode == 1
    assert "adapter_config.json: differs" in done.stdout
    config.unlink()
    assert run(*verify).returncode == 3


def test_a_base_is_compared_where_it_is_found(run, save, folder):
    """A distance is one to the base that was there; where that is not known it is said."""
    save(a=[0.5])
    base = save("m.safetensors", a=[0.5])
    rule = ("--tensors", "*.weight", "--max-distance", "0.1", "--axis", "1")
    attested(run, "audit", "model.safetensors", "--base", base, *rule)
    done = run("verify-attestation", "statement.json")
    assert done.returncode == 0
    assert "base/m.safetensors: not compared: --map base/m.safetensors=PATH" in done.stdout
    mapped = ("verify-attestation", "statement.json", "--map", "base/m.safetensors=m.safetensors")
    assert "base/m.safetensors: same" in run(*mapped).stdout
    base.write_bytes(base.read_bytes()[:-1] + b"\x01")
    assert run(*mapped).returncode == 1
    (folder / "base").mkdir()
    base.rename(folder / "base" / "m.safetensors")
    assert run("verify-attestation", "statement.json").returncode == 1


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../../outside", "a\\..\\b", ""])
def test_names_do_not_lead_out_of_the_directory(run, save, folder, name):
    """A statement comes from a stranger; it must not make the program read elsewhere."""
    path = save(a=[0.5])
    statement = attested(run, *GATE)
    shutil.copy(path, folder.parent / "outside")
    statement["subject"][0]["name"] = name
    (folder / "statement.json").write_text(json.dumps(statement))
    assert run("verify-attestation", "statement.json").returncode == 3


def test_symbolic_links_are_followed_only_on_request(run, save, folder):
    """A link can lead anywhere, as a name can."""
    path = save(a=[0.5])
    attested(run, *GATE)
    path.rename(folder / "elsewhere")
    path.symlink_to(folder / "elsewhere")
    assert run("verify-attestation", "statement.json").returncode == 3
    assert run("verify-attestation", "statement.json", "--follow-symlinks").returncode == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"), "_type must be"),
        (lambda s: s.pop("_type"), "_type must be"),
        (lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"), "predicateType must"),
        (lambda s: s.pop("subject"), "it has no subject"),
        (lambda s: s.update(subject=[]), "it has no subject"),
        (lambda s: s.update(subject=["x"]), "each subject must have a name"),
        (lambda s: s["subject"].append(s["subject"][0]), "each subject must have a name"),
        (lambda s: s["subject"][0]["digest"].update(sha256="0" * 63), "must have a sha256"),
        (lambda s: s["subject"][0].update(digest={"md5": "0" * 32}), "must have a sha256"),
        (lambda s: s["subject"][0].update(digest="sha256"), "must have a sha256"),
        (lambda s: s["predicate"].update(exitCode=False), "predicate.exitCode"),
        (lambda s: s["predicate"].update(exitCode="0"), "predicate.exitCode"),
        (lambda s: s["predicate"].pop("tool"), "predicate.tool.version"),
        (lambda s: s.update(predicate=None), "predicate.exitCode"),
        (lambda s: s.update(subject={"name": "x"}), "it has no subject"),
    ],
)
def test_what_is_no_statement_is_refused(run, save, folder, change, said):
    """A statement with holes must not verify by default; what it lacks is said in words."""
    save(a=[0.5])
    statement = attested(run, *GATE)
    change(statement)
    (folder / "statement.json").write_text(json.dumps(statement))
    done = run("verify-attestation", "statement.json")
    assert done.returncode == 3
    assert "this is no attestation of this program: " in done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def envelope(text, **changes):
    """A DSSE envelope around a statement, signed by nobody."""
    payload = base64.b64encode(text.encode()).decode()
    signatures = [{"sig": "c2lnbmF0dXJl", "keyid": ""}]
    kind = "application/vnd.in-toto+json"
    return {"payload": payload, "payloadType": kind, "signatures": signatures} | changes


@pytest.mark.parametrize("bundled", [False, True])
def test_a_signed_statement_is_read_in_its_envelope(run, save, folder, bundled):
    """What a signer hands out is what is deployed beside the model; nothing needs to be unpacked."""
    path = save(a=[0.5])
    attested(run, *GATE)
    document = envelope((folder / "statement.json").read_text())
    media = "application/vnd.dev.sigstore.bundle.v0.3+json"
    bundle = {"mediaType": media, "verificationMaterial": {}, "dsseEnvelope": document}
    (folder / "signed.json").write_text(json.dumps(bundle if bundled else document))
    done = run("verify-attestation", "signed.json")
    assert done.returncode == 0, done.stderr
    assert "1 signature, not verified here" in done.stdout
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert run("verify-attestation", "signed.json").returncode == 1


@pytest.mark.parametrize(
    "change",
    [
        {"payload": "not base64!"},
        {"payload": "bm8ganNvbg=="},
        {"payload": 3},
        {"payloadType": "text/plain"},
        {"signatures": []},
        {"signatures": None},
    ],
)
def test_what_is_no_envelope_is_refused(run, save, folder, change):
    """An envelope with holes must not verify, and is one clear line."""
    save(a=[0.5])
    attested(run, *GATE)
    document = envelope((folder / "statement.json").read_text(), **change)
    bundles: list[object] = [document, {"dsseEnvelope": document}, {"dsseEnvelope": {}}]
    for signed in bundles:
        (folder / "signed.json").write_text(json.dumps(signed))
        done = run("verify-attestation", "signed.json")
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr.count("\n") == 1


def test_files_may_have_other_names_than_in_the_statement(run, save, folder):
    """A model is published under the name that its users expect."""
    path = save(a=[0.5])
    attested(run, *GATE)
    path.rename(folder / "released=1.safetensors")
    assert run("verify-attestation", "statement.json").returncode == 3
    verify = ("verify-attestation", "statement.json", "--map")
    assert run(*verify, "model.safetensors=released=1.safetensors").returncode == 0
    assert run(*verify, "model.safetensors=spec.yaml").returncode == 1
    assert run(*verify, "model.safetensors=gone.safetensors").returncode == 3
    for wrong in ("other.safetensors=spec.yaml", "model.safetensors", "=x", "x="):
        assert run(*verify, wrong).returncode == 2


def test_a_verification_is_told_to_programs(run, save, folder):
    """The answer about each file, in JSON with one meaning, whatever the answer is."""
    save(a=[0.5])
    attested(run, *GATE)
    verify = ("verify-attestation", "statement.json", "-f", "json", "--spec", "spec.yaml")
    answer = json.loads(run(*verify).stdout)
    assert answer["schema"] == "ckptclamp-verification-1"
    assert answer["exit_code"] == 0
    assert answer["files"] == [{"name": "model.safetensors", "match": "same", "detail": ""}]
    assert answer["spec"]["match"] == "same"
    save(a=[0.25])
    done = run(*verify)
    assert (done.returncode, json.loads(done.stdout)["files"][0]["match"]) == (1, "differs")
    (folder / "statement.json").write_text("{}")
    done = run(*verify)
    assert (done.returncode, json.loads(done.stdout)["code"]) == (3, "unreadable")


def test_statements_are_valid_by_their_published_schema(run, save, folder):
    """Who writes a policy about attestations learns from the schema what they hold."""
    schema = json.loads(run("schema", "attestation").stdout)
    validator = Draft202012Validator(schema)
    save(a=[2.0])
    for command in (GATE, ("apply", *GATE[1:], "-o", "copy.safetensors")):
        statement = attested(run, *command)
        validator.validate(statement)
        assert set(statement["predicate"]) == set(properties(schema, statement["predicateType"]))
        del statement["predicate"]["exitCode"]
        assert not validator.is_valid(statement)


def properties(schema, kind):
    """The fields of one predicate, as the schema names them."""
    audit, copy = schema["$defs"]["audit"]["properties"], schema["$defs"]["apply"]["properties"]
    return audit if ":audit:" in kind else audit | copy


def test_statements_can_be_reproduced(run, save, folder):
    """The same audit at the same time writes the same bytes."""
    save(a=[0.5])
    texts = []
    for name in ("one.json", "other.json"):
        run(*GATE, "--attest", name, env={"SOURCE_DATE_EPOCH": "1700000000"})
        texts.append((folder / name).read_text())
    assert texts[0] == texts[1]
    assert json.loads(texts[0])["predicate"]["time"] == "2023-11-14T22:13:20Z"
    done = run(*GATE, "--attest", "x.json", env={"SOURCE_DATE_EPOCH": "yesterday"})
    assert done.returncode == 2


def test_no_statement_without_digests_or_without_a_copy(run, save):
    """A statement about nothing is refused before any work is done."""
    save(a=[2.0])
    assert run(*GATE, "--attest", "x.json", "--no-hash").returncode == 2
    done = run("apply", *GATE[1:], "--dry-run", "--attest", "x.json")
    assert done.returncode == 2
    assert not Path("x.json").exists()


NO_TEXT = "a\udcff"
"""How Python writes the byte 0xFF, which is no UTF-8, in a file's name."""


@pytest.mark.parametrize(
    ("options", "epoch"),
    [
        (["--no-hash"], "1700000000"),
        ([], "yesterday"),
        (["--spec", f"{NO_TEXT}.yaml"], "1700000000"),
    ],
)
def test_a_statement_that_cannot_be_made_stops_the_copy(run, save, folder, options, epoch):
    """A copy without the statement that was asked for looks like one that has it."""
    save(a=[2.0])
    shutil.copy("spec.yaml", f"{NO_TEXT}.yaml")
    outputs = ["-o", "copy.safetensors", "--report", "json=r.json", "--attest", "x.json"]
    done = run("apply", *GATE[1:], *outputs, *options, env={"SOURCE_DATE_EPOCH": epoch})
    assert (done.returncode, done.stdout) == (2, "")
    assert not {"copy.safetensors", "x.json"} & {path.name for path in folder.iterdir()}
    assert json.loads(Path("r.json").read_text())["exit_code"] == 2


@pytest.mark.parametrize("name", [f"{NO_TEXT}.safetensors", "a\\b.safetensors"])
def test_a_name_that_cannot_be_verified_is_not_attested(run, save, folder, name):
    """A statement that nobody can verify proves nothing, and must not look as if it did."""
    shutil.copy(save(a=[0.5]), name)
    before = set(folder.iterdir())
    for command in (["audit", name], ["apply", "model.safetensors", "-o", f"x{name}"]):
        done = run(*command, "--spec", "spec.yaml", "--attest", "x.json")
        assert (done.returncode, done.stdout) == (2, "")
        assert "an attestation cannot hold it" in done.stderr
        assert set(folder.iterdir()) == before


@pytest.mark.parametrize("command", ["audit", "apply"])
def test_the_report_is_told_when_the_statement_cannot_be_written(run, save, folder, command):
    """A disk that fills up at the end must not cost what was found; the exit code tells of it."""
    save(a=[2.0])
    target = ["-o", "copy.safetensors"] if command == "apply" else []
    done = run(command, *GATE[1:], *target, "--attest", "/dev/full")
    assert done.returncode == 3
    assert "/dev/full" in done.stderr
    assert "1 result" in done.stdout


def test_the_model_config_is_in_the_statement_and_the_report(run, folder, fixtures):
    """What stands in for a model's own config decides what is judged."""
    config = fixtures / "conforming" / "unzipped_directory" / "config.json"
    weights = fixtures / "conforming" / "builtin_constraints.weights.h5"
    statement = attested(run, "audit", weights, "--config", config, "-o", "json=report.json")
    told = f"sha256:{sha256(config)} {config.name}"
    assert statement["predicate"]["parameters"]["config"] == told
    report = json.loads((folder / "report.json").read_text())["report"]
    assert report["parameters"]["config"] == told
    archive = fixtures / "conforming" / "builtin_constraints.keras"
    told = f"sha256:{sha256(archive)} {archive.name}"
    statement = attested(run, "audit", weights, "--config", archive)
    assert statement["predicate"]["parameters"]["config"] == told
    given = audit(weights, options=AuditOptions(config=json.loads(config.read_text())))
    assert given.parameters["config"] == "given"


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("builtin_constraints.keras", None),
        ("deflated_zip.keras", None),
        ("chunked_gzip.h5", None),
        ("unzipped_directory", None),
        ("sharded_keras", "bounded.yaml"),
        ("sharded_transformer", "transformer.yaml"),
    ],
)
def test_digests_of_a_copy_are_those_on_disk(run, folder, fixtures, name, spec):
    """Each format finishes its copy in its own way; the digest is of what stands there afterwards."""
    source = fixtures / "violating" / name
    rules = [] if spec is None else ["--spec", fixtures / "specs" / spec]
    done = run("apply", source, *rules, "-o", folder / name, "--attest", "statement.json")
    assert done.returncode == 0, done.stderr
    statement = json.loads(Path("statement.json").read_text())

    def on_disk(path):
        files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        return {sha256(file) for file in files}

    def told(entries):
        return {entry["digest"]["sha256"] for entry in entries}

    assert told(statement["subject"]) == on_disk(folder / name)
    assert told(statement["predicate"]["parents"]) == on_disk(source)
    assert told(statement["subject"]) != told(statement["predicate"]["parents"])
