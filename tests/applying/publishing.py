"""Publishing plain copies, for tests of where they appear."""

from __future__ import annotations

from pathlib import Path

from ckptclamp.applying.publication import staged
from ckptclamp.checkpoints.checkpoint import Checkpoint


def publish(
    checkpoint: Checkpoint, target: Path, *, force: bool = False, in_place: bool = False
) -> set[str]:
    """Publish a plain copy and return the codes of its notices."""
    with staged(target, like=checkpoint, force=force, in_place=in_place) as stage:
        copy = checkpoint.copy_to(stage)
        copy.finish()
        return {notice.code for notice in stage.publish()}


def names(directory: Path) -> list[str]:
    """Everything in a directory, hidden names too."""
    return sorted(path.name for path in directory.iterdir())
