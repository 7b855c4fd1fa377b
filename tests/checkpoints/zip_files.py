"""Zip archives as Python writes them."""

from __future__ import annotations

import io
import zipfile


def archive(
    members: dict[str, bytes],
    *,
    method: int = zipfile.ZIP_STORED,
    comment: bytes = b"",
    zip64: bool = False,
    streamed: bool = False,
) -> bytes:
    """An archive as Python writes it; `streamed` ones have data descriptors."""
    buffer = Unseekable() if streamed else io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as target:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            with target.open(info, "w", force_zip64=zip64) as file:
                file.write(content)
        target.comment = comment
    return buffer.getvalue()


class Unseekable(io.BytesIO):
    """A file that is written from front to back, as a pipe is."""

    def seekable(self) -> bool:
        """Say so."""
        return False

    def tell(self) -> int:
        """Refuse, as a pipe does."""
        raise OSError("not seekable")

    seek = None  # type: ignore[assignment]
