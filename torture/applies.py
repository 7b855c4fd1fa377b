"""One `apply` for every way of writing, each over an older output, to be disturbed and judged."""

from __future__ import annotations

import importlib
import os
import pkgutil
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ckptclamp
from ckptclamp.applying.leftovers import clean
from ckptclamp.checkpoints.directories.unfinished import JOURNAL, is_hidden
from torture.mutating import FIXTURES

_INPUTS = {
    "safetensors": ("transformer_bf16.safetensors", "transformer"),
    "contiguous HDF5": ("builtin_constraints.h5", None),
    "compressed HDF5": ("chunked_gzip.h5", None),
    "stored archive": ("builtin_constraints.keras", None),
    "deflated archive": ("deflated_zip.keras", None),
    "directory": ("unzipped_directory", None),
    "sharded safetensors": ("sharded_transformer/model.safetensors.index.json", "transformer"),
    "sharded HDF5": ("sharded_keras/model.weights.json", "builtin_constraints"),
    "shards in place": ("sharded_transformer/model.safetensors.index.json", "transformer"),
}
WRITERS = tuple(_INPUTS)
IN_PLACE = "shards in place"
_IMPORTED_WHEN_USED = (
    "concurrent.futures.thread",
    "encodings.ascii",
    "fcntl",
    "ml_dtypes",
    "rich.console",
    "safetensors",
    "yaml",
    "zlib_ng.zlib_ng",
)

Tree = dict[str, bytes]
"""The content of a file, or of every file of a directory."""


@dataclass(frozen=True)
class Apply:
    """An apply of `writer` inside `directory`, which it fills."""

    writer: str
    directory: Path

    def __post_init__(self) -> None:
        name, _ = _INPUTS[self.writer]
        source = FIXTURES / "violating" / name.partition("/")[0]
        shutil.rmtree(self.directory, ignore_errors=True)
        self.output.parent.mkdir(parents=True)
        if self.writer == IN_PLACE:
            shutil.copytree(source, self.output)
        elif source.is_dir():
            shutil.copytree(source, self.directory / source.name)
            shutil.copytree(source, self.output)
        else:
            shutil.copyfile(source, self.directory / source.name)
            self.output.write_bytes(b"what was there before")

    @property
    def input(self) -> Path:
        """What is copied, as a user names it."""
        name = _INPUTS[self.writer][0]
        if self.writer == IN_PLACE:
            return self.output / name.partition("/")[2]
        return self.directory / name

    @property
    def files(self) -> Path:
        """The input with all its files; nothing where it is what is replaced."""
        return self.directory / _INPUTS[self.writer][0].partition("/")[0]

    @property
    def output(self) -> Path:
        """Where the copy goes."""
        return self.directory / "there" / "output"

    @property
    def arguments(self) -> list[str]:
        """The command line after the program's name."""
        _, spec = _INPUTS[self.writer]
        rules = ["--spec", str(FIXTURES / "specs" / f"{spec}.yaml")] if spec else []
        where = ["-o", str(self.output), "--force"]
        if self.writer == IN_PLACE:
            where = ["--in-place"]
        return ["apply", str(self.input), *where, "-j", "1", *rules]

    @property
    def log(self) -> Path:
        """What the program printed."""
        return self.directory / "log"

    def strays(self) -> list[str]:
        """Names that a run left beside the output, or in it."""
        beside = [path.name for path in self.output.parent.iterdir() if path != self.output]
        return beside + [name for name in tree(self.output) if is_hidden(name)]


def tree(path: Path) -> Tree:
    """Everything that lies at `path`; nothing if there is nothing."""
    if path.is_file():
        return {"": path.read_bytes()}
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def visible(path: Path) -> Tree:
    """What lies at `path` without what is not finished."""
    return {name: data for name, data in tree(path).items() if not is_hidden(name)}


def load_everything() -> None:
    """Import what an apply would, so that the forks need not."""
    for module in pkgutil.walk_packages(ckptclamp.__path__, "ckptclamp."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in _IMPORTED_WHEN_USED:
        importlib.import_module(name)


def start(apply: Apply, when_staging: Callable[[], None]) -> int:
    """Start `apply` in a fork; `when_staging` is called in it when it begins to write."""
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        log = os.open(apply.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for number in (1, 2):
            os.dup2(log, number)
        os._exit(_run(apply, when_staging))
    except BaseException:  # noqa: BLE001 - a fork must not go on as its parent
        os.write(2, traceback.format_exc().encode())
    os._exit(99)


def _run(apply: Apply, when_staging: Callable[[], None]) -> int:
    from ckptclamp.applying import apply as applying
    from ckptclamp.applying import publication
    from ckptclamp.cli import main

    staged = publication.staged

    def stage(*arguments: object, **options: object) -> object:
        when_staging()
        return staged(*arguments, **options)  # type: ignore[arg-type]

    vars(applying)["staged"] = stage
    sys.argv = ["ckptclamp", *apply.arguments]
    try:
        main()
    except SystemExit as leaving:
        sys.stdout.flush()
        return int(leaving.code or 0)


def stop_self() -> None:
    """Wait until somebody has attached and says go on."""
    os.kill(os.getpid(), signal.SIGSTOP)


@dataclass(frozen=True)
class Expectation:
    """What may lie at the input and the output after a run that was disturbed."""

    source: Tree
    old: Tree
    new: Tree

    @classmethod
    def of(cls, writer: str, directory: Path) -> Expectation:
        """Run once without a disturbance."""
        apply = Apply(writer, directory)
        source, old = tree(apply.files), tree(apply.output)
        _, status = os.waitpid(start(apply, lambda: None), 0)
        if status or apply.strays() or tree(apply.files) != source:
            raise RuntimeError(f"{writer}: {apply.log.read_text()}")
        return cls(source, old, tree(apply.output))

    def judge(self, apply: Apply, code: int) -> tuple[str, str]:
        """Return what lies at the output, ``old`` or ``new``, and what must not be."""
        left = apply.strays()
        found = visible(apply.output)
        if any(is_hidden(name, JOURNAL) for name in left) and self._is_mixed(found):
            clean(apply.output)
            found = tree(apply.output)
        state = "new" if found == self.new else "old" if found == self.old else "broken"
        said = apply.log.read_text(errors="replace") if apply.log.exists() else ""
        problems = {
            "the output is neither the old one nor the new one": state == "broken",
            "the input changed": tree(apply.files) != self.source,
            "exit 0, but nothing was written": code == 0 and state != "new",
            "a stranger lies beside the output": not all(is_hidden(name) for name in left),
            "a traceback": _is_traceback(said) or "internal error" in said or code == 99,
        }
        return state, "; ".join(text for text, holds in problems.items() if holds)

    def _is_mixed(self, found: Tree) -> bool:
        """Whether every file is the old one or the new one."""
        return found.keys() == self.old.keys() and all(
            data in (self.old[name], self.new[name]) for name, data in found.items()
        )


def _is_traceback(said: str) -> bool:
    """Python ignores a signal that meets it in a finaliser, says so, and goes on; that is no failure."""
    return "Traceback" in said and not ("Exception ignored in" in said and "SystemExit" in said)
