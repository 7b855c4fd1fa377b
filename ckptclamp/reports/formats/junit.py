"""JUnit XML: a testcase for every tensor and rule, the ones that pass too.

A result that was not evaluated is `skipped`, with its reason. CI systems show a skipped test in
green, so one more testcase, ``audit passes``, stands for the gate: it fails whenever the exit code
is not 0. Violations that are only warnings pass, as they do in the gate, and say so in their output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from ckptclamp.auditing.results import AuditReport, Verdict
from ckptclamp.errors import ExitCode, printable
from ckptclamp.reports.findings import Finding, Level, Report, findings, subject
from ckptclamp.reports.wording import (
    file_path,
    sentence,
    summary_line,
    tensor_name,
    verdict_sentence,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptclamp.auditing.results import Result
    from ckptclamp.reports import RenderOptions

_GATE = "audit passes"


def render(report: Report, options: RenderOptions) -> str:
    """Return the XML; options do not change it, but for what paths are relative to."""
    audit = subject(report)
    found = findings(report, show_suppressed=True)
    listed = {id(finding.result): finding for finding in found if finding.result is not None}
    suites = ET.Element("testsuites", name="ckptclamp")
    suite = ET.SubElement(suites, "testsuite", name=file_path(audit.checkpoint.path))
    suite.append(_properties(audit, summary_line(audit, report.exit_code)))
    for result in audit.results:
        case = _case(suite, classname=printable(result.rule), name=printable(result.tensor))
        finding = listed.get(id(result))
        if finding is not None:
            _report(case, result, finding, options, strict=audit.strict)
    _gate(suite, report, [finding for finding in found if finding.result is None])
    _count(suites, suite, audit.seconds)
    ET.indent(suites)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(suites, encoding="unicode")}\n'


def _case(suite: ET.Element, classname: str, name: str) -> ET.Element:
    return ET.SubElement(suite, "testcase", classname=classname, name=name, time="0")


def _properties(audit: AuditReport, census: str) -> ET.Element:
    properties = ET.Element("properties")
    texts = {
        "ckptclamp": audit.tool_version,
        "census": census,
        "format": audit.checkpoint.format,
        "spec": audit.spec_path,
        "spec sha256": audit.spec_sha256,
        **{f"sha256 of {file.path}": file.sha256 for file in audit.checkpoint.files},
    }
    for name, text in texts.items():
        if text:
            ET.SubElement(properties, "property", name=printable(name), value=sentence(text))
    return properties


def _report(
    case: ET.Element, result: Result, finding: Finding, options: RenderOptions, *, strict: bool
) -> None:
    if finding.place.line is not None:
        case.set("file", finding.place.relative_to(options.base, options.start))
        case.set("line", str(finding.place.line))
    if result.suppressed is not None or result.verdict is Verdict.NOT_EVALUATED:
        ET.SubElement(case, "skipped", message=finding.message)
    elif finding.level is Level.ERROR or strict:
        kind = printable(result.constraint)
        failure = ET.SubElement(case, "failure", message=finding.message, type=kind)
        failure.text = f"{tensor_name(result)}\n{finding.place}" + _help(finding)
    else:
        ET.SubElement(case, "system-out").text = _long(finding)


def _long(finding: Finding) -> str:
    return f"{finding.level}[{finding.code}]: {finding.sentence}{_help(finding)}"


def _help(finding: Finding) -> str:
    return f"\nhelp: {finding.help}" if finding.help else ""


def _gate(suite: ET.Element, report: Report, others: Sequence[Finding]) -> None:
    """The one testcase that is red whenever the exit code is not 0; it tells `others` too."""
    audit = subject(report)
    case = _case(suite, classname="ckptclamp", name=_GATE)
    text = "\n".join(map(_long, others))
    if report.exit_code is ExitCode.OK:
        if text:
            ET.SubElement(case, "system-out").text = text
        return
    red = "failure" if report.exit_code is ExitCode.VIOLATIONS else "error"
    message = f"{verdict_sentence(audit)}: {summary_line(audit, report.exit_code)}"
    ET.SubElement(case, red, message=message, type=f"exit {int(report.exit_code)}").text = text


def _count(suites: ET.Element, suite: ET.Element, seconds: float) -> None:
    counts = {
        "tests": len(suite.findall("testcase")),
        "failures": len(suite.findall("testcase/failure")),
        "errors": len(suite.findall("testcase/error")),
        "skipped": len(suite.findall("testcase/skipped")),
    }
    for element in (suites, suite):
        for name, count in counts.items():
            element.set(name, str(count))
        element.set("time", f"{seconds:.3f}")
