"""Writing objects to buckets: each appears under its name whole, or not at all."""

from __future__ import annotations

import secrets
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from ckptclamp.checkpoints.remote.listing import files_in
from ckptclamp.checkpoints.remote.schemes import BUCKETS
from ckptclamp.checkpoints.remote.stores import bucket, failure, library_errors, require_extra
from ckptclamp.checkpoints.source import Source
from ckptclamp.errors import MissingError, NotWrittenError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from ckptclamp.checkpoints.remote.address import Address
    from ckptclamp.checkpoints.source import Source

_PART = 16 << 20
_AT_ONCE = 4
_COPIED_AT_MOST = 5 << 30
"""Bytes of an object that S3 copies in one step."""


def check_free(
    output: Address, inputs: Iterable[Source], *, several_files: bool, replace: bool
) -> None:
    """Refuse what cannot be written to `output` of a copy of `inputs`, before anything is made.

    Raises:
        UsageError: something is there, or it is no place for such a copy.
        UnreadableError: it cannot be told what is there.
    """
    _check_writable(output)
    if any(str(output) == str(source.path) for source in inputs):
        raise UsageError("is the input itself", path=output, hint="write to another address")
    if not several_files:
        if output.is_directory:
            raise UsageError("names a directory, and the copy is a file", path=output)
        if _is_there(output) and not replace:
            raise UsageError("exists already", path=output, hint="--force replaces it")
        return
    output.is_directory = True
    try:
        files_in(output)
    except MissingError:
        return
    raise UsageError("holds something already", path=output, hint="write a set to an empty place")


def send(places: Mapping[Path, Address], *, replace: bool) -> None:
    """Upload each file to its address, in this order; if one fails, remove those before it.

    Raises:
        NotWrittenError: as `upload` does.
    """
    sent: list[Address] = []
    try:
        for path, address in places.items():
            with closing(Source.open(path)) as source:
                upload(source, address, replace=replace)
            sent.append(address)
    except BaseException:
        for address in sent:
            remove(address)
        raise


def _check_writable(address: Address) -> None:
    """Raise `UsageError` where nothing can be written to such an address."""
    scheme, _ = address.scheme_and_host
    if scheme not in BUCKETS:
        known = ", ".join(f"{one}://" for one in sorted(BUCKETS))
        raise UsageError("cannot be written to", path=address, hint=f"what can: {known}, or a file")
    require_extra(scheme)


def _is_there(address: Address) -> bool:
    """Whether there is an object of this name; raises `UnreadableError` where that is not told."""
    import obstore

    try:
        obstore.head(bucket(address), address.key)
    except FileNotFoundError:
        return False
    except library_errors() as error:
        raise failure(error, address, opened=False) from None
    return True


def upload(source: Source, address: Address, *, replace: bool) -> None:
    """Write all of a local `source` to `address`; where something is there, only with `replace`.

    It is sent in parts. Without `replace` they make an object of another name first, which the store
    then copies on the condition that the name is still free.

    Raises:
        NotWrittenError: it cannot be written, or something has this name by now.
    """
    scheme, _ = address.scheme_and_host
    if not replace and scheme == "s3" and source.size > _COPIED_AT_MOST:
        raise NotWrittenError(
            "S3 gives an object of over 5 GiB no name on the condition that it is free",
            path=address,
            hint="--force writes it all the same",
        )
    if replace:
        _sent(source, address)
        return
    hidden = address.with_name(f".{address.name}.{secrets.token_hex(4)}.ckptclamp")
    try:
        _sent(source, hidden)
        _named(hidden, address)
    finally:
        remove(hidden)


def remove(address: Address) -> None:
    """Delete what is at `address`, if anything is."""
    import obstore

    try:
        obstore.delete(bucket(address), address.key)
    except FileNotFoundError:
        return
    except library_errors() as error:
        raise NotWrittenError(failure(error, address, opened=False).message, path=address) from None


def _sent(source: Source, address: Address) -> None:
    """Send it in parts; the last request of all makes an object of them."""
    import obstore

    with _writing(address):
        obstore.put(
            bucket(address),
            address.key,
            _blocks(source),
            use_multipart=True,
            chunk_size=_PART,
            max_concurrency=_AT_ONCE,
        )


def _named(hidden: Address, address: Address) -> None:
    import obstore

    with _writing(address):
        obstore.copy(bucket(hidden), hidden.key, address.key, overwrite=False)


@contextmanager
def _writing(address: Address) -> Iterator[None]:
    """Say in one line, and without secrets, why an object cannot be written."""
    from obstore.exceptions import AlreadyExistsError

    try:
        yield
    except AlreadyExistsError:
        raise NotWrittenError("was written by someone else meanwhile", path=address) from None
    except library_errors() as error:
        known = failure(error, address, opened=False)
        raise NotWrittenError(known.message, path=address, hint=known.hint) from None


def _blocks(source: Source) -> Iterator[bytes]:
    for block in source.blocks(0, source.size):
        source.tell("uploading", len(block))
        yield block
