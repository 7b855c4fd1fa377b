"""Untrusted text made safe to show: the one escaper that every message and report goes through.

Names of tensors, layers and files come from strangers. A terminal obeys control characters, a CI
runner obeys lines that begin with ``::`` or hold ``##[``, and a bidirectional override makes a line
read as another. `printable` turns text into one line without any of these; what a sink needs beyond
that (HTML, XML and Markdown have signs of their own) the sink adds.
"""

from __future__ import annotations

import unicodedata

_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(text: str, *, limit: int | None = 256) -> str:
    r"""Return `text` as one inert line.

    Control, format, surrogate, private-use and unassigned characters become ``\u{…}``. A second
    ``#`` in a row and a leading ``:`` are written that way too, because CI runners read commands in
    them. Text over `limit` characters keeps its two ends and gets a digest of the whole between.
    """
    if limit is None or len(text) <= limit:
        safe = _inert(text)
        if limit is None or len(safe) <= limit:
            return safe
    import hashlib  # only long names need it, and every start of the program would pay

    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    half = (limit - 12) // 2
    # Escaping never shortens, so the ends of the text make the ends of what is shown.
    return f"{_inert(text[:limit])[:half]}…{digest}…{_inert(text[-limit:])[-half:]}"


def _inert(text: str) -> str:
    plain = text.isascii() and text.isprintable()
    safe = text if plain else "".join(_escaped(char) for char in text)
    safe = safe.replace("##", r"#\u{23}")
    stripped = safe.lstrip()
    return r"\u{3a}" + stripped[1:] if stripped.startswith(":") else safe


def _escaped(char: str) -> str:
    if char.isascii() and char.isprintable():
        return char
    if unicodedata.category(char) in _UNSAFE_CATEGORIES:
        return f"\\u{{{ord(char):x}}}"
    return " " if unicodedata.category(char) == "Zs" else char
