"""Addresses on the command line, as a user types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from tests.remote.conftest import RULES
from tests.remote.servers import Faults, silent, status
from tests.remote.test_reading import put

pytest.importorskip("obstore")


@pytest.fixture
def spec(tmp_path):
    """`RULES` as a file."""
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(RULES))
    return path


def test_an_audit(run, web, single, spec):
    """The report says how much of the file it took, in text and in JSON."""
    answer = run("audit", web.hold("a", single), "--spec", spec, "-o", f"json={spec.parent}/r.json")
    assert answer.returncode == 1, answer.stderr
    assert answer.stderr == ""
    assert " of 4.2 MB (" in answer.stdout
    checkpoint = json.loads((spec.parent / "r.json").read_text())["report"]["checkpoint"]
    assert checkpoint["fetched"]["held"] == single.stat().st_size
    assert 0 < checkpoint["fetched"]["requests"] < 20
    assert checkpoint["files"][0]["version"]


def test_what_is_said_of_the_model_may_be_remote_too(run, web, single, spec, tmp_path):
    """A spec and a baseline: the answer is that of the same files on a disk."""
    baseline = tmp_path / "known.json"
    recorded = run(
        "audit", single, "--spec", spec, "--write-baseline", baseline, "--checkpoint-name", "m"
    )
    assert recorded.returncode == 0, recorded.stderr
    web.hold("a", spec)
    there = web.hold("a", baseline)
    spec_there = web.hold("a", spec)
    answer = run(
        *("audit", web.hold("a", single), "--spec", spec_there, "--baseline", there),
        *("--checkpoint-name", "m"),
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert f"spec: {spec_there}" in answer.stdout


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("written", ["there", "here"])
def test_a_baseline_holds_wherever_the_checkpoint_lies(run, web, tmp_path, written, pruned):
    """Tensors with equal bytes are judged alike on a disk alone; that is no new violation."""
    rows = np.random.default_rng(1).normal(size=(40, 8)).astype(np.float32)
    path, known = tmp_path / "model.safetensors", tmp_path / "known.json"
    save_file({"embedding": rows, "head": rows.copy(), "other": rows + 1}, path)
    rule = ("--tensors", "embedding", "--max-norm", "2", "--unit-axis", "0")
    common = (*rule, "--strict", "--checkpoint-name", "m")
    places = {"there": web.hold("a", path), "here": path}
    assert run("audit", places[written], *common, "--write-baseline", known).returncode == 0
    entries = json.loads(known.read_text())["entries"]
    assert len(entries) == {"there": 1, "here": 2}[written]
    if pruned:
        by = ("--baseline", known, *rule, "--checkpoint-name", "m")
        assert run("baseline", "prune", places["there"], *by).returncode == 0
    for place in places.values():
        answer = run("audit", place, *common, "--baseline", known)
        assert answer.returncode == 0, answer.stdout + answer.stderr
    save_file({"embedding": rows * 2, "head": rows * 2, "other": rows + 1}, path)
    for place in places.values():
        assert run("audit", place, *common, "--baseline", known).returncode == 1


def test_a_config_may_be_remote_too(run, web):
    """The config of a weights-only file."""
    folder = Path(__file__).parents[2] / "fixtures" / "violating"
    weights, model = folder / "builtin_constraints.weights.h5", folder / "builtin_constraints.keras"
    here = run("audit", weights, "--config", model)
    there = run("audit", web.hold("a", weights), "--config", web.hold("a", model))
    assert there.returncode == here.returncode == 1
    assert there.stdout.splitlines()[-1] == here.stdout.splitlines()[-1]


def test_a_base_may_be_remote_too(run, web, single):
    """What a fine-tune is compared with."""
    rules = ["--max-distance", "0.1", "--tensors", "**.kernel", "--axis", "0"]
    answer = run("audit", single, "--base", web.hold("a", single), *rules)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_several(run, web, single, sharded, spec):
    """Addresses and files beside each other, one report."""
    answer = run("audit", web.hold("a", single), web.hold("b", *sharded), single, "--spec", spec)
    assert answer.returncode == 1
    assert answer.stdout.splitlines()[-1].endswith("exit 1")


WRONG = {
    "ftp://host/m": (2, "ftp:// is not read"),
    "s3://": (2, "names no host or bucket"),
    "s3://bucket/a//b": (2, "has an empty part"),
    "s3://bucket/../b": (2, "a part of dots"),
    "hf://model": (2, "names no model"),
    "{url}/a/other.safetensors": (3, "there is no such object"),
    "{url}/a/": (2, "a web server lists no directories"),
    "http://127.0.0.1:9/m.safetensors": (3, "the server cannot be reached, 3 times"),
}


@pytest.mark.parametrize("address", WRONG)
def test_one_clear_line(run, web, single, address):
    """What is wrong, and the exit code of its kind."""
    web.hold("a", single)
    answer = run(
        *("audit", address.format(url=web.url), "--preset", "health"),
        env={"CKPTCLAMP_RETRIES": "2", "CKPTCLAMP_TIMEOUT": "1"},
    )
    code, said = WRONG[address]
    assert answer.returncode == code
    (line,) = answer.stderr.splitlines()
    assert said in line


def results(path):
    """What a JSON report says of each tensor."""
    return json.loads(path.read_text())["report"]["results"]


@pytest.fixture(params=["web", "bucket"])
def there(request, sharded):
    """The address of a set."""
    server = request.getfixturevalue(request.param)
    return server.hold("a", *sharded) if request.param == "web" else put(server, "a", *sharded)


@pytest.mark.parametrize("way", ["threads", "processes", "parts"])
def test_the_same_bits_however_and_from_wherever(run, sharded, there, spec, way):
    """A set on a server, judged by threads, by processes and in parts: each as a set on a disk."""
    tmp_path = spec.parent
    run("audit", sharded[0], "--spec", spec, "-o", f"json={tmp_path}/here.json")
    told = ("-o", f"json={tmp_path}/there.json")
    if way == "parts":
        parts = [tmp_path / f"{n}.json" for n in (1, 2)]
        for n, part in enumerate(parts, 1):
            run("audit", there, "--spec", spec, "--part", f"{n}/2", "-o", f"partial={part}")
        answer = run("merge", *parts, *told)
    else:
        answer = run("audit", there, "--spec", spec, "--executor", way, "--jobs", "2", *told)
    assert answer.returncode == 1, answer.stderr
    assert results(tmp_path / "there.json") == results(tmp_path / "here.json")


def test_an_encrypted_connection(run, https, single, spec):
    """Where its authority is trusted; where it is not, that is what is said."""
    there = https.hold("a", single)
    answer = run("audit", there, "--spec", spec, "-q")
    assert answer.returncode == 1, answer.stderr
    nobody = {"SSL_CERT_FILE": "", "CKPTCLAMP_RETRIES": "0"}
    answer = run("audit", there, "--spec", spec, env=nobody)
    assert answer.returncode == 3
    assert "the server's certificate is not trusted here" in answer.stderr


@pytest.mark.parametrize("at", ["opening", "reading"])
def test_an_interrupted_audit_waits_for_no_server(web, sharded, spec, at):
    """Who presses Ctrl-C is not kept waiting until a silent server has had all its chances."""
    answered = 0 if at == "opening" else 2 * (len(sharded) - 1)
    web.faults.append(Faults(silent(100), ".safetensors", skip=answered))
    there = web.hold("a", *sharded)
    program = [sys.executable, "-m", "ckptclamp", "audit", there, "--spec", str(spec)]
    patient = {**os.environ, "CKPTCLAMP_TIMEOUT": "100"}
    with subprocess.Popen(program, env=patient, stderr=subprocess.PIPE, text=True) as process:
        while sum(".safetensors" in one.path for one in web.seen) <= answered + 1:
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in said


def test_reports_go_to_files(run, web, single, spec):
    """An address is no place for a report or a baseline, and none is read for one."""
    there = web.hold("a", single)
    for option in (["-o", f"json={web.url}/r.json"], ["--write-baseline", f"{web.url}/known.json"]):
        answer = run("audit", there, "--spec", spec, *option)
        assert answer.returncode == 2
        assert "is written to a file of this machine, not to an address" in answer.stderr
        assert web.seen == []


def test_a_directory_of_this_name_is_not_read(run, web, single, spec, tmp_path):
    """Whoever can write where the program is run does not choose what an address means."""
    web.faults.append(Faults(status(404)))
    address = web.hold("a", single)
    place = tmp_path / "work" / address
    place.parent.mkdir(parents=True)
    place.write_bytes(single.read_bytes())
    assert os.path.exists(tmp_path / "work" / address)  # noqa: PTH110 - as the system sees it
    answer = run("audit", address, "--spec", spec, cwd=tmp_path / "work")
    assert answer.returncode == 3
    assert "there is no such object" in answer.stderr


def test_settings_name_local_files(run, web, single, spec, tmp_path):
    """A project's settings make nobody's machine ask a server."""
    web.hold("a", spec)
    (tmp_path / "ckptclamp.toml").write_text(f'spec = "{web.url}/a/spec.yaml"\n')
    answer = run("audit", single, cwd=tmp_path)
    assert answer.returncode == 2
    assert web.seen == []
