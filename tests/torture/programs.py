"""Runs the programs of the torture collection against the installed package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_START = (
    "import runpy, sys; sys.path.append(sys.argv.pop(1)); "  # after what is installed
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def program(module: str, *arguments: object) -> Any:
    """Run ``torture.<module>``, which must find nothing, and return what it tells: JSON, or its lines."""
    command = [sys.executable, "-P", "-c", _START, str(ROOT), f"torture.{module}"]
    done = subprocess.run(
        [*command, *map(str, arguments)],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if done.stdout.startswith("{\n"):
        return json.loads(done.stdout)
    return [json.loads(line) for line in done.stdout.splitlines()]
