"""The routes of chat services: `/v1/chat/completions`, `/v1/models`, and their records on the native route.

Turns HTTP into an `Arrival` and replies into the OpenAI protocol's bytes, whole or as server-sent events. Decides
nothing about requests; what may leave of a stream, and when, is the pipeline's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import orjson

from nightproof.base.clock import monotonic_s, utc_us
from nightproof.base.errors import Refusal
from nightproof.base.values import Caller, Reply
from nightproof.gateway import native, openai
from nightproof.gateway.problems import Headers
from nightproof.pipeline.chat import chat
from nightproof.pipeline.chat_typed import predict_by_chat
from nightproof.pipeline.chat_values import ChatAsk
from nightproof.pipeline.house import House
from nightproof.pipeline.serve import Work
from nightproof.pipeline.story import Arrival, Story

if TYPE_CHECKING:
    from nightproof.gateway.app import Call

Send = Callable[[dict[str, Any]], Awaitable[None]]
_CHARSETS = (b"utf-8", b"utf8", b"us-ascii")
_MOST_APPROVALS = 16


class Stream:
    """An answer that leaves in pieces: the pipeline's sink, on one HTTP answer."""

    def __init__(self, send: Send, head: Callable[[], tuple[Headers, openai.Chunks]]) -> None:
        self._send = send
        self._head = head
        self.chunks: openai.Chunks | None = None
        """Writes the pieces; None until the answer has begun."""

    async def open(self) -> None:
        """Send the head and the first chunk."""
        headers, self.chunks = self._head()
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._piece(self.chunks.role())

    async def text(self, piece: str) -> None:
        """Send a piece of text; waits while the caller does not read."""
        if self.chunks is None:
            raise RuntimeError("a piece of a stream was to leave before its head")
        await self._piece(self.chunks.text(piece))

    async def end(self, last: bytes) -> None:
        """Send the last bytes; nothing leaves after them."""
        await self._send({"type": "http.response.body", "body": last, "more_body": False})

    async def _piece(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})


class ChatRoutes:
    """The routes; made by the application, which lends what it does for every route."""

    def __init__(
        self,
        house: House,
        arrival: Callable[..., Arrival],
        run: Callable[..., Awaitable[Reply | None]],
        reply_headers: Callable[[Reply, Arrival], Headers],
        on_refused: Callable[[str, str], None],
    ) -> None:
        self._house = house
        self._arrival = arrival
        self._run = run
        self._reply_headers = reply_headers
        self._on_refused = on_refused
        self.typed: Work = predict_by_chat
        """What answers records of a chat service with typed input and output, on the native route."""

    async def complete(self, call: Call, send: Send) -> None:
        """Answer `POST /v1/chat/completions`."""
        arrival = self._arrival(call, service="", protocol=openai.PROTOCOL, began_s=monotonic_s())
        if call.scope["method"] != "POST":
            arrival.fault = _wrong_method()
        elif arrival.fault is None:
            arrival.fault = _wrong_type(call)
        arrival.approved = _approvals(call)
        asked: list[ChatAsk] = []
        stories: list[Story] = []

        def read(body: bytes) -> ChatAsk:
            asked.append(openai.read_request(body))
            return asked[0]

        arrival.read_chat = read
        stream = Stream(send, lambda: self._begin(arrival, stories[0]))

        async def work(story: Story, house: House) -> None:
            stories.append(story)
            await chat(story, house, stream)

        reply = await self._run(arrival, call.scope, work)
        if reply is None:
            return
        facts = stories[0].chat if stories else None
        if stream.chunks is not None:
            await stream.end(self._last(stream.chunks, reply, asked[0]))
        elif asked and asked[0].is_streamed and reply.ending in ("answered", "degraded"):
            await self._stream_whole(send, reply, arrival, asked[0])
        else:
            status, body, headers = openai.encode(reply, approvals=facts.approvals if facts else ())
            respond = (
                call.scope["extensions"].get("nightproof.respond") if "extensions" in call.scope else None
            )
            if respond is not None and status == 200 and native.is_plain(reply, arrival.context):
                rates = b"".join([b"%b: %b\r\n" % rate for rate in self._rates(stories[0])])
                await respond(200, native.plain_fields(reply, arrival.context) + rates, body)
            else:
                headers = [*headers, *self._headers(reply, arrival, stories)]
                await _send_whole(send, status, body, headers)

    def models(self, call: Call, name: str) -> tuple[int, bytes, Headers]:
        """Answer `GET /v1/models` and `GET /v1/models/{name}`."""
        caller = self._caller(call)
        served = [
            (one.name, one.live.label)
            for one in self._house.services.values()
            if one.live.chat is not None
            and not one.live.chat.description.is_typed
            and (not caller.services or one.name in caller.services)
        ]
        headers: Headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
        if not name:
            return 200, openai.models(served), headers
        found = next((openai.model(*one) for one in served if one[0] == name), None)
        if found is None:
            raise Refusal(
                "No chat service of this name is served here.",
                failure="unknown_service",
                hint=f"Served: {', '.join(one[0] for one in served) or 'none'}.",
            )
        return 200, orjson.dumps(found), headers

    def _caller(self, call: Call) -> Caller:
        token = call.token()
        caller = self._house.find_caller(token) if token else None
        if caller is None:
            self._on_refused("unauthenticated", call.client)
            raise Refusal(
                "The request carries no valid API key.",
                failure="unauthenticated",
                hint="Send it as `Authorization: Bearer <key>`.",
            )
        return caller

    # -- streams ------------------------------------------------------------------------------

    def _begin(self, arrival: Arrival, story: Story) -> tuple[Headers, openai.Chunks]:
        """Return the head of an answer that begins to leave, and what writes its pieces."""
        reply = Reply(
            id=arrival.id, service=story.service, release=story.release, stages_us=list(story.stages_us)
        )
        headers = [*openai.STREAM_HEADERS, *self._headers(reply, arrival, [story])]
        return headers, _chunks_of(reply)

    def _last(self, chunks: openai.Chunks, reply: Reply, asked: ChatAsk) -> bytes:
        """Return what ends a stream: how it ended if it is whole, an error if it is not, and never both."""
        if reply.ending not in ("answered", "degraded"):
            return openai.error_event(reply)
        return chunks.end(reply, openai.answer_of(reply), wants_usage=asked.wants_usage)

    async def _stream_whole(self, send: Send, reply: Reply, arrival: Arrival, asked: ChatAsk) -> None:
        """Send an answer of which nothing has left as a stream: held back whole, a fallback's, or a repeated one."""
        chunks, answer = _chunks_of(reply), openai.answer_of(reply)
        body = chunks.whole(answer) + chunks.end(reply, answer, wants_usage=asked.wants_usage)
        headers = [*openai.STREAM_HEADERS, *openai.degraded_header(reply), *self._headers(reply, arrival, [])]
        await _send_whole(send, 200, body, headers)

    def _headers(self, reply: Reply, arrival: Arrival, stories: list[Story]) -> Headers:
        return [*self._reply_headers(reply, arrival), *self._rates(stories[0] if stories else None)]

    def _rates(self, story: Story | None) -> Headers:
        """Return what is left of the caller's quota and token budget, as the protocol's clients read it."""
        if story is None or story.caller is None:
            return []
        headers: Headers = []
        quota = self._house.limiter.quota_left(story.caller.key_id, now=monotonic_s())
        if quota is not None:
            headers += _rate(b"requests", *quota)
        served = self._house.services.get(story.service)
        if served is not None and served.live.chat is not None:
            budget = served.live.chat.description.budget
            left = self._house.budgets.left(story.service, story.caller.key_id, budget, at_us=utc_us())
            if left is not None:
                headers += _rate(b"tokens", left.limit, left.remaining, left.reset_s)
        return headers


def _rate(what: bytes, limit: int, remaining: int, reset_s: float) -> Headers:
    return [
        (b"x-ratelimit-limit-" + what, b"%d" % limit),
        (b"x-ratelimit-remaining-" + what, b"%d" % remaining),
        (b"x-ratelimit-reset-" + what, b"%.3fs" % reset_s),
    ]


def _chunks_of(reply: Reply) -> openai.Chunks:
    return openai.Chunks(request_id=reply.id, service=reply.service, release=reply.release)


def _wrong_method() -> Refusal:
    return Refusal(
        "This method is not for this path.", failure="malformed_request", status=405, hint="Use POST."
    )


def _wrong_type(call: Call) -> Refusal | None:
    kind, _, parameters = call.headers.get(b"content-type", b"application/json").lower().partition(b";")
    named = [one.strip().partition(b"=") for one in parameters.split(b";")]
    charsets = [value.strip(b'" ') for name, _, value in named if name == b"charset"]
    if (
        kind.strip() == b"application/json"
        and all(charset in _CHARSETS for charset in charsets)
        and call.headers.get(b"content-encoding", b"identity").lower() == b"identity"
    ):
        return None
    return Refusal(
        "The body is not plain JSON.",
        failure="unsupported_media_type",
        hint="Send `Content-Type: application/json` in UTF-8, not compressed.",
    )


def _approvals(call: Call) -> frozenset[str]:
    """Read which held-back tool calls a person has said yes to."""
    given = call.headers.get(b"nightproof-approve", b"").decode("latin-1")
    return frozenset([one.strip() for one in given.split(",") if one.strip()][:_MOST_APPROVALS])


async def _send_whole(send: Send, status: int, body: bytes, headers: Headers) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
