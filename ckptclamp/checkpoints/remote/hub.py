"""Files of models on the Hugging Face Hub: ``hf://org/model[@revision][/file]``.

A revision is resolved to a commit once, and all files of it are read at that commit. Where a large file
is served is asked of the hub, with the user's token; that other host gets no token.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from ckptclamp.checkpoints.remote.limits import retries, silence, tried
from ckptclamp.checkpoints.remote.stores import CREDENTIALS, Reached, web_object
from ckptclamp.errors import ChangedError, MissingError, UnreadableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    from ckptclamp.checkpoints.remote.address import Address

_PLACE = re.compile(
    r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/(?:pr|convert)/[^/]+|[^/@]+))?"
    r"(?:/(?P<file>.+))?"
)
_BACKOFF, _MOST_BACKOFF = 0.2, 5.0

Answer = TypeVar("Answer")


class HubFile:
    """One file of a repository; see `stores.Location`."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._repository, self._revision, self._file = _parts(address)
        self._reached: Reached | None = None
        self._etag: str | None = None

    @property
    def commit(self) -> str:
        """See `stores.Location.commit`."""
        return _commit(self._address)

    def reached(self) -> Reached:
        """Ask the hub where the file is served."""
        if self._reached is None:
            from huggingface_hub import get_hf_file_metadata, hf_hub_url

            url = hf_hub_url(self._repository, self._file, revision=self.commit)
            found = _answered(self._address, lambda: get_hf_file_metadata(url, timeout=silence()))
            if self._etag not in (None, found.etag):
                raise ChangedError("changed while it was read", path=self._address)
            self._etag = found.etag
            self._reached = web_object(found.location, _headers(url, found.location))
        return self._reached

    def renew(self) -> bool:
        """Forget where it was served: such places expire."""
        self._reached = None
        return True


def files_of(folder: Address) -> AbstractSet[str]:
    """Every file in a folder of a repository, by its path from there; the commit is then known."""
    _, _, place = _parts(folder)
    prefix = f"{place}/" if place else ""
    return {
        name.removeprefix(prefix) for name in _model(folder)["files"] if name.startswith(prefix)
    }


def _parts(address: Address) -> tuple[str, str | None, str]:
    found = _PLACE.fullmatch("/".join(address.parts[1:]))
    if found is None:
        raise UsageError("names no model", path=address, hint="hf://org/model[@revision][/file]")
    return found["repository"], found["revision"], found["file"] or ""


def _commit(address: Address) -> str:
    commit: str = _model(address)["commit"]
    return commit


def _model(address: Address) -> dict[str, Any]:
    """The commit that the revision is now, and its files: asked once for all files of an address."""
    if "model" not in address.known:
        from huggingface_hub import HfApi

        repository, revision, _ = _parts(address)
        api = HfApi()
        info = _answered(
            address, lambda: api.model_info(repository, revision=revision, timeout=silence())
        )
        files = [sibling.rfilename for sibling in info.siblings or ()]
        address.known["model"] = {"commit": info.sha, "files": files}
    model: dict[str, Any] = address.known["model"]
    return model


def _headers(hub: str, location: str) -> dict[str, str]:
    """The token, where the hub itself serves the file."""
    from huggingface_hub.utils import build_hf_headers

    host = hub.split("/")[:3]
    token = build_hf_headers().get("authorization")
    return {"authorization": token} if token and location.split("/")[:3] == host else {}


def _answered(address: Address, ask: Callable[[], Answer]) -> Answer:
    """Ask the hub, again where that may help and as often as the limit says."""
    from huggingface_hub.errors import HfHubHTTPError

    left, wait = retries(), _BACKOFF
    while True:
        try:
            return ask()
        except Exception as error:  # noqa: BLE001 - its own, and those of other libraries
            status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
            if not left or (status is not None and status < 500 and status not in (408, 429)):
                _refuse(error, status, address)
        left -= 1
        time.sleep(wait)
        wait = min(2 * wait, _MOST_BACKOFF)


def _refuse(error: Exception, status: int | None, address: Address) -> NoReturn:
    from huggingface_hub import errors

    hint = CREDENTIALS["hf"]
    match error:
        case errors.GatedRepoError():
            said, hint = "the model is gated", "accept its terms on its page; " + hint
        case errors.RevisionNotFoundError():
            raise MissingError("the model has no such revision", path=address) from None
        case errors.EntryNotFoundError():
            raise MissingError("there is no such file in the model", path=address) from None
        case errors.RepositoryNotFoundError():
            said = "there is no such model, or it is private"
        case errors.OfflineModeIsEnabled():
            said, hint = "HF_HUB_OFFLINE is set", "unset it to read from the hub"
        case errors.HFValidationError():
            raise UsageError("names no model", path=address) from None
        case _ if status in (401, 403):
            said = f"the hub wants other credentials ({status})"
        case _ if status is not None:
            said, hint = f"the hub answers {status}{tried()}", "try again later"
        case _:
            said, hint = f"the hub cannot be reached{tried()}", "try again later"
    raise UnreadableError(said, path=address, hint=hint) from None
