"""Where a web server's redirects lead: found once, so that no range has to follow them again.

The next host is asked for what the answer says and for nothing else: it gets no login, and not the
address that was asked for first, which may hold a signature.
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import unquote, urljoin
from urllib.request import HTTPRedirectHandler, Request, build_opener

from ckptclamp.checkpoints.remote.limits import silence
from ckptclamp.errors import RefusedError, UnreadableError

if TYPE_CHECKING:
    from ckptclamp.checkpoints.remote.address import Address

_MOST = 5


class _Stay(HTTPRedirectHandler):
    """Follows nothing: the answer is an `HTTPError` that holds the next address."""

    def redirect_request(self, *_: Any) -> None:  # noqa: ANN401 - nothing of it is used
        return None


def final_url(address: Address) -> str:
    """Return the URL at which the file at `address` is served now; secrets included.

    Where a server cannot be asked, it is the last URL that is known: who reads from there says why.

    Raises:
        RefusedError: a redirect leads from an encrypted connection to another, or there is no end.
    """
    url = address.url
    for _ in range(_MOST):
        moved = _moved_to(url)
        if moved is None:
            return url
        if not moved.startswith("https://") and not address.url.startswith("http://"):
            raise RefusedError("redirects to an address that is not encrypted", path=address)
        url = moved
    raise UnreadableError(f"redirects more than {_MOST} times", path=address)


def without_login(url: str) -> tuple[str, dict[str, str]]:
    """`url` without the login before its host, and the header that says the same."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    login, at, host = host.rpartition("@")
    basic = b64encode(unquote(login).encode()).decode()
    headers = {"Authorization": f"Basic {basic}"} if at else {}
    return f"{scheme}://{host}{slash}{path}", headers


def _moved_to(url: str) -> str | None:
    """What one request for the first byte of `url` is redirected to, if it is."""
    bare, headers = without_login(url)
    request = Request(bare, headers={**headers, "Range": "bytes=0-0"})  # noqa: S310 - http(s)
    try:
        with build_opener(_Stay).open(request, timeout=silence()):
            return None
    except HTTPError as error:
        with error:
            target = error.headers.get("Location") if 300 <= error.code < 400 else None
        moved = urljoin(bare, target) if target else None
        return moved if moved is None or moved.startswith(("https://", "http://")) else None
    except OSError:
        return None
