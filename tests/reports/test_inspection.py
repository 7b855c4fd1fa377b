"""An inspection on a terminal: what is shown first is never what is cut first."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ckptclamp.auditing.inspection import Inspection, NormStatistics, TensorSummary
from ckptclamp.auditing.results import CheckpointSummary, FileDigest
from ckptclamp.engine.histogram import Histogram
from ckptclamp.errors import Reason
from ckptclamp.models.keras.declarations import Declaration
from ckptclamp.reports import RenderOptions
from ckptclamp.reports.inspection import render_inspection
from ckptclamp.reports.names import cell_width

NORMS = NormStatistics(
    unit_words="one of 4 columns",
    units=4,
    nonfinite=0,
    minimum=0.5,
    mean=0.75,
    maximum=1.25,
    histogram=Histogram((0.0, 1.0, 2.0), (3, 1)),
)
DECLARED = Declaration(
    layer="separable_conv2d",
    layer_class="SeparableConv2D",
    argument="depthwise_constraint",
    serialised={"class_name": "MaxNorm", "config": {"max_value": 1.0, "axis": [0, 1, 2]}},
    tensors=("layers/separable_conv2d/vars/0",),
)


def inspection(norms=None, declarations=(DECLARED,)):
    """One Keras tensor with a long name, of one file."""
    tensor = TensorSummary(
        name="layers/separable_conv2d/vars/0",
        shape=(1, 16, 16, 1),
        dtype="float32",
        nbytes=1024,
        role="weight",
        place="eegnet_drifted.keras at byte 43,962",
        label="separable_conv2d/depthwise_kernel",
        norms=norms,
    )
    files = (FileDigest("models/eegnet.keras", 1100, "ab" * 32),)
    summary = CheckpointSummary("models/eegnet.keras", "keras-zip", files, 1)
    return Inspection(summary, (tensor,), tuple(declarations), (), ())


def lines(shown, width):
    return render_inspection(shown, "text", RenderOptions(width=width)).splitlines()


def test_everything_is_there_where_there_is_room():
    """Without a terminal nothing is left out."""
    text = "\n".join(lines(inspection(), None))
    for part in ("layers/separable_conv2d/vars/0", "at byte 43,962", "SeparableConv2D", "governs"):
        assert part in text


@pytest.mark.parametrize("norms", [None, NORMS])
def test_eighty_columns_keep_the_name_that_people_use(norms):
    """A row is a line, and the name in it can be read."""
    shown = lines(inspection(norms), 80)
    assert max(map(cell_width, shown)) <= 80
    assert any(line.startswith("separable_conv2d/depthwise_kernel ") for line in shown)


def test_what_a_declaration_fails_to_govern_is_never_left_out():
    """The reason why a constraint is not evaluated stays, however narrow the terminal."""
    lost = Declaration(
        layer="lost",
        layer_class="Dense",
        argument="bias_constraint",
        serialised="NonNeg",
        tensors=(),
        not_evaluated=Reason("not-in-the-file", "no bias"),
    )
    shown = lines(inspection(declarations=(DECLARED, lost)), 80)
    assert any("no bias" in line for line in shown)


def test_quiet_keeps_the_totals():
    """-q prints one line."""
    text = render_inspection(inspection(), "text", RenderOptions(verbose=-1))
    assert text == "1 tensor, 1.0 kB; 1 declared constraint"


def test_json_holds_no_command_for_a_ci_log():
    """Azure obeys ``##[`` wherever it stands in a line; a parser still reads the name as it is."""
    hostile = replace(inspection(), metadata=(("##[error]", "a ##vso[task.complete]"),))
    text = render_inspection(hostile, "json", RenderOptions())
    assert "##" not in text
    assert json.loads(text)["metadata"] == [["##[error]", "a ##vso[task.complete]"]]
