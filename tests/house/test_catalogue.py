"""The catalogue of failures is complete: each mode has its page, alert, drill and status; none is made up elsewhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from nightproof.base.alerting import alert_share
from nightproof.base.failure import Failure
from nightproof.base.failures import CATALOGUE
from nightproof.present import ASKED
from nightproof.steer.oncall import REPORTABLE
from nightproof.watch.alerts.rules import Promise, rules_of
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


TOLD_WITHOUT_A_SERVER = {
    "audit_rolled_back": "nothing starts on such a log: exit code 78, and the heartbeat is missed",
    "vault_locked": "nothing starts without the key: exit code 78",
}
TOLD_TO_WHOEVER_ASKED = {
    "shutting_down": "it is meant to be so",
    "idempotency_conflict": "the caller has the answer; it is a fault of his program",
    "caller_gone": "nobody is there to be told, and nothing is wrong with the service",
    "promotion_refused": "the operator who asked has the answer, and nothing was changed",
}
JUDGED_BY_OBJECTIVES = {"availability_burning", "latency_burning"}
ABOUT_TELLING = {"delivery_failing", "watch_blind"}


def test_each_failure_can_alert_or_it_is_said_why_nobody_is_to_be_told():
    """By how requests end, by an objective, by what a room answers, by what a verb finds, or by telling itself."""
    by_endings = {failure.code for failure in FAILURES if alert_share(failure) is not None}
    by_rooms = {failure for failures in ASKED.values() for failure in failures}

    raised = by_endings | by_rooms | REPORTABLE | JUDGED_BY_OBJECTIVES | ABOUT_TELLING
    left_out = TOLD_WITHOUT_A_SERVER.keys() | TOLD_TO_WHOEVER_ASKED.keys()

    assert raised | left_out == set(CATALOGUE)
    assert not raised & left_out
    assert {
        failure.code for failure in FAILURES if failure.severity == "none"
    } == TOLD_TO_WHOEVER_ASKED.keys()


def test_what_can_be_raised_has_a_rule_for_the_server_and_for_each_service():
    rules = rules_of([Promise(service="loans", availability=0.99, latency_p99_ms=100.0)])

    ruled = {
        service: {rule.failure for rule in rules if rule.service == service} for service in ("", "loans")
    }

    told = set(CATALOGUE) - TOLD_TO_WHOEVER_ASKED.keys()
    assert ruled == {"": told - JUDGED_BY_OBJECTIVES, "loans": told}


def test_every_condition_that_a_room_makes_is_one_that_it_is_asked_for():
    """Else an answer that could not be got would leave its alert as if all were well."""
    made = {
        text
        for path in sorted(SOURCE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Condition")
        for keyword in node.keywords
        if keyword.arg == "failure"
        for text in _texts(keyword.value)
    }
    asked = {failure for failures in ASKED.values() for failure in failures}
    by_name = {"release_rolled_back", "canary_worse", "canary_undecided", *ASKED["happened"]}

    assert made - ABOUT_TELLING == asked - by_name
