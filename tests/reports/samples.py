"""Reports as real audits make them, built by hand: an EEGNet with its published faults."""

from __future__ import annotations

from dataclasses import replace

from ckptclamp.auditing.results import (
    ApplyReport,
    AuditReport,
    CheckpointSummary,
    FileDigest,
    Result,
    Suppressed,
    TensorChange,
    Verdict,
    WorstUnit,
)
from ckptclamp.auditing.runs import Failure, Problem, Run
from ckptclamp.engine.histogram import Histogram
from ckptclamp.errors import ExitCode, Notice
from ckptclamp.plan import Origin, UnmatchedRule
from ckptclamp.spec.model import Severity

SHA = "1f3ad52b9c0e4477a1d0be5bb0a1c2f34c9d0e81a7b65f20e3d4c5b6a7980123"

PASSING = Result(
    tensor="layers/conv2d/vars/0",
    label="conv2d/kernel",
    rule="bounded-filters",
    constraint="MaxNorm(max_value=2)",
    origin=Origin.SPEC,
    verdict=Verdict.PASS,
    shape=(1, 64, 1, 8),
    dtype="float32",
    axes=(0, 1, 2),
    unit_words="a filter of 1 x 64 x 1 weights; 8 of them along axis 3",
    unit_size=64,
    location="spec.yaml:4:5",
    why="tensors: **/kernel",
    tolerance=1e-6,
    units=8,
    bound=(None, 2.0),
    measured_min=0.31,
    measured_max=1.9769799709320068,
    histogram=Histogram((0.25, 0.75, 1.25, 1.75, 2.25), (1, 2, 4, 1)),
)

VIOLATING = Result(
    tensor="layers/depthwise_conv2d/vars/0",
    label="depthwise_conv2d/kernel",
    rule="bounded-filters",
    constraint="MaxNorm(max_value=1)",
    origin=Origin.SPEC,
    verdict=Verdict.VIOLATION,
    shape=(64, 1, 8, 2),
    dtype="float32",
    axes=(0, 1),
    unit_words="a filter of 64 x 1 weights; 8 x 2 of them along axes 2, 3",
    unit_size=64,
    location="spec.yaml:9:5",
    why="tensors: **/kernel",
    tolerance=1e-6,
    units=16,
    violating=7,
    bound=(None, 1.0),
    measured_min=0.4732392893094249,
    measured_max=1.7320508,
    worst=(
        WorstUnit((3, 1), 1.7320508, 1.0, 0.7320508, 0.7320508),
        WorstUnit((0, 0), 1.25, 1.0, 0.25, 0.25),
        WorstUnit((7, 1), 1.0000021, 1.0, 2.1e-6, 2.1e-6),
    ),
    histogram=Histogram(
        tuple(0.4 + 0.1 * i for i in range(15)), (1, 0, 1, 2, 3, 2, 1, 1, 2, 1, 0, 1, 0, 1)
    ),
)

NOT_FINITE = Result(
    tensor="layers/dense/vars/0",
    label="dense/kernel",
    rule="monotone-head",
    constraint="NonNeg()",
    origin=Origin.SPEC,
    verdict=Verdict.VIOLATION,
    shape=(32, 64),
    dtype="bfloat16",
    unit_words="a weight; 32 x 64 of them",
    unit_size=1,
    location="spec.yaml:12:5",
    units=2048,
    violating=5,
    nonfinite=2,
    unmendable=2,
    bound=(0.0, None),
    measured_min=-0.125,
    measured_max=0.73,
    worst=(
        WorstUnit((0, 17), float("nan"), 0.0, float("nan"), None, nonfinite=1),
        WorstUnit((31, 2), float("nan"), 0.0, float("nan"), None, nonfinite=1),
        WorstUnit((4, 40), -0.125, 0.0, 0.125, None),
    ),
    histogram=Histogram((-0.25, 0.0, 0.25, 0.5, 0.75), (3, 1400, 600, 43)),
)

WARNING = Result(
    tensor="layers/dense_1/vars/0",
    label="dense_1/kernel",
    rule="unit-rows",
    constraint="UnitNorm()",
    origin=Origin.SPEC,
    verdict=Verdict.VIOLATION,
    severity=Severity.WARNING,
    shape=(64, 2),
    dtype="float32",
    axes=(0,),
    unit_size=64,
    location="spec.yaml:16:5",
    units=2,
    violating=1,
    bound=(1.0, 1.0),
    measured_min=0.99999994,
    measured_max=1.0000012,
    worst=(WorstUnit((1,), 1.0000012, 1.0, 1.2e-6, 1.2e-6),),
)

NOT_EVALUATED = Result(
    tensor="layers/separable_conv2d/vars/1",
    label="separable_conv2d/pointwise_kernel",
    rule="declared:separable_conv2d.pointwise_constraint",
    constraint="our_pkg>Sparse",
    origin=Origin.DECLARED,
    verdict=Verdict.NOT_EVALUATED,
    shape=(1, 1, 16, 16),
    dtype="float32",
    location="model_config/layers/7",
    reason="the constraint our_pkg>Sparse is not known here",
    reason_code="unknown-constraint",
    hint="name it under custom_objects in a spec",
    notices=(
        Notice(
            "degenerate-axis",
            "axis 0 has extent 1, so the norm of a unit is that of a single weight",
            hint="state the axes in a spec: axis: [0, 1, 2]",
            tensor="layers/separable_conv2d/vars/1",
        ),
    ),
)

SUPPRESSED = replace(
    VIOLATING,
    tensor="layers/old_head/vars/0",
    label="old_head/kernel",
    suppressed=Suppressed("baseline.json", "known since March", "2027-01-31"),
)

CHECKPOINT = CheckpointSummary(
    path="models/eegnet.keras",
    format="keras-zip",
    files=(FileDigest("models/eegnet.keras", 43_210, SHA),),
    tensors=14,
    producer="keras 3.8.0",
    isolation=("landlock", "seccomp", "rlimits"),
)

MIXED = AuditReport(
    checkpoint=CHECKPOINT,
    results=(PASSING, VIOLATING, NOT_FINITE, WARNING, NOT_EVALUATED, SUPPRESSED),
    unmatched=(UnmatchedRule("embeddings", ("embed*/**",), "spec.yaml:9:5", "embedding/table"),),
    notices=(
        Notice("aliases", "two names share one tensor: a, b", informational=True),
        Notice("extra-data", "12 bytes after the last tensor belong to nothing", hint="look"),
    ),
    spec_path="spec.yaml",
    spec_sha256=SHA[::-1],
    parameters={"tolerance": "auto", "strict": "false"},
    tool_version="0.1.0",
    seconds=0.25,
)

CLEAN = replace(MIXED, results=(PASSING,), unmatched=(), notices=())
VIOLATIONS = replace(MIXED, results=(PASSING, VIOLATING), unmatched=(), notices=())
EMPTY = replace(MIXED, results=(), unmatched=(), notices=())

MENDED = replace(
    VIOLATING,
    verdict=Verdict.PASS,
    violating=0,
    worst=(),
    measured_max=1.0,
    histogram=Histogram(tuple(0.4 + 0.1 * i for i in range(8)), (1, 0, 1, 2, 3, 2, 7)),
)

COPY = replace(
    CHECKPOINT,
    path="models/eegnet.clamped.keras",
    files=(FileDigest("models/eegnet.clamped.keras", 43_210, "c0ffee" + SHA[6:]),),
)

APPLIED = ApplyReport(
    before=VIOLATIONS,
    changes=(
        TensorChange(
            tensor="layers/depthwise_conv2d/vars/0",
            label="depthwise_conv2d/kernel",
            units=16,
            changed=7,
            largest_change=0.42265,
            rules=("bounded-filters",),
        ),
    ),
    after=replace(VIOLATIONS, checkpoint=COPY, results=(PASSING, MENDED)),
    output="models/eegnet.clamped.keras",
    projection="exact",
    notices=(
        Notice(
            "optimizer-state",
            "the optimizer state in the copy belongs to the weights as they were",
            hint="reset the optimizer before training goes on",
            informational=True,
        ),
    ),
)

DRY_RUN = replace(APPLIED, after=None, output=None)

REPORTS: dict[str, AuditReport | ApplyReport] = {
    "mixed": MIXED,
    "clean": CLEAN,
    "violations": VIOLATIONS,
    "empty": EMPTY,
    "applied": APPLIED,
    "dry-run": DRY_RUN,
}


def many(count: int) -> AuditReport:
    """A report of `count` violations, each a little worse than the one before."""
    results = tuple(
        replace(
            VIOLATING,
            tensor=f"layers/block_{i}/attention/query/kernel",
            label=None,
            worst=(WorstUnit((i % 16,), 1 + i / count, 1.0, i / count, i / count),),
        )
        for i in range(count)
    )
    return replace(VIOLATIONS, results=results)


FAILED = Failure(
    command="audit",
    code="spec",
    exit_code=ExitCode.USAGE,
    problems=(
        Problem("unknown key 'max_valeu'", "spec.yaml", 6, 5, hint="did you mean max_value?"),
        Problem("it has no rules", "spec.yaml"),
    ),
    checkpoint="models/eegnet.keras",
    tool_version="0.1.0",
)
UNREAD = replace(
    FAILED,
    code="not-a-checkpoint",
    exit_code=ExitCode.INCOMPLETE,
    problems=(Problem("not a checkpoint: 12 bytes of text", "models/lfs.keras", tensor="a/b"),),
    checkpoint="models/lfs.keras",
)
HELPLESS = replace(FAILED, code="usage", problems=(Problem("no such option"),), checkpoint=None)

FAILURES = {"spec": FAILED, "unread": UNREAD, "helpless": HELPLESS}

RUN = Run(
    answers=(
        MIXED,
        replace(CLEAN, checkpoint=replace(CHECKPOINT, path="models/other.keras")),
        UNREAD,
        APPLIED,
        MIXED,
    ),
    notices=(Notice("checkpoint-not-there", "there is no x.keras", informational=True),),
    tool_version="0.1.0",
    seconds=1.5,
)
