"""Receive HTTP/1.1 from callers who may be slow, broken or hostile, and hand whole heads to the application.

Promises that every wait for a caller has an end, that memory per connection is bounded, that answers
leave in the order of their requests, and that what cannot be read safely is refused with a small
problem document that never repeats the caller's bytes. The gateway's server creates one
`ReceivingProtocol` per connection and one `Sweeper` per server. Nothing here knows routes, keys or
models, and the protocol never reads the clock: it notes *what* it waits for, the sweep notes *since when*.

    state = ReceivingState()
    config = receiving_config(app)
    server = await loop.create_server(
        lambda: ReceivingProtocol(config, state, {}, limits=limits, on_refused=count_refusal),
        sock=listener, ssl=context, ssl_handshake_timeout=5, ssl_shutdown_timeout=2,
    )
    sweeper = Sweeper(state)
    sweeper.start()
    ...
    server.close()                  # no new connections
    shutdown_connections(state)     # idle ones close, busy ones finish with `Connection: close`
    ...                             # wait until `state.connections` and `state.tasks` are empty
    sweeper.stop()

**Learning that the caller left.** `receive()` yields `http.disconnect` as everywhere in ASGI. Without
awaiting it: `scope["extensions"]["nightproof.disconnect"]` is a `Departure`. The application sets its
`callback`; it is called at most once, from the event loop, when the connection ends or is refused
before the answer is complete. After a complete answer it is never called. Where this level refused the
request itself (a body that dripped or lost its framing), `failure` names why and the caller has its
answer. Where a callback was set, the application counts that ending, and `on_refused` is not called.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import httptools
import orjson
from uvicorn._types import HTTPScope
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from nightproof.base.clock import monotonic_s
from nightproof.base.failures import CATALOGUE
from nightproof.gateway.exchange import Departure, Exchange

OnRefused = Callable[[str, str], None]
"""Called with the failure's code and the client's address, once per refusal of this level."""

Stage = Literal["first", "head", "body", "between", "lingering"]
"""What a connection waits for: its first byte, the rest of a head, the rest of a body, the next
request (or the application's answer), or the end of what a refused caller still sends."""

_SLICE_BYTES: Final = 16_384
"""Most bytes parsed at once: the parser cannot be stopped inside, so this bounds what 256 KiB of
tiny pipelined requests can become in memory."""
_FRAMING_BYTES: Final = 16_384
"""Most bytes of chunk extensions and trailers without one byte of body between them."""
_NO_BYTES: Final = memoryview(b"")
_ASGI: Final[Any] = {"version": "3.0", "spec_version": "2.3"}
_WATCHED_FIELDS: Final = frozenset((b"host", b"content-length", b"transfer-encoding", b"expect"))


@dataclass(frozen=True, kw_only=True)
class ReceivingLimits:
    """How long, how large and how many: what a caller may ask of this level."""

    first_byte_s: float = 5.0
    """A new connection's first byte; afterwards it is closed without a word."""
    headers_s: float = 10.0
    """From the first byte of a request to the end of its head, however it drips."""
    body_s: float = 30.0
    """From the end of the head to the end of the body, not counting time in which we did not read."""
    min_body_bytes_per_s: int = 1_024
    """Slowest body, as an average, once `body_grace_s` have passed."""
    body_grace_s: float = 5.0
    keep_alive_s: float = 15.0
    """Between an answer and the next request's first byte."""
    write_stalled_s: float = 30.0
    """How long a caller may leave our answer unread in our buffers before it is cut."""
    linger_s: float = 2.0
    """How long we read and drop what a caller still sends after its early answer, so that the reset
    of a closed socket does not take the answer from its hands."""
    request_line_bytes: int = 8_192
    header_bytes: int = 8_192
    """One header field, name and value."""
    headers_bytes: int = 32_768
    """All header fields of a request."""
    headers_count: int = 64
    connections_total: int = 4_096
    connections_per_address: int = 0
    """0 switches the limit per address off, as behind a proxy."""
    requests_per_connection: int = 100_000


class ReceivingState(ServerState):
    """What the connections of one server share: themselves, their tasks, and a count per address."""

    def __init__(self) -> None:
        super().__init__()
        self.per_address: Counter[str] = Counter()
        self.default_fields = b""
        """The header fields of every answer, as they are sent."""

    def set_default_headers(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Have every answer from now on carry these fields."""
        self.default_headers[:] = headers
        self.default_fields = b"".join([b"%b: %b\r\n" % field for field in headers])


@dataclass(frozen=True)
class _Problem:
    """A refusal of this level, its answer laid out in advance."""

    failure: str
    status: int
    fields: bytes
    body: bytes

    def answer(self, default_headers: list[tuple[bytes, bytes]]) -> bytes:
        """Write the whole answer, which is the connection's last."""
        shared = b"".join([b"%b: %b\r\n" % field for field in default_headers])
        return b"".join((STATUS_LINE[self.status], shared, self.fields, b"\r\n", self.body))


def _problem(failure: str, status: int, detail: str, more_fields: bytes = b"") -> _Problem:
    entry = CATALOGUE[failure]
    document = {
        "type": f"/problems/{failure}",
        "title": entry.title,
        "status": status,
        "detail": detail,
        "failure": failure,
        "retryable": entry.retryable,
    }
    body = orjson.dumps(document)
    fields = b"content-type: application/problem+json\r\ncontent-length: %d\r\nconnection: close\r\n%b" % (
        len(body),
        more_fields,
    )
    return _Problem(failure, status, fields, body)


_NOT_HTTP = _problem("malformed_request", 400, "The bytes received are not a valid HTTP/1.1 request.")
_WRONG_VERSION = _problem("malformed_request", 400, "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
_WRONG_HOST = _problem("malformed_request", 400, "Send exactly one Host field, the same as in the target.")
_WRONG_TARGET = _problem("malformed_request", 400, "The request target is not a path, a URL or an asterisk.")
_WRONG_CODING = _problem("malformed_request", 400, "The only transfer coding accepted is chunked, once.")
_WRONG_CHUNKS = _problem("malformed_request", 400, "Chunk extensions or trailers are too long.")
_NO_TUNNELS = _problem("malformed_request", 405, "CONNECT is not offered.", b"allow: \r\n")
_LONG_TARGET = _problem("malformed_request", 414, "The request target is too long.")
_LARGE_HEAD = _problem("headers_too_large", 431, "Send fewer or shorter header fields.")
_SLOW = _problem("slow_request", 408, "Send the whole request without long pauses.")
_FULL = _problem("overloaded", 503, "Too many connections are open.", b"retry-after: 1\r\n")
_CRASHED = _problem("internal_error", 500, "The request ended in a fault that is not yours.")


class _RuleBroken(Exception):
    """Stops the parser at the first byte that breaks a rule of ours; carries the refusal."""

    def __init__(self, problem: _Problem) -> None:
        super().__init__(problem.failure)
        self.problem = problem


class _NothingMore(Exception):
    """Stops the parser where the connection's last request has ended."""


def receiving_config(app: Any) -> Config:
    """Configure uvicorn's protocol: no WebSocket, no proxy headers, no log of its own, no lifespan."""
    config = Config(
        app,
        interface="asgi3",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
    )
    config.load()
    return config


def is_overdue(stage: Stage, *, waited_s: float, body_bytes: int, limits: ReceivingLimits) -> bool:
    """Say whether a caller has been waited for long enough at this stage."""
    if stage == "body":
        too_thin = waited_s > limits.body_grace_s and body_bytes < waited_s * limits.min_body_bytes_per_s
        return too_thin or waited_s > limits.body_s
    if stage == "between":
        return waited_s > limits.keep_alive_s
    if stage == "head":
        return waited_s > limits.headers_s
    if stage == "first":
        return waited_s > limits.first_byte_s
    return waited_s > limits.linger_s


class ReceivingProtocol(HttpToolsProtocol):
    """One connection: parses, keeps order, and enforces the limits that need no clock."""

    server_state: ReceivingState

    def __init__(
        self,
        config: Config,
        server_state: ReceivingState,
        app_state: dict[str, Any],
        *,
        limits: ReceivingLimits,
        on_refused: OnRefused,
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._on_refused = on_refused
        self._is_counted = False

        # What we wait for. The sweep fills the times; the hot path only clears them.
        self._stage: Stage = "first"
        self._since: float | None = None
        self._blocked_since: float | None = None
        self._body_bytes = self._body_bytes_then = 0

        # Bytes on their way in.
        self._unfed = _NO_BYTES
        self._is_deaf = False
        self._is_last = False
        self._requests = 0
        self._has_dropped = False
        self._fed_bytes = 0
        self._head_bytes = 0
        self._hosts = 0
        self._host = b""
        self._content_length = b""
        self._is_chunked = False
        self._is_body_withheld = False

        # Exchanges: the newest one is being received, the active one is being answered.
        self._newest: Exchange | None = None
        self._active: Exchange | None = None
        self._queue: deque[Exchange] = deque()
        self._last_words: _Problem | None = None

    # -- the connection -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection in, or turn it away when there are too many."""
        super().connection_made(transport)
        state, limits = self.server_state, self._limits
        address = self._address
        if len(state.connections) > limits.connections_total or (
            0 < limits.connections_per_address <= state.per_address[address]
        ):
            # Not in the set: those turned away must not keep the places of those who may come.
            state.connections.discard(self)
            self._is_deaf = True
            self._on_refused(_FULL.failure, address)
            transport.write(_FULL.answer(self.default_headers))
            transport.close()
            return
        state.per_address[address] += 1
        self._is_counted = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection and tell whoever still works for it."""
        state = self.server_state
        state.connections.discard(self)
        if self._is_counted:
            self._is_counted = False
            state.per_address[self._address] -= 1
            if state.per_address[self._address] <= 0:
                del state.per_address[self._address]
        self._is_deaf = True
        self._unfed = _NO_BYTES
        self._queue.clear()
        self.flow.resume_writing()
        self.parser = None  # type: ignore[assignment]
        active, self._active, self._newest = self._active, None, None
        if active is not None:
            active.leave(None)

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else "unknown"

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """Return the header fields that every answer carries."""
        return self.server_state.default_headers

    @property
    def default_fields(self) -> bytes:
        """Return them as they are sent."""
        return self.server_state.default_fields

    @property
    def crash_answer(self) -> bytes:
        """Return the whole answer to a request that ended in a fault of ours."""
        return _CRASHED.answer(self.default_headers)

    def resume_writing(self) -> None:
        """Let answers flow again: the caller has read."""
        self._blocked_since = None
        super().resume_writing()

    def shutdown(self) -> None:
        """Close now if idle; otherwise let this request be the connection's last."""
        self._is_last = True
        if self._newest is not None:
            self._newest.keep_alive = False
        if self._active is None and self._stage in ("first", "between"):
            self.transport.close()

    def check(self, now_s: float) -> None:
        """Compare what the connection waits for with the limits; called by the sweep only."""
        limits = self._limits
        is_closing = self.transport.is_closing()
        if is_closing or self.flow.write_paused:
            if self._blocked_since is None:
                self._blocked_since = now_s
            elif now_s - self._blocked_since > limits.write_stalled_s:
                self.transport.abort()
                return
        if is_closing:
            return
        if self._since is None or self._queue or self.flow.read_paused:
            # While it is us who do not take more, the caller cannot be late.
            self._since = now_s
            self._body_bytes_then = self._body_bytes
            return
        if self._active is not None and self._stage == "between":
            return
        waited_s = now_s - self._since
        body_bytes = self._body_bytes - self._body_bytes_then
        if is_overdue(self._stage, waited_s=waited_s, body_bytes=body_bytes, limits=limits):
            if self._stage in ("head", "body"):
                self._refuse(_SLOW)
            else:
                self.transport.close()

    # -- bytes in -----------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse what arrived, a slice at a time and only while it is wanted."""
        if self._is_deaf:
            self._has_dropped = True
            return
        if self._unfed:
            self._unfed = memoryview(b"".join((self._unfed, data)))
        elif self._queue or len(data) > _SLICE_BYTES:
            self._unfed = memoryview(data)
        else:
            self._feed(data)
        if self._unfed:
            self._feed_slices()

    def _feed_slices(self) -> None:
        """Parse what is held back while nobody waits in line; hold only so much."""
        while self._unfed and not (self._queue or self._is_deaf or self.flow.read_paused):
            piece = self._unfed[:_SLICE_BYTES]
            self._unfed = self._unfed[_SLICE_BYTES:]
            self._feed(piece)
        if len(self._unfed) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()

    def _feed(self, data: bytes | memoryview) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(memoryview(data)[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if not self._is_deaf:
                broken = error.__context__
                self._refuse(broken.problem if isinstance(broken, _RuleBroken) else _NOT_HTTP)
        if self._stage == "between":
            return
        # Only unfinished messages come here, so these sums cost a whole small request nothing. They
        # see what the parser has not handed over yet; one slice may belong to an earlier message.
        self._fed_bytes += len(data)
        limits = self._limits
        if self._stage == "head":
            if self._fed_bytes > limits.request_line_bytes + limits.headers_bytes + _SLICE_BYTES:
                self._refuse(_LARGE_HEAD)
        elif self._stage == "body" and self._fed_bytes > _FRAMING_BYTES + _SLICE_BYTES:
            self._refuse(_WRONG_CHUNKS)

    def _ignore_upgrade(self, rest: memoryview) -> None:
        """Read on in HTTP/1.1 after a request that asked for another protocol."""
        if self._is_body_withheld:
            # The parser skips the body of such a request. Taken for the next request, it would be
            # a smuggled one: a parser that never saw the wish reads it as the body that it is.
            self._is_body_withheld = False
            framing = b"transfer-encoding: chunked"
            if not self._is_chunked:
                framing = b"content-length: " + self._content_length
            self.parser = httptools.HttpRequestParser(_BodyOnly(self))
            self.parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n")
        self._unfed = memoryview(b"".join((rest, self._unfed)))

    def read_on(self) -> None:
        """Take more from the caller: what we hold back first, then what the socket has."""
        self.flow.resume_reading()
        if self._unfed:
            self._feed_slices()

    # -- what the parser calls ----------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Start a head."""
        if self._is_deaf:
            self._has_dropped = True
            raise _NothingMore
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._stage = "head"
        self._since = None
        self._fed_bytes = self._head_bytes = self._hosts = 0
        self._content_length = b""
        self._is_chunked = False

    def on_url(self, url: bytes) -> None:
        """Collect the request target."""
        self.url += url
        if len(self.url) > self._limits.request_line_bytes:
            raise _RuleBroken(_LONG_TARGET)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect one header field; trailers are dropped, since a head must not change once served."""
        if self._stage == "body":
            return
        limits = self._limits
        size = len(name) + len(value)
        self._head_bytes += size
        self.headers.append((name := name.lower(), value))
        if (
            size > limits.header_bytes
            or self._head_bytes > limits.headers_bytes
            or len(self.headers) > limits.headers_count
        ):
            raise _RuleBroken(_LARGE_HEAD)
        if name in _WATCHED_FIELDS:
            self._note_field(name, value)

    def _note_field(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            self._hosts += 1
            self._host = value
        elif name == b"content-length":
            self._content_length = value
        elif name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
        elif value.strip().lower() == b"chunked" and not self._is_chunked:
            self._is_chunked = True
        else:
            raise _RuleBroken(_WRONG_CODING)

    def on_headers_complete(self) -> None:
        """Check the head as a whole and put its exchange to work, or in line."""
        parser = self.parser
        version = parser.get_http_version()
        if version == "1.1":
            keep_alive = parser.should_keep_alive() and not self._is_last
        elif version == "1.0":
            keep_alive = self.expect_100_continue = False
        else:
            raise _RuleBroken(_WRONG_VERSION)
        if self._hosts != 1 and (self._hosts > 1 or version == "1.1"):
            raise _RuleBroken(_WRONG_HOST)
        method = parser.get_method().decode("ascii")
        raw_path, query = self._split_target(method)
        self._requests += 1
        if self._requests >= self._limits.requests_per_connection:
            keep_alive = False
        if parser.should_upgrade() and (self._is_chunked or int(self._content_length or 0)):
            self._is_body_withheld = True
            keep_alive = False

        path = raw_path.decode("ascii")
        if "%" in path:
            path = urllib.parse.unquote(path)
        departure = Departure()
        scope: HTTPScope = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "http",
            "method": method,
            "root_path": self.root_path,
            "path": self.root_path + path,
            "raw_path": self.root_path.encode("ascii") + raw_path if self.root_path else raw_path,
            "query_string": query,
            "headers": self.headers,
            "state": self.app_state,
            "extensions": {"nightproof.disconnect": departure},  # type: ignore[dict-item]
        }
        self._stage = "body"
        self._since = None
        self._body_bytes = self._fed_bytes = 0
        exchange = Exchange(self, scope, departure, keep_alive, self.expect_100_continue)
        scope["extensions"]["nightproof.respond"] = exchange.respond  # type: ignore[assignment]
        self._newest = exchange
        if self._active is None:
            self._start(exchange)
        else:
            # The socket is still read, a little, so that we see when this caller leaves.
            self._queue.append(exchange)

    def _split_target(self, method: str) -> tuple[bytes, bytes]:
        """Return path and query of the request target."""
        url = self.url
        if b"#" in url:
            raise _RuleBroken(_WRONG_TARGET)
        if url.startswith(b"/"):
            path, _, query = url.partition(b"?")
            return path, query
        if method == "CONNECT":
            raise _RuleBroken(_NO_TUNNELS)
        if url == b"*" and method == "OPTIONS":
            return url, b""
        authority, slash, rest = url.partition(b"://")[2].partition(b"/")
        authority, question, query = authority.partition(b"?")
        if not authority:
            raise _RuleBroken(_WRONG_TARGET)
        if self._hosts and authority.lower() != self._host.lower():
            # Two names for one request: whoever checks one and serves the other is fooled.
            raise _RuleBroken(_WRONG_HOST)
        if question:
            return b"/", query + slash + rest
        path, _, query = rest.partition(b"?")
        return b"/" + path, query

    def on_body(self, body: bytes) -> None:
        """Keep a piece of body for the application, and stop reading when enough waits for it."""
        exchange = self._newest
        self._fed_bytes = 0
        self._body_bytes += len(body)
        if exchange is not None and exchange.take(body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        """Mark the newest request as wholly received."""
        exchange = self._newest
        if exchange is None or self._is_body_withheld:
            return
        self._stage = "between"
        self._since = None
        exchange.more_body = False
        exchange.wake()
        if not exchange.keep_alive:
            self._is_deaf = True
            if exchange.response_complete:
                self.transport.close()

    # -- answers ------------------------------------------------------------------------------------

    def _start(self, exchange: Exchange) -> None:
        self._active = exchange
        task = self.loop.create_task(exchange.run(self.app))
        # The loop holds tasks weakly; the exchange takes itself out when it ends.
        exchange.begin(task)
        self.tasks.add(task)

    def rest_is_small(self) -> bool:
        """Say whether what is missing of the newest body is cheaper to read than a new connection."""
        if self._is_chunked or self._is_body_withheld or self.expect_100_continue:
            return False
        return int(self._content_length or 0) - self._body_bytes <= HIGH_WATER_LIMIT

    def invite_body(self) -> None:
        """Send `100 Continue`, for which the caller holds its body back."""
        self.expect_100_continue = False
        self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def finish_exchange(self, exchange: Exchange) -> None:
        """Go on after a complete answer: close, answer the next in line, or wait for it."""
        self.server_state.total_requests += 1
        self._active = None
        if self._stage == "between":
            self._since = None
        if self.transport.is_closing():
            return
        if not exchange.keep_alive:
            is_done = self._stage == "between" and not (self._has_dropped or self._unfed)
            self._queue.clear()
            self._hang_up(may_send_on=not is_done)
            return
        if self._queue:
            self._start(self._queue.popleft())
        elif self._last_words is not None:
            self._speak_last(self._last_words)
            return
        if not self._queue and (self.flow.read_paused or self._unfed):
            self.read_on()

    def _refuse(self, problem: _Problem) -> None:
        """Stop listening, and answer with the problem once the answers before it are out."""
        received_half = self._newest if self._stage == "body" else None
        self._is_deaf = True
        self._unfed = _NO_BYTES
        is_taken = False
        if received_half is None or received_half.response_complete:
            is_answered = received_half is not None
        else:
            is_answered = received_half.is_on_the_wire
            if received_half is self._active:
                self._active = None
            else:
                self._queue.remove(received_half)
            is_taken = received_half.leave(problem.failure)
        if not is_taken:
            self._on_refused(problem.failure, self._address)
        if is_answered:
            # The answer is out, or begun and cannot be completed: only the close is left to say.
            self.transport.close()
        elif self._active is None:
            self._speak_last(problem)
        else:
            self._stage = "between"
            self._last_words = problem

    def _speak_last(self, problem: _Problem) -> None:
        if not self.transport.is_closing():
            self.transport.write(problem.answer(self.default_headers))
            self._hang_up(may_send_on=True)

    def _hang_up(self, *, may_send_on: bool) -> None:
        """Close; where the caller may still be sending, read and drop for a moment first."""
        self._is_deaf = True
        self._unfed = _NO_BYTES
        if not may_send_on:
            self.transport.close()
            return
        self._stage = "lingering"
        self._since = None
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()


class _BodyOnly:
    """What a parser calls that reads the body of a request whose head is already known."""

    def __init__(self, protocol: ReceivingProtocol) -> None:
        self.on_body = protocol.on_body
        self.on_message_complete = protocol.on_message_complete


class Sweeper:
    """Compares all connections with their limits, twice a second: one timer for the whole server.

    A limit therefore ends a wait up to two intervals late and never early, and a request costs no
    timer of its own.
    """

    def __init__(
        self,
        state: ReceivingState,
        *,
        now: Callable[[], float] = monotonic_s,
        interval_s: float = 0.5,
    ) -> None:
        self._state = state
        self._now = now
        self._interval_s = interval_s
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Sweep from now on, in the running loop."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._sweep)

    def stop(self) -> None:
        """Sweep no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        # The next sweep is set before this one: nothing that goes wrong here ends the sweeping.
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._sweep)
        now_s = self._now()
        for connection in tuple(self._state.connections):
            if isinstance(connection, ReceivingProtocol):
                connection.check(now_s)


def shutdown_connections(server_state: ReceivingState) -> None:
    """Ask idle connections to close now and busy ones to close with their present answer."""
    for connection in tuple(server_state.connections):
        connection.shutdown()
