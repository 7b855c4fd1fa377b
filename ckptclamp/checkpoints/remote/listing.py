"""What lies in a remote directory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptclamp.checkpoints.remote.schemes import BUCKETS, HUB
from ckptclamp.checkpoints.remote.stores import bucket, failure, library_errors, require_extra
from ckptclamp.errors import MissingError, RefusedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from ckptclamp.checkpoints.remote.address import Address

_MOST = 100_000


def files_in(folder: Address) -> AbstractSet[str]:
    """Return every file in `folder` and below, by its path from there.

    Raises:
        UsageError: its server has no lists.
        UnreadableError: there is none, or it cannot be listed.
    """
    scheme, _ = folder.scheme_and_host
    require_extra(scheme)
    if scheme not in (*BUCKETS, HUB):
        raise UsageError(
            "a web server lists no directories", path=folder, hint="name the file, or the index"
        )
    if str(folder) not in folder.known:
        if scheme == HUB:
            from ckptclamp.checkpoints.remote.hub import files_of

            files = files_of(folder)
        else:
            files = _objects_below(folder)
        files = {
            name for name in files if name and not name.endswith("/")
        }  # a store's marks of folders
        for name in files:
            if not name or {"", ".", ".."} & set(name.split("/")) or "\0" in name:
                raise RefusedError(f"holds {name!r}, which is no name of a file", path=folder)
        if not files:
            raise MissingError("there is nothing in it", path=folder)
        folder.known[str(folder)] = files
    known: AbstractSet[str] = folder.known[str(folder)]
    return known


def _objects_below(folder: Address) -> AbstractSet[str]:
    import obstore

    prefix = f"{folder.key}/" if folder.key else ""
    files: set[str] = set()
    try:
        for batch in obstore.list(bucket(folder), prefix or None):
            files |= {one["path"].removeprefix(prefix) for one in batch}
            if len(files) > _MOST:
                raise RefusedError(f"holds more than {_MOST:,} objects", path=folder)
    except library_errors() as error:
        raise failure(error, folder, opened=False) from None
    return files
