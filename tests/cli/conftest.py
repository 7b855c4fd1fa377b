"""The program as a user runs it: its own process, its own streams."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def run() -> Run:
    """Run ``ckptclamp ARGUMENTS`` and return its exit code, stdout and stderr."""
    program = Path(sys.executable).with_name("ckptclamp")

    def call(*arguments: object, env: dict[str, str] | None = None, cwd: Path | None = None):
        clean = {k: v for k, v in os.environ.items() if not k.startswith("CKPTCLAMP_")}
        return subprocess.run(
            [program, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=60,
            env={**clean, **(env or {})},
            cwd=cwd,
            check=False,
        )

    return call


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of files that real frameworks made."""
    return Path(__file__).parents[2] / "fixtures"
