"""How a copy is made: the options of an apply."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from ckptclamp.auditing.options import AuditOptions
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from ckptclamp.applying.staging.links import Link
    from ckptclamp.spec.model import Projection


@frozen
class ApplyOptions:
    """How to make the copy.

    `audit` is how the input is audited, and the copy; its `on_unit` gets the input's units.
    `projection` overrides the spec's. `force` replaces an existing output; `in_place` allows the
    input to be that output. `allow_remaining` publishes a copy in which violations remain that no
    projection can fix; the report lists them. `dry_run` only reports what would change. `resume` goes on
    where an apply of a set to the same output was killed. `link` says how files of a set that nothing
    changes come to a new directory, if not as copies.
    """

    audit: AuditOptions = field(default_factory=AuditOptions)
    projection: Projection | None = None
    force: bool = False
    in_place: bool = False
    allow_remaining: bool = False
    dry_run: bool = False
    resume: bool = False
    link: Link | None = None
