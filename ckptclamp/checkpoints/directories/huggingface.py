"""The cache of Hugging Face: a folder for each repository, snapshots of links into its blobs.

    models--org--name/
      blobs/<digest>                       the bytes, named by their content
      snapshots/<revision>/<file>          a link to ../../blobs/<digest>

A link that stays in its repository's folder leads to no other file than the one that was downloaded, so
it is followed unasked. A blob is never written to: its name is what its content says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def repository_of(path: Path) -> Path | None:
    """The folder of the repository to one of whose snapshots `path` belongs, by where it lies."""
    try:
        places = path.parent.resolve(strict=True)
    except (OSError, RuntimeError):
        return None
    for place in (places, *places.parents):
        if place.parent.name == "snapshots" and (place.parent.parent / "blobs").is_dir():
            return place.parent.parent
    return None


def blob_of(link: Path) -> Path | None:
    """The blob of its own repository that a link in a snapshot leads to; ``None`` for other links."""
    repository = repository_of(link)
    if repository is None:
        return None
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):
        return None
    return target if target.is_relative_to(repository / "blobs") else None


def is_blob(path: Path) -> bool:
    """Whether `path`, in a directory given by its real path, lies among the blobs of a repository."""
    return any(p.name == "blobs" and (p.parent / "snapshots").is_dir() for p in path.parents)
