"""How patterns match, shown by letting them match."""

from __future__ import annotations

import inspect

from _reference.markdown import heading, prose, table
from ckptclamp.errors import UsageError
from ckptclamp.spec import patterns
from ckptclamp.spec.schema import json_schema

NAMES = [
    "dense/kernel",
    "head/dense/kernel",
    "model.layers.0.mlp.weight",
    "model.layers.10.mlp.weight",
    "lm_head.weight",
]
"""Tensors as Keras and as PyTorch name them."""

TRIED = [
    ["**"],
    ["**/kernel"],
    ["*/kernel"],
    ["**.weight"],
    ["model.layers.*.mlp.weight"],
    ["*.weight"],
    ["**/kernel", "!head/**"],
    ["**/{kernel,bias}"],
    [r"re:model\.layers\.\d\..*"],
    ["lm_head.weight"],
]


def page() -> str:
    """What the program says of patterns, and what it makes of some."""
    said = json_schema()["$defs"]["RuleForm"]["properties"]["tensors"]["description"]
    rows = ([" ".join(f"`{p}`" for p in tried), _matched(tried)] for tried in TRIED)
    said_of_the_code = inspect.cleandoc(patterns.__doc__ or "").split("\n\n")[1:]
    rules = "\n\n".join(text for text in said_of_the_code if "`_" not in text)
    return "\n".join(
        [
            heading(1, "Patterns for tensors"),
            f"{prose(said)}\n",
            "`ckptclamp explain` shows what each rule of a spec matches in a checkpoint, and"
            " `ckptclamp inspect` the names that there are. Quote patterns on the command line:"
            " a shell expands `*` itself.\n",
            heading(2, "Examples", "pattern-examples"),
            "What the program matches of these names: "
            + ", ".join(f"`{name}`" for name in NAMES)
            + ".\n",
            table(["`tensors`", "matches"], rows),
            heading(2, "In detail", "pattern-rules"),
            prose(rules) + "\n",
        ]
    )


def _matched(tried: list[str]) -> str:
    try:
        matcher = patterns.TensorPatterns([tried])
    except UsageError as error:
        return f"refused: {prose(str(error))}"
    found = [name for name in NAMES if matcher.matching([name])]
    return "all of them" if found == NAMES else ", ".join(f"`{name}`" for name in found) or "none"
