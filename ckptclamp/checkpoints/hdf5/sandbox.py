"""Runs one task on one HDF5 file in a process of its own, and takes its answer with suspicion.

The HDF5 library can be crashed, stalled or made to eat memory by the file that it reads, and it
follows names in the file to other files and to plug-ins. So it is only ever loaded in a child that
lives for one file: started in isolated mode with an environment of our choosing, given an open
descriptor rather than a path, limited and locked in by `isolation`, heard through a pipe for a
limited time and length. Whatever happens to the child, the parent raises a plain error.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ckptclamp.checkpoints.documents import parse_strict
from ckptclamp.errors import NotACheckpointError, RefusedError, UnreadableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_ANSWER = 64 << 20
"""Bytes of one answer; a hundred thousand tensors take a third of it."""

_SECONDS_TO_START = 10.0
_MAX_COMPLAINT = 4096
_READ = 1 << 16
_BOOTSTRAP = (
    "import sys; sys.path += sys.argv[1].split('\\n'); del sys.argv[1]; "
    "from ckptclamp.checkpoints.hdf5.worker import main; main()"
)
_ERRORS: Mapping[str, type[UnreadableError]] = {
    error.__name__: error for error in (UnreadableError, NotACheckpointError, RefusedError)
}


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is to do.

    `fd` is the file's descriptor, which it inherits; the HDF5 file is `length` bytes from `offset`
    on, and may get `longest` bytes long by writing. `path` is the name of the file in messages,
    `seconds` the time that it has; `records` is sent to its standard input.
    """

    name: str
    fd: int
    path: Path
    offset: int
    length: int
    seconds: float
    longest: int = 0
    records: Iterable[bytes] = field(default_factory=tuple)


def run(task: Task) -> dict[str, Any]:
    """Run `task` in a new worker and return its answer, which is not to be trusted.

    Raises:
        UnreadableError: the worker crashed, took too long, or says that the file is unreadable;
            the subclass is the one that the worker names.
    """
    process = subprocess.Popen(  # noqa: S603 - our own interpreter, with arguments of our own
        _command(task),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(),
        pass_fds=(task.fd,),
        cwd="/",
        start_new_session=True,
    )
    try:
        answer, complaint = _converse(process, task)
    finally:
        process.kill()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                _close(pipe)
        process.wait()
    return _judge(answer, complaint, process.returncode, task)


@cache
def missing_sandbox_layers() -> tuple[str, ...]:
    """Return the layers of the sandbox that this system lacks, by trying on a worker without a file."""
    from ckptclamp.checkpoints.hdf5.isolation import SANDBOX_LAYERS

    fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        answer = run(Task("nothing", fd, Path(os.devnull), 0, 0, _SECONDS_TO_START))
    finally:
        os.close(fd)
    return tuple(layer for layer in SANDBOX_LAYERS if layer not in answer["isolation"])


def _command(task: Task) -> list[str]:
    """Isolated mode drops user-wide and relative import paths; ours and h5py's are added back."""
    homes = [str(Path(__file__).resolve().parents[3])]
    for package in ("h5py", "numpy"):
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            homes.append(str(Path(spec.origin).resolve().parents[1]))
    numbers = [str(number) for number in (task.fd, task.offset, task.length, task.longest)]
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
    libraries = os.environ.get("LD_LIBRARY_PATH")
    return environment | ({"LD_LIBRARY_PATH": libraries} if libraries else {})


def _converse(process: subprocess.Popen[bytes], task: Task) -> tuple[bytes, bytes]:
    """Feed the records to the worker and collect what it says, until it ends or time runs out."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    deadline = time.monotonic() + task.seconds
    heard = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    limits = {process.stdout.fileno(): MAX_ANSWER + 8, process.stderr.fileno(): _MAX_COMPLAINT}
    feeder = _Feeder(process.stdin.fileno(), task.records)
    with selectors.DefaultSelector() as selector:
        for fd in heard:
            selector.register(fd, selectors.EVENT_READ)
        selector.register(feeder.fd, selectors.EVENT_WRITE)
        while any(key.fd in heard for key in selector.get_map().values()):
            left = deadline - time.monotonic()
            if left <= 0:
                _refuse_slow(task)
            for key, _ in selector.select(left):
                if key.fd == feeder.fd:
                    if not feeder.feed():
                        selector.unregister(feeder.fd)
                        _close(process.stdin)
                    continue
                block = os.read(key.fd, _READ)
                if not block:
                    selector.unregister(key.fd)
                elif len(heard[key.fd]) < limits[key.fd]:
                    heard[key.fd] += block
    try:
        process.wait(max(deadline - time.monotonic(), 1))
    except subprocess.TimeoutExpired:
        _refuse_slow(task)
    return bytes(heard[process.stdout.fileno()]), bytes(heard[process.stderr.fileno()])


class _Feeder:
    """Writes records to a pipe as it takes them, without ever waiting for it."""

    def __init__(self, fd: int, records: Iterable[bytes]) -> None:
        self.fd = fd
        self.records = iter(records)
        self.rest = memoryview(b"")
        os.set_blocking(fd, False)

    def feed(self) -> bool:
        """Write once; return whether there may be more to write."""
        try:
            if self.rest:
                self.rest = self.rest[os.write(self.fd, self.rest) :]
        except BlockingIOError:
            return True
        except BrokenPipeError:
            return False
        if not self.rest:
            self.rest = memoryview(next(self.records, b""))
        return bool(self.rest)


def _close(pipe: Any) -> None:  # noqa: ANN401 - any of the three pipes
    try:
        pipe.close()
    except BrokenPipeError:
        return


def _refuse_slow(task: Task) -> NoReturn:
    raise UnreadableError(
        f"the HDF5 library did not finish within {task.seconds:.0f} s",
        path=task.path,
        hint="the file is damaged or made to stall its reader, or the machine is too busy",
    )


def _judge(answer: bytes, complaint: bytes, status: int, task: Task) -> dict[str, Any]:
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
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
