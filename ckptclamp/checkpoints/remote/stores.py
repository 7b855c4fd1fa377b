"""Where objects are asked for, within which limits, and what is said when there is no answer.

Every request goes through obstore, which knows the clouds' credentials and tries again what may pass.
"""

from __future__ import annotations

import os
import re
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

from ckptclamp.checkpoints.remote.limits import client_options, retry_config, tried
from ckptclamp.checkpoints.remote.schemes import BUCKETS, HUB
from ckptclamp.errors import ChangedError, MissingError, UnreadableError, UsageError
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from ckptclamp.checkpoints.remote.address import Address

_METADATA_SERVICE = "169.254.169.254"
"""Whom the clouds' libraries ask for credentials when there are none."""
_STATUS = re.compile(r"status code: (\d{3}(?: [A-Za-z -]+)?)")
CREDENTIALS = {
    "s3": "see AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL",
    "gs": "see GOOGLE_APPLICATION_CREDENTIALS",
    "az": "see AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY",
    HUB: "run `hf auth login`, or set HF_TOKEN; a gated model wants its terms accepted",
}


_S3 = {"aws_copy_if_not_exists": "multipart", "aws_checksum_algorithm": "SHA256"}
"""A copy on a condition, and parts that the server checks."""
_ENDPOINTS = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT",
    "AZURE_STORAGE_ENDPOINT",
    "AZURE_ENDPOINT",
    "GOOGLE_BASE_URL",
)


@frozen
class Reached:
    """The store and the key by which an object is asked for now."""

    store: Any
    key: str


class Location(Protocol):
    """How an object is reached; what it is reached by may expire.

    `commit` is the version where the location says by itself which one it is.
    """

    @property
    def commit(self) -> str | None:
        """The version that is served there now and always."""

    def reached(self) -> Reached:
        """Where to ask for it; raises `UnreadableError` where that cannot be known."""

    def renew(self) -> bool:
        """Find out anew where it is; false where that would change nothing."""


class BucketObject:
    """An object in a bucket, by the credentials that the environment holds."""

    commit = None

    def __init__(self, address: Address) -> None:
        self._reached = Reached(bucket(address), address.key)

    def reached(self) -> Reached:
        """See `Location.reached`."""
        return self._reached

    def renew(self) -> bool:
        """See `Location.renew`: obstore renews what it can by itself."""
        return False


class WebFile:
    """A file on a web server, where the redirects from its address lead."""

    commit = None

    def __init__(self, address: Address) -> None:
        self._address = address
        self._reached: Reached | None = None
        self._moved = False

    def reached(self) -> Reached:
        """See `Location.reached`."""
        if self._reached is None:
            from ckptclamp.checkpoints.remote.redirects import final_url, without_login

            url = final_url(self._address)
            self._moved = url != self._address.url
            self._reached = web_object(*without_login(url))
        return self._reached

    def renew(self) -> bool:
        """See `Location.renew`."""
        if self._moved:
            self._reached = None
        return self._moved


def require_extra(scheme: str) -> None:
    """Raise `UsageError` where what reads addresses is not installed."""
    try:
        import obstore  # noqa: F401

        if scheme == HUB:
            import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"{scheme}:// takes packages that are not installed",
            hint="pip install 'ckptclamp[remote]'",
        ) from error


def bucket(address: Address) -> Any:  # noqa: ANN401 - one of obstore's stores
    """The bucket that `address` is in; raises `UsageError` where the environment is no good for it."""
    return _bucket("{}://{}".format(*address.scheme_and_host))


@cache
def _bucket(url: str) -> Any:  # noqa: ANN401 - one of obstore's stores
    from obstore.store import from_url

    options = {**client_options(), "allow_http": _endpoint_is_plain()}
    config = _S3 if url.startswith("s3://") else {}
    try:
        return from_url(url, config=config, client_options=options, retry_config=retry_config())
    except library_errors() as error:
        hint = CREDENTIALS[url.partition(":")[0]]
        raise UsageError("the environment does not say how", path=url, hint=hint) from error


def _endpoint_is_plain() -> bool:
    """Whether the user named an endpoint that is not encrypted."""
    named = (os.environ.get(name, "") for name in _ENDPOINTS)
    return any(endpoint.startswith("http://") for endpoint in named)


def web_object(url: str, headers: dict[str, str] | None = None) -> Reached:
    """The object at `url`, which is asked for with `headers`; objects of a folder share connections."""
    address, mark, query = url.partition("?")
    folder, _, name = address.rpartition("/")
    return Reached(_web(f"{folder}{mark}{query}", tuple((headers or {}).items())), unquote(name))


@cache
def _web(folder: str, headers: tuple[tuple[str, str], ...]) -> Any:  # noqa: ANN401 - obstore's
    from obstore.store import HTTPStore

    options = {**client_options(), "allow_http": folder.startswith("http://")}
    if headers:
        options["default_headers"] = dict(headers)
    return HTTPStore(folder, client_options=options, retry_config=retry_config())


def failure(error: Exception, address: Address, *, opened: bool) -> UnreadableError:
    """What `error` means, in a line that holds nothing secret; `opened` is whether it was there before.

    The library's own messages quote whole URLs.
    """
    from obstore import exceptions

    scheme, _ = address.scheme_and_host
    hint = CREDENTIALS.get(scheme)
    if isinstance(error, exceptions.PreconditionError) or (
        opened and isinstance(error, FileNotFoundError)
    ):
        gone = "is gone" if isinstance(error, FileNotFoundError) else "changed while it was read"
        return ChangedError(gone, path=address, hint="run again")
    if isinstance(error, FileNotFoundError):
        hint = "end the address of a directory with /" if scheme in BUCKETS else None
        return MissingError("there is no such object", path=address, hint=hint)
    if isinstance(error, exceptions.UnauthenticatedError):
        said = "the server wants credentials that are missing or have expired (401)"
        return UnreadableError(said, path=address, hint=hint)
    if isinstance(error, exceptions.PermissionDeniedError):
        said = "access is denied, or the credentials have expired (403)"
        return UnreadableError(said, path=address, hint=hint)
    if isinstance(error, exceptions.NotSupportedError):
        said, hint = "the server does not serve ranges", "download it first"
        return UnreadableError(said, path=address, hint=hint)
    said = _said(str(error))
    hint = hint if _METADATA_SERVICE in str(error) else "try again later"
    return UnreadableError(said, path=address, hint=hint)


def library_errors() -> tuple[type[Exception], ...]:
    """What obstore raises: classes of its own, and some that are built in."""
    from obstore.exceptions import BaseError

    return (BaseError, OSError, ValueError)


_SAID = (
    ("Requested ", "the server sends another range than it was asked for"),
    ("TimedOut", "the server was silent for too long"),
    ("timed out", "the server was silent for too long"),
    ("Certificate", "the server's certificate is not trusted here (see SSL_CERT_FILE)"),
    ("error sending request", "the server cannot be reached"),
    ("body error", "the answer broke off"),
)
"""What stands in the library's messages, and what it means."""


def _said(message: str) -> str:
    if _METADATA_SERVICE in message:
        return "there are no credentials for it"
    status = _STATUS.search(message)
    if status is not None:
        again = status[1].startswith(("5", "408", "429"))
        return f"the server answers {status[1].strip()}" + tried() * again
    said = next((said for sign, said in _SAID if sign in message), None)
    return (said or "the server cannot be understood") + tried()
