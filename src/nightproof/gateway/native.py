"""The native protocol: give a reply its JSON form, by joining bytes that are JSON already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from nightproof.base.values import ItemReply, Reply
from nightproof.gateway.problems import PROBLEM_TYPE, Headers, problem_body, retry_headers, status_of
from nightproof.watch.telemetry import Context

_JSON = b"application/json"


def encode(reply: Reply, *, public_url: str) -> tuple[int, bytes, Headers]:
    """Return status, body and the headers that this protocol adds."""
    if reply.ending in ("answered", "degraded"):
        if reply.many:
            return 200, _list_body(reply), [(b"content-type", _JSON), *_degraded_header(reply)]
        return 200, single_body(reply), [(b"content-type", _JSON), *_degraded_header(reply)]
    status = status_of(reply)
    body = problem_body(reply, status=status, public_url=public_url)
    if reply.many and reply.items:
        body = b"%b,%b}" % (body[:-1], b'"items":[' + b",".join(map(_item, reply.items)) + b"]")
    return status, body, [(b"content-type", PROBLEM_TYPE), *retry_headers(reply, status)]


def is_plain(reply: Reply, context: Context | None) -> bool:
    """Say whether the reply is the usual one: a record's answer, given for the first time, by the model itself."""
    return (
        reply.ending == "answered"
        and not reply.many
        and not reply.replayed
        and (context is None or not context.state)
    )


def plain_fields(reply: Reply, context: Context | None) -> bytes:
    """Return the header fields of a plain reply, as they are sent."""
    return _PLAIN_FIELDS % (
        reply.id.encode(),
        traceparent(reply.id, context),
        server_timing(reply.stages_us),
    )


_PLAIN_FIELDS = (
    b"content-type: application/json\r\nx-request-id: %b\r\ntraceparent: %b\r\nserver-timing: %b\r\n"
    b"cache-control: no-store\r\n"
)


def traceparent(request_id: str, context: Context | None) -> bytes:
    """Return the caller's trace with our part of it, or the request's own id as one: 32 hex digits either way."""
    if context is None:
        return f"00-{request_id.replace('-', '0')}-{request_id[-16:]}-01".encode()
    return f"00-{context.trace_id}-{request_id[-16:]}-{'01' if context.sampled else '00'}".encode()


def server_timing(stages_us: Sequence[tuple[str, int]]) -> bytes:
    """Write each stage's own time in milliseconds (W3C Server-Timing)."""
    names = tuple([stage for stage, _ in stages_us])
    form = _TIMING_FORMS.get(names)
    if form is None:
        # Stages come in few orders: one for each way that a request can end.
        form = _TIMING_FORMS[names] = ", ".join([f"{name};dur=%.3f" for name in names]).encode()
    return form % tuple([us * 0.001 for _, us in stages_us])


_TIMING_FORMS: dict[tuple[str, ...], bytes] = {}


def single_body(reply: Reply) -> bytes:
    """Return the body of a record's answer."""
    item = reply.items[0]
    degraded = b"null"
    if item.degraded is not None:
        degraded = orjson.dumps({"failure": item.degraded.failure, "by": item.degraded.by})
    return b'{"id":"%b","service":"%b","release":"%b","output":%b,"degraded":%b}' % (
        reply.id.encode(),
        reply.service.encode(),
        reply.release.encode(),
        bytes(item.output),
        degraded,
    )


def _list_body(reply: Reply) -> bytes:
    return b'{"id":"%b","service":"%b","release":"%b","items":[%b]}' % (
        reply.id.encode(),
        reply.service.encode(),
        reply.release.encode(),
        b",".join(map(_item, reply.items)),
    )


def _item(item: ItemReply) -> bytes:
    if item.failure:
        told: dict[str, Any] = {"failure": item.failure}
        if item.detail:
            told["detail"] = item.detail
        told["errors"] = [{"pointer": error.pointer, "detail": error.detail} for error in item.errors]
        return orjson.dumps(told)
    degraded = b"null"
    if item.degraded is not None:
        degraded = orjson.dumps({"failure": item.degraded.failure, "by": item.degraded.by})
    return b'{"output":%b,"degraded":%b}' % (bytes(item.output), degraded)


def _degraded_header(reply: Reply) -> Headers:
    for item in reply.items:
        if item.degraded is not None:
            return [(b"nightproof-degraded", f"{item.degraded.failure}; by={item.degraded.by}".encode())]
    return []
