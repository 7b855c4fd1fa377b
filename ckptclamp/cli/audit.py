"""``ckptclamp audit``."""

from __future__ import annotations

from pathlib import Path

import click

from ckptclamp.cli.failures import ReportedCommand
from ckptclamp.cli.options import (
    EngineOptions,
    GateOptions,
    ReportOptions,
    RuleOptions,
    attest_option,
    base_option,
    baseline_options,
    checkpoint_argument,
    engine_options,
    format_option,
    gather,
    hash_option,
    report_option,
    spec_options,
    suppressed_option,
    verbosity_options,
)
from ckptclamp.cli.parameters import option


@click.command("audit", cls=ReportedCommand)
@checkpoint_argument
@spec_options
@base_option
@option("--strict", is_flag=True, help="Warnings fail the audit too.")
@baseline_options
@suppressed_option
@option("--exit-zero", is_flag=True, help="Return 0 where violations would return 1.")
@attest_option
@format_option
@report_option("-o")
@option(
    "--worst",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="How many of the worst units to keep for each tensor.",
)
@hash_option
@engine_options
@verbosity_options
@click.pass_context
@gather(rules=RuleOptions, gate=GateOptions, reports=ReportOptions, engine=EngineOptions)
def audit_command(
    ctx: click.Context,
    /,
    checkpoint: Path,
    *,
    rules: RuleOptions,
    gate: GateOptions,
    reports: ReportOptions,
    engine: EngineOptions,
    strict: bool,
    exit_zero: bool,
) -> None:
    """Judge CHECKPOINT against a spec and what its own model declares.

    The report goes to stdout, everything else to stderr.
    """
    from ckptclamp.auditing.audit import audit
    from ckptclamp.cli.places import check_outputs
    from ckptclamp.cli.running import (
        finish,
        judged,
        load_rules,
        program_exit,
        read_baseline,
        reported_options,
    )

    check_outputs(checkpoint, rules, reports, gate)
    spec = load_rules(rules)
    known = read_baseline(checkpoint, gate)
    with reported_options(rules, engine, reports, hash=gate.hashed, strict=strict) as options:
        report = audit(checkpoint, spec, options)
    report = judged(report, checkpoint, known, gate)
    finish(report, reports, gate)
    ctx.exit(program_exit(report.exit_code, zero=exit_zero))
