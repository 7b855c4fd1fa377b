"""Constraints by name."""

from __future__ import annotations

import pytest

from ckptclamp.constraints.registry import BUILTIN, arguments_of, canonical, make
from ckptclamp.constraints.sets.linear import Clip, NonNeg
from ckptclamp.constraints.sets.norms import MaxNorm, MinMaxNorm, UnitNorm
from ckptclamp.errors import UsageError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MaxNorm", MaxNorm()),
        ("max_norm", MaxNorm()),
        ("maxnorm", MaxNorm()),
        ("min_max_norm", MinMaxNorm()),
        ("unit_norm", UnitNorm()),
        ("unitnorm", UnitNorm()),
        ("non_neg", NonNeg()),
        ("nonneg", NonNeg()),
    ],
)
def test_keras_spellings(name, expected):
    """The names under which Keras 1, 2 and 3 and their users know the constraints, and defaults."""
    assert make(name, {}) == expected


def test_defaults_are_those_of_keras():
    """An argument that is left out is what Keras would take."""
    assert MaxNorm().get_config() == {"max_value": 2.0}
    assert MinMaxNorm().get_config() == {"min_value": 0.0, "max_value": 1.0, "rate": 1.0}


def test_every_builtin_says_its_arguments():
    """What a message may suggest is what the constructor takes."""
    assert arguments_of("Clip") == ("low", "high")
    for name in BUILTIN:
        assert canonical(name) == name
        values = {"group": 4, "relative": True}
        needed = {argument: values.get(argument, 1) for argument in arguments_of(name)}
        assert set(make(name, needed).get_config()) == set(needed)


@pytest.mark.parametrize(
    ("name", "arguments", "message", "hint"),
    [
        ("MaxNrom", {}, "unknown constraint", "did you mean MaxNorm"),
        ("Jacobian", {}, "unknown constraint", "known: MaxNorm"),
        ("MaxNorm", {"max_vaule": 1}, "no argument", "did you mean max_value"),
        ("NonNeg", {"low": 1}, "no argument", "takes none"),
        ("Clip", {"low": 1}, "needs high", None),
        ("MaxNorm", {"max_value": None}, "must be a number", None),
    ],
)
def test_mistakes_are_named(name, arguments, message, hint):
    """What is wrong, and what was probably meant."""
    with pytest.raises(UsageError, match=message) as caught:
        make(name, arguments)
    if hint is not None:
        assert caught.value.hint is not None
        assert hint in caught.value.hint


def test_clip_is_what_it_says():
    """Arguments reach the constructor by name."""
    assert make("clip", {"high": 2, "low": 1}) == Clip(1, 2)
