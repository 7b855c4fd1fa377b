"""Specs that mean to exhaust their reader, to run code, or to pass whatever they are asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.checkpoints.safetensors_files import serialised
from torture.hostile.case import MISUSED, NOTHING, PASSED, VIOLATED, Case, Make

SPEC = "constraints.yaml"
LARGE = {"layer/kernel": np.full((2, 2), 1e6, np.float32)}


def given(text: str | bytes) -> Make:
    """A checkpoint far outside any bound, and a spec of this text."""

    def make(directory: Path) -> Path:
        (directory / SPEC).write_bytes(text.encode() if isinstance(text, str) else text)
        return checkpoint(directory)

    return make


def prepared(prepare: Callable[[Path], object]) -> Make:
    """The same, where the spec is made by `prepare`."""

    def make(directory: Path) -> Path:
        prepare(directory / SPEC)
        return checkpoint(directory)

    return make


def checkpoint(directory: Path) -> Path:
    """The checkpoint."""
    path = directory / "model.safetensors"
    path.write_bytes(serialised(LARGE))
    return path


def rule(text: str) -> Make:
    """A spec of one rule."""
    return given(f"version: 1\nrules:\n  - {{{text}}}\n")


def bomb() -> str:
    """Anchors that would stand for a billion words."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    return "\n".join(lines)


def merges() -> str:
    """Merge keys that would be merged a hundred million times."""
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    return "\n".join(lines)


MAX = "constraint: MaxNorm, max_value: 1, axis: 0"

ROWS: tuple[tuple[str, Make, int, str], ...] = (
    ("sound", rule(f"tensors: '**/kernel', {MAX}"), VIOLATED, "kernel"),
    ("billion laughs", given(bomb()), MISUSED, "alias"),
    ("merge keys", given(merges()), MISUSED, ""),
    ("alias of itself", given("a: &a [*a]\n"), MISUSED, ""),
    ("Python object", given("!!python/object/apply:os.system ['touch executed']\n"), MISUSED, ""),
    ("Python name", given("version: !!python/name:os.system\n"), MISUSED, ""),
    ("unknown tag", given("version: !evil 1\n"), MISUSED, ""),
    ("key twice", given("version: 1\nversion: 1\nrules: []\n"), MISUSED, "twice"),
    ("deep lists", given("[" * 20_000), MISUSED, ""),
    ("deep maps", given("{a: " * 20_000), MISUSED, ""),
    ("deep lines", given("".join(" " * n + "a:\n" for n in range(1500))), MISUSED, ""),
    ("long", given("# " + "x" * (8 << 20)), MISUSED, ""),
    ("nothing", given(""), MISUSED, ""),
    ("NUL", given("version: 1\0\n"), MISUSED, ""),
    ("no UTF-8", given(b"version: \xff\xfe\n"), MISUSED, ""),
    ("UTF-16", given("version: 1\nrules: []\n".encode("utf-16")), MISUSED, ""),
    (
        "lone surrogate",
        given('version: 1\nrules: [{tensors: "\\ud800", constraint: NonNeg}]\n'),
        MISUSED,
        "",
    ),
    ("tabs", given("version: 1\nrules:\n\t- a\n"), MISUSED, ""),
    ("two documents", given("version: 1\nrules: []\n---\nversion: 1\n"), MISUSED, ""),
    ("a list", given("- 1\n"), MISUSED, ""),
    ("a word", given("pass\n"), MISUSED, ""),
    ("version 2", given("version: 2\nrules: []\n"), MISUSED, "version"),
    ("no rules", given("version: 1\nrules: []\n"), NOTHING, ""),
    ("unknown key", given("version: 1\nrulez: []\n"), MISUSED, "rulez"),
    ("rules are a map", given("version: 1\nrules: {a: b}\n"), MISUSED, ""),
    ("no tensors", rule(MAX), MISUSED, "tensors"),
    ("tensors empty", rule(f"tensors: [], {MAX}"), MISUSED, ""),
    ("tensors only excluded", rule(f"tensors: ['!**'], {MAX}"), MISUSED, ""),
    ("tensors a number", rule(f"tensors: 7, {MAX}"), MISUSED, ""),
    ("no match", rule(f"tensors: nothing, {MAX}"), NOTHING, ""),
    ("slow expression", rule(f"tensors: 're:(a+)+(b+)+(c+)+$', {MAX}"), NOTHING, ""),
    ("slower expression", rule(f"tensors: 're:(.*a){{60}}', {MAX}"), NOTHING, ""),
    (
        "nested repeats",
        rule(f"tensors: 're:((((a{{99}}){{99}}){{99}}){{99}})', {MAX}"),
        MISUSED,
        "",
    ),
    ("broken expression", rule(f"tensors: 're:(', {MAX}"), MISUSED, ""),
    ("expression that looks back", rule(f"tensors: 're:(a)\\1', {MAX}"), MISUSED, ""),
    ("deep expression", rule(f"tensors: 're:{'(' * 5000}a{')' * 5000}', {MAX}"), MISUSED, ""),
    ("long pattern", rule(f"tensors: '{'*a' * 4000}', {MAX}"), MISUSED, ""),
    (
        "maximum not a number",
        rule("tensors: '**', constraint: MaxNorm, max_value: .nan, axis: 0"),
        MISUSED,
        "",
    ),
    (
        "maximum infinite",
        rule("tensors: '**', constraint: MaxNorm, max_value: .inf, axis: 0"),
        PASSED,
        "",
    ),
    (
        "maximum that overflows",
        rule("tensors: '**', constraint: MaxNorm, max_value: 1e999, axis: 0"),
        MISUSED,
        "",
    ),
    (
        "maximum octal",
        rule("tensors: '**', constraint: MaxNorm, max_value: 0o7, axis: 0"),
        VIOLATED,
        "",
    ),
    (
        "maximum sexagesimal",
        rule("tensors: '**', constraint: MaxNorm, max_value: 1:30, axis: 0"),
        MISUSED,
        "",
    ),
    (
        "maximum yes",
        rule("tensors: '**', constraint: MaxNorm, max_value: yes, axis: 0"),
        MISUSED,
        "",
    ),
    (
        "maximum of 5000 digits",
        rule(f"tensors: '**', constraint: MaxNorm, max_value: {'9' * 5000}, axis: 0"),
        MISUSED,
        "",
    ),
    ("tolerance infinite", rule(f"tensors: '**', tolerance: .inf, {MAX}"), MISUSED, ""),
    ("tolerance not a number", rule(f"tensors: '**', tolerance: .nan, {MAX}"), MISUSED, ""),
    ("tolerance negative", rule(f"tensors: '**', tolerance: -1, {MAX}"), MISUSED, ""),
    ("axis and unit axis", rule(f"tensors: '**', unit_axis: 0, {MAX}"), MISUSED, ""),
    (
        "axis out of range",
        rule("tensors: '**', constraint: MaxNorm, max_value: 1, axis: 99"),
        MISUSED,
        "",
    ),
    (
        "axis twice",
        rule("tensors: '**', constraint: MaxNorm, max_value: 1, axis: [0, -2]"),
        MISUSED,
        "",
    ),
    ("bounds crossed", rule("tensors: '**', constraint: Clip, low: 2, high: 1"), MISUSED, ""),
    (
        "bounds not numbers",
        rule("tensors: '**', constraint: Clip, low: .nan, high: .nan"),
        MISUSED,
        "",
    ),
    (
        "runs a command",
        rule("tensors: '**', constraint: {class_name: 'os:system', config: {command: x}}"),
        MISUSED,
        "import",
    ),
    (
        "imports what stands beside it",
        rule("tensors: '**', constraint: {class_name: 'evil:Evil', config: {}}"),
        MISUSED,
        "import",
    ),
    (
        "id twice",
        given(
            f"version: 1\nrules:\n  - {{id: a, tensors: '**', {MAX}}}\n  - {{id: a, tensors: '**', {MAX}}}\n"
        ),
        MISUSED,
        "a",
    ),
    ("a directory", prepared(Path.mkdir), MISUSED, ""),
    ("a device without end", prepared(lambda path: path.symlink_to("/dev/zero")), MISUSED, ""),
)

CASES = tuple(
    Case(f"spec-{name.replace(' ', '-')}", make, code, word, SPEC)
    for name, make, code, word in ROWS
)
