"""How a report shows itself where nobody renders it: at a prompt, in a notebook, in a data frame."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from ckptclamp.errors import UsageError, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptclamp.auditing.results import Result
    from ckptclamp.errors import ExitCode

_MOST_ROWS = 50
"""In a notebook; what else there is, is counted."""

_HEADS = ("tensor", "rule", "constraint", "units", "violating", "verdict")


class Shown:
    """What audits and applies can say of themselves."""

    __slots__ = ()

    if TYPE_CHECKING:

        @property
        def exit_code(self) -> ExitCode: ...  # noqa: D102

        @property
        def results(self) -> Sequence[Result]: ...  # noqa: D102

    def to_dict(self) -> dict[str, Any]:
        """Return what the JSON report holds (``docs/report-format.md``), as plain Python data.

        >>> import ckptclamp
        >>> ckptclamp.audit("model.safetensors", "constraints.yaml").to_dict()["exit_code"]
        1
        """
        import json

        from ckptclamp import render

        document: dict[str, Any] = json.loads(render(self, "json"))  # type: ignore[arg-type]
        return document

    def to_dataframe(self, library: Literal["pandas", "polars"] | None = None) -> Any:  # noqa: ANN401
        """Return the results as a data frame, a row for each tensor and rule.

        `library` is ``"pandas"`` or ``"polars"``; by default the first of them that is installed.

            frame = report.to_dataframe()
            frame[frame.verdict == "violation"].sort_values("worst_excess")

        Raises:
            UsageError: it is not installed.
        """
        frames = [library] if library is not None else ["pandas", "polars"]
        for name in frames:
            try:
                module: Any = import_module(name)
            except ImportError:
                continue
            rows = [_row(result) for result in self.results]
            return module.DataFrame({column: [row[column] for row in rows] for column in _COLUMNS})
        raise UsageError(f"{' or '.join(frames)} is not installed", hint=f"pip install {frames[0]}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {_summary(self)}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the census, and a row for each result that is not a pass."""
        wrong = [r for r in self.results if r.verdict != "pass" and r.suppressed is None]
        rows = "".join(map(_html_row, wrong[:_MOST_ROWS]))
        heads = "".join(f"<th>{head}</th>" for head in _HEADS)
        table = (
            f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>" if rows else ""
        )
        more = len(wrong) - _MOST_ROWS
        rest = f"<p>and {more:,} more that are not a pass</p>" if more > 0 else ""
        from html import escape

        return f"<div><p>{escape(_summary(self))}</p>{table}{rest}</div>"


def _summary(shown: Shown) -> str:
    audit: Any = getattr(shown, "after", None) or getattr(shown, "before", shown)
    census = audit.census
    path = printable(str(getattr(shown, "output", None) or audit.checkpoint.path))
    violations = "violation" if census.violations == 1 else "violations"
    return (
        f"{path}: {census.passed:,} pass, {census.violations:,} {violations}, "
        f"{census.not_evaluated:,} not evaluated; exit {int(shown.exit_code)}"
    )


_COLUMNS = (
    *("tensor", "label", "rule", "constraint", "verdict", "severity", "suppressed"),
    *("shape", "dtype", "axes", "units", "violating", "nonfinite", "low", "high"),
    *("measured_min", "measured_max", "worst_excess", "tolerance", "reason_code", "reason"),
)


def _row(result: Result) -> dict[str, Any]:
    """What a data frame holds of one result: plain numbers and text."""
    low, high = result.bound
    return {
        "tensor": result.tensor,
        "label": result.label,
        "rule": result.rule,
        "constraint": result.constraint,
        "verdict": str(result.verdict),
        "severity": str(result.severity),
        "suppressed": result.suppressed is not None,
        "shape": "x".join(map(str, result.shape)),
        "dtype": result.dtype,
        "axes": ",".join(map(str, result.axes)),
        "units": result.units,
        "violating": result.violating,
        "nonfinite": result.nonfinite,
        "low": low,
        "high": high,
        "measured_min": result.measured_min,
        "measured_max": result.measured_max,
        "worst_excess": result.worst[0].excess if result.worst else None,
        "tolerance": result.tolerance,
        "reason_code": result.reason_code,
        "reason": result.reason,
    }


def _html_row(result: Result) -> str:
    cells = (
        printable(result.label or result.tensor),
        printable(result.rule),
        printable(result.constraint),
        f"{result.units:,}",
        f"{result.violating:,}",
        str(result.verdict),
    )
    from html import escape

    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
