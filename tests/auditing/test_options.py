"""The options of an audit: one flat constructor for callers, groups for the functions inside."""

from __future__ import annotations

from dataclasses import fields

from ckptclamp.auditing.options import AuditOptions, Judging, Opening, Reporting, Running

GROUPS = (Running, Judging, Reporting, Opening)


def test_each_option_belongs_to_one_group():
    """A function that takes a group can be given all options, and no two groups disagree."""
    names = [field.name for group in GROUPS for field in fields(group)]
    assert sorted(names) == sorted({field.name for field in fields(AuditOptions)})
    assert len(names) == len(set(names)) == 20


def test_the_documented_constructor_takes_them_all_by_name():
    """Callers need not know the groups."""
    options = AuditOptions(memory=1 << 20, jobs=2, tolerance=0.5, header_limit=7, worst=3)
    assert (options.memory, options.jobs, options.tolerance, options.worst) == (1 << 20, 2, 0.5, 3)
    assert options.limits.header == 7
    assert AuditOptions(1 << 20, 2).jobs == 2
