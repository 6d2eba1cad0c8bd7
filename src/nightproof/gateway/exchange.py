"""One request and its answer on a connection, as the ASGI application sees them.

Promises that the application learns of a caller who left, that a body waits in bounded memory, and
that nothing leaves which would break the framing for the next answer. Made by `gateway.receiving`
for each head it accepts; never parses, never keeps time, never decides what is refused.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, Protocol

from uvicorn._types import ASGI3Application, ASGIReceiveEvent, HTTPScope
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import HEADER_RE, STATUS_LINE

_log = logging.getLogger("nightproof.gateway")

Field = tuple[bytes, bytes]

_FRAMING_FIELDS: Final = frozenset((b"content-length", b"transfer-encoding", b"connection"))
_VISIBLE: Final = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])


class Departure:
    """Tells the application, without its awaiting anything, that its caller is gone."""

    __slots__ = ("callback", "failure", "is_gone", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        """What works for the caller, to be cancelled by whoever sets that as the callback."""
        self.callback: Callable[[], None] | None = None
        self.failure: str | None = None
        self.is_gone = False


class Connection(Protocol):
    """What an exchange asks of its connection."""

    transport: asyncio.Transport
    flow: FlowControl
    tasks: set[asyncio.Task[None]]

    @property
    def default_headers(self) -> list[Field]:
        """Return the header fields that every answer carries."""

    @property
    def default_fields(self) -> bytes:
        """Return them as they are sent."""

    @property
    def crash_answer(self) -> bytes:
        """Return the whole answer to a request that ended in a fault of ours."""

    def read_on(self) -> None:
        """Take more from the caller."""

    def invite_body(self) -> None:
        """Send `100 Continue`."""

    def rest_is_small(self) -> bool:
        """Say whether what is missing of the body is cheaper to read than a new connection."""

    def finish_exchange(self, exchange: Exchange) -> None:
        """Go on after a complete answer."""


@lru_cache(maxsize=512)
def _checked_name(name: bytes) -> bytes:
    """Return a header name of ours in lower case; the application uses few, so they are remembered."""
    if not name or HEADER_RE.search(name):
        raise RuntimeError("A header name of the answer is not a token; fix the application.")
    return name.lower()


class Exchange:
    """One request and its answer, as the application sees them: `scope`, `receive`, `send`."""

    __slots__ = (
        "_arrival",
        "_awaits_continue",
        "_bytes_left",
        "_chunks",
        "_connection",
        "_departure",
        "_flow",
        "_head",
        "_is_bodiless",
        "_is_chunked",
        "_is_disconnected",
        "_is_handed_over",
        "_scope",
        "_transport",
        "_waiting_bytes",
        "keep_alive",
        "more_body",
        "response_complete",
        "response_started",
        "task",
    )

    def __init__(
        self,
        connection: Connection,
        scope: HTTPScope,
        departure: Departure,
        keep_alive: bool,
        awaits_continue: bool,
    ) -> None:
        self._connection = connection
        self._transport = connection.transport
        self._flow = connection.flow
        self._scope = scope
        self._departure = departure
        self.keep_alive = keep_alive
        self._awaits_continue = awaits_continue
        self.task: asyncio.Task[None] | None = None

        # The request.
        self.more_body = True
        self._chunks: list[bytes] = []
        self._waiting_bytes = 0
        self._arrival: asyncio.Event | None = None
        self._is_handed_over = False
        self._is_disconnected = False

        # The answer.
        self.response_started = False
        self.response_complete = False
        self._head = b""
        self._bytes_left: int | None = None
        self._is_chunked = False
        self._is_bodiless = False

    @property
    def is_on_the_wire(self) -> bool:
        """Say whether the caller may have seen a part of the answer."""
        return self.response_started and not self._head

    # -- what the connection calls ------------------------------------------------------------------

    def begin(self, task: asyncio.Task[None]) -> None:
        """Take note of the task that runs this."""
        self.task = self._departure.task = task

    async def run(self, app: ASGI3Application) -> None:
        """Run the application for this request, and answer for it where it fails to."""
        try:
            await app(self._scope, self.receive, self.send)
            if not self.response_complete and not self._is_disconnected:
                raise RuntimeError("The application returned before its answer was complete.")
        except asyncio.CancelledError:
            if not self.response_complete:
                self._transport.close()
            raise
        except Exception as error:  # noqa: BLE001
            # The last border before the loop: the operator sees the place, the caller a 500. The
            # exception's own words stay out of the log, since they may quote the request.
            place = "".join(traceback.format_tb(error.__traceback__))
            _log.error("A request ended in %s at a place to be fixed:\n%s", type(error).__name__, place)
            self._answer_crash()
        finally:
            # It leads back here by `respond`: kept, every request would be left for the collector to find.
            del self._scope
            if self.task is not None:
                self._connection.tasks.discard(self.task)
                self.task = self._departure.task = None

    def take(self, body: bytes) -> int:
        """Keep a piece of body unless nobody will read it; return the bytes that wait."""
        if not self.more_body or self.response_complete or self._is_disconnected:
            return 0
        self._chunks.append(body)
        self._waiting_bytes += len(body)
        self.wake()
        return self._waiting_bytes

    def wake(self) -> None:
        """Let a waiting `receive` look again."""
        if self._arrival is not None:
            self._arrival.set()

    def leave(self, failure: str | None) -> bool:
        """Tell the application that nobody waits for its answer any more; return whether it took note."""
        if self.response_complete or self._is_disconnected:
            return False
        self._is_disconnected = True
        self._chunks.clear()
        self.wake()
        departure = self._departure
        departure.is_gone = True
        departure.failure = failure
        callback, departure.callback = departure.callback, None
        if callback is None:
            return False
        callback()
        return True

    # -- what the application calls -----------------------------------------------------------------

    async def receive(self) -> ASGIReceiveEvent:
        """Return the next piece of body, or `http.disconnect` once there is nobody to answer."""
        while True:
            if self._is_disconnected or self.response_complete:
                return {"type": "http.disconnect"}
            if self._chunks or not (self.more_body or self._is_handed_over):
                chunks = self._chunks
                body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
                self._chunks = []
                self._waiting_bytes = 0
                self._is_handed_over = not self.more_body
                return {"type": "http.request", "body": body, "more_body": self.more_body}
            if self.more_body:
                if self._awaits_continue and not self._transport.is_closing():
                    self._awaits_continue = False
                    self._connection.invite_body()
                self._connection.read_on()
                if self._chunks or not self.more_body or self._is_disconnected:
                    continue
            if self._arrival is None:
                self._arrival = asyncio.Event()
            await self._arrival.wait()
            self._arrival.clear()

    async def send(self, message: Mapping[str, Any]) -> None:
        """Take the head or a piece of the answer; the head leaves with the first piece."""
        if self._flow.write_paused and not self._is_disconnected:
            await self._flow.drain()
        if self._is_disconnected:
            return
        kind = message["type"]
        if self.response_complete:
            raise RuntimeError(f"{kind} was sent after the answer was complete; fix the application.")
        if kind == "http.response.body" and self.response_started:
            self._send_body(message.get("body", b""), is_final=not message.get("more_body", False))
        elif kind == "http.response.start" and not self.response_started:
            self._head = self._form_head(message["status"], message.get("headers", ()))
            self.response_started = True
        else:
            raise RuntimeError(f"{kind} was sent out of order; fix the application.")

    async def respond(self, status: int, fields: bytes, body: bytes) -> None:
        """Send a whole answer at once, in place of `send`: `fields` are its header fields as they are sent.

        Content-Length and Connection are added here. For answers of ours alone: nothing in `fields` is looked at.
        """
        if self._flow.write_paused and not self._is_disconnected:
            await self._flow.drain()
        if self._is_disconnected:
            return
        if self.response_started:
            raise RuntimeError("An answer was sent after another had begun; fix the application.")
        if self.more_body and not self._connection.rest_is_small():
            self.keep_alive = False
        self.response_started = True
        head = b"%b%b%bcontent-length: %d\r\n%b" % (
            STATUS_LINE[status],
            self._connection.default_fields,
            fields,
            len(body),
            b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n",
        )
        self._transport.write(head if self._scope["method"] == "HEAD" else head + body)
        self._finish()

    def _finish(self) -> None:
        self.response_complete = True
        self._departure.callback = None
        self._chunks.clear()
        self.wake()
        self._connection.finish_exchange(self)

    def _form_head(self, status: int, headers: Iterable[Field]) -> bytes:
        if self.more_body and not self._connection.rest_is_small():
            self.keep_alive = False
        parts = [STATUS_LINE[status]]
        says_close = False
        for name, value in (*self._connection.default_headers, *headers):
            if value.translate(None, _VISIBLE):
                raise RuntimeError(
                    "A header value of the answer has a control character; fix the application."
                )
            name = _checked_name(name)
            if name in _FRAMING_FIELDS:
                if name == b"content-length":
                    self._bytes_left = int(value)
                elif name == b"transfer-encoding":
                    raise RuntimeError("The server frames answers; do not send Transfer-Encoding.")
                elif b"close" in value.lower():
                    self.keep_alive = False
                    says_close = True
            parts += (name, b": ", value, b"\r\n")

        self._is_bodiless = self._scope["method"] == "HEAD" or status in (204, 304)
        if self._bytes_left is None and not self._is_bodiless:
            # A caller of HTTP/1.0 knows no chunks: for him the close ends the body.
            self._is_chunked = self._scope["http_version"] == "1.1"
            if self._is_chunked:
                parts.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive and not says_close:
            parts.append(b"connection: close\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)

    def _send_body(self, body: bytes, *, is_final: bool) -> None:
        if self._is_bodiless:
            body = b""
        elif self._is_chunked:
            framed = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            body = framed + b"0\r\n\r\n" if is_final else framed
        elif self._bytes_left is not None:
            self._bytes_left -= len(body)
            if self._bytes_left < 0 or (is_final and self._bytes_left):
                raise RuntimeError("The answer does not have its Content-Length; fix the application.")
        head, self._head = self._head, b""
        if head and len(body) < HIGH_WATER_LIMIT:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)
        if is_final:
            self._finish()

    def _answer_crash(self) -> None:
        if self.response_complete or self._is_disconnected:
            return
        if self.is_on_the_wire:
            self._transport.close()
            return
        self._head = b""
        self.keep_alive = False
        self.response_started = True
        answer = self._connection.crash_answer
        self._is_bodiless = self._is_chunked = False
        self._bytes_left = None
        self._send_body(answer, is_final=True)
