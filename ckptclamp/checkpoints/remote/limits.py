"""Within which limits a server is waited for and asked again."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from ckptclamp.errors import UsageError

TIMEOUT, RETRIES = "CKPTCLAMP_TIMEOUT", "CKPTCLAMP_RETRIES"
_SECONDS, _TRIES_AGAIN = 20.0, 4
_TO_CONNECT = timedelta(seconds=10)
_WHOLE_REQUEST = timedelta(hours=1)
_RETRYING = timedelta(minutes=3)


def silence() -> float:
    """Seconds that a server may be silent."""
    return _number(TIMEOUT, _SECONDS)


def retries() -> int:
    """How often a request that failed is made again."""
    return int(_number(RETRIES, _TRIES_AGAIN))


def tried() -> str:
    """How often a request was made that failed to the last, as the end of a sentence."""
    return f", {retries() + 1} times" if retries() else ""


def client_options() -> dict[str, Any]:
    """The limits as obstore's clients take them."""
    silent = timedelta(seconds=silence())
    return {
        "connect_timeout": min(silent, _TO_CONNECT),
        "read_timeout": silent,
        "timeout": _WHOLE_REQUEST,
    }


def retry_config() -> dict[str, Any]:
    """The limits as obstore's retries take them."""
    return {"max_retries": retries(), "retry_timeout": _RETRYING}


def _number(name: str, default: float) -> float:
    text = os.environ.get(name)
    try:
        number = default if text is None else float(text)
    except ValueError:
        number = -1
    if not 0 <= number <= 3600:
        raise UsageError(f"{name} is {text!r}, no number from 0 to 3600")
    return number
