"""Schemathesis against a running server: its own document, its own ideas of good and bad requests."""

from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = {"post": 60, "get": 5}
"""Requests per operation and mode, by method; the whole file takes about 20 s."""


def has_a_deadline_of_its_own(case: Case) -> bool:
    """Say whether the request may rightly end with 504: it asked for less time than an answer takes."""
    if "x-request-timeout-ms" in {name.lower() for name in case.headers or {}}:
        return True
    parameters = case.body.get("parameters") if isinstance(case.body, dict) else None
    return isinstance(parameters, dict) and "timeout" in parameters


def record_schema(case: Case) -> jsonschema_rs.Validator | None:
    """Return the schema of one record, for a request to the native route."""
    raw = case.operation.schema.raw_schema
    service = case.operation.path.removeprefix("/services/").removesuffix("/predict")
    if case.method != "POST" or f"{service}.input" not in raw["components"]["schemas"]:
        return None
    components = {"components": raw["components"]}
    return jsonschema_rs.Draft202012Validator({"$ref": f"#/components/schemas/{service}.input"} | components)


def send_and_check(case: Case) -> None:
    response = case.call()

    if response.status_code == 504 and has_a_deadline_of_its_own(case):
        return
    case.validate_response(response, checks=CHECKS)
    validator = record_schema(case)
    if validator is not None and isinstance(case.body, dict) and response.status_code == 200:
        assert validator.is_valid(case.body), "A record that does not fit the schema got an answer."


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["good", "bad"])
def test_whatever_is_sent_is_answered_as_documented(served_credit: Any, mode: GenerationMode):
    """No 5xx, and status, type, headers and body as `/openapi.json` says; nothing is answered unfit.

    The examples are the same in every run, so that a failure is one in the next run too.
    """
    document = schemathesis.openapi.from_url(f"{served_credit.base_url}/openapi.json")
    document.config.update(headers={"Authorization": f"Bearer {served_credit.key}"})
    operations = [result.ok() for result in document.get_all_operations()]

    assert any(operation.path == f"/services/{served_credit.service}/predict" for operation in operations)
    for operation in operations:
        usual = settings(
            max_examples=EXAMPLES[operation.method],
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        try:
            usual(given(case=operation.as_strategy(generation_mode=mode))(send_and_check))()
        except Unsatisfiable:
            # A bad request needs something in it that can be bad, and most GETs have nothing.
            assert (mode, operation.method) == (GenerationMode.NEGATIVE, "get")
