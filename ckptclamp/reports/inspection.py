"""An inspection, as text for people or as JSON."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from ckptclamp.errors import printable
from ckptclamp.reports.codec import json_text
from ckptclamp.reports.tables import Column, Table, first_that_fits, table_lines
from ckptclamp.reports.wording import file_size, number, plural, shape_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptclamp.auditing.inspection import Inspection, NormStatistics, TensorSummary
    from ckptclamp.engine.histogram import Histogram
    from ckptclamp.models.keras.declarations import Declaration
    from ckptclamp.reports import RenderOptions

_BLOCKS = "▁▂▃▄▅▆▇█"
_BARS = 12


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
    norms = any(tensor.norms is not None for tensor in inspection.tensors)
    tables = _with_norms(inspection.tensors) if norms else _with_places(inspection.tensors)
    columns, rows = first_that_fits(tables, options.width)
    yield from table_lines(columns, rows, width=options.width)
    total = sum(tensor.nbytes for tensor in inspection.tensors)
    yield f"{plural(len(rows), 'tensor')}, {file_size(total)}"
    if norms and options.verbose > 0:
        for tensor in inspection.tensors:
            if tensor.norms is not None:
                yield f"  {_name(tensor)}: a unit is {tensor.norms.unit_words}"


def _with_places(tensors: Sequence[TensorSummary]) -> list[Table]:
    """Where tensors lie; on a narrow terminal by the names that people use, then without places."""
    columns = [Column("shape"), Column("dtype"), Column("size", right=True), Column("where")]
    rows = [(*_kind(t), file_size(t.nbytes), printable(t.place)) for t in tensors]
    return _tables(tensors, columns, rows, slice(0, -1))


def _with_norms(tensors: Sequence[TensorSummary]) -> list[Table]:
    """Norms of units; on a narrow terminal by the names that people use, then without dtypes."""
    columns = [Column("shape"), Column("dtype"), *_NORM_COLUMNS]
    rows = [(*_kind(tensor), *_norm_cells(tensor.norms)) for tensor in tensors]
    return _tables(tensors, columns, rows, slice(2, None))


def _kind(tensor: TensorSummary) -> tuple[str, str]:
    return shape_words(tensor.shape), printable(tensor.dtype)


def _tables(
    tensors: Sequence[TensorSummary],
    columns: Sequence[Column],
    rows: Sequence[tuple[str, ...]],
    narrow: slice,
) -> list[Table]:
    """By full names, by short ones, and by short ones with no more than the `narrow` columns."""
    full, short = [_name(tensor) for tensor in tensors], _short_names(tensors)
    variants = ((full, slice(None)), (short, slice(None)), (short, narrow))
    return [
        (
            (_TENSOR, *columns[kept]),
            [(name, *row[kept]) for name, row in zip(names, rows, strict=True)],
        )
        for names, kept in variants
    ]


def _short_names(tensors: Sequence[TensorSummary]) -> list[str]:
    """The labels; where a tensor has none, or shares it with another one, its full name."""
    uses = Counter(tensor.label for tensor in tensors)
    return [
        printable(tensor.label if tensor.label and uses[tensor.label] == 1 else tensor.name)
        for tensor in tensors
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


def _norm_cells(norms: NormStatistics | None) -> tuple[str, ...]:
    if norms is None:
        return ("-", "-", "-", "-", "")
    if norms.failure is not None:
        return ("-", "-", "-", "-", printable(norms.failure))
    if norms.minimum is None or norms.mean is None or norms.maximum is None:
        return (f"{norms.units:,}", "-", "-", "-", "no finite unit")
    broken = f" {norms.nonfinite:,} non-finite" if norms.nonfinite else ""
    bars = sparkline(norms.histogram) if norms.histogram is not None else ""
    values = (number(norms.minimum), number(norms.mean), number(norms.maximum))
    return (f"{norms.units:,}", *values, bars + broken)


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
    rows = [(printable(d.layer), printable(d.argument), _serialised(d)) for d in declarations]
    everything = (
        (*columns, Column("governs", shrinks=True)),
        [
            (f"{layer} ({printable(d.layer_class)})", *cells, _governed(d))
            for (layer, *cells), d in zip(rows, declarations, strict=True)
        ],
    )
    chosen, cells = first_that_fits([everything, (columns, rows)], options.width)
    yield from table_lines(chosen, cells, width=options.width)
    for declaration in declarations:
        if not declaration.tensors:
            yield _why_nothing(declaration)
    yield plural(len(rows), "declared constraint")


def _governed(declaration: Declaration) -> str:
    return ", ".join(map(printable, declaration.tensors)) or "-"


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
