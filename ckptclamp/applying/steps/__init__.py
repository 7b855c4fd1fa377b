"""A copy of several files made file by file: copied, projected, compared, on disk, and noted as done.

A run that is killed has lost no more than the file that it was at: another one takes over what the record
names, if its bytes are still those, and does the rest. Shards that one weight is computed from, or that
one projection reads, make one step together.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from ckptclamp import __version__
from ckptclamp.applying.parts import with_parts
from ckptclamp.applying.steps.record import Made, Step
from ckptclamp.auditing.audit import configs_of, parameters_of
from ckptclamp.auditing.parts.partial import files_of, plan_digest
from ckptclamp.checkpoints.source import Digests, Source, default_jobs
from ckptclamp.checkpoints.tensor import Contiguous, Tensor
from ckptclamp.engine.executors import Meter, concurrently, in_phase

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ckptclamp.applying.staging import Stage
    from ckptclamp.applying.steps.record import Bound, Found
    from ckptclamp.auditing.options import AuditOptions
    from ckptclamp.auditing.results import TensorChange
    from ckptclamp.checkpoints.checkpoint import Checkpoint
    from ckptclamp.checkpoints.copying import FileCopy
    from ckptclamp.plan import Assignment, Plan
    from ckptclamp.spec.model import Spec

Project = Callable[["FileCopy", Sequence["Assignment"], Meter], "list[TensorChange]"]
"""Projects in a copy what some assignments govern."""


@dataclass
class Steps:
    """How the copy of `checkpoint` on `stage` is made; `found` is what an earlier run did of it.

    `digests` are those of the files that were made, by the paths where they were.
    """

    checkpoint: Checkpoint
    stage: Stage
    todo: Sequence[Assignment]
    found: Found | None
    options: AuditOptions
    digests: dict[Path, str] = field(default_factory=dict)
    resumed: int = 0

    def make(
        self, changing: Mapping[str, int], project: Project
    ) -> tuple[FileCopy, list[TensorChange]]:
        """Make the copy, of which files may be `changing`; return it, and what changed in it.

        Raises:
            NotWrittenError: it cannot be written, or came out differently.
            UnreadableError: the original cannot be read, or changed.
        """
        plan = _joined(self.checkpoint, self.todo)
        done = self._taken_over(plan)
        self.stage.announce(changing)
        copy = self.checkpoint.copy_in_steps(self.stage)
        record = self.stage.record
        assert record is not None
        whole = [a.tensor for _, todo in plan for a in todo]
        meter = Meter(
            in_phase(self.options.progress, "projecting"), sum(tensor.nbytes for tensor in whole)
        )
        changes: list[TensorChange] = []
        tell = getattr(self.options.progress, "at", None)
        for place, (numbers, todo) in enumerate(plan):
            if tell is not None:
                tell(f"shard {min(numbers) + 1} of {len(self.checkpoint.sources)}")
            step = done.get(place)
            if step is None:
                step = self._step(copy, numbers, todo, partial(project, copy, todo, meter))
                if step.files:
                    # First what is to be there: so no file is left that nothing tells of.
                    record.add(step)
                    for made in step.files:
                        self.stage.seal(made.name)
            else:
                self._skip(copy, numbers, todo, step, meter)
            changes += step.changes
        if tell is not None:
            tell("")
        wholes = {a.tensor.name: a.tensor.whole.name for a in self.todo}
        return copy, sorted(changes, key=lambda change: (wholes[change.tensor], change.tensor))

    def _step(
        self,
        copy: FileCopy,
        numbers: Sequence[int],
        todo: Sequence[Assignment],
        project: Callable[[], list[TensorChange]],
    ) -> Step:
        """Make some files, until they are on disk and may outlive this run."""
        names = {number: copy.originals[number].path.name for number in numbers}
        made = [number for number in numbers if not self.stage.keeps(names[number])]
        copy.fill(made)
        changes = project() if todo else []
        jobs = self.options.jobs or default_jobs()
        files = [copy.sources[number] for number in made]
        with (
            concurrently(partial(copy.flush, made)),
            Digests(files, self.options.jobs) as digests,
        ):
            copy.compare(jobs, made)
            found = digests.result()
        for number in made:
            copy.originals[number].verify_unchanged()
        self.digests |= found
        written = [t.name for t in copy.changed.values() if _source(t) in numbers]
        done = tuple(
            Made(names[n], self.stage.place_of(names[n]), source.size, found[source.path])
            for n, source in zip(made, files, strict=True)
        )
        return Step(_digest(todo), done, tuple(written), tuple(changes))

    def _skip(
        self,
        copy: FileCopy,
        numbers: Sequence[int],
        todo: Sequence[Assignment],
        step: Step,
        meter: Meter,
    ) -> None:
        """Take files for done that are, and tell so."""
        tensors = self.checkpoint.tensors
        for number in numbers:
            copy.adopt(number, [t for n in step.written if _source(t := tensors[n]) == number])
            source = copy.originals[number]
            for phase in ("copying", "comparing", "flushing"):
                source.tell(phase, source.size)
            self.resumed += 1
        self.digests |= {
            copy.sources[n].path: m.sha256 for n, m in zip(numbers, step.files, strict=True)
        }
        meter.add(sum(a.tensor.nbytes for a in todo))

    def _taken_over(self, plan: Sequence[tuple[list[int], list[Assignment]]]) -> dict[int, Step]:
        """The steps of `plan` that an earlier run did, by their places; of what is there now."""
        if self.found is None:
            return {}
        known = {tuple(made.name for made in step.files): step for step in self.found.steps}
        originals = [*self.checkpoint.sources, self.checkpoint.files[0]]
        wanted: dict[int, Step] = {}
        files: dict[int, list[Source]] = {}
        for place, (numbers, todo) in enumerate(plan):
            step = known.get(tuple(originals[number].path.name for number in numbers))
            if step is None or step.todo != _digest(todo):
                continue
            if not self.checkpoint.tensors.keys() >= set(step.written):
                continue
            fds = [self.stage.adopt(made.name, made.where, made.size) for made in step.files]
            if None in fds:
                continue
            wanted[place] = step
            files[place] = [
                Source.from_fd(fd, self.stage.path / made.name)
                for fd, made in zip(fds, step.files, strict=True)
                if fd is not None
            ]
            for number, file in zip(numbers, files[place], strict=True):
                file.told = originals[number].told
        with Digests((f for some in files.values() for f in some), self.options.jobs) as digests:
            found = digests.result()
        return {
            place: step
            for place, step in wanted.items()
            if all(found[f.path] == m.sha256 for f, m in zip(files[place], step.files, strict=True))
        }


def bound_to(
    checkpoint: Checkpoint, plan: Plan, spec: Spec | None, options: AuditOptions, how: str
) -> Bound:
    """All by which two runs could make different copies of the same name; `how` is the projection."""
    return {
        "the release of ckptclamp": {"": __version__},
        "the checkpoint": {
            source.path.name: f"{source.size} bytes, {source.version}"
            for source in files_of(checkpoint)
        },
        "the spec": {"": (spec.sha256 if spec else None) or ""},
        "an option": {**parameters_of(options, spec), **configs_of(checkpoint), "projection": how},
        "what is judged": {"": plan_digest(plan)},
    }


def _joined(
    checkpoint: Checkpoint, todo: Sequence[Assignment]
) -> list[tuple[list[int], list[Assignment]]]:
    """The numbers of files that must be made together, and what is to be projected in them.

    The last one is that of the index, which follows the shards in a copy.
    """
    of = list(range(len(checkpoint.sources) + 1))

    def root(number: int) -> int:
        while of[number] != number:
            number = of[number]
        return number

    homes: list[int] = []
    for assignment in todo:
        parts = map(_source, with_parts(assignment.tensor.whole))
        numbers = sorted(number for number in parts if number is not None)
        homes.append(numbers[0])
        for number in numbers[1:]:
            first, second = sorted((root(numbers[0]), root(number)))
            of[second] = first
    groups: dict[int, list[int]] = defaultdict(list)
    for number in range(len(of)):
        groups[root(number)].append(number)
    wanted: dict[int, list[Assignment]] = defaultdict(list)
    for home, assignment in zip(homes, todo, strict=True):
        wanted[root(home)].append(assignment)
    return [(numbers, wanted[first]) for first, numbers in groups.items()]


def _source(tensor: Tensor) -> int | None:
    return tensor.storage.source if isinstance(tensor.storage, Contiguous) else None


def _digest(todo: Sequence[Assignment]) -> str:
    """A digest of what is to be projected, and how."""
    digest = hashlib.sha256()
    for a in todo:
        row = (
            a.tensor.name,
            a.rule,
            a.axes,
            str(a.constraint),
            a.projection_tolerance,
            a.allow_zero,
        )
        digest.update(f"{row!r}\n".encode("utf-8", "backslashreplace"))
    return digest.hexdigest()
