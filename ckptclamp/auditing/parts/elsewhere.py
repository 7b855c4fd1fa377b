"""Judging in other processes: what they are sent, what they answer, and what becomes of what is lost.

A worker gets assignments, which say where the weights of their tensors lie, and the places of the files;
no weight is sent either way. It opens the files itself and makes sure that they are the very ones.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptclamp import __version__
from ckptclamp.auditing.options import Reporting, Running
from ckptclamp.auditing.parts import cut
from ckptclamp.auditing.results import Result, Verdict
from ckptclamp.auditing.verdicts import judge
from ckptclamp.auditing.verdicts.tally import described
from ckptclamp.checkpoints.checkpoint import fetch_ahead
from ckptclamp.checkpoints.reading import read_box
from ckptclamp.checkpoints.tensor import Chunked, Computed, Constant, Contiguous, View
from ckptclamp.engine.elsewhere import Lost, answers
from ckptclamp.engine.elsewhere.named import engine
from ckptclamp.engine.executors import Meter, in_phase
from ckptclamp.errors import CkptclampError, UsageError
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.auditing.options import AuditOptions
    from ckptclamp.checkpoints.checkpoint import Checkpoint
    from ckptclamp.checkpoints.reading import Mark
    from ckptclamp.checkpoints.remote.ahead import ReadAhead
    from ckptclamp.checkpoints.source import Place, Source
    from ckptclamp.checkpoints.tensor import Box, Tensor
    from ckptclamp.plan import Assignment

ITEM, REMOTE_ITEM = 1 << 30, 1 << 27
"""Bytes of weights that a worker is sent for at once: what it costs to send for them is then small."""

_LEAST = 1 << 20
"""What a tensor counts for at least: as many bytes are measured in the time that its verdict takes."""


@frozen
class Question:
    """What is sent: assignments by their place, those of `supposed` to be told in short.

    `places` say where the files are that the sources of tensors are numbers of.
    """

    asked: tuple[tuple[int, Assignment], ...]
    supposed: frozenset[int]
    places: Mapping[int, Place]
    memory: int
    worst: int
    histogram: bool
    version: str = __version__


@frozen
class Item:
    """A question as it is sent, how many bytes of weights it is about, and the places that it asks."""

    pickled: bytes
    nbytes: int
    asked: tuple[int, ...]


@frozen
class Answer:
    """What comes back: results by their places; of remote sources the bytes fetched, and the requests."""

    results: tuple[tuple[int, Result], ...]
    fetched: Mapping[int, tuple[int, int]]


def can_go(checkpoint: Checkpoint, assignment: Assignment) -> bool:
    """Whether another process can judge `assignment`: all of its bytes lie in files with a name.

    A base is read by the checkpoint that it belongs to, which stays here.
    """
    numbers = _sources_of(assignment.tensor)
    places = (checkpoint.sources[number].place for number in numbers)
    return assignment.base is None and None not in places


def judge_elsewhere(
    checkpoint: Checkpoint,
    assignments: Sequence[Assignment],
    supposed: Sequence[Assignment],
    options: AuditOptions,
) -> list[Result]:
    """As `judge`, by the executor of `options`; what cannot go there is judged here.

    Raises:
        UsageError: there is no such executor, a constraint cannot be sent, or every violating unit is
            to be told, which no answer has room for.
    """
    if options.on_unit is not None:
        raise UsageError(
            "every violating unit is told by threads of one process alone",
            hint="leave out --executor, or -o units=PATH",
        )
    asked = [*assignments, *supposed]
    results: dict[int, Result] = {}
    assert options.executor is not None
    total = sum({a.tensor.name: a.tensor.nbytes for a in asked if can_go(checkpoint, a)}.values())
    meter = Meter(in_phase(options.progress, "measuring"), total)
    with engine(options.executor, options.jobs) if total else nullcontext() as running:
        items = items_of(checkpoint, assignments, supposed, options)
        for item, answer in answers(running, answer_to, items) if running else ():
            results.update(_told(item, answer, asked))
            _count(checkpoint, answer)
            meter.add(item.nbytes)
    here = replace(options, executor=None)
    staying = [n for n in range(len(asked)) if n not in results]
    for chosen, reporting in (
        ([n for n in staying if n < len(assignments)], here),
        ([n for n in staying if n >= len(assignments)], Reporting(worst=0)),
    ):
        found = judge(checkpoint, [asked[n] for n in chosen], here, reporting)
        results |= dict(zip(chosen, found, strict=True))
    return [results[n] for n in range(len(asked))]


def items_of(
    checkpoint: Checkpoint,
    assignments: Sequence[Assignment],
    supposed: Sequence[Assignment],
    options: AuditOptions,
) -> Iterator[Item]:
    """What can be judged elsewhere of both, in items of about one size, by its place in both.

    Raises:
        UsageError: a constraint cannot be sent.
    """
    going = {
        place: assignment
        for place, assignment in enumerate((*assignments, *supposed))
        if can_go(checkpoint, assignment)
    }
    places, chosen = list(going), list(going.values())
    weights = {a.tensor.whole.name: _weight(a.tensor.whole) for a in chosen}
    size = REMOTE_ITEM if checkpoint.remote else ITEM
    parts = max(1, round(sum(weights.values()) / size))
    numbered: dict[int, list[int]] = {}
    for group, number in cut(chosen, parts, _weight):
        numbered.setdefault(number, []).extend(places[n] for n in group)
    for asked in numbered.values():
        yield _item(checkpoint, {n: going[n] for n in asked}, len(assignments), options)


def _weight(tensor: Tensor) -> int:
    return max(tensor.nbytes, _LEAST)


def _item(
    checkpoint: Checkpoint, asked: Mapping[int, Assignment], own: int, options: AuditOptions
) -> Item:
    numbers = {n for assignment in asked.values() for n in _sources_of(assignment.tensor)}
    question = Question(
        asked=tuple((place, _bare(assignment)) for place, assignment in asked.items()),
        supposed=frozenset(place for place in asked if place >= own),
        places={
            number: place
            for number in sorted(numbers)
            if (place := checkpoint.sources[number].place) is not None
        },
        memory=options.memory,
        worst=options.worst,
        histogram=options.histogram,
    )
    nbytes = sum({a.tensor.name: a.tensor.nbytes for a in asked.values()}.values())
    try:
        return Item(pickle.dumps(question), nbytes, tuple(asked))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        named = ", ".join({str(a.constraint) for a in asked.values() if not _pickles(a)})
        raise UsageError(
            f"{named or 'a rule'} cannot be sent to another process: {error}",
            hint="--executor threads judges it in this one",
        ) from error


def _pickles(assignment: Assignment) -> bool:
    try:
        pickle.dumps(assignment)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return True


def _bare(assignment: Assignment) -> Assignment:
    """`assignment` without what is only said of it, which its result is told here."""
    return replace(
        assignment, rule="", why="", label=None, location=None, notices=(), names=(), meant=None
    )


def _told(
    item: Item, answer: Answer | Lost, asked: Sequence[Assignment]
) -> Iterator[tuple[int, Result]]:
    """The results of one item; of one that is lost, that nothing of it was evaluated."""
    if isinstance(answer, Lost):
        for place in item.asked:
            yield (
                place,
                Result(
                    **described(asked[place]),
                    verdict=Verdict.NOT_EVALUATED,
                    reason=answer.reason,
                    reason_code=answer.reason.code,
                    hint="run again",
                ),
            )
        return
    for place, result in answer.results:
        yield place, replace(result, **described(asked[place]))


def _count(checkpoint: Checkpoint, answer: Answer | Lost) -> None:
    """Count what a worker fetched as fetched; what one did that is lost is not known."""
    if isinstance(answer, Answer):
        for number, (nbytes, requests) in answer.fetched.items():
            checkpoint.sources[number].fetched += nbytes
            checkpoint.sources[number].requests += requests


def _sources_of(tensor: Tensor) -> set[int]:
    """The numbers of the sources in which the bytes of `tensor` lie."""
    match tensor.storage:
        case Contiguous(source=number) | Chunked(source=number) | Constant(source=number):
            return {number}
        case View(whole=whole):
            return _sources_of(whole)
        case Computed(parts=parts):
            return set().union(*map(_sources_of, parts))
    return set()


class _Files:
    """Reads weights from files that were opened here, by the numbers that they have elsewhere."""

    def __init__(self, sources: Mapping[int, Source]) -> None:
        self._by_number = sources
        self.remote = any(source.remote for source in sources.values())
        # Nobody asks for the others.
        self._sources: Any = [sources.get(n) for n in range(max(sources, default=-1) + 1)]

    def read(self, tensor: Tensor, box: Box, buffer: memoryview | None = None) -> NDArray[Any]:
        """See `TensorReader.read`."""
        return read_box(self._sources, tensor, box, buffer)

    def expect(self, steps: Iterable[tuple[Mark, Tensor, Box]], memory: int) -> ReadAhead:
        """See `RemoteReader.expect`."""
        return fetch_ahead(self._by_number, steps, memory)


def answer_to(item: Item) -> Answer:
    """Judge what `item` asks, in this process, whichever it is.

    Raises:
        CkptclampError: a file is not there, or is not the one that was planned for.
    """
    question: Question = pickle.loads(item.pickled)  # noqa: S301 - whoever sends work is trusted
    if question.version != __version__:
        raise CkptclampError(f"it has ckptclamp {__version__}, not {question.version}")
    running = Running(memory=question.memory, jobs=1)
    with ExitStack() as opened:
        sources = {
            number: opened.enter_context(closing(place.open()))
            for number, place in question.places.items()
        }
        reader = _Files(sources)
        results: list[tuple[int, Result]] = []
        for supposed in (False, True):
            asked = [pair for pair in question.asked if (pair[0] in question.supposed) is supposed]
            reporting = Reporting(
                worst=0 if supposed else question.worst,
                histogram=question.histogram and not supposed,
            )
            found = judge(reader, [assignment for _, assignment in asked], running, reporting)
            results += zip((place for place, _ in asked), found, strict=True)
        for source in sources.values():
            source.verify_unchanged()
        fetched = {n: (one.fetched, one.requests) for n, one in sources.items() if one.remote}
    return Answer(tuple(results), fetched)
