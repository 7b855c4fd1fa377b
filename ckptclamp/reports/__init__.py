"""Audit and apply results as terminal text, JSON and the formats of CI systems.

`reports` computes nothing about weights: it shows what `ckptclamp.auditing.results` holds.
"""

from ckptclamp.reports.formats import REPORTERS, RenderOptions, Reporter, render
from ckptclamp.reports.writing import parse_outputs, write_reports, write_stream

__all__ = [
    "REPORTERS",
    "RenderOptions",
    "Reporter",
    "parse_outputs",
    "render",
    "write_reports",
    "write_stream",
]
