"""A server that answers as Google documents its XML API, which is what objects are written by.

fake-gcs-server does not know this API: it refuses each PUT and POST of an object.
"""

from __future__ import annotations

import re
from email.utils import formatdate
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.remote.servers import FileServer, Handler

LEAST = 5 << 20
"""Bytes of every part but the last."""


class GoogleHandler(Handler):
    """One request of the XML API, to a bucket that is the first part of the path."""

    server: Google

    def do_PUT(self) -> None:  # noqa: N802 - as http.server has it
        """Make an object of a body or of another object, or take in a part."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.note()
        if "uploadId" in self.query:
            parts = self.server.uploads[self.query["uploadId"][0]]
            parts[int(self.query["partNumber"][0])] = body
            self.answer(200, headers={"ETag": f'"part{len(body)}"'})
            return
        source = self.headers.get("x-goog-copy-source")
        if source is not None:
            held = self.server.files.get("/" + unquote(source).removeprefix("/"))
            if held is None:
                self.answer(404)
                return
            body = held if isinstance(held, bytes) else held.read_bytes()
        with self.server.lock:
            free = self.place not in self.server.files
            if self.headers.get("x-goog-if-generation-match") == "0" and not free:
                self.answer(412)
                return
            self.server.files[self.place] = body
        self.answer(200, b"<CopyObjectResult/>" if source else b"", {"ETag": '"made"'})

    def do_POST(self) -> None:  # noqa: N802 - as http.server has it
        """Begin an upload in parts, or make an object of those that have come."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self.note()
        if "uploads" in self.query:
            name = f"upload{len(self.server.uploads)}"
            self.server.uploads[name] = {}
            _, bucket, key = self.place.split("/", 2)
            self.told(
                "InitiateMultipartUploadResult",
                f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key><UploadId>{name}</UploadId>",
            )
            return
        parts = self.server.uploads.pop(self.query["uploadId"][0])
        named = [int(number) for number in re.findall(r"<PartNumber>(\d+)</PartNumber>", body)]
        if named != sorted(parts) or any(len(parts[n]) < LEAST for n in named[:-1]):
            self.answer(400)
            return
        self.server.files[self.place] = b"".join(parts[number] for number in named)
        self.told("CompleteMultipartUploadResult", "<ETag>&quot;made&quot;</ETag>")

    def do_DELETE(self) -> None:  # noqa: N802 - as http.server has it
        """Remove an object, or give up an upload."""
        self.note()
        if "uploadId" in self.query:
            known = self.server.uploads.pop(self.query["uploadId"][0], None) is not None
        else:
            known = self.server.files.pop(self.place, None) is not None
        self.answer(204 if known else 404)

    def serve(self, path: str) -> None:
        """Send an object, or the names of those that begin so."""
        if "list-type" not in self.query:
            super().serve(path)
            return
        bucket, prefix = self.place.rstrip("/"), self.query.get("prefix", [""])[0]
        inside = {name.removeprefix(f"{bucket}/"): name for name in self.server.files}
        about = "<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;made&quot;</ETag>"
        self.told(
            "ListBucketResult",
            "".join(
                f"<Contents><Key>{escape(key)}</Key><Size>1</Size>{about}</Contents>"
                for key in sorted(inside)
                if key.startswith(prefix)
            ),
        )

    def told(self, kind: str, inner: str) -> None:
        """Answer with a document."""
        text = f'<?xml version="1.0" encoding="UTF-8"?><{kind}>{inner}</{kind}>'
        self.answer(200, text.encode(), {"Content-Type": "application/xml"})

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """Send one whole answer, with the date that Google's have."""
        super().answer(status, body, {"Last-Modified": formatdate(usegmt=True), **(headers or {})})

    @property
    def query(self) -> dict[str, list[str]]:
        """What follows the address."""
        return parse_qs(urlsplit(self.path).query, keep_blank_values=True)

    @property
    def place(self) -> str:
        """The bucket and the object."""
        return unquote(urlsplit(self.path).path)

    def note(self) -> None:
        """Keep what was asked for."""
        with self.server.lock:
            self.server.asked.append((self.command, self.path))


class Google(FileServer):
    """Buckets as `files`, uploads that are not done as `uploads`, requests that write as `asked`."""

    def __init__(self) -> None:
        super().__init__(GoogleHandler)
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.asked: list[tuple[str, str]] = []
