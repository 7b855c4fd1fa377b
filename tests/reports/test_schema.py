"""The published schema says what the JSON report holds, and no more than it keeps."""

import dataclasses
import json

import pytest
from click.testing import CliRunner

from ckptclamp.auditing import results
from ckptclamp.cli import cli
from ckptclamp.engine.histogram import Histogram
from ckptclamp.errors import Notice
from ckptclamp.plan import UnmatchedRule
from ckptclamp.reports import RenderOptions
from ckptclamp.reports.formats.json import SCHEMA, render
from tests.reports import samples


def schema(name):
    """A published schema, as the program prints it."""
    printed = CliRunner().invoke(cli, ["schema", name])
    assert printed.exit_code == 0
    return json.loads(printed.stdout)


DOCUMENT = schema("report")
TYPES = {
    "audit": results.AuditReport,
    "apply": results.ApplyReport,
    "census": results.Summary,
    "change": results.TensorChange,
    "checkpoint": results.CheckpointSummary,
    "file": results.FileDigest,
    "histogram": Histogram,
    "notice": Notice,
    "result": results.Result,
    "suppressed": results.Suppressed,
    "unit": results.WorstUnit,
    "unmatched": UnmatchedRule,
}


@pytest.mark.parametrize("name", TYPES)
def test_the_schema_names_every_field(name):
    """A field that is added to a report must be published in the same change."""
    fields = {field.name for field in dataclasses.fields(TYPES[name])}
    assert set(DOCUMENT["$defs"][name]["properties"]) == fields


def test_every_property_is_explained():
    """A consumer learns from the schema alone what a field means, and in which unit."""
    for name, definition in DOCUMENT["$defs"].items():
        assert definition["description"], name
        for key, value in definition.get("properties", {}).items():
            assert value["description"], (name, key)


def test_the_schema_names_the_version_that_is_written():
    """Schema and writer move together."""
    assert DOCUMENT["properties"]["schema"] == {"const": SCHEMA}


@pytest.mark.parametrize("name", samples.REPORTS)
def test_reports_are_valid(name):
    """An independent validator agrees."""
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(DOCUMENT)
    validator.check_schema(DOCUMENT)
    validator.validate(json.loads(render(samples.REPORTS[name], RenderOptions())))


@pytest.mark.parametrize(
    ("change", "value"), [("verdict", "fine"), ("units", -1), ("tolerance", "tiny"), ("bound", [1])]
)
def test_wrong_values_are_invalid(change, value):
    """A schema that allows anything would be no schema."""
    jsonschema = pytest.importorskip("jsonschema")
    document = json.loads(render(samples.VIOLATIONS, RenderOptions()))
    document["report"]["results"][0][change] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(DOCUMENT).validate(document)
