"""Work in other processes: nothing is lost but what nobody could do, and that is told."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from ckptclamp import AuditOptions, Verdict, audit, open_checkpoint
from ckptclamp.auditing.audit import as_spec
from ckptclamp.auditing.parts import elsewhere
from ckptclamp.auditing.parts.part import audit_part
from ckptclamp.auditing.parts.partial import merge
from ckptclamp.checkpoints.tensor import Chunk, Chunked
from ckptclamp.constraints.sets.norms import MaxNorm
from ckptclamp.engine.elsewhere import Engine, Lost, answers
from ckptclamp.engine.elsewhere.named import check_name, engine
from ckptclamp.errors import Reason, UsageError
from ckptclamp.plan.build import build_plan
from ckptclamp.spec.model import Rule, Spec, Units
from tests.engine import deadly
from tests.engine.models import NORMS, RULES, saved, told

FIXTURES = Path(__file__).parents[2] / "fixtures"
SPAWN = multiprocessing.get_context("spawn")
RNG = np.random.default_rng(3)


@pytest.fixture(scope="module")
def processes():
    """Two processes, kept for all of these tests."""
    with engine("processes", 2) as running:
        yield running


def test_every_item_is_answered(processes):
    """By processes other than this one, no more of them than were asked for."""
    found = dict(answers(processes, deadly.square, range(20)))
    assert found == {number: number * number for number in range(20)}
    workers = {pid for _, pid in answers(processes, deadly.process, range(20))}
    assert os.getpid() not in workers
    assert 1 <= len(workers) <= 2


def test_items_are_drawn_no_faster_than_they_are_done():
    """A list of items may be endless."""
    drawn = []

    def items():
        for number in range(30):
            drawn.append(number)
            yield number

    with ThreadPoolExecutor(2) as pool:
        for done, _ in enumerate(answers(Engine(pool, 3), deadly.square, items()), start=1):
            assert len(drawn) <= done + 3


def test_what_fails_is_tried_again_and_lost_after_the_third_time(tmp_path):
    """The others go on."""
    items = [(tmp_path, number, number) for number in range(5)]
    with ThreadPoolExecutor(2) as pool:
        found = {item[1]: a for item, a in answers(Engine(pool, 2), deadly.fails_until, items)}
    lost = [Reason("worker-lost", f"a worker failed 3 times: no luck with {n}") for n in (3, 4)]
    assert found == {0: 0, 1: 1, 2: 2, 3: Lost(lost[0]), 4: Lost(lost[1])}
    assert [(tmp_path / str(n)).stat().st_size for n in range(5)] == [1, 2, 3, 3, 3]


def test_a_worker_that_dies_takes_no_other_item_along(processes, tmp_path):
    """Its item is done by another one; an item that kills every worker is lost alone."""
    items = [(tmp_path, number, {3: 2, 5: 9}.get(number, 0)) for number in range(8)]
    found = {item[1]: answer for item, answer in answers(processes, deadly.dies_until, items)}
    lost = found.pop(5)
    assert isinstance(lost, Lost)
    assert lost.reason.startswith("a worker failed 3 times: ")
    assert found == {number: number for number in (0, 1, 2, 3, 4, 6, 7)}
    assert [(tmp_path / str(n)).stat().st_size for n in range(8)] == [1, 1, 1, 3, 1, 3, 1, 1]


def test_an_executor_that_is_broken_loses_its_items(tmp_path):
    """One that is lent is not repaired, and nothing hangs."""
    with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
        items = [(tmp_path, number, 9) for number in range(3)]
        found = list(answers(Engine(pool, 2), deadly.dies_until, items))
    assert len(found) == 3
    assert all(isinstance(answer, Lost) for _, answer in found)


@pytest.mark.parametrize(
    "name", ["", "thread", "threads:2", "processes:", "dask:", "ray:", "slurm", "Dask"]
)
def test_only_known_executors_have_names(name):
    """A misspelt one is no reason to use threads."""
    with pytest.raises(UsageError, match="there is no executor"):
        check_name(name)


CASES = [
    ("hugging_face/sharded", {"preset": "health"}),
    ("shared/torn.h5", {}),
    ("eegnet_drifted.keras", {}),
    ("conforming/eegnet.keras", {}),
]


@pytest.mark.parametrize(("model", "spec"), CASES)
def test_processes_give_the_same_bits(monkeypatch, model, spec):
    """Whatever the format, and however the work is cut."""
    monkeypatch.setattr(elsewhere, "ITEM", 1 << 20)
    path, rules = FIXTURES / model, {"version": 1, **spec}
    here = audit(path, rules, AuditOptions(histogram=True))
    there = audit(path, rules, AuditOptions(histogram=True, executor="processes", jobs=2))
    assert told(there) == told(here)


@pytest.fixture(scope="module", params=["file", "shards"])
def either(request, tmp_path_factory):
    """One file, or a set of twelve."""
    return saved(tmp_path_factory.mktemp("model"), shards=request.param == "shards")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """One file."""
    return saved(tmp_path_factory.mktemp("model"), shards=False)


def test_threads_processes_and_parts_say_the_same(monkeypatch, either):
    """The same bits of one file and of a set of shards, however the work is cut."""
    monkeypatch.setattr(elsewhere, "ITEM", 3 << 20)
    here = told(audit(either, RULES))
    assert here["exit_code"] == 1
    assert told(audit(either, RULES, AuditOptions(executor="processes", jobs=2))) == here
    parts = [audit_part(either, f"{n}/16", RULES) for n in range(1, 17)]
    assert told(merge(parts)) == here
    in_processes = AuditOptions(executor="processes", jobs=1)
    assert audit_part(either, "3/16", RULES, in_processes) == parts[2]


def test_many_small_tensors_are_the_same_however_they_are_cut(monkeypatch, tmp_path):
    """What is measured many at a time in one process is measured with others, or alone, in another."""
    monkeypatch.setattr(elsewhere, "ITEM", 40 << 20)
    tensors = {f"t{i:03}": RNG.normal(size=(8, 5)).astype(np.float32) for i in range(150)}
    tensors["t100"] *= 9
    save_file(tensors, tmp_path / "m.safetensors")
    here = audit(tmp_path / "m.safetensors", RULES)
    options = AuditOptions(executor="processes", jobs=2)
    assert told(audit(tmp_path / "m.safetensors", RULES, options)) == told(here)
    parts = [audit_part(tmp_path / "m.safetensors", f"{n}/7", RULES) for n in range(1, 8)]
    assert told(merge(parts)) == told(here)


def test_any_executor_of_python_will_do(monkeypatch, model):
    """One that is lent runs on; its workers open the file themselves."""
    monkeypatch.setattr(elsewhere, "ITEM", 1 << 20)
    here = audit(model, RULES)
    with ProcessPoolExecutor(2, mp_context=SPAWN) as pool:
        for _ in range(2):
            assert told(audit(model, RULES, AuditOptions(executor=pool))) == told(here)
    with ThreadPoolExecutor(2) as pool:
        assert told(audit(model, RULES, AuditOptions(executor=pool))) == told(here)


def test_an_item_is_small(model):
    """Places and ranges are sent, no weights: a few kB for as many tensors as a GB may have."""
    with open_checkpoint(model) as checkpoint:
        plan = build_plan(checkpoint, as_spec({"version": 1, "rules": [NORMS]}, frozenset()))
        (item,) = elsewhere.items_of(checkpoint, plan.assignments, (), AuditOptions())
    assert len(item.pickled) < 4096 + 150 * len(plan.assignments)
    assert pickle.loads(item.pickled).asked


CHUNKS = st.lists(
    st.tuples(st.integers(0, 1 << 40), st.integers(1, 1 << 33), st.integers(0, 7)), max_size=20
)


@settings(deadline=None)
@given(chunks=CHUNKS, rank=st.integers(1, 3))
def test_a_table_of_chunks_survives_the_journey(chunks, rank):
    """Wherever they lie, whatever their order."""
    made = tuple(Chunk((number,) * rank, *chunk) for number, chunk in enumerate(chunks))
    chunked = Chunked(3, (1,) * rank, ("shuffle", "deflate"), made, b"\0\0", deflate_level=4)
    back = pickle.loads(pickle.dumps(chunked))
    assert back == chunked
    assert back.by_start == chunked.by_start


def test_an_item_is_small_where_weights_lie_in_many_chunks(tmp_path):
    """A byte or two for each compressed chunk, and next to nothing where all are of one size."""
    weights = np.zeros((512, 512), np.float32)
    weights[: RNG.integers(512)] = RNG.normal(size=512)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_dataset("plain", data=weights, chunks=(8, 8))
        for name in ("packed", "again"):
            file.create_dataset(name, data=weights, chunks=(8, 8), compression="gzip")
    rule = {"id": "r", "tensors": "**", "constraint": "MaxNorm", "max_value": 1, "axis": 1}
    with open_checkpoint(tmp_path / "m.h5") as checkpoint:
        plan = build_plan(checkpoint, as_spec({"version": 1, "rules": [rule]}, frozenset()))
        (item,) = elsewhere.items_of(checkpoint, plan.assignments, (), AuditOptions())
    assert len(item.pickled) < 4096 + 2 * 2 * 64 * 64


@pytest.mark.parametrize(("times", "verdict"), [(1, Verdict.PASS), (99, Verdict.NOT_EVALUATED)])
def test_the_tensors_of_a_lost_item_are_not_evaluated(monkeypatch, tmp_path, times, verdict):
    """Which is no pass; all others are judged."""
    monkeypatch.setattr(elsewhere, "ITEM", 1 << 20)
    save_file({name: np.ones((4, 4), np.float32) for name in "abc"}, tmp_path / "m.safetensors")
    bound = {"max_value": 3.0, "folder": str(tmp_path), "times": times}
    rules = [
        {"tensors": "[ac]", "constraint": "MaxNorm", "max_value": 3, "axis": 0},
        {
            "tensors": "b",
            "constraint": {"class_name": "tests.engine.deadly:Deadly", "config": bound},
            "axis": 0,
        },
    ]
    options = AuditOptions(executor="processes", jobs=2, allow_import=frozenset({"tests"}))
    report = audit(tmp_path / "m.safetensors", {"version": 1, "rules": rules}, options)
    verdicts = {result.tensor: result.verdict for result in report.results}
    assert verdicts == {"a": Verdict.PASS, "b": verdict, "c": Verdict.PASS}
    lost = next(result for result in report.results if result.tensor == "b")
    assert int(report.exit_code) == (3 if times == 99 else 0)
    assert (lost.reason or "a worker failed 3 times: ").startswith("a worker failed 3 times: ")


def test_a_worker_that_finds_another_file_judges_nothing(model):
    """Where a name leads to something else there, nothing of it counts."""
    with open_checkpoint(model) as checkpoint:
        plan = build_plan(checkpoint, as_spec(RULES, frozenset()))
        (item,) = elsewhere.items_of(checkpoint, plan.assignments, (), AuditOptions())
    assert len(elsewhere.answer_to(item).results) == len(plan.assignments)
    status = model.stat()
    os.utime(model, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with ThreadPoolExecutor(1) as pool:
        ((_, lost),) = answers(Engine(pool, 1), elsewhere.answer_to, [item])
    os.utime(model, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert isinstance(lost, Lost)
    assert "is not the file that was planned for" in lost.reason


def test_what_cannot_be_sent_is_refused(model):
    """In one line that says what, before anything is measured elsewhere."""

    class Local(MaxNorm):
        pass

    spec = Spec(rules=(Rule("local", ("*",), Local(3.0), Units(axis=(0,))),))
    with pytest.raises(UsageError, match=r"Local\(max_value=3\) cannot be sent"):
        audit(model, spec, AuditOptions(executor="processes"))


def test_every_unit_is_told_by_threads_alone(model):
    """An answer has room for the worst units only."""
    options = AuditOptions(executor="processes", on_unit=lambda *_: None)
    with pytest.raises(UsageError, match="threads of one process alone"):
        audit(model, RULES, options)


def test_workers_end_with_their_parent(tmp_path):
    """Even where that is killed and can tell nobody."""
    program = (
        "import os, time\n"
        "from ckptclamp.engine.elsewhere import answers\nfrom ckptclamp.engine.elsewhere.named import engine\n"
        "from tests.engine import deadly\n"
        "with engine('processes', 1) as running:\n"
        "    print(*(pid for _, pid in answers(running, deadly.process, [1])), flush=True)\n"
        "    time.sleep(60)\n"
    )
    root = str(Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *sys.path])}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=env, cwd=tmp_path
    ) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        os.kill(worker, 0)
        parent.kill()
    for _ in range(300):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            break
        if Path(f"/proc/{worker}/stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.1)
    else:
        pytest.fail("the worker outlived its parent")


def test_the_command_line_has_executors(model, tmp_path):
    """The same report, one line for a name that there is not, and nothing from the environment."""
    program = Path(sys.executable).with_name("ckptclamp")
    clean = {k: v for k, v in os.environ.items() if not k.startswith("CKPTCLAMP_")}

    def run(*more, env=None):
        return subprocess.run(
            [program, "audit", model, "--tensors", "*", "--max-norm", "9", "--axis", "0", *more],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**clean, **(env or {})},
            check=False,
        )

    here, there = run("-q"), run("-q", "--executor", "processes", "-j", "2")
    assert (here.returncode, here.stdout) == (there.returncode, there.stdout)
    assert there.stderr == ""
    unknown = run("--executor", "proceses")
    assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1)
    assert run(env={"CKPTCLAMP_EXECUTOR": "dask:tcp://198.51.100.1:8786"}).returncode == 2
    units = run("--executor", "processes", "-o", "units=u.jsonl")
    assert (units.returncode, units.stderr.count("\n")) == (2, 1)
