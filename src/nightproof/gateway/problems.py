"""From a failure to HTTP: status, headers and an RFC 9457 body. The only reader of the catalogue's statuses."""

from __future__ import annotations

import math
import random
from typing import Any

import orjson

from nightproof.base.failures import CATALOGUE
from nightproof.base.values import Reply

Headers = list[tuple[bytes, bytes]]
PROBLEM_TYPE = b"application/problem+json"

_SPREAD_S = 2.0


def status_of(reply: Reply) -> int:
    """Return the HTTP status of a reply's failure."""
    return reply.status or CATALOGUE[reply.failure].statuses[0]


def problem_body(reply: Reply, *, status: int, public_url: str = "") -> bytes:
    """Write the problem document. It never holds the caller's values, nor a stack trace."""
    failure = CATALOGUE[reply.failure]
    document: dict[str, Any] = {
        "type": f"{public_url}/problems/{failure.code}",
        "title": failure.title,
        "status": status,
        "detail": reply.detail or failure.meaning,
        "instance": f"urn:nightproof:request:{reply.id}",
        "failure": failure.code,
        "retryable": failure.retryable and status != 422,
        "id": reply.id,
    }
    if reply.hint:
        document["hint"] = reply.hint
    if reply.errors:
        document["errors"] = [{"pointer": error.pointer, "detail": error.detail} for error in reply.errors]
    return orjson.dumps(document)


def retry_headers(reply: Reply, status: int) -> Headers:
    """Return Retry-After where a retry can help, in whole seconds and spread, so that callers do not return as one."""
    headers: Headers = []
    if status in (408, 429, 503) and reply.retry_after_s:
        spread_s = random.uniform(0, _SPREAD_S) if status == 503 else 0.0  # noqa: S311 - not a secret
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(reply.retry_after_s + spread_s))))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


def page_of(failure_code: str) -> dict[str, Any] | None:
    """Describe a failure mode for `/problems/{failure}`; None if there is no such name."""
    failure = CATALOGUE.get(failure_code)
    if failure is None:
        return None
    return {
        "failure": failure.code,
        "title": failure.title,
        "meaning": failure.meaning,
        "statuses": list(failure.statuses),
        "retryable": failure.retryable,
        "alert": failure.alert,
        "runbook": f"/runbooks/{failure.runbook}",
        "drill": failure.drill,
    }
