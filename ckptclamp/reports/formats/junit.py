"""JUnit XML: a suite for each checkpoint, a testcase for every tensor and rule, passes too.

What is red is exactly what fails the gate, each once: a violation is a `failure`; what was not
evaluated, a rule that matched nothing and a checkpoint without a report are an `error`, because CI
systems show what is skipped in green. Warnings pass, as they do in the gate, and say so in their
output; under a strict gate they are failures. What is suppressed is `skipped`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from ckptclamp.auditing.results import AuditReport, Verdict
from ckptclamp.auditing.runs import Failure, answers_of, checkpoint_of, subject
from ckptclamp.errors import printable
from ckptclamp.reports.findings import Finding, Kind, Level, findings
from ckptclamp.reports.headlines import answer_line
from ckptclamp.reports.wording import file_path, sentence, tensor_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptclamp.auditing.results import Result
    from ckptclamp.auditing.runs import Answer, Document, Report
    from ckptclamp.reports import RenderOptions

_OWN = "ckptclamp"
"""The class of testcases that are about no rule."""


def render(report: Document, options: RenderOptions) -> str:
    """Return the XML; options do not change it, but for what paths are relative to."""
    suites = ET.Element("testsuites", name="ckptclamp")
    for answer in answers_of(report):
        _suite(suites, answer, options)
    seconds = sum(float(suite.get("time", "0")) for suite in suites)
    _count(suites, suites.findall("testsuite/testcase"), seconds)
    ET.indent(suites)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(suites, encoding="unicode")}\n'


def _suite(suites: ET.Element, answer: Answer, options: RenderOptions) -> None:
    name = checkpoint_of(answer) or _OWN
    suite = ET.SubElement(suites, "testsuite", name=file_path(name))
    found = findings(answer, show_suppressed=True)
    if isinstance(answer, Failure):
        seconds = 0.0
    else:
        audit = subject(answer)
        seconds = audit.seconds
        suite.append(_properties(audit, answer_line(answer)))
        _results(suite, answer, found, options)
    strict = not isinstance(answer, Failure) and subject(answer).strict
    _others(suite, [finding for finding in found if finding.result is None], options, strict=strict)
    _count(suite, suite.findall("testcase"), seconds)


def _results(
    suite: ET.Element, report: Report, found: Sequence[Finding], options: RenderOptions
) -> None:
    audit = subject(report)
    listed = {id(finding.result): finding for finding in found if finding.result is not None}
    for result in audit.results:
        case = _case(suite, classname=printable(result.rule), name=printable(result.tensor))
        finding = listed.get(id(result))
        if finding is not None:
            _report(case, result, finding, options, strict=audit.strict)


def _others(
    suite: ET.Element, found: Sequence[Finding], options: RenderOptions, *, strict: bool
) -> None:
    """A testcase for each finding about no result that fails the gate; the rest is told beside them."""
    told = []
    for finding in found:
        if finding.level is Level.NOTE or (finding.level is Level.WARNING and not strict):
            told.append(_long(finding))
            continue
        if finding.kind is Kind.UNMATCHED and finding.code != "nothing-evaluated":
            case = _case(suite, classname=finding.code, name="matches a tensor")
        else:
            case = _case(suite, classname=_OWN, name=finding.tensor or finding.code)
        _set_place(case, finding, options)
        red = "failure" if finding.kind is Kind.NOTICE else "error"
        element = ET.SubElement(case, red, message=finding.message, type=finding.code)
        element.text = str(finding.place) + _help(finding)
    if told:
        ET.SubElement(suite, "system-out").text = "\n".join(told)


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
    _set_place(case, finding, options)
    if result.suppressed is not None:
        ET.SubElement(case, "skipped", message=finding.message)
    elif finding.level is Level.ERROR or strict:
        red = "error" if result.verdict is Verdict.NOT_EVALUATED else "failure"
        kind = printable(result.constraint)
        element = ET.SubElement(case, red, message=finding.message, type=kind)
        element.text = f"{tensor_name(result)}\n{finding.place}" + _help(finding)
    else:
        ET.SubElement(case, "system-out").text = _long(finding)


def _set_place(case: ET.Element, finding: Finding, options: RenderOptions) -> None:
    if finding.place.line is not None:
        case.set("file", finding.place.relative_to(options.base, options.start))
        case.set("line", str(finding.place.line))


def _long(finding: Finding) -> str:
    return f"{finding.level}[{finding.code}]: {finding.sentence}{_help(finding)}"


def _help(finding: Finding) -> str:
    return f"\nhelp: {finding.help}" if finding.help else ""


def _count(element: ET.Element, cases: Sequence[ET.Element], seconds: float) -> None:
    counts = {"tests": len(cases)}
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        counts[name] = sum(case.find(tag) is not None for case in cases)
    for name, count in counts.items():
        element.set(name, str(count))
    element.set("time", f"{seconds:.3f}")
