"""Servers on this machine that speak what real ones speak, and fail as real ones fail."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlsplit

TOKEN = "hf_a_token_of_the_tests"


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]

    @property
    def length(self) -> int:
        """The bytes of the range that was asked for."""
        first, _, last = self.headers["range"].removeprefix("bytes=").partition("-")
        return int(last) + 1 - int(first)


class Handler(BaseHTTPRequestHandler):
    """Serves what its `FileServer` holds, by ranges, unless a fault answers first."""

    protocol_version = "HTTP/1.1"
    server: FileServer
    cut = hidden = ""
    """What a fault leaves out of this answer: the second half of its body, or a header."""

    def log_message(self, *_) -> None:
        """Keep the tests' output clean."""

    def do_HEAD(self) -> None:
        """Answer without a body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer a request."""
        self.cut = self.hidden = ""
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.server.lock:
            self.server.seen.append(Seen(self.command, self.path, headers))
            fault = self.server.next_fault(self.path)
        if fault is None or not fault(self):
            self.serve(unquote(urlsplit(self.path).path))

    def serve(self, path: str) -> None:
        """Answer with what is at `path`."""
        held = self.server.files.get(path)
        if held is None:
            self.answer(404)
            return
        data = held.read_bytes() if isinstance(held, Path) else held
        etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
        if self.headers.get("If-Match") not in (None, etag):
            self.answer(412)
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        headers = {"ETag": etag, "Accept-Ranges": "bytes"}
        if wanted is None:
            self.answer(200, data, headers)
            return
        start, stop = int(wanted[1]), min(int(wanted[2]) + 1, len(data))
        if start >= len(data):
            self.answer(416)
            return
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        self.answer(206, data[start:stop], headers)

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """Send one whole answer, or what a fault leaves of it."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            if name != self.hidden:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[: len(body) // 2] if self.cut else body)
        if self.cut:
            self.hang_up()

    def hang_up(self) -> None:
        """Close the connection in mid-answer: orderly, or as a host does that crashed."""
        self.wfile.flush()
        self.close_connection = True
        if self.cut == "reset":
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
        else:
            self.connection.shutdown(socket.SHUT_RDWR)


Fault = Callable[[Handler], bool]
"""Answers a request in place of the server, and returns whether it did."""


@dataclass
class Faults:
    """`fault` for requests whose path ends with `path`, after `skip` of them and `times` in all."""

    fault: Fault
    path: str = ""
    skip: int = 0
    times: float = float("inf")


class FileServer(ThreadingHTTPServer):
    """Serves `files` (what is at each path) on 127.0.0.1; `seen` is every request."""

    daemon_threads = True

    def __init__(self, handler: type[Handler] = Handler) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.files: dict[str, bytes | Path] = {}
        self.seen: list[Seen] = []
        self.faults: list[Faults] = []
        self.lock = threading.Lock()
        self.scheme = "http"

    @property
    def url(self) -> str:
        """The address of its root."""
        return f"{self.scheme}://127.0.0.1:{self.server_port}"

    def hold(self, folder: str, *paths: Path) -> str:
        """Serve the files at `paths` in `folder`; return the address of the first."""
        for path in paths:
            self.files[f"/{folder}/{path.name}"] = path
        return f"{self.url}/{folder}/{paths[0].name}"

    def next_fault(self, path: str) -> Fault | None:
        """The fault that answers this request, if any does."""
        for one in self.faults:
            if not urlsplit(path).path.endswith(one.path):
                continue
            if one.skip:
                one.skip -= 1
            elif one.times:
                one.times -= 1
                return one.fault
        return None

    def handle_error(self, *_) -> None:
        """A client that hangs up is no news."""


@contextmanager
def serving(server: FileServer):
    """Run `server` while the block runs."""
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def status(code: int) -> Fault:
    """Answer with `code` and nothing else."""

    def fault(handler: Handler) -> bool:
        handler.answer(code)
        return True

    return fault


def broken(*, reset: bool) -> Fault:
    """Send half of the range that is asked for, and hang up."""

    def fault(handler: Handler) -> bool:
        handler.cut = "reset" if reset else "short"
        return False

    return fault


def without_ranges(handler: Handler) -> bool:
    """Answer with all of the file, whatever range was asked for."""
    del handler.headers["Range"]
    return False


def another_range(handler: Handler) -> bool:
    """Send a shorter range than was asked for, as if it were right."""
    first, _, last = handler.headers["Range"].removeprefix("bytes=").partition("-")
    shorter = max(int(first), int(last) - 10)
    handler.headers.replace_header("Range", f"bytes={first}-{shorter}")
    return False


def without_version(handler: Handler) -> bool:
    """Leave out the entity tag."""
    handler.hidden = "ETag"
    return False


def silent(seconds: float) -> Fault:
    """Say nothing for a while, and then the truth."""

    def fault(_: Handler) -> bool:
        time.sleep(seconds)
        return False

    return fault


def moved(target: str) -> Fault:
    """Redirect to `target`."""

    def fault(handler: Handler) -> bool:
        handler.answer(302, headers={"Location": target})
        return True

    return fault


@dataclass
class Repository:
    """A model on the hub: the files at a commit, and who may read them."""

    commit: str
    files: dict[str, Path] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    branches: tuple[str, ...] = ("main",)


class HubHandler(Handler):
    """Answers as the hub does: an API, small files, and redirects to a CDN for large ones."""

    server: Hub

    def serve(self, path: str) -> None:
        """Answer a request to the API, or for a file."""
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = api or file
        repository = self.server.repositories.get(match[1]) if match else None
        if match is None or repository is None:
            self.refuse(404, "RepoNotFound")
            return
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repository.private and not known:
            self.refuse(401, "RepoNotFound")
        elif (match[2] or "main") not in (*repository.branches, repository.commit):
            self.refuse(404, "RevisionNotFound")
        elif api:
            self.tell(match[1], repository)
        elif repository.gated and not known:
            self.refuse(403, "GatedRepo")
        else:
            self.send_file(repository, match[3])

    def refuse(self, status: int, code: str) -> None:
        """Say no, and why, in the hub's own way."""
        self.answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def tell(self, name: str, repository: Repository) -> None:
        """Describe a repository."""
        siblings = [{"rfilename": file} for file in repository.files]
        answer = {"_id": "0", "id": name, "sha": repository.commit, "siblings": siblings}
        body = json.dumps({**answer, "private": repository.private, "tags": []}).encode()
        self.answer(200, body, {"Content-Type": "application/json"})

    def send_file(self, repository: Repository, file: str) -> None:
        """Send a small file, or say where a large one is."""
        path = repository.files.get(file)
        if path is None:
            self.refuse(404, "EntryNotFound")
            return
        data = path.read_bytes()
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        about = {"X-Repo-Commit": repository.commit}
        if file.endswith(".json"):
            place = unquote(urlsplit(self.path).path)
            self.server.files[place] = data
            self.__dict__["extra"] = about
            super().serve(place)
            return
        cdn = self.server.cdn
        signed = f"{cdn.hold('blobs', path)}?Signature={self.server.signature}"
        headers = {**about, "Location": signed, "X-Linked-Etag": etag}
        self.answer(302, headers={**headers, "X-Linked-Size": str(len(data))})

    extra: ClassVar[dict[str, str]] = {}

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """Send one whole answer, with what the hub adds."""
        super().answer(status, body, {**(headers or {}), **self.extra})
        self.__dict__.pop("extra", None)


class Cdn(FileServer):
    """Where the hub keeps large files: only signed addresses are served."""

    def __init__(self) -> None:
        super().__init__(CdnHandler)
        self.signature = "first"


class CdnHandler(Handler):
    """Refuses signatures that have expired."""

    server: Cdn

    def serve(self, path: str) -> None:
        """Answer where the signature is good."""
        if f"Signature={self.server.signature}" not in self.path:
            self.answer(403)
            return
        super().serve(path)


class Hub(FileServer):
    """A hub with `repositories`, whose large files `cdn` serves."""

    def __init__(self, cdn: Cdn) -> None:
        super().__init__(HubHandler)
        self.repositories: dict[str, Repository] = {}
        self.cdn = cdn

    @property
    def signature(self) -> str:
        """The one that the CDN accepts now."""
        return self.cdn.signature
