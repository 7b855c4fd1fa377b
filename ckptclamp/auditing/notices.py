"""What a checkpoint shows when it is opened, and a verdict alone would hide."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptclamp.errors import Notice, printable
from ckptclamp.spec.model import Declared, Spec

if TYPE_CHECKING:
    from ckptclamp.checkpoints.checkpoint import Checkpoint

_SHOWN = 5


def _interrupted(checkpoint: Checkpoint) -> tuple[Notice, ...]:
    """Warn where an apply in place was interrupted: some files are the old ones, others the new."""
    if not checkpoint.several_files:
        return ()
    from ckptclamp.checkpoints.directories.unfinished import journals

    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    if not journals(folder):
        return ()
    said = (
        "an apply in place was interrupted here: some of its files are replaced, others are not yet"
    )
    return (Notice("interrupted-apply", said, hint=f"`ckptclamp clean {folder}` finishes it"),)


def opening_notices(checkpoint: Checkpoint) -> tuple[Notice, ...]:
    """What opening `checkpoint` showed; a warning where an index leaves tensors out, for example."""
    notices = tuple(Notice("format", note, informational=True) for note in checkpoint.notes)
    notices += _interrupted(checkpoint)
    unlisted = checkpoint.unlisted
    if not unlisted:
        return notices
    shown = ", ".join(printable(name) for name in unlisted[:_SHOWN])
    rest = f" and {len(unlisted) - _SHOWN:,} more" if len(unlisted) > _SHOWN else ""
    left_out = Notice(
        "not-in-index",
        f"its shards hold what its index does not list, and what goes by the index does not load: "
        f"{shown}{rest}",
        hint="rules govern it all the same; save the set again, or correct the index",
        tensor=unlisted[0] if len(unlisted) == 1 else None,
    )
    return (*notices, left_out)


def _unjudged(checkpoint: Checkpoint) -> tuple[Notice, ...]:
    """Warn of files in a directory that another loader takes weights from: this audit is not of them."""
    if checkpoint.folder is None:
        return ()
    from ckptclamp.checkpoints.directories.others import other_weights

    others = other_weights(checkpoint)
    if not others:
        return ()
    more = f" (and {len(others) - 1:,} more)" if len(others) > 1 else ""
    return (
        Notice(
            "unjudged-weights",
            f"the directory also holds {others[0]}{more}: its weights, if it holds any, were not judged",
            hint="remove what nobody is to load, or audit it by itself",
        ),
    )


def _itself(checkpoint: Checkpoint) -> tuple[Notice, ...]:
    """Warn where a checkpoint is compared with itself: it lies nowhere else, whatever it is."""
    base = checkpoint.base
    if base is None or checkpoint.merged:
        return ()
    own = {source.identity for source in checkpoint.files}
    if own.isdisjoint(source.identity for source in base.files):
        return ()
    return (
        Notice(
            "base-is-itself",
            f"its base {printable(str(base.path))} is what is audited, so every distance to it is 0",
            hint="name the checkpoint that it was made from",
        ),
    )


def format_notices(checkpoint: Checkpoint, spec: Spec | None) -> tuple[Notice, ...]:
    """What opening the checkpoint showed, such as a name that disagrees with the content."""
    notices = (*opening_notices(checkpoint), *_itself(checkpoint), *_unjudged(checkpoint))
    weights_only = checkpoint.keras is not None and checkpoint.keras.config is None
    if weights_only and (spec or Spec()).declared is Declared.AUDIT:
        without = Notice(
            "no-config",
            "it holds the weights of a Keras model, but not the config that declares constraints, so "
            "none of these is audited",
            hint="--config names the JSON, or the .keras, that has it; declared: ignore says that "
            "only rules count",
            informational=True,
        )
        return (*notices, without)
    return notices
