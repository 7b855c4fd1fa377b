"""Dask and Ray, where they are installed: the same bits, and a worker that dies loses nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from ckptclamp import AuditOptions, audit
from ckptclamp.auditing.parts import elsewhere
from ckptclamp.engine.elsewhere import Lost, answers
from ckptclamp.engine.elsewhere.named import engine
from ckptclamp.errors import CkptclampError
from tests.engine import deadly
from tests.engine.models import RULES, saved, told

pytestmark = pytest.mark.filterwarnings("ignore")  # of the clusters' own

ROOT = Path(__file__).parents[2]
MODULES = {"dask": "distributed", "ray": "ray"}


def free_port():
    """A port that nobody listens at now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextmanager
def started(*commands):
    """Run commands in the background, each in a session of its own, and end them."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    running: list[subprocess.Popen[bytes]] = []
    try:
        running += [
            subprocess.Popen(
                [sys.executable, "-m", *command],
                env=env,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            for command in commands
        ]
        yield
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def cluster_of(name):
    """The name of an executor whose cluster runs at an address of this machine, with two workers."""
    port = free_port()
    if name == "dask":
        address = f"tcp://127.0.0.1:{port}"
        scheduler = ("--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
        worker = (address, "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1")
        with started(
            ("distributed.cli.dask_scheduler", *scheduler),
            ("distributed.cli.dask_worker", *worker),
            ("distributed.cli.dask_worker", *worker),
        ):
            yield f"dask:{address}"
        return
    head = ("--head", "--block", f"--port={port}", "--num-cpus=2", "--node-ip-address=127.0.0.1")
    quiet = ("--include-dashboard=false", "--disable-usage-stats")
    with started(("ray.scripts.scripts", "start", *head, *quiet)):
        for _ in range(300):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        time.sleep(2)  # it listens before it can be joined
        yield f"ray:127.0.0.1:{port}"


@pytest.fixture(scope="module", params=["dask", "ray"])
def cluster(request):
    """The name of an executor whose cluster was started by somebody else."""
    pytest.importorskip(MODULES[request.param])
    with cluster_of(request.param) as name:
        yield name


@pytest.fixture(scope="module", params=["file", "shards"])
def either(request, tmp_path_factory):
    """One file, or a set of twelve."""
    return saved(tmp_path_factory.mktemp("model"), shards=request.param == "shards")


@pytest.mark.parametrize("name", ["dask", "ray"])
def test_a_local_cluster_gives_the_same_bits(monkeypatch, either, name):
    """One that is started for the audit, and ends with it."""
    pytest.importorskip(MODULES[name])
    monkeypatch.setattr(elsewhere, "ITEM", 3 << 20)
    there = audit(either, RULES, AuditOptions(executor=name, jobs=2))
    assert told(there) == told(audit(either, RULES))


def test_a_cluster_at_an_address_gives_the_same_bits(monkeypatch, either, cluster):
    """Its workers open the file themselves; the cluster runs on."""
    monkeypatch.setattr(elsewhere, "ITEM", 3 << 20)
    for _ in range(2):
        there = audit(either, RULES, AuditOptions(executor=cluster))
        assert told(there) == told(audit(either, RULES))


def test_a_worker_that_is_killed_loses_nothing(cluster):
    """What it was at is done by another one."""
    with engine(cluster, 2) as running:
        found: list[int] = []
        for item, answer in answers(running, deadly.slow_process, range(30)):
            assert not isinstance(answer, Lost)
            if len(found) == 5:
                os.kill(answer, signal.SIGKILL)
            found.append(item)
    assert sorted(found) == list(range(30))


def test_an_item_that_kills_every_worker_is_lost_alone(tmp_path, cluster):
    """The cluster gives up on it, and all others are answered."""
    items = [(tmp_path, number, 99 if number == 2 else 0) for number in range(6)]
    with engine(cluster, 2) as running:
        found = {item[1]: answer for item, answer in answers(running, deadly.dies_until, items)}
    assert isinstance(found.pop(2), Lost)
    assert found == {number: number for number in (0, 1, 3, 4, 5)}


@pytest.mark.parametrize("name", ["dask:tcp://127.0.0.1:{}", "ray:127.0.0.1:{}"])
def test_an_address_where_nobody_is_is_told(monkeypatch, name):
    """In one line, and soon."""
    pytest.importorskip(MODULES[name.partition(":")[0]])
    monkeypatch.setattr("ckptclamp.engine.elsewhere.clusters._PATIENCE", 2)
    expected = pytest.raises(CkptclampError, match="does not answer")
    with expected as told_so, engine(name.format(free_port()), 1):
        pass
    assert told_so.value.exit_code == 3
