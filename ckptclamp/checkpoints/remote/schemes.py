"""What an address may begin with."""

from __future__ import annotations

BUCKETS = frozenset({"s3", "gs", "az"})
WEB = frozenset({"https", "http"})
HUB = "hf"
SCHEMES = ("s3", "gs", "az", "https", "http", HUB)
