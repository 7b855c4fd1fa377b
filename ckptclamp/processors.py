"""How many threads are worth having."""

from __future__ import annotations

import os


def default_jobs() -> int:
    """As many threads as this process may have processors."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
