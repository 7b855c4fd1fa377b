"""The program as a user runs it: its own process, its own streams."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cli.program import Forks, run_anew

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def run() -> Iterator[Run]:
    """Run ``ckptclamp ARGUMENTS`` and return its exit code, stdout and stderr."""
    with ExitStack() as stack:
        start = run_anew
        if sys.platform == "linux":
            forks = Forks()
            stack.callback(forks.close)
            start = forks.run

        def call(*arguments: object, env: dict[str, str] | None = None, cwd: Path | None = None):
            clean = {k: v for k, v in os.environ.items() if not k.startswith("CKPTCLAMP_")}
            return start([*map(str, arguments)], {**clean, **(env or {})}, cwd or Path.cwd())

        yield call


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of files that real frameworks made."""
    return Path(__file__).parents[2] / "fixtures"
