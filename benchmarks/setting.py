"""What every measurement shares: where files go, how large they are, how the program is called."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

# The installed program, whatever lies in the working directory.
COMMAND = [str(Path(sys.executable).with_name("ckptclamp"))]
INLINE = ["--tensors", "**", "--no-settings", "--quiet"]
MATRIX = (4096, 4096)
CONV = (3, 3, 512, 512)


@dataclass(frozen=True)
class Setting:
    """`size` and `largest` are bytes: of the files that are read, and of the largest sparse one.

    Each pair of processes runs `times` times; `python` is an interpreter that has the frameworks.
    """

    folder: Path
    size: int
    largest: int
    times: int
    python: str


def audit(path: Path, *options: str) -> list[str]:
    return [*COMMAND, "audit", str(path), *INLINE, *options]


def cat(path: Path) -> list[str]:
    return shell(f"cat {shlex.quote(str(path))} >/dev/null")


def shell(command: str) -> list[str]:
    return ["/usr/bin/sh", "-c", command]
