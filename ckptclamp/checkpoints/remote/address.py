"""Addresses of remote files, which look like URLs and behave as paths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from ckptclamp.checkpoints.remote.path import RemotePath
from ckptclamp.checkpoints.remote.schemes import HUB, SCHEMES, WEB
from ckptclamp.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    from ckptclamp.checkpoints.source import Source


class Address(RemotePath):
    """Where a remote file or directory is.

    What may be a secret (a query, which may be a signature, and a password) is never shown: it is no
    part of the path, and goes along to the files beside it.
    """

    query: str = ""
    login: str = ""
    is_directory: bool = False
    """Whether it ends with a slash, or names a whole repository."""
    known: dict[str, Any]
    """What was found out once for all that lies beside each other: commits, lists of files."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an address as a user types it.

        Raises:
            UsageError: it is none that can be read.
        """
        scheme, _, rest = text.partition("://")
        scheme = scheme.lower()
        if scheme not in SCHEMES:
            known = ", ".join(f"{name}://" for name in SCHEMES)
            raise UsageError(f"{scheme}:// is not read", hint=f"what is read: {known}")
        query = login = ""
        if scheme in WEB:
            rest, query, login = _web_parts(text)
        place = rest.removesuffix("/")
        parts = place.split("/")
        shown = f"{scheme}://{place}"
        if not parts[0]:
            raise UsageError("names no host or bucket", path=shown)
        if any(part in ("", ".", "..") for part in parts):
            raise UsageError("has an empty part, or a part of dots", path=shown)
        if any(ord(char) < 32 or char == "\\" for char in rest):
            raise UsageError("holds a character that no address has", path=shown)
        address = cls(shown)
        address.query, address.login, address.known = query, login, {}
        address.is_directory = rest.endswith("/") or len(parts) <= (2 if scheme == HUB else 1)
        return address

    @property
    def scheme_and_host(self) -> tuple[str, str]:
        """The scheme, and the host or the bucket or the owner of a repository."""
        scheme, host, *_ = self.parts
        return scheme.removesuffix(":"), host

    @property
    def key(self) -> str:
        """What follows the host or the bucket."""
        return "/".join(self.parts[2:])

    @property
    def url(self) -> str:
        """The whole address, secrets included: never to be shown."""
        scheme, host = self.scheme_and_host
        at = f"{self.login}@" if self.login else ""
        query = f"?{self.query}" if self.query else ""
        return f"{scheme}://{at}{host}/{self.key}{query}"

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)

    def __reduce__(self) -> tuple[Callable[[str], Address], tuple[str]]:
        return type(self).parse, (self.url,)

    def with_name(self, name: str) -> Self:
        """See `Path.with_name`; what is secret goes along."""
        return self._beside(super().with_name(name))

    @property
    def parent(self) -> Self:
        """See `Path.parent`; what is secret goes along."""
        folder = self._beside(super().parent)
        folder.is_directory = True
        return folder

    def __truediv__(self, name: Any) -> Self:  # noqa: ANN401 - as the base has it
        return self._beside(super().__truediv__(name))

    def _beside(self, other: Self) -> Self:
        other.query, other.login, other.known = self.query, self.login, self.known
        return other

    def source(self) -> Source:
        """See `RemotePath.source`."""
        from ckptclamp.checkpoints.remote.objects import opened

        return opened(self)

    def files(self) -> AbstractSet[str] | None:
        """See `RemotePath.files`."""
        if not self.is_directory:
            return None
        from ckptclamp.checkpoints.remote.listing import files_in

        return files_in(self)


def _web_parts(text: str) -> tuple[str, str, str]:
    """The host and the path, the query, and the login of a URL."""
    try:
        parts = urlsplit(text)
        port = f":{parts.port}" if parts.port else ""
    except ValueError as error:
        raise UsageError(f"the address makes no sense: {error}") from error
    login, _, _ = parts.netloc.rpartition("@")
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    return f"{host}{port}{parts.path}", parts.query, login
