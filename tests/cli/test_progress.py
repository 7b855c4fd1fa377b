"""A long run says how far it is, and an interrupted one what it leaves."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import ckptclamp
from ckptclamp.cli.progress import InterruptedWritingError, Log, after_interrupt, watching

PROGRAM = Path(sys.executable).with_name("ckptclamp")
RULE = ("--tensors", "**", "--max-norm", "1", "--axis", "0")


@pytest.fixture
def model(tmp_path):
    """A checkpoint of some megabytes that violates."""
    rng = np.random.default_rng(0)
    save_file(
        {"w": rng.standard_normal((2000, 1000)).astype(np.float32)}, tmp_path / "m.safetensors"
    )
    return tmp_path / "m.safetensors"


class Told:
    """Remembers what each phase said."""

    def __init__(self):
        self.phases = {}

    def __call__(self, done, total):
        self.phase("plain")(done, total)

    def phase(self, name):
        return lambda done, total: self.phases.setdefault(name, []).append((done, total))


def test_every_phase_of_an_apply_counts_its_bytes(model, tmp_path):
    """Growing numbers, and in the end all of them."""
    told = Told()
    options = ckptclamp.ApplyOptions(audit=ckptclamp.AuditOptions(progress=told, hash=True))
    rule = {"tensors": "**", "constraint": "MaxNorm", "max_value": 1, "axis": 0}
    ckptclamp.apply(model, tmp_path / "out.safetensors", {"version": 1, "rules": [rule]}, options)
    assert set(told.phases) == {
        *("measuring", "copying", "projecting", "comparing", "hashing", "flushing"),
        "auditing again",
    }
    for name, steps in told.phases.items():
        done = [done for done, _ in steps]
        assert done == sorted(done), name
        assert steps[-1][0] == steps[-1][1] > 0, name
    assert told.phases["copying"][-1][1] == model.stat().st_size


def test_a_plain_function_is_told_of_what_it_always_was(model):
    """Who passes a function of two numbers gets one growing series."""
    steps = []
    options = ckptclamp.AuditOptions(progress=lambda done, total: steps.append((done, total)))
    rule = {"tensors": "**", "constraint": "MaxNorm", "max_value": 1, "axis": 0}
    ckptclamp.audit(model, {"version": 1, "rules": [rule]}, options)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert steps[-1] == (8_000_000, 8_000_000)


def test_a_log_gets_a_line_every_so_often():
    """Speed and time left are those of the bytes since the last line."""
    now = [0.0]
    lines: list[str] = []
    log = Log(lines.append, clock=lambda: now[0])
    copying = log.phase("copying")
    for second in range(31):
        now[0] = float(second)
        copying(second * 10_000_000, 1_000_000_000)
    assert lines == [
        "ckptclamp: copying: 100.0 MB of 1.0 GB, 10.0 MB/s, 1 min 30 s left",
        "ckptclamp: copying: 200.0 MB of 1.0 GB, 10.0 MB/s, 1 min 20 s left",
        "ckptclamp: copying: 300.0 MB of 1.0 GB, 10.0 MB/s, 1 min 10 s left",
    ]
    now[0] = 60.0
    log.phase("flushing")(0, 1_000_000_000)
    assert lines[-1] == "ckptclamp: flushing: 0 B of 1.0 GB"


def test_a_short_run_says_nothing_of_its_progress_in_a_log(run, model):
    """What takes no time needs no line."""
    assert run("audit", model, *RULE).stderr == ""


@pytest.mark.parametrize("color", ["auto", "never"])
def test_a_terminal_shows_what_is_done(model, tmp_path, color, monkeypatch):
    """The bars name the phase, are gone when it is over, and have colours unless nobody wants them."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    parent, child = pty.openpty()
    command = [PROGRAM, "apply", model, *RULE, "-o", tmp_path / "out.safetensors"]
    command += ["--color", color]
    with subprocess.Popen(command, stderr=child, stdout=subprocess.DEVNULL) as process:
        os.close(child)
        shown = b""
        while select.select([parent], [], [], 60)[0]:
            try:
                shown += os.read(parent, 1 << 16)
            except OSError:
                break
        assert process.wait(timeout=60) == 0
    os.close(parent)
    assert re.search(rb"(measuring|copying|projecting|comparing|hashing|auditing)", shown)
    assert bool(re.search(rb"\x1b\[\d+m", shown.replace(b"\x1b[0m", b""))) == (color == "auto")


def test_an_interrupted_run_says_that_nothing_was_written(tmp_path):
    """The first question after Ctrl-C is what is left of it."""
    out = tmp_path / "out.safetensors"
    program = (
        "import os, signal, threading\n"
        "from ckptclamp.applying import apply\n"
        "from ckptclamp.cli import main\n"
        "def interrupted(*_): signal.raise_signal(signal.SIGINT)\n"
        "apply.project_tensors = interrupted\n"
        "main()\n"
    )
    save_file({"w": np.full((4, 4), 3, np.float32)}, tmp_path / "m.safetensors")
    command = [sys.executable, "-c", program, "apply", "m.safetensors", *RULE, "-o", out]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 130
    assert done.stderr.strip() == "ckptclamp: interrupted: nothing was written"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.safetensors"]


def test_an_interrupt_after_the_copy_says_that_it_is_there(tmp_path):
    """What was written must not be denied."""
    out = tmp_path / "out"

    def interrupted(*, late):
        with watching(out):
            if late:
                out.write_text("whole")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as early:
        interrupted(late=False)
    assert not isinstance(early.value, InterruptedWritingError)
    with pytest.raises(InterruptedWritingError) as late:
        interrupted(late=True)
    assert after_interrupt(late.value) == f"{out} was written, and its reports were not"
