"""The program as a user runs it, without what a start of it takes.

A start takes a third of a second, a small audit a fiftieth, and tests run the program thousands of times.
So where a system forks well, one process imports all modules once, and each call is a fork of it: with its
own arguments, streams, directory and environment, and with its own end. What only a start can show, such as
modules that fail to import each other, is for the tests that start it (`test_program.py`, the examples of
the documents, the demo, the harness of `torture`).
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import ckptclamp

LIBRARIES = ("ctypes", "jinja2", "ml_dtypes", "re2", "rich.progress", "safetensors", "zlib_ng")
NOT_OF_A_RUN = {"__main__", "build", "pytest_plugin", "worker"}
"""The last names of modules that a run never imports."""

AT_THE_START = ("PYTHON", "LC_", "LANG", "LD_", "OPENBLAS_", "OMP_", "CKPTCLAMP_KERNELS")
"""What begins so in the environment is read when Python, or a library, starts."""

PROGRAM = Path(sys.executable).with_name("ckptclamp")
TIMEOUT = 60

Completed = subprocess.CompletedProcess[str]


def run_anew(arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> Completed:
    """Start the program as a shell does."""
    return subprocess.run(
        [PROGRAM, *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env=environment,
        cwd=folder,
        check=False,
    )


class Forks:
    """Runs the program in forks of one process; where that would not be the same, as a shell does."""

    def __init__(self) -> None:
        self._own, theirs = socket.socketpair()
        self._at_start = _of_the_start(os.environ)
        with theirs:
            command = [sys.executable, "-P", __file__, str(theirs.fileno())]
            self._server = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )

    def close(self) -> None:
        """End the process that the forks are made of."""
        self._own.close()
        self._server.wait(TIMEOUT)

    def run(
        self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path
    ) -> Completed:
        """Run the program, and return how it ended and what it said."""
        if _of_the_start(environment) != self._at_start:
            return run_anew(arguments, environment, folder)
        asked = [list(arguments), dict(environment), os.fspath(folder)]
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            head = json.dumps(asked).encode()
            socket.send_fds(
                self._own, [len(head).to_bytes(4, "little")], [out.fileno(), err.fileno()]
            )
            self._own.sendall(head)
            pid = self._number()
            self._own.settimeout(TIMEOUT)
            try:
                status = self._number()
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                self._own.settimeout(None)
                self._number()
                raise subprocess.TimeoutExpired([PROGRAM, *arguments], TIMEOUT) from None
            finally:
                self._own.settimeout(None)
            said = []
            for stream in (out, err):
                stream.seek(0)
                said.append(stream.read().decode().replace("\r\n", "\n"))
        code = os.waitstatus_to_exitcode(status)
        return subprocess.CompletedProcess([PROGRAM, *arguments], code, *said)

    def _number(self) -> int:
        return int.from_bytes(_exactly(self._own, 4), "little")


def _of_the_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in environment.items() if name.startswith(AT_THE_START)}


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise EOFError("the other side is gone")
        data += piece
    return data


def _fork_for_each_request(connection: socket.socket) -> None:
    """Answer with the number of each fork, and with how it ended; return in the forks alone."""
    while True:
        length, files, _, _ = socket.recv_fds(connection, 4, 2)
        if not length:
            os._exit(0)
        arguments, environment, folder = json.loads(
            _exactly(connection, int.from_bytes(length, "little"))
        )
        pid = os.fork()
        if not pid:
            connection.close()
            for target, file in enumerate(files, 1):
                os.dup2(file, target)
                os.close(file)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            sys.argv[:] = [os.fspath(PROGRAM), *arguments]
            sys.path.insert(0, os.fspath(PROGRAM.parent))
            return
        for file in files:
            os.close(file)
        connection.sendall(pid.to_bytes(4, "little"))
        connection.sendall(os.waitpid(pid, 0)[1].to_bytes(4, "little"))


def _import_all() -> None:
    for name in LIBRARIES:
        importlib.import_module(name)
    for module in pkgutil.walk_packages(ckptclamp.__path__, "ckptclamp."):
        if module.name.rpartition(".")[2] not in NOT_OF_A_RUN:
            importlib.import_module(module.name)


if __name__ == "__main__":
    _import_all()
    _fork_for_each_request(socket.socket(fileno=int(sys.argv[1])))
    from ckptclamp.cli import main

    sys.exit(main())
