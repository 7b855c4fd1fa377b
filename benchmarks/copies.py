"""Projected copies, verification included, against `cp` and `sync` of the copy."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from functools import partial

import files
import processes
from setting import COMMAND, INLINE, MATRIX, Setting, shell
from table import Row, compared

SHARES = (("nothing to mend", "2"), ("1 % of units", "1.026"), ("all units", "0.5"))
"""Bounds that so many of the units exceed: their norms are 1 ± 0.011."""
LIMITS = {"rows": ("1", (1.25, 1.25, 1.5)), "columns": ("0", (1.5, 1.5, 1.7))}


def copies(setting: Setting) -> Iterator[Row]:
    """Copies with nothing, one unit in a hundred, and everything to mend."""
    source = files.save(setting.folder / "apply.safetensors", "float32", MATRIX, setting.size)
    target = setting.folder / "copy.safetensors"
    one, other = shlex.quote(str(source)), shlex.quote(str(target))
    theirs = shell(f"cp {one} {other} && sync {other}")
    for units, (axis, limits) in LIMITS.items():
        for (share, bound), limit in zip(SHARES, limits, strict=True):
            ours = [*COMMAND, "apply", str(source), "-o", str(target), *INLINE, "--axis", axis]
            ours += ["--max-norm", bound, "--tolerance", "0"]
            before = partial(target.unlink, missing_ok=True)
            found = processes.compare(theirs, ours, times=setting.times, before=before)
            yield compared("apply", f"{units}, {share}", "`cp` and `sync`", limit, found)
    target.unlink(missing_ok=True)
    source.unlink()
