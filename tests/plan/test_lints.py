"""Axes that were probably not meant, and those that were."""

from __future__ import annotations

import pytest

from ckptclamp.plan.units import defaulted, degenerate, intended_axes, suspicious


@pytest.mark.parametrize(
    ("shape", "layer", "argument", "axes"),
    [
        ((128, 64), "Dense", "kernel_constraint", (0,)),
        ((3, 3, 16, 32), "Conv2D", "kernel_constraint", (0, 1, 2)),
        ((5, 16, 32), "Conv1D", "kernel_constraint", (0, 1)),
        ((3, 3, 32, 16), "Conv2DTranspose", "kernel_constraint", (0, 1, 3)),
        ((3, 3, 16, 2), "DepthwiseConv2D", "depthwise_constraint", (0, 1)),
        ((3, 3, 16, 2), "SeparableConv2D", "depthwise_constraint", (0, 1)),
        ((1, 1, 32, 16), "SeparableConv2D", "pointwise_constraint", (0, 1, 2)),
        ((1000, 50), "Embedding", "embeddings_constraint", (1,)),
        ((64,), "", "", ()),
    ],
)
def test_meant_axes(shape, layer, argument, axes):
    """What feeds one output, by the layouts of Keras' layers."""
    assert intended_axes(shape, layer, argument) == axes


def test_vacuous_pointwise_constraint_is_named():
    """The published case: MaxNorm over axis 0 of a (1, 1, in, out) kernel bounds single weights."""
    shape = (1, 1, 32, 16)
    notice = degenerate("k", shape, (0,), intended_axes(shape))
    assert notice is not None
    assert notice.code == "degenerate-axis"
    assert not notice.informational
    assert notice.hint is not None
    assert "[0, 1, 2]" in notice.hint
    assert "one of 16 filters" in notice.hint


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((22, 1, 16, 2), (0,)), ((1, 1, 32, 16), (0, 1, 2)), ((1, 8), (0,)), ((1, 1, 1, 8), (0,))],
)
def test_what_is_not_vacuous_is_let_be(shape, axes):
    """A norm over more than one weight, a layer with one input, a filter of one weight."""
    assert degenerate("k", shape, axes, intended_axes(shape)) is None


@pytest.mark.parametrize(
    ("shape", "axes", "layer", "argument", "is_suspicious"),
    [
        ((3, 3, 16, 32), (0,), "Conv2D", "kernel_constraint", True),
        ((3, 3, 16, 32), (0, 1, 2), "Conv2D", "kernel_constraint", False),
        ((5, 16, 32), (0,), "Conv1D", "kernel_constraint", True),
        ((22, 1, 16, 2), (0,), "DepthwiseConv2D", "depthwise_constraint", False),
        ((3, 3, 16, 2), (0,), "DepthwiseConv2D", "depthwise_constraint", True),
        ((3, 1, 1, 2), (0,), "Conv2D", "kernel_constraint", False),
        ((1000, 50), (0,), "Embedding", "embeddings_constraint", True),
        ((1000, 50), (1,), "Embedding", "embeddings_constraint", False),
        ((128, 64), (0,), "Dense", "kernel_constraint", False),
        ((4, 2, 3), (0,), "EinsumDense", "kernel_constraint", False),
        ((32,), (0,), "Conv2D", "bias_constraint", False),
    ],
)
def test_default_axis_on_a_convolution_is_suspicious(shape, axes, layer, argument, is_suspicious):
    """Keras' default of 0 where it is not what feeds one output, and nowhere else."""
    notice = suspicious("k", shape, axes, layer, argument)
    assert (notice is not None) == is_suspicious
    if notice is not None:
        assert notice.code == "suspicious-axis"


def test_default_of_a_matrix_is_told():
    """Which axis was taken, and what a unit then is, is said; nothing is wrong."""
    notice = defaulted("k", (128, 64), (0,))
    assert notice is not None
    assert notice.informational
    assert "one of 64 columns" in notice.message
    assert defaulted("k", (128,), (0,)) is None
