"""What an audit and an apply reach for: the files that were named, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ckptclamp.engine.kernels import native
from torture.applies import WRITERS, Apply

PROGRAM = """
import json, os, sys
from pathlib import Path

sys.path.append(sys.argv.pop(1))
from torture.applies import load_everything
load_everything()
seen = []

def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        seen.append(["open", os.path.abspath(arguments[0])])
    elif event in ("subprocess.Popen", "os.exec", "os.posix_spawn"):
        seen.append([event, os.fspath(arguments[0])])
    elif event == "import":
        seen.append([event, arguments[0]])
    elif event.startswith(("socket.", "pickle.", "os.system", "urllib.", "webbrowser.")):
        seen.append([event, ""])
    elif event == "ctypes.dlopen" and arguments[0] is not None:  # None: the C library, for rename
        seen.append([event, str(arguments[0])])

sys.addaudithook(hook)
from ckptclamp.cli import main
try:
    main()
except SystemExit as leaving:
    code = leaving.code
print(json.dumps({"code": code, "seen": seen}), file=sys.stderr)
"""


@pytest.mark.parametrize("writer", WRITERS)
def test_nothing_else_is_reached(writer: str, tmp_path: Path):
    """No socket, no pickle, no other program than the worker, no library but ours, no file but those named."""
    apply = Apply(writer, tmp_path / "run")
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", PROGRAM, str(root), *apply.arguments]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    told = json.loads(done.stderr.strip().splitlines()[-1])
    assert told["code"] == 0, done.stderr
    known = {"open", "import", "subprocess.Popen", "ctypes.dlopen"}
    assert {event for event, _ in told["seen"]} <= known
    libraries = {path for event, path in told["seen"] if event == "ctypes.dlopen"}
    assert libraries <= {os.fspath(Path(native.__file__).with_name("lib") / "kernels.so")}
    programs = {path for event, path in told["seen"] if event == "subprocess.Popen"}
    assert programs <= {sys.executable}
    homes = (str(tmp_path), str(root), sys.prefix, sys.base_prefix, "/proc/self/", "/dev/null")
    strange = [path for event, path in told["seen"] if event == "open"]
    assert [path for path in strange if not path.startswith(homes)] == []
