"""Against what people do today: a script with torch or NumPy, and Keras itself."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import files
import peers
import processes
from setting import COMMAND, MATRIX, Setting, audit
from table import Row, compared

TIME_LIMIT, MEMORY_LIMIT = 1 / 4, 1 / 20


def scripts(setting: Setting) -> Iterator[Row]:
    """Time and peak memory against scripts; the yardstick is the faster one of them."""
    path = files.save(setting.folder / "peer.safetensors", "float32", MATRIX, setting.size)
    installed = {
        name: [setting.python, "-c", program, str(path)]
        for name, program in (("torch", peers.TORCH), ("numpy", peers.NUMPY))
        if peers.installed(setting.python, name, "safetensors")
    }
    rounds = processes.turns(
        [*installed.values(), audit(path, "--axis", "1", "--max-norm", "2")], setting.times
    )
    path.unlink()
    found = {
        name: processes.comparison([(one[place], one[-1]) for one in rounds])
        for place, name in enumerate(installed)
    }
    fastest = min(found, key=lambda name: found[name].theirs, default="")
    for name in peers.SCRIPTS:
        against = f"safetensors and {name}"
        if name not in found:
            yield Row("peers", "rows, float32", against, note=f"{name} is not installed")
            continue
        limits = (TIME_LIMIT, MEMORY_LIMIT) if name == fastest else (None, None)
        note = "the faster script" if name == fastest else ""
        yield compared("peers", "rows, float32", against, limits[0], found[name], note=note)
        yield _memory("peers", "rows, float32", against, limits[1], found[name])


def keras(setting: Setting) -> Iterator[Row]:
    """Load a model of 500 MB, apply its constraints, save it: Keras itself, and one `apply`."""
    model, target = setting.folder / "model.keras", setting.folder / "constrained.keras"
    what, against = "apply, .keras of 500 MB", "Keras: load, constrain, save"
    if not peers.installed(setting.python, "keras"):
        yield Row("keras", what, against, note="keras is not installed")
        return
    made = processes.run([setting.python, "-c", peers.KERAS_MODEL, str(model)])
    if made.code:
        yield Row("keras", what, against, note="keras could not make the model")
        return
    theirs = [setting.python, "-c", peers.KERAS, str(model), str(target)]
    ours = [*COMMAND, "apply", str(model), "-o", str(target), "--no-settings", "--quiet"]
    before = partial(target.unlink, missing_ok=True)
    found = processes.compare(theirs, ours, times=setting.times, before=before)
    model.unlink()
    target.unlink()
    yield compared("keras", what, against, None, found)
    yield _memory("keras", what, against, None, found)


def _memory(
    group: str, what: str, against: str, limit: float | None, found: processes.Comparison
) -> Row:
    value = found.peak / found.their_peak
    note = f"{found.peak / 2**20:.0f} MiB against {found.their_peak / 2**20:.0f} MiB"
    return Row(group, what, against, "peak memory", value, limit, note=note)
