"""Runs one task on one HDF5 file in a process of its own, and takes its answer with suspicion.

The HDF5 library can be crashed, stalled or made to eat memory by the file that it reads, and it
follows names in the file to other files and to plug-ins. So it is only ever loaded in a child that
lives for one file: started in isolated mode with an environment of our choosing, given an open
descriptor rather than a path, limited and locked in by `isolation`, heard through a pipe for a
limited time and length. Whatever happens to the child, the parent raises a plain error.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import IO, TYPE_CHECKING, Any, NoReturn

from ckptclamp import system
from ckptclamp.checkpoints.documents import parse_strict
from ckptclamp.errors import NotACheckpointError, RefusedError, UnreadableError
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MAX_ANSWER = 64 << 20
"""Bytes of one answer; a hundred thousand tensors take a third of it."""

_KEPT = ("LD_LIBRARY_PATH", "SYSTEMROOT")
"""What the worker gets of our environment: where libraries are; Windows starts no Python without."""
_SECONDS_TO_START = 10.0
_SECONDS_TO_END = 1.0
"""For the pipes of a worker that was killed to end, unless it left them to a process of its own."""
_MAX_COMPLAINT = 4096
_READ = 1 << 16
_WINDOWS_CRASHES = 0xC0000000
"""From there on an exit status is an exception that nobody handled."""
_BOOTSTRAP = (
    "import sys; sys.path += sys.argv[1].split('\\n'); del sys.argv[1]; "
    "from ckptclamp.checkpoints.formats.hdf5.worker import main; main()"
)
_ERRORS: Mapping[str, type[UnreadableError]] = {
    error.__name__: error for error in (UnreadableError, NotACheckpointError, RefusedError)
}


@frozen
class Task:
    """What a worker is to do.

    `fd` is the file's descriptor, which it inherits; the HDF5 file is `length` bytes from `offset`
    on, and may get `longest` bytes long by writing. `path` is the name of the file in messages,
    `seconds` the time that it has; `records` is sent to its standard input. With `asks` the descriptor
    is a socket on which it asks for bytes of the file (see `ranges`).
    """

    name: str
    fd: int
    path: Path
    offset: int
    length: int
    seconds: float
    longest: int = 0
    records: Iterable[bytes] = field(default_factory=tuple)
    asks: bool = False


def run(task: Task) -> dict[str, Any]:
    """Run `task` in a new worker and return its answer, which is not to be trusted.

    Raises:
        UnreadableError: the worker crashed, took too long, or says that the file is unreadable;
            the subclass is the one that the worker names.
    """
    with _started(task) as process:
        answer, complaint = _converse(process, task)
    return _judge(answer, complaint, process.returncode, task)


@contextmanager
def _started(task: Task) -> Iterator[subprocess.Popen[bytes]]:
    """Start a worker, which inherits the file's descriptor and no other; it ends with the block."""
    with system.inherited(task.fd) as (number, how):
        process = subprocess.Popen(  # noqa: S603 - our own interpreter, with arguments of our own
            _command(task, number),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            cwd=Path(__file__).anchor,
            start_new_session=True,
            **how,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@cache
def missing_sandbox_layers() -> tuple[str, ...]:
    """Return the layers of the sandbox that this system lacks, by trying on a worker without a file."""
    from ckptclamp.checkpoints.formats.hdf5.isolation import SANDBOX_LAYERS

    fd = system.open_to_read(Path(os.devnull), follow_symlinks=True)
    try:
        answer = run(Task("nothing", fd, Path(os.devnull), 0, 0, _SECONDS_TO_START))
    finally:
        os.close(fd)
    return tuple(layer for layer in SANDBOX_LAYERS if layer not in answer["isolation"])


def _command(task: Task, number: int) -> list[str]:
    """Isolated mode drops user-wide and relative import paths; ours and h5py's are added back."""
    homes = []
    for package in ("ckptclamp", "h5py", "numpy"):
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            homes.append(str(Path(spec.origin).resolve().parents[1]))
    numbers = [str(int(n)) for n in (number, task.offset, task.length, task.longest, task.asks)]
    return [sys.executable, "-I", "-c", _BOOTSTRAP, "\n".join(homes), task.name, *numbers]


def _environment() -> dict[str, str]:
    environment = {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "HDF5_PLUGIN_PRELOAD": "::",  # loads no plug-ins, whatever a file asks for
        "HDF5_USE_FILE_LOCKING": "FALSE",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    kept = {name: os.environ.get(name) for name in _KEPT}
    return environment | {name: value for name, value in kept.items() if value}


def _converse(process: subprocess.Popen[bytes], task: Task) -> tuple[bytes, bytes]:
    """Feed the records to the worker and collect what it says, until it ends or time runs out.

    A thread for each pipe: these end when the worker does, because nobody else holds the other ends.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    answer, complaint = bytearray(), bytearray()
    talks = (
        Thread(target=_hear, args=(process.stdout, answer, MAX_ANSWER + 8), daemon=True),
        Thread(target=_hear, args=(process.stderr, complaint, _MAX_COMPLAINT), daemon=True),
        feeder := _Feeder(process.stdin, task.records),
    )
    deadline = time.monotonic() + task.seconds
    for thread in talks:
        thread.start()
    try:
        for thread in talks:  # not the process, for which Python waits by asking again and again
            thread.join(max(deadline - time.monotonic(), 0))
        if any(thread.is_alive() for thread in talks):
            _refuse_slow(task)
        process.wait(_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        _refuse_slow(task)
    finally:
        process.kill()
        for thread in talks:
            thread.join(_SECONDS_TO_END)
    if feeder.failure is not None:
        raise feeder.failure
    return bytes(answer), bytes(complaint)


def _hear(pipe: IO[bytes], heard: bytearray, most: int) -> None:
    """Read `pipe` to its end, and keep what comes before there is more than `most`."""
    with pipe:
        while block := os.read(pipe.fileno(), _READ):
            if len(heard) < most:
                heard += block


class _Feeder(Thread):
    """Writes records to a worker that may end before it has read them all."""

    def __init__(self, pipe: IO[bytes], records: Iterable[bytes]) -> None:
        super().__init__(daemon=True)
        self.pipe = pipe
        self.records = records
        self.failure: BaseException | None = None
        """What making the records raised."""

    def run(self) -> None:
        try:
            with self.pipe:
                for record in self.records:
                    self.pipe.write(record)
        except OSError:  # nobody reads on: what the worker says, or how it ended, tells why
            return
        except BaseException as failure:  # noqa: BLE001 - raised again where the worker is waited for
            self.failure = failure


def _refuse_slow(task: Task) -> NoReturn:
    raise UnreadableError(
        f"the HDF5 library did not finish within {task.seconds:.0f} s",
        path=task.path,
        hint="the file is damaged or made to stall its reader, or the machine is too busy",
    )


def _judge(answer: bytes, complaint: bytes, status: int, task: Task) -> dict[str, Any]:
    if status < 0 or status >= _WINDOWS_CRASHES:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else f"{status:#x}"
        raise UnreadableError(
            f"the HDF5 library crashed on it ({name})",
            path=task.path,
            hint="the file is damaged, or made to crash its reader",
        )
    if len(answer) > MAX_ANSWER:
        raise RefusedError("holds more names than can be described", path=task.path)
    if status != 0 or len(answer) < 8 or int.from_bytes(answer[:8], "big") != len(answer) - 8:
        last = complaint.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise UnreadableError(
            f"the HDF5 worker failed ({last[0] if last else f'status {status}'})", path=task.path
        )
    fields = parse_strict(
        answer[8:], max_depth=16, max_bytes=MAX_ANSWER, what="HDF5 worker's answer", path=task.path
    )
    if not isinstance(fields, dict):
        raise UnreadableError("the HDF5 worker's answer makes no sense", path=task.path)
    if "error" in fields:
        _raise_reported(fields["error"], task)
    return fields


def _raise_reported(reported: Any, task: Task) -> NoReturn:  # noqa: ANN401 - untrusted JSON
    fields = reported if isinstance(reported, dict) else {}
    texts = {key: value for key, value in fields.items() if isinstance(value, str)}
    error = _ERRORS.get(texts.get("class", ""), UnreadableError)
    raise error(
        texts.get("message", "cannot be read"),
        path=task.path,
        tensor=texts.get("tensor"),
        hint=texts.get("hint"),
    )
