"""Classes of data: to whoever uses one, no different from a frozen dataclass with slots."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, field
from functools import cached_property

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptclamp.checkpoints.tensor import Chunk, Chunked
from ckptclamp.frozen import frozen, frozen_with_dict


def _made_by(decorator):
    @decorator
    class Box:
        name: str
        size: float = 3.0
        tags: Mapping[str, int] = field(default_factory=dict)
        note: str = field(default="", compare=False)
        twice: float = field(init=False, repr=False, compare=False)

        def __post_init__(self) -> None:
            object.__setattr__(self, "twice", 2 * self.size)

    @decorator
    class Larger(Box):
        more: tuple[int, ...] = ()

    return Box, Larger


OURS = _made_by(frozen)
THEIRS = _made_by(dataclass(frozen=True, slots=True))
VALUES = st.fixed_dictionaries(
    {"name": st.sampled_from("ab")},
    optional={
        "size": st.sampled_from([0.0, 1.0, float("nan")]),
        "tags": st.dictionaries(st.text(max_size=1), st.integers(), max_size=1),
        "note": st.text(max_size=1),
    },
)


@pytest.mark.parametrize("which", [0, 1])
@given(VALUES, VALUES)
def test_instances_show_and_compare_as_those_of_a_dataclass(which, first, second):
    """Text, fields, copies and changed copies are the same, and equal are the same pairs."""
    shown = []
    for kind in (OURS[which], THEIRS[which]):
        a, b = kind(**first), kind(**second)
        changed = dataclasses.replace(a, name="c")
        alike = (a == b, a == copy.copy(a), a == changed, a == "a", a != b)
        shown.append((repr(a), repr(changed), dataclasses.asdict(a), a.twice, alike))
    assert repr(shown[0]) == repr(shown[1])


@pytest.mark.parametrize("which", [0, 1])
def test_a_class_is_called_like_a_dataclass(which):
    """Order, names, defaults and annotations; what is missing or unknown is refused by name."""
    ours, theirs = OURS[which], THEIRS[which]
    assert str(inspect.signature(ours)) == str(inspect.signature(theirs))
    assert ours.__match_args__ == theirs.__match_args__
    assert [f.name for f in dataclasses.fields(ours)] == [
        f.name for f in dataclasses.fields(theirs)
    ]
    with pytest.raises(TypeError, match=r"Box\.__init__\(\) missing .* 'name'"):
        OURS[0]()
    with pytest.raises(TypeError, match="unexpected"):
        ours("a", colour=1)


def test_equal_instances_hash_alike_and_of_one_class_only():
    """They serve as keys; a class is equal to no other that has the same fields."""
    box, larger = OURS
    assert hash(box("a", tags=())) == hash(box("a", tags=(), note="else"))
    assert box("a") != larger("a")
    with pytest.raises(TypeError, match="unhashable"):
        hash(box("a"))


def test_nothing_changes_an_instance():
    """Neither a field nor a new attribute, nor a deletion."""
    box = OURS[0]("a")
    for name in ("name", "another"):
        with pytest.raises(FrozenInstanceError):
            setattr(box, name, "b")
        with pytest.raises(FrozenInstanceError):
            delattr(box, name)


def test_an_instance_goes_to_another_process():
    """What a worker is sent comes out equal."""
    chunked = Chunked(0, (2, 2), ("deflate",), (Chunk((0, 0), 8, 16),), b"0000")
    assert pickle.loads(pickle.dumps(chunked)) == chunked


def test_what_a_class_has_of_its_own_stays():
    """A text or a comparison that a class or its base defines is kept."""

    class Shown:
        __slots__ = ()

        def __repr__(self) -> str:
            return "shown"

    @frozen
    class Told(Shown):
        size: int
        __eq__ = object.__eq__
        __hash__ = object.__hash__

    assert repr(Told(1)) == "shown"
    assert Told(1) == Told(1)


def test_a_class_with_a_dictionary_caches_and_has_several_bases():
    """Neither of which slots allow."""

    @frozen_with_dict
    class Sized:
        size: int = 1

        @cached_property
        def twice(self) -> int:
            return 2 * self.size

    @frozen_with_dict
    class Named:
        name: str = "a"

    @frozen_with_dict
    class Both(Sized, Named):
        pass

    both = Both(size=3)
    assert (both.twice, vars(both)) == (6, {"name": "a", "size": 3, "twice": 6})
    assert both == Both("a", 3)
    assert copy.copy(both).twice == 6
    with pytest.raises(FrozenInstanceError):
        both.twice = 7


@frozen
class Shop:
    """Fields that are called as something might be in the text of a constructor."""

    store: str
    absent: int = 1
    new_stock: list[int] = field(default_factory=list)
    default_absent: int = 2
    stock: list[int] = field(default_factory=lambda: [3])


def test_a_field_may_have_any_name():
    """No name of a field is another thing in the constructor."""
    assert Shop("a") == Shop(store="a", absent=1, new_stock=[], default_absent=2, stock=[3])
