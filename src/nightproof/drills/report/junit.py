"""The report as JUnit XML, for the page of a CI server: a suite an item of the checklist, a case a drill."""

from __future__ import annotations

from xml.etree import ElementTree

from nightproof.drills.observed import Result
from nightproof.drills.report.report import BAD, Report


def as_junit(report: Report) -> bytes:
    """Write it."""
    counts = report.counts()
    root = ElementTree.Element(
        "testsuites",
        name=f"nightproof drill {report.declared.service}",
        tests=str(len(report.results)),
        failures=str(counts["fell short"]),
        errors=str(counts["not restored"]),
        skipped=str(counts["not applicable"] + counts["could not run"]),
        time=str(report.took_s),
    )
    for key, words, results in report.groups():
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=words,
            tests=str(len(results)),
            failures=str(sum(one.word == "fell short" for one in results)),
            errors=str(sum(one.word == "not restored" for one in results)),
            skipped=str(sum(not one.verdicts for one in results)),
            time=str(round(sum(one.took_s for one in results), 1)),
            timestamp=report.began[:19],
        )
        for one in results:
            _add(suite, key, one)
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _add(suite: ElementTree.Element, key: str, result: Result) -> None:
    case = ElementTree.SubElement(
        suite, "testcase", classname=f"drill.{key}", name=result.name, time=str(result.took_s)
    )
    text = "\n".join(
        f"{one.aspect}: {one.word}\n  promised: {one.promised}\n  seen: {one.seen}" for one in result.verdicts
    )
    if result.word in BAD:
        kind = "failure" if result.word == "fell short" else "error"
        ElementTree.SubElement(
            case, kind, message=_printable(result.why), type=result.word
        ).text = _printable(text)
    elif not result.verdicts:
        ElementTree.SubElement(case, "skipped", message=_printable(f"{result.word}: {result.why}"))
    else:
        ElementTree.SubElement(case, "system-out").text = _printable(text)


def _printable(text: str) -> str:
    """Leave out what XML cannot hold."""
    return "".join(sign for sign in text if sign in "\n\t" or (sign >= " " and sign not in "\ufffe\uffff"))
