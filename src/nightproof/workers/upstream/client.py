"""One try at one upstream: send, wait in time, read strictly.

Called by `pipeline.upstreams`. Promises that each wait has an end, that what is read is bounded, that an answer is
whole or raises UpstreamFault, and that a connection is closed the moment nobody waits for it. No text of the upstream
and no key gets into a fault. Never tries again; that is the chain's choice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from nightproof import __version__
from nightproof.base.clock import monotonic_s, utc_now
from nightproof.base.deadlines import Deadlines
from nightproof.declare.chat_description import UpstreamDescription
from nightproof.workers.upstream.alarm import Alarm, Clock
from nightproof.workers.upstream.shapes import (
    MalformedAnswer,
    StreamShape,
    ToldError,
    code_in,
    completion_of,
)
from nightproof.workers.upstream.sse import MalformedStream, SseReader
from nightproof.workers.upstream.transport import Reply, Transport
from nightproof.workers.upstream.values import Completion, Delta, UpstreamCall, UpstreamFault

MOST_ANSWER_BYTES = 16 << 20
_MOST_ERROR_BYTES = 16_384
_MOST_PAUSE_S = 300.0
_REST_WITHIN_S = 0.05
_WHOLE = {
    "accept": "application/json",
    "accept-encoding": "identity",
    "content-type": "application/json",
    "user-agent": f"nightproof/{__version__}",
}
_STREAMED = _WHOLE | {"accept": "text/event-stream"}
_OURS_TO_MEND = {
    401: "its key is refused: look at the secret",
    403: "the key may not use it: look at the secret and the model",
    404: "no such model or path: look at base_url and model",
}


class Client:
    """Asks one upstream, as one release declares it."""

    __slots__ = ("_deadlines", "_secret", "_transport", "description")

    def __init__(
        self,
        description: UpstreamDescription,
        *,
        transport: Transport,
        secret: Callable[[], str],
        deadlines: Deadlines,
    ) -> None:
        self.description = description
        self._transport = transport
        self._secret = secret
        self._deadlines = deadlines

    async def complete(self, call: UpstreamCall, *, base_url: str, until_s: float) -> Completion:
        """Return a whole answer, or raise UpstreamFault."""
        declared = self.description
        own_s = monotonic_s() + declared.total_ms / 1e3
        reply: Reply | None = None
        try:
            with Alarm(self._deadlines, _earlier(own_s, until_s, "no answer", declared.total_ms)):
                reply = await self._send(call, base_url, streamed=False)
                await self._see_status(reply)
                _see_content(reply, "application/json")
                body = await _whole(reply)
        finally:
            if reply is not None:
                reply.close()
        try:
            answer = completion_of(body, messages=call.messages, model=declared.model)
        except MalformedAnswer as error:
            raise UpstreamFault("upstream_broken", str(error)) from None
        except ToldError as error:
            raise UpstreamFault("upstream_error", _told("an error with status 200", str(error))) from None
        answer.upstream = declared.name
        return answer

    async def stream(self, call: UpstreamCall, *, base_url: str, until_s: float) -> ClientStream:
        """Return once the first piece is there, or raise UpstreamFault. `until_s` binds the wait for it only."""
        declared = self.description
        began_s = monotonic_s()
        own_s = began_s + declared.first_token_ms / 1e3
        reply: Reply | None = None
        is_good = False
        try:
            with Alarm(self._deadlines, _earlier(own_s, until_s, "no first token", declared.first_token_ms)):
                reply = await self._send(call, base_url, streamed=True)
                await self._see_status(reply)
                _see_content(reply, "text/event-stream")
                stream = ClientStream(
                    reply,
                    call,
                    declared,
                    deadlines=self._deadlines,
                    total_s=began_s + declared.total_ms / 1e3,
                )
                await stream.begin()
            is_good = True
            return stream
        finally:
            if reply is not None and not is_good:
                reply.close()

    async def _send(self, call: UpstreamCall, base_url: str, *, streamed: bool) -> Reply:
        declared = self.description
        body: dict[str, Any] = {**call.extras, **declared.parameters}
        if streamed:
            body.setdefault("stream_options", {"include_usage": True})
        if declared.parameters:  # null takes a parameter out, for an upstream that does not know it
            body = {name: value for name, value in body.items() if value is not None}
        body["model"] = declared.model
        body["messages"] = call.messages
        body["stream"] = streamed
        headers = _STREAMED.copy() if streamed else _WHOLE.copy()
        if declared.secret:
            headers["authorization"] = f"Bearer {self._secret()}"
        if call.request_id:
            headers["x-request-id"] = call.request_id
        if call.traceparent:
            headers["traceparent"] = call.traceparent
        return await self._transport.post(
            f"{base_url}/chat/completions",
            orjson.dumps(body),
            headers,
            connect_s=declared.connect_ms / 1e3,
        )

    async def _see_status(self, reply: Reply) -> None:
        """Raise UpstreamFault for everything but a plain answer."""
        status = reply.status
        if status == 200:
            return
        if 300 <= status < 400:
            raise UpstreamFault(
                "upstream_error", f"status {status}: redirects are not followed", status=status
            )
        code = ""
        if status >= 400:
            try:
                code = code_in(await _whole(reply, most_bytes=_MOST_ERROR_BYTES))
            except UpstreamFault:
                pass  # the status says enough
        raise UpstreamFault(
            failure_of(status),
            _told(f"status {status}", _OURS_TO_MEND.get(status, "") or code),
            status=status,
            retry_after_s=pause_of(reply.header, now=utc_now()),
        )

    def __repr__(self) -> str:
        return f"<Client {self.description.name} {self.description.model}>"


class ClientStream:
    """An answer that has begun. Its last piece, with the finish_reason, comes only once the whole was there."""

    def __init__(
        self,
        reply: Reply,
        call: UpstreamCall,
        declared: UpstreamDescription,
        *,
        deadlines: Deadlines,
        total_s: float,
    ) -> None:
        self._reply = reply
        self._deadlines = deadlines
        self._idle_ms = declared.idle_ms
        self._total_s, self._total_ms, self._until_s = total_s, declared.total_ms, call.deadline_s
        self._handed_s = 0.0
        """When the last piece was handed on; 0: none was."""
        self._reader = SseReader()
        self._shape = StreamShape(call.messages, declared.model)
        self._ready: deque[Delta] = deque()
        self._size_bytes = 0
        self._is_over = False
        self.upstream = declared.name

    @property
    def model(self) -> str:
        """The model as the upstream names what answers."""
        return self._shape.model

    async def begin(self) -> None:
        """Wait for the first piece; who calls this holds the clock. Raises UpstreamFault."""
        while not self._ready:
            self._take(await self._reply.read())

    def __aiter__(self) -> ClientStream:
        return self

    async def __anext__(self) -> Delta:
        """Return the next piece. Raises UpstreamFault where the stream breaks or stalls, and is closed then."""
        if self._ready:
            self._handed_s = monotonic_s()
            return self._ready.popleft()
        if self._shape.is_done:
            await self._rest()
        if self._is_over:
            raise StopAsyncIteration
        if self._handed_s:
            # While a caller reads slowly nobody waits for the upstream: its clock stands still, the call's does not.
            self._total_s += monotonic_s() - self._handed_s
        try:
            with Alarm(self._deadlines, self._next_clock()) as alarm:
                while not self._ready:
                    self._take(await self._reply.read())
                    if not self._ready:  # a comment, a role: it lives
                        alarm.set(self._next_clock())
        except UpstreamFault as fault:
            self.close()
            fault.has_begun = True
            raise
        except BaseException:
            self.close()
            raise
        self._handed_s = monotonic_s()
        return self._ready.popleft()

    def _next_clock(self) -> Clock:
        idle_until_s = monotonic_s() + self._idle_ms / 1e3
        if idle_until_s < min(self._total_s, self._until_s):
            return Clock(idle_until_s, f"nothing more within {self._idle_ms} ms")
        return _earlier(self._total_s, self._until_s, "not whole", self._total_ms)

    def _take(self, piece: bytes) -> None:
        """Read what came, or its end. Raises UpstreamFault."""
        try:
            if piece:
                self._size_bytes += len(piece)
                if self._size_bytes > MOST_ANSWER_BYTES:
                    raise MalformedStream(f"it is beyond {MOST_ANSWER_BYTES} bytes")
                for event in self._reader.feed(piece):
                    self._see(event)
            else:
                event_at_end = self._reader.end()
                if event_at_end == b"[DONE]":
                    self._see(event_at_end)
                if not self._shape.is_done:
                    raise MalformedStream("it ends early, without a done mark")
        except (MalformedStream, MalformedAnswer) as error:
            raise UpstreamFault("upstream_broken", f"malformed stream: {error}") from None
        except ToldError as error:
            raise UpstreamFault("upstream_error", _told("an error within the stream", str(error))) from None

    def _see(self, event: bytes) -> None:
        if not self._shape.is_done:
            delta = self._shape.take(event)
            if delta is not None:
                self._ready.append(delta)

    async def _rest(self) -> None:
        """See the end of the answer come, for a moment, so that the connection can be used again."""
        if self._is_over:
            return
        self._is_over = True
        try:
            with Alarm(
                self._deadlines, Clock(monotonic_s() + _REST_WITHIN_S, "it goes on after its done mark")
            ):
                while len(await self._reply.read()):
                    pass
        except UpstreamFault:
            pass  # the answer was whole: only the connection is of no use
        finally:
            self._reply.close()

    @property
    def is_whole(self) -> bool:
        """Say whether the answer came to its end."""
        return self._shape.is_done

    def close(self) -> None:
        """Close the connection at once; what was read already is dropped."""
        self._is_over = True
        self._ready.clear()
        self._reply.close()


def failure_of(status: int) -> str:
    """Name the failure that a status of an upstream means."""
    if status == 429:
        return "upstream_limited"
    if status in (408, 504):
        return "upstream_timeout"
    if status in (400, 413, 415, 422):
        return "upstream_rejected"
    return "upstream_error" if status >= 400 else "upstream_broken"


def pause_of(header: Callable[[str], str], *, now: datetime) -> float:
    """Return for how many seconds an upstream asks not to be asked: `retry-after-ms`, seconds or a date; else 0."""
    told = header("retry-after-ms").strip()
    if _is_number(told):
        return min(float(told) / 1e3, _MOST_PAUSE_S)
    told = header("retry-after").strip()
    if _is_number(told):
        return min(float(told), _MOST_PAUSE_S)
    try:
        at = parsedate_to_datetime(told)
        return min(max(0.0, (at - now).total_seconds()), _MOST_PAUSE_S)
    except (ValueError, TypeError, OverflowError):  # none, no date, or one without a zone
        return 0.0


def _is_number(told: str) -> bool:
    return told.isascii() and len(told) < 16 and told.replace(".", "", 1).isdigit()


async def _whole(reply: Reply, *, most_bytes: int = MOST_ANSWER_BYTES) -> bytes:
    body = await reply.read()
    if not body:
        return body
    pieces, size_bytes = [body], len(body)
    while piece := await reply.read():
        pieces.append(piece)
        size_bytes += len(piece)
        if size_bytes > most_bytes:
            raise UpstreamFault("upstream_broken", f"the answer is beyond {most_bytes} bytes")
    return body if len(pieces) == 1 else b"".join(pieces)


def _see_content(reply: Reply, wanted: str) -> None:
    told = reply.header("content-type").partition(";")[0].strip().lower()
    if told != wanted:
        raise UpstreamFault("upstream_broken", f"its content is {_kind_of(told)}, not {wanted}", status=200)
    if reply.header("content-encoding").strip().lower() not in ("", "identity"):
        raise UpstreamFault("upstream_broken", "its content is encoded, which was not asked for", status=200)


def _kind_of(content_type: str) -> str:
    for kind in ("application/json", "text/event-stream", "text/html", "text/plain"):
        if content_type == kind:
            return kind
    return "of another type" if content_type else "of no type"


def _earlier(own_s: float, until_s: float, what: str, own_ms: int) -> Clock:
    """Return the earlier of the upstream's own clock and the end of what the call may take."""
    if own_s <= until_s:
        return Clock(own_s, f"{what} within {own_ms} ms")
    return Clock(until_s, f"{what} in the time that was left", is_cut=True)


def _told(what: str, more: str) -> str:
    return f"{what}, {more}" if more else what
