"""Whatever is wrong with the input: its own exit code, one clear line, never a traceback."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ckptclamp import audit
from ckptclamp.errors import UsageError

PROGRAM = Path(sys.executable).with_name("ckptclamp")

MODEL = {
    "encoder/kernel": np.full((4, 3), 0.1, np.float32),
    "encoder/bias": np.zeros(3, np.float32),
}
RULE = (
    "version: 1\nrules:\n  - {tensors: '**/kernel', constraint: MaxNorm, max_value: 2, axis: 0}\n"
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(MODEL, path)
    return path


def one_line(answer, code: int, *words: str) -> None:
    """The answer is `code` and one line on stderr with every one of `words`."""
    assert answer.returncode == code, answer.stderr
    lines = answer.stderr.strip().splitlines()
    assert len(lines) == 1, answer.stderr
    assert "Traceback" not in answer.stderr
    for word in words:
        assert word in lines[0]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_missing_file_is_named(run, tmp_path):
    """A checkpoint that is not there could not be read: 3."""
    one_line(run("audit", tmp_path / "gone.h5"), 3, "gone.h5", "No such file")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.h5", b"", ["empty"]),
        ("garbage.h5", b"\x13\x37" * 600, ["garbage.h5"]),
        ("text.safetensors", b"hello, this is not a checkpoint\n", ["text.safetensors"]),
        (
            "pointer.safetensors",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
            ["LFS"],
        ),
        ("model.pt", b"PK\x03\x04" + b"\0" * 60, ["model.pt"]),
        ("zeros.keras", b"\0" * 4096, ["zeros.keras"]),
    ],
)
def test_what_is_no_checkpoint_is_named(run, tmp_path, name, content, words):
    """Bytes of no known format are refused in one line that names the file."""
    one_line(run("audit", write(tmp_path / name, content)), 3, name, *words)


@pytest.mark.parametrize(
    "arguments",
    [
        ["audit", ""],
        ["apply", "", "-o", "x"],
        ["apply", "model.safetensors", "-o", ""],
        ["inspect", ""],
        ["explain", ""],
        ["init", ""],
        ["init", "model.safetensors", "-o", ""],
        ["diff", "", "model.safetensors"],
        ["diff", "model.safetensors", ""],
        ["baseline", "prune", "", "--baseline", "k.json"],
        ["report", ""],
        ["verify-attestation", ""],
        ["verify-attestation", "x.json", "--directory", ""],
        *(
            ["audit", "model.safetensors", option, ""]
            for option in ("--spec", "--config", "--attest", "--baseline", "--write-baseline")
        ),
    ],
)
def test_an_empty_path_is_not_the_working_directory(run, model, arguments):
    """A variable that a script never set must not have something else audited, and pass."""
    done = run(*arguments, cwd=model.parent)
    one_line(done, 2, "empty path")
    assert done.stdout == ""
    assert list(model.parent.iterdir()) == [model]


def test_an_empty_path_names_no_checkpoint_in_python_either(model, monkeypatch):
    """As on the command line."""
    monkeypatch.chdir(model.parent)
    with pytest.raises(UsageError, match="empty path"):
        audit("", {"version": 1, "rules": []})


@pytest.mark.parametrize("option", ["--memory", "--header-limit", "--unpacked-limit"])
@pytest.mark.parametrize("value", ["inf", "1e400", "nan", "-5", "0", "0.5", "-1GiB", "much"])
def test_a_size_is_a_number_of_bytes(run, model, option, value):
    """Neither infinity nor less than one byte is a budget, and none of them is a traceback."""
    one_line(run("audit", model, option, value), 2, option, "is no size")


@pytest.mark.parametrize("value", ['"inf"', "-5", "0"])
def test_a_size_in_the_settings_is_one_too(run, model, value):
    """A number in TOML has the same limits as text."""
    (model.parent / "ckptclamp.toml").write_text(f"memory = {value}\n")
    one_line(run("audit", model, cwd=model.parent), 2, "--memory", "is no size")


def test_directory_that_is_no_checkpoint(run, tmp_path):
    """A folder without a checkpoint in it is not one."""
    one_line(run("audit", tmp_path), 3, tmp_path.name)


def test_truncation_at_any_byte_is_told(run, model, tmp_path):
    """No prefix of a safetensors file is a checkpoint."""
    whole = model.read_bytes()
    for length in [1, 7, 8, 9, 40, len(whole) // 2, len(whole) - 1]:
        cut = write(tmp_path / f"cut{length}.safetensors", whole[:length])
        one_line(run("audit", cut, "--non-neg", "--tensors", "**"), 3, cut.name)


def test_unknown_dtype_is_not_evaluated(run, tmp_path):
    """A governed tensor of a dtype that nobody knows makes the audit incomplete."""
    header = json.dumps({"w": {"dtype": "F3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    path = write(tmp_path / "odd.safetensors", struct.pack("<Q", len(header)) + header + b"\0\0")
    answer = run("audit", path, "--non-neg", "--tensors", "w")
    assert answer.returncode == 3
    assert "F3" in answer.stdout + answer.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rules: [", [":1:"]),
        ("version: 1\nrulez: []\n", [":2:1", "rulez", "rules"]),
        (
            "version: 1\nrules:\n  - {tensors: '*', constraint: MaxNrm}\n",
            [":3:", "MaxNrm", "MaxNorm"],
        ),
        (
            "version: 1\nrules:\n  - {tensors: '*', constraint: MaxNorm, max_value: -1}\n",
            [":3:", "-1"],
        ),
        (
            "version: 1\nrules:\n  - {tensors: '*', constraint: MinMaxNorm, min_value: 2, max_value: 1}\n",
            [":3:", "2"],
        ),
        ("version: 1\nversion: 1\nrules: []\n", [":2:1", "version"]),
    ],
)
def test_bad_spec_is_placed(run, model, tmp_path, text, words):
    """A spec that cannot be understood is exit 2 with file, line and column."""
    spec = tmp_path / "constraints.yaml"
    spec.write_text(text)
    one_line(run("audit", model, "--spec", spec), 2, "constraints.yaml", *words)


def test_missing_spec(run, model, tmp_path):
    """A spec that is not there is a usage error."""
    one_line(run("audit", model, "--spec", tmp_path / "none.yaml"), 2, "none.yaml")


@pytest.mark.parametrize("option", ["--axis", "--unit-axis"])
def test_axes_of_nothing_are_refused(run, model, option):
    """Without norms there are no units; an option that does nothing would be taken for one that did."""
    done = run("inspect", model, option, "0")
    assert done.returncode == 2
    assert "--norms" in done.stderr
    assert run("inspect", model, option, "0", "--norms").returncode == 0


def test_axis_out_of_range_names_the_tensor(run, model):
    """An axis that the tensor does not have is the spec's fault, and says which tensor."""
    answer = run("audit", model, "--max-norm", 1, "--axis", 2, "--tensors", "encoder/kernel")
    one_line(answer, 2, "encoder/kernel", "2")


def test_glob_without_a_match_fails(run, model):
    """A rule that matches nothing never passes."""
    answer = run("audit", model, "--max-norm", 1, "--axis", 0, "--tensors", "decoder/**")
    assert answer.returncode == 4
    assert "matche" in answer.stdout


def test_nothing_to_audit_fails(run, model):
    """No spec and nothing declared: nothing was evaluated."""
    assert run("audit", model).returncode == 4


def test_inline_rule_needs_tensors(run, model):
    """A constraint without tensors is a usage error."""
    answer = run("audit", model, "--max-norm", 1)
    assert answer.returncode == 2
    assert "--tensors" in answer.stderr


def test_non_finite_is_a_violation(run, tmp_path):
    """NaN compares false, so it must be asked for."""
    for value in (np.nan, np.inf, -np.inf):
        weights = MODEL["encoder/kernel"].copy()
        weights[1, 1] = value
        save_file({"w": weights}, tmp_path / "w.safetensors")
        rules: list[list[object]] = [
            ["--max-norm", 2, "--axis", 0],
            ["--non-neg"],
            ["--clip", -1, 1],
            ["--unit-norm", "--axis", 0],
        ]
        for rule in rules:
            assert run("audit", tmp_path / "w.safetensors", *rule, "--tensors", "w").returncode == 1


def test_unwritable_report_is_told(run, model):
    """A report that cannot be written is a failure, not silence."""
    answer = run("audit", model, "--non-neg", "--tensors", "**", "-o", "json=/nowhere/report.json")
    assert answer.returncode not in (0, 1)
    assert "Traceback" not in answer.stderr


def test_full_device_is_told(run, model):
    """A full disk under stdout does not read as a pass."""
    import subprocess
    import sys

    program = Path(sys.executable).with_name("ckptclamp")
    with Path("/dev/full").open("w") as full:
        answer = subprocess.run(
            [program, "audit", model, "--non-neg", "--tensors", "**"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert answer.returncode == 3
    assert "No space left" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_file_that_may_not_be_read_is_no_wrong_command_line(run, tmp_path):
    """What cannot be opened is exit 3, with one line, whatever kept it from being opened."""
    (tmp_path / "a-directory").mkdir()
    (tmp_path / "a-directory" / "model.h5").symlink_to(tmp_path / "nowhere")
    secret = tmp_path / "secret.h5"
    secret.write_bytes(b"")
    secret.chmod(0)
    for path in (secret, tmp_path / "a-directory" / "model.h5"):
        one_line(run("audit", path), 3, path.name)


def test_a_closed_stdout_keeps_the_answer(model):
    """Started with ``>&-`` there is nowhere to print to, and the exit code is still the answer."""
    command = f'"{PROGRAM}" audit "{model}" --max-norm 0.01 --axis 0 --tensors "**/kernel" >&-'
    answer = subprocess.run(
        ["/bin/sh", "-c", command], capture_output=True, text=True, check=False, timeout=60
    )
    assert (answer.returncode, answer.stderr) == (1, "")


def test_imported_code_that_leaves_is_no_answer(run, model, tmp_path):
    """A custom constraint that calls sys.exit(0) must not make the gate pass."""
    (tmp_path / "leaving.py").write_text(
        "import sys\nclass Leaves:\n    def __call__(self, w):\n        sys.exit(0)\n"
    )
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "version: 1\nrules:\n"
        "  - {tensors: '**/kernel', constraint: {class_name: 'leaving:Leaves', config: {}}}\n"
    )
    answer = run(
        *("audit", model, "--spec", spec, "--allow-import", "leaving"),
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert answer.returncode == 3
    assert "SystemExit" in answer.stdout


def test_options_say_which_of_them_is_wrong(run, model):
    """A wrong axis names the option, and no copy is written to a file called ``-``."""
    rule = ("--max-norm", 2, "--tensors", "**/kernel")
    assert "'--axis'" in run("audit", model, *rule, "--axis", "x").stderr
    refused = run("apply", model, *rule, "--axis", 0, "-o", "-", cwd=model.parent)
    assert refused.returncode == 2
    assert not (model.parent / "-").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["adit", "x"], "did you mean audit?"),
        (["baseline"], "Missing command"),
        (["audit"], "Missing argument"),
        (["audit", "x", "--no-such-option"], "--no-such-option"),
        (["audit", "x", "--memory", "3x"], "--memory"),
    ],
)
def test_a_wrong_command_line_is_one_line_too(run, arguments, word):
    """What is wrong, and where help is, in the form of every other failure."""
    one_line(run(*arguments), 2, "ckptclamp: error: ", word, "--help")


def test_an_empty_command_line_is_no_pass(run):
    """A gate whose arguments got lost shows the help, on stderr, and fails."""
    answer = run()
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.startswith("Usage: ckptclamp")


@pytest.mark.parametrize(
    "command", [["--help"], ["schema"], *(["audit", "m", "-f", name] for name in ("text", "json"))]
)
def test_a_reader_that_is_gone_is_no_error_of_ours(model, command):
    """`ckptclamp … | head` ends as any program does there, without a word on stderr."""
    rule = ["--max-norm", "2", "--axis", "0", "--tensors", "**/kernel"]
    arguments = [str(model) if part == "m" else part for part in command]
    if "audit" in command:
        arguments += rule
    reader, writer = os.pipe()
    os.close(reader)
    try:
        answer = subprocess.run(
            [PROGRAM, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(writer)
    assert (answer.returncode, answer.stderr) == (141, "")
