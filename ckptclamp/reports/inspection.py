"""An inspection, as text for people or as JSON."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from ckptclamp.errors import plural, printable
from ckptclamp.reports.codec import json_text
from ckptclamp.reports.names import grouped, merged, template
from ckptclamp.reports.tables import Column, Table, first_that_fits, table_lines
from ckptclamp.reports.wording import fetched, file_size, number, shape_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptclamp.auditing.inspection import Inspection, NormStatistics, TensorSummary
    from ckptclamp.engine.histogram import Histogram
    from ckptclamp.models.keras.declarations import Declaration
    from ckptclamp.reports import RenderOptions

_BLOCKS = "▁▂▃▄▅▆▇█"
_BARS = 12

_SCREEN = 40
"""As many tensors are listed one by one; of more, those whose names differ in numbers alone as one."""


def render_inspection(inspection: Inspection, format_: str, options: RenderOptions) -> str:
    """Return the inspection as ``text`` or ``json``, without a line break at the end."""
    if format_ == "json":
        return json_text(_as_json(inspection), indent=2, allow_nan=True)
    return "\n".join(_lines(inspection, options))


def _lines(inspection: Inspection, options: RenderOptions) -> Iterator[str]:
    if options.verbose < 0:
        yield _totals(inspection)
        return
    summary = inspection.checkpoint
    size = sum(file.size for file in summary.files)
    yield printable(summary.path, limit=None)
    yield f"  format: {printable(summary.format)}, {plural(len(summary.files), 'file')}, {file_size(size)}"
    if summary.producer:
        yield f"  written by: {printable(summary.producer)}"
    if len(summary.files) == 1 and summary.files[0].sha256:
        yield f"  sha256: {summary.files[0].sha256}"
    elif options.verbose > 0:
        for file in summary.files:
            yield f"  sha256: {file.sha256 or '-'}  {printable(file.path)}"
    if (known := fetched(summary)) is not None:
        yield f"  fetched: {known}"
    if options.verbose > 0:
        yield f"  isolation: {', '.join(summary.isolation) or 'none'}"
    for key, value in inspection.metadata:
        yield f"  metadata: {printable(key)} = {printable(value)}"
    for notice in inspection.notices:
        yield f"  note: {printable(notice.message, limit=None)}"
    yield ""
    yield from _tensor_table(inspection, options)
    yield ""
    yield from _declarations(inspection.declarations, options)


def _totals(inspection: Inspection) -> str:
    size = file_size(sum(tensor.nbytes for tensor in inspection.tensors))
    declared = plural(len(inspection.declarations), "declared constraint")
    return f"{plural(len(inspection.tensors), 'tensor')}, {size}; {declared}"


def _tensor_table(inspection: Inspection, options: RenderOptions) -> Iterator[str]:
    tensors = inspection.tensors
    norms = any(tensor.norms is not None for tensor in tensors)
    folded = options.verbose < 1 and len(tensors) > _SCREEN
    kinds = grouped(tensors, _likeness) if folded else [[tensor] for tensor in tensors]
    tables = _with_norms(kinds) if norms else _with_places(kinds)
    columns, rows = first_that_fits(tables, options.width)
    yield from table_lines(columns, rows, width=options.width)
    more = "; `-v` lists them one by one" if len(kinds) < len(tensors) else ""
    total = sum(tensor.nbytes for tensor in tensors)
    yield f"{plural(len(tensors), 'tensor')}, {file_size(total)}{more}"
    if norms and options.verbose > 0:
        for tensor in tensors:
            if tensor.norms is not None:
                yield f"  {_name(tensor)}: a unit is {tensor.norms.unit_words}"


def _likeness(tensor: TensorSummary) -> tuple[object, ...]:
    """What tensors have in common that are told as one."""
    label = None if tensor.label is None else template(tensor.label)
    return template(tensor.name), label, tensor.role, tensor.shape, tensor.dtype


def _with_places(kinds: Sequence[Sequence[TensorSummary]]) -> list[Table]:
    """Where tensors lie; on a narrow terminal by the names that people use, then without places."""
    columns = [Column("shape"), Column("dtype"), Column("size", right=True), Column("where")]
    rows = [
        (
            *_kind(alike[0]),
            file_size(sum(tensor.nbytes for tensor in alike)),
            printable(alike[0].place) if len(alike) == 1 else "",
        )
        for alike in kinds
    ]
    return _tables(kinds, columns, rows, slice(0, -1))


def _with_norms(kinds: Sequence[Sequence[TensorSummary]]) -> list[Table]:
    """Norms of units; on a narrow terminal by the names that people use, then without dtypes."""
    columns = [Column("shape"), Column("dtype"), *_NORM_COLUMNS]
    rows = [(*_kind(alike[0]), *_norm_cells([t.norms for t in alike])) for alike in kinds]
    return _tables(kinds, columns, rows, slice(2, None))


def _kind(tensor: TensorSummary) -> tuple[str, str]:
    return shape_words(tensor.shape), printable(tensor.dtype)


def _tables(
    kinds: Sequence[Sequence[TensorSummary]],
    columns: Sequence[Column],
    rows: Sequence[tuple[str, ...]],
    narrow: slice,
) -> list[Table]:
    """By full names, by short ones, and by short ones with no more than the `narrow` columns."""
    full = [_of_all([_name(tensor) for tensor in alike]) for alike in kinds]
    short = _short_names(kinds)
    variants = ((full, slice(None)), (short, slice(None)), (short, narrow))
    return [
        (
            (_TENSOR, *columns[kept]),
            [(name, *row[kept]) for name, row in zip(names, rows, strict=True)],
        )
        for names, kept in variants
    ]


def _of_all(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{merged(names)} ({len(names):,})"


def _short_names(kinds: Sequence[Sequence[TensorSummary]]) -> list[str]:
    """The labels; where a tensor has none, or shares it with another one, its full name."""
    uses = Counter(tensor.label for alike in kinds for tensor in alike)
    return [
        _of_all(
            [
                printable(t.label if t.label and all(uses[o.label] == 1 for o in alike) else t.name)
                for t in alike
            ]
        )
        for alike in kinds
    ]


def _name(tensor: TensorSummary) -> str:
    role = "" if tensor.role == "weight" else f" [{tensor.role}]"
    label = f" ({printable(tensor.label)})" if tensor.label else ""
    return printable(tensor.name) + label + role


_TENSOR = Column("tensor", shrinks=True, least=14)
_NORM_COLUMNS = (
    Column("units", right=True),
    Column("smallest", right=True),
    Column("mean", right=True),
    Column("largest", right=True),
    Column("norms"),
)


def _norm_cells(norms: Sequence[NormStatistics | None]) -> tuple[str, ...]:
    """The norms of one tensor, or of several that are alike."""
    known = [n for n in norms if n is not None]
    failures = [n.failure for n in known if n.failure is not None]
    if failures or not known:
        return ("-", "-", "-", "-", printable(failures[0]) if failures else "")
    units, nonfinite = sum(n.units for n in known), sum(n.nonfinite for n in known)
    finite = [n for n in known if n.minimum is not None]
    if not finite:
        return (f"{units:,}", "-", "-", "-", "no finite unit")
    broken = f" {nonfinite:,} non-finite" if nonfinite else ""
    return (f"{units:,}", *map(number, _span(finite)), _bars(norms) + broken)


def _span(norms: Sequence[NormStatistics]) -> tuple[float, float, float]:
    """The smallest, mean and largest finite norm."""
    smallest = min(n.minimum for n in norms if n.minimum is not None)
    largest = max(n.maximum for n in norms if n.maximum is not None)
    weights = [n.units - n.nonfinite for n in norms]
    mean = sum((n.mean or 0.0) / sum(weights) * w for n, w in zip(norms, weights, strict=True))
    return smallest, mean, largest


def _bars(norms: Sequence[NormStatistics | None]) -> str:
    histogram = norms[0].histogram if len(norms) == 1 and norms[0] is not None else None
    return sparkline(histogram) if histogram is not None else ""


def sparkline(histogram: Histogram) -> str:
    """A row of block characters, the height of each the share of units in its bins."""
    counts = histogram.counts
    step = max(1, -(-len(counts) // _BARS))
    sums = [sum(counts[i : i + step]) for i in range(0, len(counts), step)]
    top = max(sums, default=0)
    if not top:
        return ""
    return "".join(_BLOCKS[-(-7 * total // top)] if total else " " for total in sums)


def _declarations(declarations: tuple[Declaration, ...], options: RenderOptions) -> Iterator[str]:
    if not declarations:
        yield "The file declares no constraint."
        return
    columns = (
        Column("layer", shrinks=True, least=14),
        Column("declares", shrinks=True),
        Column("constraint", shrinks=True, least=12),
    )
    kinds = _kinds_of(declarations, options)
    rows = [
        (_of_all([printable(d.layer) for d in alike]), printable(d.argument), _serialised(d))
        for alike in kinds
        for d in alike[:1]
    ]
    everything = (
        (*columns, Column("governs", shrinks=True)),
        [
            (f"{layer} ({printable(alike[0].layer_class)})", *cells, _governed(alike))
            for (layer, *cells), alike in zip(rows, kinds, strict=True)
        ],
    )
    chosen, cells = first_that_fits([everything, (columns, rows)], options.width)
    yield from table_lines(chosen, cells, width=options.width)
    for declaration in declarations:
        if not declaration.tensors:
            yield _why_nothing(declaration)
    yield plural(len(declarations), "declared constraint")


def _kinds_of(
    declarations: Sequence[Declaration], options: RenderOptions
) -> list[list[Declaration]]:
    if options.verbose > 0 or len(declarations) <= _SCREEN:
        return [[declaration] for declaration in declarations]
    return grouped(
        declarations,
        lambda d: (
            *(template(d.layer), d.layer_class, d.argument, _serialised(d)),
            tuple(map(template, d.tensors)),
        ),
    )


def _governed(alike: Sequence[Declaration]) -> str:
    names = zip(*(declaration.tensors for declaration in alike), strict=True)
    return ", ".join(merged(list(map(printable, of))) for of in names) or "-"


def _serialised(declaration: Declaration) -> str:
    if isinstance(declaration.serialised, str):
        return printable(declaration.serialised)
    name = declaration.serialised.get("class_name") or declaration.serialised.get("name") or "?"
    config = declaration.serialised.get("config")
    arguments = config if isinstance(config, dict) else {}
    return printable(f"{name}({', '.join(f'{k}={v}' for k, v in arguments.items())})")


def _why_nothing(declaration: Declaration) -> str:
    place = f"{printable(declaration.layer)} {printable(declaration.argument)}"
    return f"{place}: not evaluated: {printable(declaration.not_evaluated or 'governs nothing')}"


def _as_json(inspection: Inspection) -> dict[str, Any]:
    from dataclasses import asdict

    return {"schema": "ckptclamp-inspection-1", **asdict(inspection)}
