"""The catalogue of failures is complete: each mode has its page, alert, drill and status; none is made up elsewhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from nightproof.base.failures import CATALOGUE, Failure
from tests.serving import ROOT

SOURCE = ROOT / "src" / "nightproof"
RUNBOOKS = SOURCE / "runbooks"
FAILURES = list(CATALOGUE.values())
# The endings that the design names, step by step, with the status that a caller sees first.
DESIGNED = {
    "malformed_request": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "unknown_service": 404,
    "oversized_request": 413,
    "invalid_input": 422,
    "stale_input": 422,
    "poison_input": 422,
    "injection_suspected": 422,
    "unsupported_media_type": 415,
    "headers_too_large": 431,
    "slow_request": 408,
    "idempotency_conflict": 409,
    "quota_exceeded": 429,
    "overloaded": 503,
    "deadline_exceeded": 504,
    "model_timeout": 504,
    "model_crash": 502,
    "model_out_of_memory": 502,
    "model_error": 502,
    "model_unavailable": 503,
    "invalid_output": 502,
    "unsafe_output": 502,
    "low_confidence": 502,
    "audit_unavailable": 503,
    "audit_outcome_unknown": 503,
    "internal_error": 500,
}


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.code)
def test_a_failure_has_everything_that_belongs_to_it(failure: Failure):
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", failure.code)
    assert failure.title
    assert failure.meaning.endswith(".")
    assert re.fullmatch(r"Nightproof([A-Z][a-z]+)+", failure.alert)
    assert failure.drill, "an experiment that proves it"
    assert all(400 <= status <= 599 for status in failure.statuses)
    page = RUNBOOKS / f"{failure.runbook}.md"
    assert page.is_file(), "a page for the person on call"
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert len(text.split()) > 50, "a page that helps"


def test_alerts_and_pages_belong_to_one_failure_each():
    alerts = [failure.alert for failure in FAILURES]
    pages = {page.stem for page in RUNBOOKS.glob("*.md")}

    assert len(set(alerts)) == len(alerts)
    assert pages == {failure.runbook for failure in FAILURES}


def test_what_the_design_names_is_in_the_catalogue_with_its_status():
    found = {code: CATALOGUE[code].statuses[0] for code in DESIGNED if code in CATALOGUE}

    assert found == DESIGNED
    assert CATALOGUE["idempotency_conflict"].statuses == (409, 422)


def test_what_can_be_shed_is_a_refusal_or_says_when_to_come_again():
    for failure in FAILURES:
        if failure.shed and failure.statuses[0] >= 500:
            assert failure.retryable, failure.code


def _failures_named_in(path: Path) -> list[tuple[int, str]]:
    """Find every failure's name that a module writes as a text: by keyword, or as an error's code."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "failure":
            found += [(node.value.lineno, text) for text in _texts(node.value)]
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            names = {ast.unparse(target).rpartition(".")[2] for target in targets}
            if names & {"failure", "code", "last_failure"} and node.value is not None:
                found += [(node.lineno, text) for text in _texts(node.value)]
    return [(line, text) for line, text in found if text]


def _texts(value: ast.expr) -> list[str]:
    """Return the texts that an expression may come to."""
    if isinstance(value, ast.Constant):
        return [value.value] if isinstance(value.value, str) else []
    if isinstance(value, ast.IfExp):
        return _texts(value.body) + _texts(value.orelse)
    if isinstance(value, ast.BoolOp):
        return [text for part in value.values for text in _texts(part)]
    return []


def test_every_failure_that_the_source_names_is_in_the_catalogue():
    named = {
        (f"{path.relative_to(SOURCE)}:{line}", text)
        for path in sorted(SOURCE.rglob("*.py"))
        for line, text in _failures_named_in(path)
    }

    assert len(named) > 50, "the search finds them"
    assert {(place, text) for place, text in named if text not in CATALOGUE} == set()
