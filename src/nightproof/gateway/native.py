"""The native protocol: give a reply its JSON form, by joining bytes that are JSON already."""

from __future__ import annotations

from typing import Any

import orjson

from nightproof.base.values import ItemReply, Reply
from nightproof.gateway.problems import PROBLEM_TYPE, Headers, problem_body, retry_headers, status_of

_JSON = b"application/json"


def encode(reply: Reply, *, public_url: str) -> tuple[int, bytes, Headers]:
    """Return status, body and the headers that this protocol adds."""
    if reply.ending in ("answered", "degraded"):
        if reply.many:
            return 200, _list_body(reply), [(b"content-type", _JSON), *_degraded_header(reply)]
        return 200, _single_body(reply), [(b"content-type", _JSON), *_degraded_header(reply)]
    status = status_of(reply)
    body = problem_body(reply, status=status, public_url=public_url)
    if reply.many and reply.items:
        body = b"%b,%b}" % (body[:-1], b'"items":[' + b",".join(map(_item, reply.items)) + b"]")
    return status, body, [(b"content-type", PROBLEM_TYPE), *retry_headers(reply, status)]


def _single_body(reply: Reply) -> bytes:
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
