"""Compiling the kernels: one shared library, each file once for each level of instructions.

A library that ctypes loads needs no ABI of Python, so one wheel a platform serves every version.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
LIBRARY = "lib/kernels.so"
"""In a folder of its own, which is no package: Python would take the file for a module."""
SOURCES = ("widen", "measure", "bytes", "file", "codes", "nibbles", "move", "between", "gather")

FLAGS = ("-std=c11", "-O3", "-fPIC", "-ffp-contract=off", "-Wall", "-Wextra")
"""No `-ffast-math`, and nothing fused: the sums are the same on every machine."""


def levels() -> dict[str, tuple[str, ...]]:
    """The flags of each level of instructions on this architecture, the least first."""
    if platform.machine() not in {"x86_64", "AMD64"}:
        return {"baseline": ()}
    return {
        "baseline": ("-march=x86-64",),
        "v3": ("-march=x86-64-v3",),
        "v4": ("-march=x86-64-v4",),
    }


def build(library: Path = HERE / LIBRARY, extra: tuple[str, ...] = ()) -> Path:
    """Compile the kernels into `library` with the compiler `CC`, by default `cc`.

    Raises:
        FileNotFoundError: there is no compiler.
        subprocess.CalledProcessError: it fails.
    """
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        raise FileNotFoundError(f"no C compiler {compiler[0]!r}")
    library.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        objects = []
        for level, flags in levels().items():
            for source in SOURCES:
                target = Path(folder, f"{source}-{level}.o")
                name = f"-DLEVEL_NAME={level}"
                _run(
                    [
                        *compiler,
                        *FLAGS,
                        *flags,
                        *extra,
                        name,
                        "-c",
                        HERE / f"{source}.c",
                        "-o",
                        target,
                    ]
                )
                objects.append(target)
        made = Path(folder, library.name)
        _run(
            [*compiler, *FLAGS, *extra, "-shared", HERE / "dispatch.c", *objects, "-o", made, "-lm"]
        )
        beside = library.with_suffix(".new")
        shutil.copyfile(made, beside)
        beside.replace(library)  # a library that is in use is never written to
    return library


def _run(command: list[str | Path]) -> None:
    subprocess.run([os.fspath(word) for word in command], check=True, timeout=300)  # noqa: S603 - our own


if __name__ == "__main__":
    print(build(extra=tuple(sys.argv[1:])))
