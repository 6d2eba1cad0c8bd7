"""The OpenAI protocol: read a chat request, and give replies, chunks and errors its form.

As the official client reads it (`interfaces.md` D.2): `/v1/chat/completions` streamed and not, `/v1/models`, errors
as `{"error": …}`, `x-should-retry`. A service's name is the model; `name@release` asks for one release by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import orjson

from nightproof.base import strictjson
from nightproof.base.clock import utc_us
from nightproof.base.errors import FieldError, Refusal
from nightproof.base.failures import CATALOGUE
from nightproof.base.values import Reply
from nightproof.gateway.problems import Headers, retry_headers, status_of
from nightproof.pipeline.chat_shape import refuse_wrong_format
from nightproof.pipeline.chat_values import ChatAnswer, ChatAsk

PROTOCOL = "openai"
_JSON: Headers = [(b"content-type", b"application/json")]
STREAM_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"x-accel-buffering", b"no"),
]
DONE = b"data: [DONE]\n\n"

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_MOST_MESSAGES = 2_000
_MOST_TOOLS = 128
_PASSED_ON = frozenset(
    {
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "max_tokens",
        "max_completion_tokens",
        "stop",
        "seed",
        "frequency_penalty",
        "presence_penalty",
        "logit_bias",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "reasoning_effort",
        "verbosity",
    }
)
"""Parameters that may be the caller's, where the release lets them."""
_KEPT_HERE = frozenset({"model", "messages", "stream", "stream_options", "user", "n", "metadata", "store"})
_NUMBERS = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "top_k": (0, 1_000_000),
    "min_p": (0.0, 1.0),
    "max_tokens": (1, 10_000_000),
    "max_completion_tokens": (1, 10_000_000),
    "frequency_penalty": (-2.0, 2.0),
    "presence_penalty": (-2.0, 2.0),
    "seed": (-(2**53), 2**53),
}
_MESSAGE_KEYS = frozenset(
    {
        "role",
        "content",
        "name",
        "tool_calls",
        "tool_call_id",
        "refusal",
        "function_call",
        "audio",
        "annotations",
        "source",
    }
)
_PARTS = ("text", "image_url", "refusal", "document", "input_audio", "file")
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
}


# -- what comes in ------------------------------------------------------------------------------


def read_request(body: bytes) -> ChatAsk:
    """Read a body as a chat request. Raises JsonRefused, or Refusal `malformed_request` that names the parameter."""
    asked = strictjson.parse(body)
    if not isinstance(asked, dict):
        raise _wrong("", "is not an object")
    model = asked.get("model")
    if not isinstance(model, str) or not model:
        raise _wrong("/model", "is missing: give the name of the service")
    unknown = [name for name in asked if name not in _PASSED_ON and name not in _KEPT_HERE]
    if unknown:
        raise _wrong(f"/{unknown[0]}", "is no parameter that is known here")
    _refuse_wrong_values(asked)
    messages, has_images = _messages(asked.get("messages"))
    options = asked.get("stream_options") or {}
    service, _, version = model.partition("@")
    return ChatAsk(
        service=service,
        version=version,
        messages=messages,
        extras={name: value for name, value in asked.items() if name in _PASSED_ON and value is not None},
        user=asked.get("user") or "",
        is_streamed=bool(asked.get("stream")),
        wants_usage=bool(options.get("include_usage")),
        has_images=has_images,
    )


def _wrong(pointer: str, detail: str) -> Refusal:
    name = pointer.strip("/").replace("/", ".") or "The request"
    return Refusal(
        f"{name} {detail}.",
        failure="malformed_request",
        hint="See /openapi.json for what is taken.",
        errors=[FieldError(pointer, detail, "shape")],
    )


def _refuse_wrong_values(asked: dict[str, Any]) -> None:
    for name, kind in (
        ("stream", bool),
        ("user", str),
        ("metadata", dict),
        ("store", bool),
        ("stream_options", dict),
    ):
        value = asked.get(name)
        if value is not None and not isinstance(value, kind):
            raise _wrong(f"/{name}", f"is not a {kind.__name__}")
    if asked.get("n") not in (None, 1):
        raise _wrong("/n", "is not 1: one answer is given")
    for name, (low, high) in _NUMBERS.items():
        value = asked.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise _wrong(f"/{name}", f"is not a number from {low:g} to {high:g}")
        if isinstance(low, int) and not isinstance(value, int):
            raise _wrong(f"/{name}", "is not a whole number")
    tools = asked.get("tools")
    if tools is not None:
        _refuse_wrong_tools(tools)
    if (asked_format := asked.get("response_format")) is not None:
        refuse_wrong_format(asked_format)


def _refuse_wrong_tools(tools: Any) -> None:
    if not isinstance(tools, list) or len(tools) > _MOST_TOOLS:
        raise _wrong("/tools", f"is not a list of at most {_MOST_TOOLS}")
    for place, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        if (
            not isinstance(function, dict)
            or not isinstance(function.get("name"), str)
            or not function["name"]
        ):
            raise _wrong(f"/tools/{place}", "is not a function with a name")
        if not isinstance(function.get("parameters", {}), dict):
            raise _wrong(f"/tools/{place}/function/parameters", "is not a JSON schema")


def _messages(given: Any) -> tuple[list[dict[str, Any]], bool]:
    """Return the messages with what is empty or nobody's left out, and whether one holds an image."""
    if not isinstance(given, list) or not given:
        raise _wrong("/messages", "is not a list of messages")
    if len(given) > _MOST_MESSAGES:
        raise _wrong("/messages", f"has more than {_MOST_MESSAGES} messages")
    has_images = False
    taken = []
    for place, message in enumerate(given):
        pointer = f"/messages/{place}"
        if not isinstance(message, dict):
            raise _wrong(pointer, "is not an object")
        role = message.get("role")
        if role not in _ROLES:
            raise _wrong(f"{pointer}/role", f"is none of {', '.join(_ROLES)}")
        unknown = [name for name in message if name not in _MESSAGE_KEYS]
        if unknown:
            raise _wrong(f"{pointer}/{unknown[0]}", "is not known here")
        if message.get("audio") is not None:
            raise _wrong(f"{pointer}/audio", "is not taken")
        has_images |= _read_content(message, pointer)
        taken.append(
            {
                name: value
                for name, value in message.items()
                if value is not None and name not in ("annotations", "audio")
            }
        )
    return taken, has_images


def _read_content(message: dict[str, Any], pointer: str) -> bool:
    """Refuse content of the wrong shape; say whether it holds an image."""
    content = message.get("content")
    calls = message.get("tool_calls")
    if calls is not None and not (isinstance(calls, list) and all(isinstance(one, dict) for one in calls)):
        raise _wrong(f"{pointer}/tool_calls", "is not a list of calls")
    for name in ("name", "tool_call_id", "refusal", "source"):
        if not isinstance(message.get(name), str | None):
            raise _wrong(f"{pointer}/{name}", "is not a text")
    if content is None:
        if message["role"] != "assistant" or not (
            calls or message.get("refusal") or message.get("function_call")
        ):
            raise _wrong(f"{pointer}/content", "is missing")
        return False
    if isinstance(content, str):
        return False
    if not isinstance(content, list):
        raise _wrong(f"{pointer}/content", "is neither a text nor a list of parts")
    has_images = False
    for place, part in enumerate(content):
        here = f"{pointer}/content/{place}"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in _PARTS:
            raise _wrong(here, f"is none of the parts {', '.join(_PARTS)}")
        if kind in ("input_audio", "file"):
            raise _wrong(here, "is audio or a file, which are not taken: send its text as a document part")
        if kind in ("text", "document") and not isinstance(part.get("text"), str):
            raise _wrong(f"{here}/text", "is not a text")
        has_images |= kind == "image_url"
    return has_images


# -- what goes out ------------------------------------------------------------------------------


def encode(reply: Reply, *, approvals: Sequence[str] = ()) -> tuple[int, bytes, Headers]:
    """Return status, body and the headers that this protocol adds, of a reply that leaves whole."""
    if reply.ending not in ("answered", "degraded"):
        return error_of(reply, approvals=approvals)
    answer = answer_of(reply)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": answer.content or None,
        "refusal": answer.refusal or None,
    }
    if answer.tool_calls:
        message["tool_calls"] = answer.tool_calls
    elif message["content"] is None and not answer.refusal:
        message["content"] = ""
    body = orjson.dumps(
        {
            "id": f"chatcmpl-{reply.id}",
            "object": "chat.completion",
            "created": utc_us() // 1_000_000,
            "model": reply.service,
            "choices": [
                {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_of(answer)}
            ],
            "usage": _usage(answer),
            "system_fingerprint": reply.release,
            "nightproof": _told(reply),
        }
    )
    return 200, body, [*_JSON, *degraded_header(reply)]


def answer_of(reply: Reply) -> ChatAnswer:
    """Return the answer that a reply carries."""
    return msgspec.json.decode(reply.items[0].output, type=ChatAnswer)


def finish_of(answer: ChatAnswer) -> str:
    """Return how the answer ended, in the protocol's words."""
    return "tool_calls" if answer.tool_calls and answer.finish_reason == "stop" else answer.finish_reason


def _usage(answer: ChatAnswer) -> dict[str, int]:
    return {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
    }


def _told(reply: Reply) -> dict[str, Any]:
    degraded = reply.items[0].degraded if reply.items else None
    return {
        "id": reply.id,
        "release": reply.release,
        "degraded": None if degraded is None else {"failure": degraded.failure, "by": degraded.by},
    }


def degraded_header(reply: Reply) -> Headers:
    """Return the header that says that a fallback answered, and which."""
    degraded = reply.items[0].degraded if reply.items else None
    if degraded is None:
        return []
    return [(b"nightproof-degraded", f"{degraded.failure}; by={degraded.by}".encode())]


class Chunks:
    """Writes the pieces of one streamed answer."""

    def __init__(self, *, request_id: str, service: str, release: str) -> None:
        head = {
            "id": f"chatcmpl-{request_id}",
            "object": "chat.completion.chunk",
            "created": utc_us() // 1_000_000,
            "model": service,
            "system_fingerprint": release,
        }
        self._head = b"data: " + orjson.dumps(head)[:-1]

    def role(self) -> bytes:
        """Return the first chunk."""
        return self._of({"role": "assistant", "content": ""})

    def text(self, piece: str) -> bytes:
        """Return a chunk of text."""
        return b'%b,"choices":[{"index":0,"delta":{"content":%b},"finish_reason":null}]}\n\n' % (
            self._head,
            orjson.dumps(piece),
        )

    def whole(self, answer: ChatAnswer) -> bytes:
        """Return the chunks of an answer of which nothing has left yet."""
        written = self.role()
        if answer.content:
            written += self.text(answer.content)
        return written

    def end(self, reply: Reply, answer: ChatAnswer, *, wants_usage: bool) -> bytes:
        """Return the last chunks: what was held until the end, how it ended, what it cost, and the end itself."""
        written = b""
        if answer.refusal:
            written += self._of({"refusal": answer.refusal})
        if answer.tool_calls:
            calls = [{"index": place, **call} for place, call in enumerate(answer.tool_calls)]
            written += self._of({"tool_calls": calls})
        written += b'%b,"choices":[{"index":0,"delta":{},"finish_reason":%b}],"nightproof":%b}\n\n' % (
            self._head,
            orjson.dumps(finish_of(answer)),
            orjson.dumps(_told(reply)),
        )
        if wants_usage:
            written += b'%b,"choices":[],"usage":%b}\n\n' % (self._head, orjson.dumps(_usage(answer)))
        return written + DONE

    def _of(self, delta: dict[str, Any]) -> bytes:
        return b'%b,"choices":[{"index":0,"delta":%b,"finish_reason":null}]}\n\n' % (
            self._head,
            orjson.dumps(delta),
        )


def error_of(reply: Reply, *, approvals: Sequence[str] = ()) -> tuple[int, bytes, Headers]:
    """Return a reply without an answer, as an error of the protocol."""
    status = status_of(reply)
    headers = [
        *_JSON,
        (b"x-should-retry", b"true" if is_retryable(reply.failure, status) else b"false"),
        (b"nightproof-failure", reply.failure.encode()),
        *retry_headers(reply, status),
    ]
    if approvals:
        headers.append((b"nightproof-approval", ",".join(approvals).encode()))
    return status, error_body(reply, status, approvals=approvals), headers


def error_event(reply: Reply) -> bytes:
    """Return the error that ends a stream which has begun: the client raises by it."""
    return b"data: " + error_body(reply, status_of(reply)) + b"\n\n"


def error_body(reply: Reply, status: int, *, approvals: Sequence[str] = ()) -> bytes:
    """Return the protocol's error; it never holds the caller's text, nor the upstream's."""
    error: dict[str, Any] = {
        "message": " ".join(
            part for part in (reply.detail or CATALOGUE[reply.failure].title, reply.hint) if part
        ),
        "type": _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error"),
        "param": _param(reply.errors[0].pointer) if reply.errors else None,
        "code": "model_not_found" if reply.failure == "unknown_service" else reply.failure,
        "request_id": reply.id,
    }
    if reply.errors:
        error["errors"] = [{"pointer": one.pointer, "detail": one.detail} for one in reply.errors]
    if approvals:
        error["approvals"] = list(approvals)
    return orjson.dumps({"error": error})


def is_retryable(failure: str, status: int) -> bool:
    """Say whether the same request may succeed later, as the client should act on it."""
    return CATALOGUE[failure].retryable and status not in (400, 401, 403, 404, 413, 422)


def _param(pointer: str) -> str | None:
    """Write a JSON pointer as the protocol names parameters: `messages[0].content`."""
    written = ""
    for part in pointer.split("/")[1:]:
        written += f"[{part}]" if part.isdigit() else f".{part}" if written else part
    return written or None


def models(served: Sequence[tuple[str, str]]) -> bytes:
    """Return the list of models: the chat services that the caller may use, with the release that is live."""
    return orjson.dumps({"object": "list", "data": [model(name, release) for name, release in served]})


def model(name: str, release: str) -> dict[str, Any]:
    """Return one model."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "nightproof", "release": release}
