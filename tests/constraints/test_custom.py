"""A user's own constraints: what is imported, what is refused, and that nothing escapes as a traceback."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest

from ckptclamp.constraints.base import Constraint
from ckptclamp.constraints.custom import CallableConstraint, import_custom
from ckptclamp.errors import UnreadableError, UsageError

SOURCE = '''
import numpy as np
from ckptclamp.constraints.sets.linear import Clip

class KerasStyle:
    def __init__(self, ref_value=0.0):
        self.ref_value = ref_value
    def __call__(self, w):
        return w - np.mean(w) + self.ref_value
    def get_config(self):
        return {"ref_value": self.ref_value}

class FromConfig(KerasStyle):
    @classmethod
    def from_config(cls, config):
        return cls(config["ref_value"] * 2)

class Streaming(Clip):
    pass

class NotCallable:
    def get_config(self):
        return {}

class Fails:
    def __init__(self):
        raise RuntimeError("first line\\nsecond line")

class Exits:
    def __init__(self):
        raise SystemExit(0)

class Dangerous:
    made = 0
    def __init__(self):
        type(self).made += 1

def halve(w, factor=0.5):
    return w * factor

class Tensor:
    """As PyTorch's: of no dtype that NumPy has until it is made double."""
    def __init__(self, values):
        self.values = values
    def detach(self):
        return self
    cpu = double = detach
    def numpy(self):
        return self.values

def torch_style(w):
    return Tensor(w * 2)

class Nested:
    class Inner(KerasStyle):
        pass
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the user's own, where Python finds it."""
    folder = tmp_path / "users_own_pkg"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "constraints.py").write_text(SOURCE)
    (folder / "broken.py").write_text("import no_such_module_anywhere\n")
    (folder / "wrong.py").write_text("this is no Python\n")
    (folder / "leaves.py").write_text("raise SystemExit('bye')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "users_own_pkg"
    for name in [n for n in sys.modules if n.startswith("users_own_pkg")]:
        del sys.modules[name]


@pytest.fixture
def bring(package):
    """Import one name of the package's constraints, allowed."""

    def import_it(name, config=None, module="constraints", **options):
        target = f"{package}.{module}:{name}"
        return import_custom(target, config or {}, {package}, **options)

    return import_it


def test_class_is_made_by_its_constructor(bring):
    """Keras' protocol: a class with arguments, called with the weights."""
    constraint = bring("KerasStyle", {"ref_value": 1.0})
    assert not constraint.streaming
    assert constraint.apply(np.array([1.0, 2.0, 3.0])).tolist() == [0.0, 1.0, 2.0]
    assert constraint.get_config() == {"ref_value": 1.0}
    assert str(constraint) == "users_own_pkg.constraints:KerasStyle(ref_value=1.0)"


def test_from_config_comes_first(bring):
    """A class that says how it is made of a config is made that way."""
    assert bring("FromConfig", {"ref_value": 1.0}).apply(np.zeros(2)).tolist() == [2.0, 2.0]


def test_functions_and_inner_classes(bring):
    """Any callable will do, and any name inside a module."""
    assert bring("halve").apply(np.ones(2)).tolist() == [0.5, 0.5]
    assert bring("halve", {"factor": 0.25}).apply(np.ones(2)).tolist() == [0.25, 0.25]
    assert bring("Nested.Inner").apply(np.ones(2)).tolist() == [0.0, 0.0]


def test_framework_tensors_are_read(bring):
    """What a framework returns becomes float64."""
    moved = bring("torch_style").apply(np.ones(2, dtype=np.float32))
    assert moved.dtype == np.float64
    assert moved.tolist() == [2.0, 2.0]


def test_our_own_subclass_streams(bring):
    """A subclass of `Constraint` is used as it is; the axis in a config is the rule's."""
    constraint = bring("Streaming", {"low": 0, "high": 1, "axis": 0})
    assert isinstance(constraint, Constraint)
    assert constraint.streaming
    assert constraint.bounds() == (0.0, 1.0)


@pytest.mark.parametrize(
    "allowed", [set(), {"other"}, {"users_own"}, {"users_own_pkg.constraints.KerasStyle"}, {""}]
)
def test_nothing_is_imported_unless_allowed(package, allowed):
    """Without the caller's word no code runs, and the flag that gives it is named."""
    with pytest.raises(UsageError) as caught:
        import_custom(f"{package}.constraints:KerasStyle", {}, allowed)
    assert f"--allow-import {package}" in str(caught.value)
    assert package not in sys.modules


@pytest.mark.parametrize("allowed", ["users_own_pkg", "users_own_pkg.constraints"])
def test_a_package_or_a_module_can_be_allowed(package, allowed):
    """Permission for a package covers what is in it."""
    import_custom(f"{package}.constraints:KerasStyle", {}, {allowed})


def test_the_working_directory_is_not_searched(tmp_path, monkeypatch):
    """A file that happens to lie beside the checkpoint is not what an allowed name means."""
    (tmp_path / "lying_beside_it.py").write_text("def f(w): return w\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    with pytest.raises(UsageError, match="cannot import"):
        import_custom("lying_beside_it:f", {}, {"lying_beside_it"})


@pytest.mark.parametrize(
    "name", ["MaxNorm", "a.b", "a:", ":b", "a b:c", "a:b c", "../a:b", "a/b:c", "a:b\n", "1a:b"]
)
def test_what_is_no_name_is_refused(name):
    """Only ``package.module:Class`` is looked up."""
    with pytest.raises(UsageError, match="is no class"):
        import_custom(name, {}, {"a", "MaxNorm"})


@pytest.mark.parametrize(
    ("module", "name", "config", "message"),
    [
        ("nothing_here", "X", {}, "cannot import"),
        ("broken", "X", {}, "no_such_module_anywhere"),
        ("wrong", "X", {}, "SyntaxError"),
        ("leaves", "X", {}, "SystemExit: bye"),
        ("constraints", "Missing", {}, "cannot find Missing"),
        ("constraints", "KerasStyle", {"reff": 1}, "cannot be made"),
        ("constraints", "Fails", {}, "RuntimeError: first line second line"),
        ("constraints", "Exits", {}, "SystemExit"),
        ("constraints", "NotCallable", {}, "cannot be called"),
        ("constraints", "Streaming", {"low": 2, "high": 1}, "greater than"),
    ],
)
def test_failures_are_one_clear_line(bring, module, name, config, message):
    """Whatever a user's module does, the answer is a usage error of one line."""
    with pytest.raises(UsageError, match=message) as caught:
        bring(name, config, module)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["Dangerous", "halve", "NotCallable"])
def test_a_file_cannot_have_just_anything_called(bring, name):
    """Where a checkpoint chose the name, only a class of Keras' protocol is ever called."""
    with pytest.raises(UsageError, match="get_config and __call__"):
        bring(name, from_file=True)
    assert sys.modules["users_own_pkg.constraints"].Dangerous.made == 0


def test_a_file_can_have_a_constraint_made(bring):
    """A class of Keras' protocol, and one of ours, are what a config may name."""
    assert bring("KerasStyle", from_file=True).get_config() == {}
    assert bring("Streaming", {"low": 0, "high": 1}, from_file=True).streaming


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda w: 1 / 0, "ZeroDivisionError"),
        (lambda w: w.sum(), "returned shape"),
        (lambda w: w[:1], "returned shape"),
        (lambda w: None, "TypeError"),
        (lambda w: ["a"] * len(w), "not real numbers"),
        (lambda w: w * 1j, "not real numbers"),
    ],
)
def test_a_callable_that_projects_nothing_is_an_error(function, message):
    """A penalty, a broken function or text is not a projected tensor, and can pass no gate."""
    with pytest.raises(UnreadableError, match=message):
        CallableConstraint(function, "own").apply(np.ones(3))


def _identity(w):
    return w


def test_it_travels_to_another_process():
    """A constraint over a function that can be pickled can be pickled."""
    constraint = pickle.loads(pickle.dumps(CallableConstraint(_identity, "own", {"a": 1})))
    assert constraint.get_config() == {"a": 1}
    assert constraint.apply(np.ones(1)).tolist() == [1.0]


STREAMING = """
import numpy as np
from ckptclamp.constraints.base import Constraint, Judgement, Statistic, Transform

class SumAbs(Constraint):
    needs = frozenset({Statistic.SUM_ABS})
    def judge(self, statistics):
        measured = statistics[Statistic.SUM_ABS]
        return Judgement(measured, np.ones_like(measured), np.maximum(measured - 1, 0), np.ones_like(measured))
    def project(self, statistics):
        return Transform(scale=1 / np.maximum(statistics[Statistic.SUM_ABS], 1))
    def get_config(self):
        return {}

class WithoutNeeds(SumAbs):
    needs = None

class WantsAMove(SumAbs):
    needs = frozenset({Statistic.MOVE})

class DoesNotStream(SumAbs):
    streaming = False

class JudgeFails(SumAbs):
    def judge(self, statistics):
        return 1 / 0

class JudgeLeaves(SumAbs):
    def judge(self, statistics):
        raise SystemExit(0)

class JudgesAllAtOnce(SumAbs):
    def judge(self, statistics):
        one = np.zeros(1)
        return Judgement(one, one, one, one)

class JudgesWithATruth(SumAbs):
    def judge(self, statistics):
        return True

class ProjectsWeights(SumAbs):
    def project(self, statistics):
        return statistics[Statistic.SUM_ABS]

class ScalesTooMuch(SumAbs):
    def project(self, statistics):
        return Transform(scale=np.ones(7))

class EmptyInterval(SumAbs):
    elementwise = True
    def bounds(self):
        return 1.0, 0.0
"""


@pytest.fixture
def bring_streaming(package, tmp_path):
    """Import one of the streaming constraints above."""
    (tmp_path / package / "streaming.py").write_text(STREAMING)
    return lambda name: import_custom(f"{package}.streaming:{name}", {}, {package})


def test_a_working_streaming_constraint_is_taken(bring_streaming):
    """The trial refuses nothing that keeps the protocol."""
    assert str(bring_streaming("SumAbs")) == "SumAbs()"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("WithoutNeeds", "`needs` is no frozenset"),
        ("WantsAMove", "`needs` is no frozenset"),
        ("DoesNotStream", "does not stream"),
        ("JudgeFails", "ZeroDivisionError"),
        ("JudgeLeaves", "SystemExit"),
        ("JudgesAllAtOnce", r"the measured of judge has shape \(1,\)"),
        ("JudgesWithATruth", "judge returned bool"),
        ("ProjectsWeights", "project returned ndarray"),
        ("ScalesTooMuch", r"the scale of project has shape \(7,\)"),
        ("EmptyInterval", "its bounds are"),
    ],
)
def test_mistakes_in_a_streaming_constraint_are_told_as_the_users(bring_streaming, name, message):
    """A broken constraint of the user's is a usage error that names it, never an internal error."""
    with pytest.raises(UsageError, match=message) as caught:
        bring_streaming(name)
    assert f"users_own_pkg.streaming:{name} does not work" in str(caught.value)


def test_a_callable_that_leaves_the_program_passes_no_gate():
    """``sys.exit(0)`` inside a constraint must not become the exit code of the audit."""

    def leaves(w):
        raise SystemExit(0)

    with pytest.raises(UnreadableError, match="SystemExit"):
        CallableConstraint(leaves, "own").apply(np.ones(3))


KERAS = """
class Tensor:
    def __init__(self, values):
        self.values = values
    def __array__(self, dtype=None, copy=None):
        return self.values

class ops:
    convert_to_tensor = Tensor

class constraints:
    class Constraint:
        pass

class Halve(constraints.Constraint):
    def __call__(self, w):
        return Tensor(w.values / 2)
"""


def test_a_keras_constraint_is_given_a_tensor_of_its_backend(tmp_path, monkeypatch):
    """Keras' PyTorch backend cannot multiply a NumPy array with one of its own tensors."""
    (tmp_path / "keras.py").write_text(KERAS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    try:
        constraint = import_custom("keras:Halve", {}, {"keras"})
        assert isinstance(constraint, CallableConstraint)
        assert constraint.apply(np.array([2.0, 4.0])).tolist() == [1.0, 2.0]
    finally:
        sys.modules.pop("keras", None)
