"""Envelopes around statements: DSSE, and the Sigstore bundle that holds one.

A signature is not verified here: that is for the program whose keys or identities it is about. What
is in an envelope is read, so that files can be compared with it.

https://github.com/secure-systems-lab/dsse/blob/master/envelope.md
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from ckptclamp.checkpoints.documents import parse_strict
from ckptclamp.frozen import frozen

PAYLOAD_TYPE = "application/vnd.in-toto+json"


@frozen
class Envelope:
    """What a statement came in: ``dsse`` or ``sigstore-bundle``, and how many signatures it has."""

    kind: str
    signatures: int


def member(document: object, *keys: str) -> object:
    """What JSON of any form holds under `keys`, one within the other; ``None`` where there is nothing."""
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document


def opened(document: object, path: Path, max_bytes: int) -> tuple[object, Envelope | None]:
    """Return the statement in `document`, and the envelope around it if there is one.

    Raises:
        RefusedError: the payload is no JSON with one meaning.
        ValueError: the envelope is none; the message says what it lacks.
    """
    kind = "dsse"
    if isinstance(document, dict) and "dsseEnvelope" in document:
        kind, document = "sigstore-bundle", document["dsseEnvelope"]
    if not isinstance(document, dict) or "payload" not in document:
        if kind == "dsse":
            return document, None
        raise ValueError("the bundle holds no DSSE envelope")
    if member(document, "payloadType") != PAYLOAD_TYPE:
        raise ValueError(f"payloadType must be {PAYLOAD_TYPE}")
    signatures = member(document, "signatures")
    if not isinstance(signatures, list) or not signatures:
        raise ValueError("the envelope has no signature")
    statement = parse_strict(
        _decoded(document["payload"]),
        max_depth=16,
        max_bytes=max_bytes,
        what="statement",
        path=path,
    )
    return statement, Envelope(kind, len(signatures))


def _decoded(payload: object) -> bytes:
    """Base64, of either alphabet, as DSSE allows."""
    if not isinstance(payload, str) or not payload.isascii():
        raise ValueError("the payload of the envelope must be base64")
    try:
        return base64.b64decode(payload.replace("-", "+").replace("_", "/"), validate=True)
    except binascii.Error:
        raise ValueError("the payload of the envelope must be base64") from None
