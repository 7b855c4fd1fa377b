"""The Python API: every public name is documented by an example that runs, and typed."""

from __future__ import annotations

import doctest
import inspect
import json
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import ckptclamp
from ckptclamp.auditing.results import AuditReport
from ckptclamp.auditing.showing import Shown
from ckptclamp.checkpoints.array import StoredArray
from ckptclamp.errors import UnreadableError, UsageError
from ckptclamp.pytest_plugin import Gate, Options, assert_conforms
from tests.reports import samples

SPEC = """\
version: 1
rules:
  - {id: bounded, tensors: dense.kernel, constraint: MaxNorm, max_value: 4, axis: 0}
"""

FUNCTIONS = [
    name
    for name in ckptclamp.__all__
    if inspect.isfunction(getattr(ckptclamp, name)) and not name.startswith("_")
]
DOCUMENTED = [ckptclamp, *(getattr(ckptclamp, name) for name in FUNCTIONS), Shown, StoredArray]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder that the examples are about."""
    monkeypatch.chdir(tmp_path)
    kernel = np.full((4, 3), 3, np.float32)
    save_file({"dense.kernel": kernel, "dense.bias": np.ones(3, np.float32)}, "model.safetensors")
    (tmp_path / "constraints.yaml").write_text(SPEC)
    return tmp_path


@pytest.mark.parametrize("documented", DOCUMENTED, ids=lambda thing: thing.__name__)
@pytest.mark.usefixtures("folder")
def test_every_example_runs(documented):
    """A reader copies an example and gets what stands below it."""
    finder = doctest.DocTestFinder(recurse=inspect.isclass(documented))
    found = [test for test in finder.find(documented, globs={}) if test.examples]
    assert found
    for test in found:
        assert doctest.DocTestRunner().run(test).failed == 0


def test_the_functions_are_those_of_the_commands():
    """What the command line does can be done from Python."""
    assert set(FUNCTIONS) == {
        *("apply", "attest", "audit", "baseline", "diff", "explain", "init", "inspect"),
        *("load_spec", "open_checkpoint", "render", "verify"),
    }


def test_nothing_heavy_is_imported_before_it_is_used():
    """`import ckptclamp` costs nothing."""
    code = "import ckptclamp, sys; print([m for m in ('numpy', 'h5py', 're2') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_typed(name):
    """An editor knows what goes in and what comes out."""
    signature = inspect.signature(getattr(ckptclamp, name))
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(p.annotation is not p.empty for p in signature.parameters.values())


def test_a_report_answers_without_its_format():
    """Passed, and what violates, are one word each."""
    assert samples.CLEAN.passed
    assert not samples.MIXED.passed
    assert [r.verdict for r in samples.MIXED.violations] == ["violation"] * 3
    assert samples.APPLIED.passed
    assert samples.APPLIED.violations == ()
    assert samples.DRY_RUN.violations == samples.DRY_RUN.before.violations


def test_a_repr_is_a_line():
    """A prompt or a traceback is not flooded by a model of two hundred tensors."""
    report = samples.many(200)
    for shown in (report, samples.APPLIED, report.results[0]):
        assert len(repr(shown)) < 200
        assert "\n" not in repr(shown)
    assert "200 violations" in repr(report)


def test_a_notebook_shows_what_is_wrong_and_no_markup_of_a_file():
    """Names are text in a page, whatever they are."""
    hostile = replace(samples.VIOLATING, label="<script>alert(1)</script>")
    page = replace(samples.CLEAN, results=(hostile, samples.PASSING))._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<tr>") == 2
    flood = samples.many(1000)._repr_html_()
    assert flood.count("<tr>") == 51
    assert "950 more" in flood


@pytest.mark.parametrize("name", samples.REPORTS)
def test_a_dict_is_what_the_json_report_holds(name):
    """Programs find the documented keys."""
    report = samples.REPORTS[name]
    assert report.to_dict() == json.loads(ckptclamp.render(report, "json"))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_data_frame_has_a_row_for_each_result(library):
    """Where a library is there, its frames can be sorted and joined."""
    pytest.importorskip(library)
    frame = samples.MIXED.to_dataframe(library)
    assert len(frame) == len(samples.MIXED.results)
    assert list(frame["verdict"]) == [str(r.verdict) for r in samples.MIXED.results]
    codes = [code for code in frame["reason_code"] if isinstance(code, str)]
    assert codes == [r.reason_code for r in samples.MIXED.results if r.reason_code]
    assert codes


def test_a_library_that_is_not_there_is_named(monkeypatch):
    """The message says what to install."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(UsageError, match="pip install pandas"):
        samples.MIXED.to_dataframe()


@pytest.mark.usefixtures("folder")
def test_what_is_written_replaces_nothing_unasked():
    """A function is as careful as the command."""
    ckptclamp.init("model.safetensors", "first.yaml")
    with pytest.raises(UsageError, match="exists already"):
        ckptclamp.init("model.safetensors", "first.yaml")
    with pytest.raises(UsageError, match="would be overwritten"):
        ckptclamp.init("model.safetensors", "model.safetensors", force=True)
    report = ckptclamp.audit("model.safetensors", "constraints.yaml")
    with pytest.raises(UsageError):
        ckptclamp.baseline(report, "model.safetensors", write=True)
    assert isinstance(report, AuditReport)


INDICES = [
    ...,
    slice(None),
    3,
    -1,
    (slice(1, 3), slice(None, None, 2)),
    (slice(None, None, -1),),
    (slice(3, 0, -2), ..., 1),
    (..., slice(1, 2)),
    (0, 1, 2),
    slice(2, 2),
    (slice(None), np.int64(1)),
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_indexing_is_numpys(tmp_path, index):
    """Whatever basic index: the same elements in the same shape."""
    whole = np.arange(60, dtype=np.int32).reshape(5, 3, 4)
    save_file({"w": whole}, tmp_path / "m.safetensors")
    with ckptclamp.open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        stored = checkpoint["w"]
        assert np.array_equal(stored[index], whole[index])
        assert np.shape(stored[index]) == whole[index].shape
        assert np.array_equal(np.asarray(stored), whole)
        assert (stored.shape, stored.ndim, stored.size, len(stored)) == ((5, 3, 4), 3, 60, 5)
        assert stored.dtype == np.int32


def test_a_slice_reads_only_what_it_needs(tmp_path, monkeypatch):
    """Ten rows of a matrix of gigabytes are ten rows."""
    save_file({"w": np.zeros((1000, 100), np.float32)}, tmp_path / "m.safetensors")
    with ckptclamp.open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        source, read = checkpoint.sources[0], []
        plain = type(source).read_into

        def counted(one, buffer, offset):
            read.append(buffer.nbytes)
            return plain(one, buffer, offset)

        monkeypatch.setattr(type(source), "read_into", counted)
        checkpoint["w"][10:20]
        assert sum(read) == 10 * 100 * 4


@pytest.mark.parametrize("index", [5, -6, (0, 0, 0, 0), (..., ...), True, [0, 1], "a", None])
def test_an_index_that_is_none_is_refused(tmp_path, index):
    """A mask or a list would need the whole array; a slip is an `IndexError`."""
    save_file({"w": np.zeros((5, 3, 4), np.int32)}, tmp_path / "m.safetensors")
    with (
        ckptclamp.open_checkpoint(tmp_path / "m.safetensors") as checkpoint,
        pytest.raises(IndexError),
    ):
        checkpoint["w"][index]


@pytest.mark.usefixtures("folder")
def test_a_name_that_is_not_there_gets_a_suggestion():
    """A checkpoint has names, aliases and an order."""
    with ckptclamp.open_checkpoint("model.safetensors") as checkpoint:
        assert "dense.kernel" in checkpoint
        assert "kernel" not in checkpoint
        assert list(checkpoint) == list(checkpoint.tensors)
        assert "2 tensors" in repr(checkpoint)
        with pytest.raises(KeyError, match=r"did you mean 'dense\.kernel'"):
            checkpoint["dense.kernle"]


def test_what_numpy_cannot_hold_is_an_error(tmp_path):
    """Four-bit floats share bytes."""
    header = json.dumps({"w": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with (
        ckptclamp.open_checkpoint(path) as checkpoint,
        pytest.raises(UnreadableError, match="NumPy has no array"),
    ):
        checkpoint["w"][0]


def test_a_misspelt_option_is_no_option(tmp_path):
    """A gate that was to be strict is not made by a slip; a type checker says so, too.

    The ignored errors are those of the type checker: without them it would complain of an ignore.
    """
    with pytest.raises(TypeError, match="strcit"):
        assert_conforms("model.safetensors", strcit=True)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="strcit"):
        Gate(tmp_path).assert_conforms("model.safetensors", strcit=True)  # type: ignore[call-arg]
    assert set(Options.__annotations__) == {field.name for field in fields(ckptclamp.AuditOptions)}


def test_the_fixture_looks_from_the_rootdir(folder, monkeypatch):
    """A test passes wherever pytest is called, and fails with a message that can be read."""
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    gate = Gate(folder)
    assert gate.assert_conforms("model.safetensors", "constraints.yaml", tolerance=0.6).passed
    with pytest.raises(AssertionError) as failed:
        gate.assert_conforms("model.safetensors", Path("constraints.yaml"))
    first, failure, census = str(failed.value).splitlines()
    assert first.endswith("does not conform")
    assert failure.strip().startswith("error[bounded]: dense.kernel: 3 of 3 units violate")
    assert census.endswith("exit 1")


def test_the_message_of_an_assertion_stays_short(tmp_path):
    """Of a hundred failures ten are named."""
    save_file({f"w{i}": np.full(2, 3, np.float32) for i in range(100)}, tmp_path / "m.safetensors")
    rule = {"tensors": "**", "constraint": "MaxNorm", "max_value": 1}
    with pytest.raises(AssertionError) as failed:
        assert_conforms(tmp_path / "m.safetensors", {"version": 1, "rules": [rule]})
    assert len(str(failed.value).splitlines()) == 13
    assert "and 90 more" in str(failed.value)


def test_the_base_of_the_fixture_is_found_from_the_rootdir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base of the same name in the working directory is another base."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    save_file({"w": np.ones((2, 2), np.float32)}, tmp_path / "model.safetensors")
    save_file({"w": np.zeros((2, 2), np.float32)}, tmp_path / "base.safetensors")
    shutil.copy(tmp_path / "model.safetensors", elsewhere / "base.safetensors")
    monkeypatch.chdir(elsewhere)
    rule = {"tensors": "w", "constraint": "Distance", "max_value": 0.1, "axis": 1}
    with pytest.raises(AssertionError, match="2 of 2 units violate"):
        Gate(tmp_path).assert_conforms(
            "model.safetensors", {"version": 1, "rules": [rule]}, base=Path("base.safetensors")
        )
