"""Real sockets against the receiving side: slow, broken and hostile callers, and ordinary ones."""

from __future__ import annotations

import asyncio
import json
import queue
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop

from nightproof.gateway.receiving import (
    Departure,
    ReceivingLimits,
    ReceivingProtocol,
    ReceivingState,
    Sweeper,
    is_overdue,
    receiving_config,
    shutdown_connections,
)

PATIENCE_S = 5.0
"""How long a test waits for what must happen; nothing here should come near it."""
MARK = "caller-bytes-4711"
"""Planted in hostile requests: no answer may repeat it."""
DEFAULTS = ReceivingLimits()
QUICK = ReceivingLimits(
    first_byte_s=0.2,
    headers_s=0.3,
    body_s=0.4,
    body_grace_s=10.0,
    keep_alive_s=0.2,
    write_stalled_s=0.2,
    linger_s=0.2,
)


# -- the server under test ----------------------------------------------------------------------------


@dataclass
class Served:
    """A server in a thread, and what it noticed."""

    port: int
    loop: asyncio.AbstractEventLoop
    state: ReceivingState
    refused: queue.SimpleQueue[tuple[str, str]]
    noticed: queue.SimpleQueue[str]
    proceed: asyncio.Event
    tls: ssl.SSLContext | None = None

    def connect(self) -> Caller:
        """Open a connection to the server."""
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        if self.tls is None:
            return Caller(plain)
        return Caller(self.tls.wrap_socket(plain, server_hostname="localhost"))

    def ask(self, request: bytes) -> tuple[Answer, bytes]:
        """Send bytes on a new connection; return the first answer and whatever follows until the close."""
        with self.connect() as caller:
            caller.send(request)
            return caller.answer(), caller.rest()

    def call(self, act: Callable[[], None]) -> None:
        """Run something in the server's loop."""
        self.loop.call_soon_threadsafe(act)

    def refusals(self) -> list[str]:
        """Return the failures counted since the last call."""
        failures = []
        while not self.refused.empty():
            failures.append(self.refused.get()[0])
        return failures

    def notice(self) -> str:
        """Wait for the next thing the application notices."""
        return self.noticed.get(timeout=PATIENCE_S)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        assert MARK.encode() not in self.body
        document = json.loads(self.body)
        assert document["status"] == self.status
        assert document["type"] == f"/problems/{document['failure']}"
        assert document["title"]
        assert isinstance(document["retryable"], bool)
        return document


@dataclass
class Caller:
    sock: socket.socket
    file: Any = field(init=False)

    def __post_init__(self) -> None:
        self.file = self.sock.makefile("rb")

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self) -> Answer:
        """Read one answer, framed as HTTP/1.1 says."""
        status = int(self.file.readline().split()[1])
        headers = {}
        while line := self.file.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name] = value.strip()
        body = b""
        if status < 200:
            return Answer(status, headers, body)
        if "content-length" in headers:
            body = self.file.read(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            while size := int(self.file.readline(), 16):
                body += self.file.read(size)
                self.file.readline()
            self.file.readline()
        else:
            body = self.file.read()
        return Answer(status, headers, body)

    def rest(self) -> bytes:
        """Read until the server closes; a reset counts as a close."""
        try:
            return bytes(self.file.read())
        except ConnectionResetError:
            return b""


def plain_head(status: int, size_bytes: int) -> dict[str, Any]:
    length = (b"content-length", b"%d" % size_bytes)
    return {"type": "http.response.start", "status": status, "headers": [length]}


class Application:
    """A small application with one path per behaviour the tests need."""

    def __init__(self, noticed: queue.SimpleQueue[str], proceed: asyncio.Event) -> None:
        self._noticed = noticed
        self._proceed = proceed

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        behaviour = getattr(self, "on" + scope["path"].replace("/", "_"), self.on_echo)
        await behaviour(scope, receive, send)

    async def on_echo(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer what was understood: method, path, query, and the size of the body."""
        size_bytes, event = 0, {"more_body": True}
        while event.get("more_body"):
            event = await receive()
            if event["type"] == "http.disconnect":
                self._noticed.put("disconnect")
                return
            size_bytes += len(event["body"])
        names = [name.decode() for name, _ in scope["headers"]]
        seen = [scope["method"], scope["path"], scope["query_string"].decode(), size_bytes, names]
        body = json.dumps(seen).encode()
        await send(plain_head(200, len(body)))
        await send({"type": "http.response.body", "body": body})

    async def on_early(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer without reading."""
        await send(plain_head(413, 0))
        await send({"type": "http.response.body"})

    async def on_held(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer when the test says so, reading nothing before."""
        self._noticed.put("held")
        await self._proceed.wait()
        await self.on_echo(scope, receive, send)

    async def on_wait(self, scope: Any, receive: Any, send: Any) -> None:
        """Wait until the caller leaves, and tell both ways of learning it."""
        departure: Departure = scope["extensions"]["nightproof.disconnect"]
        departure.callback = lambda: self._noticed.put(f"callback {departure.is_gone} {departure.failure}")
        await receive()
        self._noticed.put("waiting")
        event = await receive()
        self._noticed.put(event["type"])

    async def on_callback(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer at once, with a callback that must not be called."""
        scope["extensions"]["nightproof.disconnect"].callback = lambda: self._noticed.put("called")
        await self.on_echo(scope, receive, send)

    async def on_endless(self, scope: Any, receive: Any, send: Any) -> None:
        """Stream until the caller is gone."""
        departure: Departure = scope["extensions"]["nightproof.disconnect"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not departure.is_gone:
            await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
            await asyncio.sleep(0)
        self._noticed.put("cut")

    async def on_begun(self, scope: Any, receive: Any, send: Any) -> None:
        """Begin the answer before the body is there, then read on."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        event = await receive()
        while event.get("more_body"):
            event = await receive()
        self._noticed.put(event["type"])
        await send({"type": "http.response.body", "body": b"done"})

    async def on_large(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer with more than fits in the socket's buffers."""
        await send(plain_head(200, 50_000_000))
        await send({"type": "http.response.body", "body": bytes(50_000_000)})

    async def on_crash(self, scope: Any, receive: Any, send: Any) -> None:
        raise ValueError(MARK)

    async def on_silent(self, scope: Any, receive: Any, send: Any) -> None:
        """Return without an answer."""

    async def on_split(self, scope: Any, receive: Any, send: Any) -> None:
        """Try to answer with a header value that carries another header."""
        headers = [(b"x-note", b"a\r\nset-cookie: b")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


@contextmanager
def serve(limits: ReceivingLimits = DEFAULTS, *, tls: bool = False) -> Iterator[Served]:
    """Run a server with these limits in a thread; sweep so often that short limits are kept."""
    ready: queue.SimpleQueue[Served | BaseException] = queue.SimpleQueue()
    stop: list[Callable[[], None]] = []
    server_context = client_context = None
    if tls:
        authority = trustme.CA()
        server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(server_context)
        client_context = ssl.create_default_context()
        authority.configure_trust(client_context)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        state = ReceivingState()
        refused: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        noticed: queue.SimpleQueue[str] = queue.SimpleQueue()
        proceed = asyncio.Event()
        config = receiving_config(Application(noticed, proceed))
        server = await loop.create_server(
            lambda: ReceivingProtocol(
                config, state, {}, limits=limits, on_refused=lambda failure, at: refused.put((failure, at))
            ),
            "127.0.0.1",
            0,
            ssl=server_context,
        )
        sweeper = Sweeper(state, interval_s=0.03)
        sweeper.start()
        stop.append(lambda: loop.call_soon_threadsafe(stopped.set))
        port = server.sockets[0].getsockname()[1]
        ready.put(Served(port, loop, state, refused, noticed, proceed, client_context))
        await stopped.wait()
        sweeper.stop()
        server.close()
        for connection in tuple(state.connections):
            connection.transport.abort()
        proceed.set()
        while state.connections or state.tasks:
            await asyncio.sleep(0.001)
        await server.wait_closed()

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(main())
        except BaseException as error:
            ready.put(error)
            raise

    thread = threading.Thread(target=run)
    thread.start()
    served = ready.get(timeout=PATIENCE_S)
    assert isinstance(served, Served), served
    try:
        yield served
    finally:
        stop[0]()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def ordinary() -> Iterator[Served]:
    """One server with the default limits, shared by the tests that wait for nothing."""
    with serve() as served:
        yield served


@pytest.fixture(scope="module")
def quick() -> Iterator[Served]:
    """One server with short limits."""
    with serve(QUICK) as served:
        yield served


@pytest.fixture(autouse=True)
def _forget(request: pytest.FixtureRequest) -> None:
    """Start every test with nothing counted on the shared servers."""
    for name in ("ordinary", "quick"):
        if name in request.fixturenames:
            served: Served = request.getfixturevalue(name)
            served.refusals()
            while not served.noticed.empty():
                served.noticed.get()
            served.call(served.proceed.clear)


def until(holds: Callable[[], bool]) -> None:
    """Wait until the server's other thread has brought something about."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def request(path: str = "/echo", *fields: str, method: str = "GET", body: bytes = b"") -> bytes:
    """Write a sound request with these extra header fields."""
    lines = [f"{method} {path} HTTP/1.1", "Host: here", *fields]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(body: bytes) -> bytes:
    return request("/echo", "Transfer-Encoding: chunked", method="POST") + body


# -- ordinary requests --------------------------------------------------------------------------------


def test_a_body_is_handed_over_whole_and_the_connection_stays_open(ordinary: Served) -> None:
    with ordinary.connect() as caller:
        caller.send(request("/echo?q=%41", method="POST", body=b"x" * 300_000))
        first = caller.answer()
        caller.send(request("/a%20b"))
        second = caller.answer()

    assert json.loads(first.body) == ["POST", "/echo", "q=%41", 300_000, ["host", "content-length"]]
    assert json.loads(second.body)[:3] == ["GET", "/a b", ""]
    assert "connection" not in first.headers
    assert ordinary.refusals() == []


def test_a_chunked_body_is_put_together_and_its_trailers_do_not_become_headers(ordinary: Served) -> None:
    with ordinary.connect() as caller:
        caller.send(chunked(b"4\r\nabcd\r\n3;ext=1\r\nefg\r\n0\r\nAuthorization: late\r\n\r\n"))
        answer = caller.answer()

    assert json.loads(answer.body)[3:] == [7, ["host", "transfer-encoding"]]


def test_pipelined_requests_are_answered_in_order(ordinary: Served) -> None:
    with ordinary.connect() as caller:
        sender = threading.Thread(
            target=caller.send, args=(b"".join(request(f"/{number}") for number in range(3_000)),)
        )
        sender.start()
        paths = [json.loads(caller.answer().body)[1] for _ in range(3_000)]
        sender.join()

    assert paths == [f"/{number}" for number in range(3_000)]


def test_pipelined_bodies_each_reach_their_own_request(ordinary: Served) -> None:
    sizes = [0, 1, 70_000, 3, 200_000, 16_384]
    with ordinary.connect() as caller:
        caller.send(b"".join(request(method="POST", body=b"y" * size) for size in sizes))
        seen = [json.loads(caller.answer().body)[3] for _ in sizes]

    assert seen == sizes


def test_a_refusal_waits_for_the_answers_before_it(ordinary: Served) -> None:
    with ordinary.connect() as caller:
        caller.send(request("/held") + request("/second") + b"no http at all\r\n\r\n")
        assert ordinary.notice() == "held"
        ordinary.call(ordinary.proceed.set)
        answers = [caller.answer() for _ in range(3)]
        rest = caller.rest()

    assert [answer.status for answer in answers] == [200, 200, 400]
    assert answers[2].problem["failure"] == "malformed_request"
    assert (rest, ordinary.refusals()) == (b"", ["malformed_request"])


def test_a_request_that_arrives_byte_by_byte_is_understood(ordinary: Served) -> None:
    with ordinary.connect() as caller:
        caller.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request("/echo", "X-Long: " + "v" * 40, method="POST", body=b"abc"):
            caller.send(bytes([byte]))
        answer = caller.answer()

    assert json.loads(answer.body)[3] == 3


def test_http_1_0_is_answered_and_closed(ordinary: Served) -> None:
    answer, rest = ordinary.ask(b"GET /echo HTTP/1.0\r\n\r\n")

    assert (answer.status, answer.headers["connection"], rest) == (200, "close", b"")


def test_an_answer_of_unknown_length_is_not_chunked_for_http_1_0(ordinary: Served) -> None:
    answer, _ = ordinary.ask(b"POST /begun HTTP/1.0\r\nContent-Length: 0\r\n\r\n")

    assert "transfer-encoding" not in answer.headers
    assert answer.body == b"begundone"


def test_head_has_no_body_and_keeps_the_connection(ordinary: Served) -> None:
    with ordinary.connect() as caller:
        caller.send(request("/echo", method="HEAD") + request("/after"))
        raw = caller.file.readline()
        while line := caller.file.readline().strip():
            assert b"transfer-encoding" not in line
        after = caller.answer()

    assert (raw, json.loads(after.body)[1]) == (b"HTTP/1.1 200 OK\r\n", "/after")


def test_expect_100_continue_is_answered_when_the_application_reads(ordinary: Served) -> None:
    with ordinary.connect() as caller:
        caller.send(request("/echo", "Expect: 100-continue", "Content-Length: 3", method="POST"))
        interim = caller.answer()
        caller.send(b"abc")
        final = caller.answer()

    assert (interim.status, final.status, json.loads(final.body)[3]) == (100, 200, 3)


def test_expect_100_continue_is_not_answered_when_the_application_refuses(ordinary: Served) -> None:
    answer, rest = ordinary.ask(request("/early", "Expect: 100-continue", "Content-Length: 3", method="POST"))

    assert (answer.status, answer.headers["connection"], rest) == (413, "close", b"")


@pytest.mark.parametrize("method", ["TRACE", "DELETE", "PROPFIND"])
def test_the_application_decides_about_methods(ordinary: Served, method: str) -> None:
    with ordinary.connect() as caller:
        caller.send(request("/echo", method=method))

        assert json.loads(caller.answer().body)[0] == method


def test_content_codings_are_left_to_the_application(ordinary: Served) -> None:
    with ordinary.connect() as caller:
        caller.send(request("/echo", "Content-Encoding: gzip", method="POST", body=b"\x1f\x8b"))

        assert json.loads(caller.answer().body)[3] == 2


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("http://here/x?q=1", "/x", "q=1"),
        ("http://HERE", "/", ""),
        ("http://here?q=/", "/", "q=/"),
        ("//x/../y", "//x/../y", ""),
    ],
)
def test_a_target_may_be_a_whole_url(ordinary: Served, target: str, path: str, query: str) -> None:
    with ordinary.connect() as caller:
        caller.send(request(target))

        assert json.loads(caller.answer().body)[1:3] == [path, query]


def test_an_asterisk_is_a_target_for_options(ordinary: Served) -> None:
    with ordinary.connect() as caller:
        caller.send(request("*", method="OPTIONS"))

        assert json.loads(caller.answer().body)[:2] == ["OPTIONS", "*"]


# -- upgrades -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
def test_an_upgrade_is_ignored_and_the_request_answered(ordinary: Served, protocol: str) -> None:
    fields = ("Connection: Upgrade, HTTP2-Settings", f"Upgrade: {protocol}", "HTTP2-Settings: AAMAAABk")
    with ordinary.connect() as caller:
        caller.send(request("/one", *fields) + request("/two"))
        answers = [caller.answer(), caller.answer()]

    assert [json.loads(answer.body)[1] for answer in answers] == ["/one", "/two"]


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_the_body_of_an_upgrade_request_is_a_body_and_not_the_next_request(
    ordinary: Served, framing: str
) -> None:
    fields = ["Connection: Upgrade", "Upgrade: h2c"]
    body = request("/smuggled")
    if framing == "length":
        whole = request("/echo", *fields, method="POST", body=body)
    else:
        head = request("/echo", *fields, "Transfer-Encoding: chunked", method="POST")
        whole = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)

    answer, rest = ordinary.ask(whole)

    assert json.loads(answer.body)[:4] == ["POST", "/echo", "", len(body)]
    assert (answer.headers["connection"], rest) == ("close", b"")


def test_a_request_after_the_body_of_an_upgrade_request_does_not_add_to_it(ordinary: Served) -> None:
    fields = ("Connection: Upgrade", "Upgrade: h2c")
    first = request("/echo", *fields, method="POST", body=b"abcd")

    answer, rest = ordinary.ask(first + request("/next", method="POST", body=b"more"))

    assert (json.loads(answer.body)[3], answer.headers["connection"], rest) == (4, "close", b"")


def test_no_tunnel_is_opened(ordinary: Served) -> None:
    answer, rest = ordinary.ask(b"CONNECT far.example:443 HTTP/1.1\r\nHost: far.example:443\r\n\r\n")

    assert (answer.status, answer.problem["failure"], rest) == (405, "malformed_request", b"")


# -- framing and grammar ------------------------------------------------------------------------------

HEAD = b"POST /echo HTTP/1.1\r\nHost: here\r\n"
MALFORMED = {
    "content length and transfer encoding": HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
    "transfer encoding and content length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n",
    "two equal content lengths": HEAD + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
    "two different content lengths": HEAD + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
    "a list of content lengths": HEAD + b"Content-Length: 4, 4\r\n\r\nabcd",
    "a content length with a sign": HEAD + b"Content-Length: +4\r\n\r\nabcd",
    "a negative content length": HEAD + b"Content-Length: -1\r\n\r\n",
    "a content length with an exponent": HEAD + b"Content-Length: 1e3\r\n\r\n",
    "a content length beyond 64 bits": HEAD + b"Content-Length: " + b"9" * 31 + b"\r\n\r\n",
    "an empty content length": HEAD + b"Content-Length: \r\n\r\n",
    "an unknown transfer coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n",
    "identity after chunked": HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n",
    "gzip before chunked": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "transfer encoding twice": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a negative chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
    "a chunk of 17 digits": HEAD + b"Transfer-Encoding: chunked\r\n\r\n11111111111111111\r\n",
    "a chunk with a longer body": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
    "a chunk extension of 1 MiB": HEAD + b"Transfer-Encoding: chunked\r\n\r\n4;" + b"x" * 1_048_576,
    "trailers without end": HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 20_000,
    "a folded header": HEAD + b"X: a\r\n b\r\n\r\n",
    "a bare line feed": HEAD + b"X: a\nY: b\r\n\r\n",
    "a bare carriage return": HEAD + b"X: a\rY: b\r\n\r\n",
    "only line feeds": b"GET / HTTP/1.1\nHost: here\n\n",
    "NUL in a header value": HEAD + b"X: a\0b\r\n\r\n",
    "a control character in a header value": HEAD + b"X: a\x01b\r\n\r\n",
    "a space before the colon": HEAD + b"X : a\r\n\r\n",
    "a header without a name": HEAD + b": a\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\nX: a\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: here\r\nHost: there\r\n\r\n",
    "two hosts in HTTP/1.0": b"GET / HTTP/1.0\r\nHost: here\r\nHost: here\r\n\r\n",
    "a host that is not the target's": b"GET http://there/ HTTP/1.1\r\nHost: here\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/0.9 said aloud": b"GET / HTTP/0.9\r\nHost: here\r\n\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\nHost: here\r\n\r\n",
    "HTTP/3.7": b"GET / HTTP/3.7\r\nHost: here\r\n\r\n",
    "the HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an unknown method": b"FROBNICATE / HTTP/1.1\r\nHost: here\r\n\r\n",
    "a method in lower case": b"get / HTTP/1.1\r\nHost: here\r\n\r\n",
    "a target without a slash": b"GET x HTTP/1.1\r\nHost: here\r\n\r\n",
    "an asterisk for GET": b"GET * HTTP/1.1\r\nHost: here\r\n\r\n",
    "a fragment in the target": b"GET /a#b HTTP/1.1\r\nHost: here\r\n\r\n",
    "NUL in the target": b"GET /a\0b HTTP/1.1\r\nHost: here\r\n\r\n",
    "raw bytes in the target": b"GET /\xc0\xaf HTTP/1.1\r\nHost: here\r\n\r\n",
    "TLS on the plain port": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "garbage": bytes(range(1, 256)),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_not_sound_http_is_refused_and_closed(ordinary: Served, name: str) -> None:
    with ordinary.connect() as caller:
        try:
            caller.send(MALFORMED[name])
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before it was all sent
        answer = caller.answer()
        rest = caller.rest()

    assert (answer.status, answer.problem["failure"], answer.problem["retryable"]) == (
        400,
        "malformed_request",
        False,
    )
    assert (answer.headers["connection"], rest) == ("close", b"")
    assert ordinary.refusals() == ["malformed_request"]


def test_a_refused_connection_does_not_disturb_others(ordinary: Served) -> None:
    with ordinary.connect() as neighbour:
        neighbour.send(request("/before"))
        neighbour.answer()
        ordinary.ask(MALFORMED["garbage"])
        neighbour.send(request("/after"))

        assert json.loads(neighbour.answer().body)[1] == "/after"


def test_nothing_of_the_request_is_repeated(ordinary: Served) -> None:
    answer, _ = ordinary.ask(f"GET /{MARK} HTTP/1.1\r\nHost: here\r\n{MARK} : {MARK}\r\n\r\n".encode())

    assert MARK not in str(answer)
    assert set(answer.problem) == {"type", "title", "status", "detail", "failure", "retryable"}


# -- sizes --------------------------------------------------------------------------------------------

TOO_LARGE = {
    "a header of 70 KiB": HEAD + b"X: " + b"v" * 71_680 + b"\r\n\r\n",
    "a header of 8 KiB and a bit": HEAD + b"X: " + b"v" * 8_200 + b"\r\n\r\n",
    "a header name of 1 MiB": HEAD + b"v" * 1_048_576,
    "5,000 headers": HEAD + b"".join(b"X-%d: v\r\n" % number for number in range(5_000)) + b"\r\n",
    "65 headers": HEAD + b"X: v\r\n" * 64 + b"\r\n",
    "40 KiB of headers": HEAD + (b"X: " + b"v" * 4_096 + b"\r\n") * 10 + b"\r\n",
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_headers_beyond_the_limits_are_refused_with_431(ordinary: Served, name: str) -> None:
    with ordinary.connect() as caller:
        try:
            caller.send(TOO_LARGE[name])
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before it was all sent
        answer = caller.answer()

    assert (answer.status, answer.problem["failure"]) == (431, "headers_too_large")
    assert ordinary.refusals() == ["headers_too_large"]


@pytest.mark.parametrize("size_bytes", [8_200, 204_800])
def test_a_long_target_is_refused_with_414(ordinary: Served, size_bytes: int) -> None:
    answer, rest = ordinary.ask(request("/" + "a" * size_bytes))

    assert (answer.status, answer.problem["failure"], rest) == (414, "malformed_request", b"")


def test_headers_just_under_the_limits_are_served(ordinary: Served) -> None:
    fields = [f"X-{number}: {'v' * 480}" for number in range(63)]
    with ordinary.connect() as caller:
        for _ in range(2):
            caller.send(request("/" + "a" * 8_000, *fields))

            assert caller.answer().status == 200


# -- time ---------------------------------------------------------------------------------------------


def test_a_connection_that_sends_nothing_is_closed_and_not_counted(quick: Served) -> None:
    with quick.connect() as caller:
        rest = caller.rest()

    assert (rest, quick.refusals()) == (b"", [])


def test_an_idle_connection_is_closed_after_its_answer_and_not_counted(quick: Served) -> None:
    answer, rest = quick.ask(request())

    assert (answer.status, rest, quick.refusals()) == (200, b"", [])


def test_half_a_head_and_silence_is_a_slow_request(quick: Served) -> None:
    answer, rest = quick.ask(b"GET / HTTP/1.1\r\nHost: he")

    assert (answer.status, answer.problem["failure"], answer.problem["retryable"], rest) == (
        408,
        "slow_request",
        True,
        b"",
    )
    assert quick.refusals() == ["slow_request"]


@pytest.mark.parametrize(
    "begun", [b"GET /", request("/echo", "Content-Length: 1000", method="POST")], ids=["head", "body"]
)
def test_what_drips_is_cut_at_an_absolute_limit(quick: Served, begun: bytes) -> None:
    started = time.monotonic()
    with quick.connect() as caller:
        caller.send(begun)
        caller.sock.settimeout(0.02)
        arrived = b""
        while not arrived and time.monotonic() - started < PATIENCE_S:
            caller.send(b"a")
            try:
                arrived = caller.sock.recv(4096)
            except TimeoutError:
                pass  # not cut yet: drip on

    assert arrived.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - started < 2.0
    assert quick.refusals() == ["slow_request"]


def test_a_body_that_is_too_thin_is_cut_before_its_time() -> None:
    limits = ReceivingLimits(body_grace_s=0.1, linger_s=0.1)
    with serve(limits) as served:
        answer, _ = served.ask(request("/echo", "Content-Length: 5000", method="POST") + b"some")

        assert (answer.status, served.notice()) == (408, "disconnect")
        assert served.refusals() == ["slow_request"]


def test_the_application_learns_why_a_dripped_body_ended(quick: Served) -> None:
    answer, _ = quick.ask(request("/wait", "Content-Length: 5", method="POST") + b"a")

    told = [quick.notice() for _ in range(3)]
    assert answer.status == 408
    assert told == ["waiting", "callback True slow_request", "http.disconnect"]


def test_a_caller_is_not_late_while_the_application_works(quick: Served) -> None:
    with quick.connect() as caller:
        caller.send(request("/held"))
        assert quick.notice() == "held"
        caller.sock.settimeout(0.6)
        with pytest.raises(TimeoutError):
            caller.sock.recv(1)
        quick.call(quick.proceed.set)
        caller.sock.settimeout(PATIENCE_S)
        status = caller.sock.recv(12)

    assert (status, quick.refusals()) == (b"HTTP/1.1 200", [])


def test_a_caller_is_not_late_while_we_do_not_read(quick: Served) -> None:
    body = b"z" * 8_000_000
    with quick.connect() as caller:
        sender = threading.Thread(target=caller.send, args=(request("/held", method="POST", body=body),))
        sender.start()
        assert quick.notice() == "held"
        time.sleep(0.6)  # longer than every limit: nothing may happen meanwhile
        quick.call(quick.proceed.set)
        answer = caller.answer()
        sender.join()

    assert json.loads(answer.body)[3] == len(body)


@pytest.mark.parametrize("path", ["/endless", "/large"])
def test_a_caller_who_does_not_read_its_answer_is_cut(quick: Served, path: str) -> None:
    with quick.connect() as caller:
        caller.send(request(path))
        until(lambda: bool(quick.state.connections))
        until(lambda: not quick.state.connections and not quick.state.tasks)

    assert quick.refusals() == []


@pytest.mark.parametrize(
    ("stage", "waited_s", "body_bytes", "overdue"),
    [
        ("first", 5.0, 0, False),
        ("first", 5.1, 0, True),
        ("head", 10.0, 0, False),
        ("head", 10.1, 0, True),
        ("body", 4.9, 0, False),
        ("body", 5.1, 0, True),
        ("body", 6.0, 6_144, False),
        ("body", 6.0, 6_143, True),
        ("body", 30.1, 10_000_000, True),
        ("between", 15.0, 0, False),
        ("between", 15.1, 0, True),
        ("lingering", 2.1, 0, True),
    ],
)
def test_each_wait_has_its_limit(stage: Any, waited_s: float, body_bytes: int, overdue: bool) -> None:
    assert is_overdue(stage, waited_s=waited_s, body_bytes=body_bytes, limits=DEFAULTS) is overdue


# -- callers who leave --------------------------------------------------------------------------------


@pytest.mark.parametrize("manner", ["closes", "resets", "half-closes"])
def test_the_application_learns_that_its_caller_left(ordinary: Served, manner: str) -> None:
    with ordinary.connect() as caller:
        caller.send(request("/wait"))
        assert ordinary.notice() == "waiting"
        if manner == "resets":
            caller.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if manner == "half-closes":
            caller.sock.shutdown(socket.SHUT_WR)
            assert caller.rest() == b""
    told = [ordinary.notice(), ordinary.notice()]

    assert told == ["callback True None", "http.disconnect"]


def test_half_a_body_and_a_close_is_a_disconnect_and_no_500(ordinary: Served) -> None:
    with ordinary.connect() as caller:
        caller.send(request("/echo", "Content-Length: 10", method="POST") + b"half")
        caller.sock.shutdown(socket.SHUT_WR)
        rest = caller.rest()

    assert (ordinary.notice(), rest, ordinary.refusals()) == ("disconnect", b"", [])


def test_the_callback_is_not_called_after_a_complete_answer(ordinary: Served) -> None:
    with ordinary.connect() as caller:
        caller.send(request("/callback"))
        caller.answer()
    with ordinary.connect() as caller:
        caller.send(request("/wait"))
        told = [ordinary.notice()]
    told += [ordinary.notice(), ordinary.notice()]

    assert told == ["waiting", "callback True None", "http.disconnect"]


def test_a_caller_who_leaves_takes_its_pipelined_requests_along(ordinary: Served) -> None:
    with ordinary.connect() as caller:
        caller.send(request("/wait") + request("/held") + request("/held"))
        assert ordinary.notice() == "waiting"
    told = [ordinary.notice(), ordinary.notice()]

    assert told == ["callback True None", "http.disconnect"]
    until(lambda: not ordinary.state.tasks)
    assert ordinary.noticed.empty()


# -- memory -------------------------------------------------------------------------------------------


@contextmanager
def flat_memory(limit_bytes: int) -> Iterator[None]:
    """Fail when the process's peak grows by more than this inside the block."""

    def kib(field_name: str) -> int:
        found = re.search(rf"{field_name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert found
        return int(found[1])

    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before_kib = kib("VmRSS")
    yield
    assert (kib("VmHWM") - before_kib) * 1024 < limit_bytes


def pour(caller: Caller, size_bytes: int, *, piece: bytes = bytes(65_536)) -> int:
    """Send a large body piece by piece until it is out or the server is gone; return what was sent."""
    sent_bytes = 0
    try:
        while sent_bytes < size_bytes:
            sent_bytes += caller.sock.send(piece)
    except (BrokenPipeError, ConnectionResetError, TimeoutError):
        pass  # the server has had enough, which is what some tests ask for
    return sent_bytes


@pytest.mark.parametrize("framing", ["Content-Length: 104857600", "Transfer-Encoding: chunked"])
def test_100_mb_refused_early_are_not_kept(quick: Served, framing: str) -> None:
    with flat_memory(8_000_000), quick.connect() as caller:
        caller.send(request("/early", framing, method="POST"))
        if "chunked" in framing:
            caller.send(b"6400000\r\n")
        pour(caller, 104_857_600)
        answer = caller.answer()

    assert (answer.status, answer.headers["connection"]) == (413, "close")
    until(lambda: not quick.state.connections)


def test_100_mb_read_by_the_application_pass_through_in_pieces(ordinary: Served) -> None:
    with flat_memory(8_000_000), ordinary.connect() as caller:
        caller.send(request("/echo", "Content-Length: 104857600", method="POST"))
        pour(caller, 104_857_600)
        answer = caller.answer()

    assert json.loads(answer.body)[3] == 104_857_600


def test_a_body_that_nobody_reads_stays_in_the_callers_hands(ordinary: Served) -> None:
    with flat_memory(8_000_000), ordinary.connect() as caller:
        caller.sock.settimeout(0.2)
        caller.send(request("/held", "Content-Length: 104857600", method="POST"))
        assert ordinary.notice() == "held"
        sent_bytes = pour(caller, 104_857_600)
    ordinary.call(ordinary.proceed.set)

    assert ordinary.notice() == "disconnect"
    assert sent_bytes < 30_000_000


def test_pipelined_requests_behind_a_slow_one_stay_in_the_callers_hands(ordinary: Served) -> None:
    with flat_memory(8_000_000), ordinary.connect() as caller:
        caller.sock.settimeout(0.2)
        caller.send(request("/held"))
        assert ordinary.notice() == "held"
        sent_bytes = pour(caller, 104_857_600, piece=request("/next") * 2_000)
    ordinary.call(ordinary.proceed.set)
    until(lambda: not ordinary.state.tasks)

    assert sent_bytes < 30_000_000


@pytest.mark.parametrize("reason", ["the application", "the head", "the number of requests"])
def test_an_early_answer_reaches_a_caller_who_first_sends_everything(reason: str) -> None:
    more = {
        "the application": request("/early", "Content-Length: 8000000", method="POST") + bytes(8_000_000),
        "the head": HEAD + b"X: " + b"v" * 8_000_000,
        "the number of requests": request("/early") * 200_000,
    }
    with serve(ReceivingLimits(requests_per_connection=1)) as served, served.connect() as caller:
        caller.send(more[reason])
        answer = caller.answer()

        assert answer.status == (431 if reason == "the head" else 413)
        assert caller.rest() == b""


def test_a_small_unread_body_does_not_cost_the_connection(ordinary: Served) -> None:
    with ordinary.connect() as caller:
        caller.send(request("/early", "Content-Length: 20000", method="POST"))
        early = caller.answer()
        caller.send(b"x" * 20_000 + request("/after"))
        after = caller.answer()

    assert (early.status, "connection" in early.headers) == (413, False)
    assert json.loads(after.body)[1] == "/after"


def test_a_small_unread_body_that_never_comes_is_closed_in_silence(quick: Served) -> None:
    answer, rest = quick.ask(request("/early", "Content-Length: 20000", method="POST"))

    assert (answer.status, rest, quick.refusals()) == (413, b"", ["slow_request"])


def test_an_answer_begun_before_a_broken_body_is_cut_short(ordinary: Served) -> None:
    with ordinary.connect() as caller:
        caller.send(request("/begun", "Transfer-Encoding: chunked", method="POST"))
        assert caller.file.readline() == b"HTTP/1.1 200 OK\r\n"
        caller.send(b"-1\r\n")
        rest = caller.rest()

    assert rest.endswith(b"5\r\nbegun\r\n")
    assert (ordinary.notice(), ordinary.refusals()) == ("http.disconnect", ["malformed_request"])


# -- how many -----------------------------------------------------------------------------------------


def keep_busy(served: Served, stack: ExitStack) -> Caller:
    caller = stack.enter_context(served.connect())
    caller.send(request())
    caller.answer()
    return caller


def test_a_connection_over_the_total_is_turned_away_and_later_let_in() -> None:
    with serve(ReceivingLimits(connections_total=2)) as served, ExitStack() as stack:
        first = keep_busy(served, stack)
        keep_busy(served, stack)
        with served.connect() as third:
            answer, rest = third.answer(), third.rest()
        first.__exit__()
        until(lambda: len(served.state.connections) < 2)
        late, _ = served.ask(request("/echo", "Connection: close"))

        assert (answer.status, answer.problem["failure"], rest) == (503, "overloaded", b"")
        assert (answer.headers["retry-after"], answer.headers["connection"]) == ("1", "close")
        assert (late.status, served.refused.get()) == (200, ("overloaded", "127.0.0.1"))


def test_a_connection_over_the_limit_of_its_address_is_turned_away() -> None:
    with serve(ReceivingLimits(connections_per_address=2)) as served, ExitStack() as stack:
        keep_busy(served, stack)
        keep_busy(served, stack)
        with served.connect() as third:
            answer = third.answer()
        stack.close()
        until(lambda: not served.state.per_address)
        late, _ = served.ask(request("/echo", "Connection: close"))

        assert (answer.status, answer.problem["failure"]) == (503, "overloaded")
        assert (late.status, served.refusals()) == (200, ["overloaded"])


def test_a_connection_serves_its_share_of_requests_in_order_and_closes() -> None:
    with serve(ReceivingLimits(requests_per_connection=100, linger_s=0.1)) as served:
        with served.connect() as caller:
            caller.send(b"".join(request(f"/{number}") for number in range(1_000)))
            answers = [caller.answer() for _ in range(100)]
            rest = caller.rest()

        assert [json.loads(answer.body)[1] for answer in answers] == [f"/{number}" for number in range(100)]
        assert (answers[-1].headers["connection"], rest) == ("close", b"")
        assert served.refusals() == []


# -- faults of ours, stopping, TLS --------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/crash", "/silent", "/split"])
def test_a_fault_of_the_application_is_a_500_without_its_words(ordinary: Served, path: str) -> None:
    answer, rest = ordinary.ask(request(path))

    assert (answer.status, answer.problem["failure"], rest) == (500, "internal_error", b"")
    assert "set-cookie" not in answer.headers


def test_stopping_closes_idle_connections_and_lets_busy_ones_finish() -> None:
    with serve() as served, ExitStack() as stack:
        idle = keep_busy(served, stack)
        busy = stack.enter_context(served.connect())
        busy.send(request("/held"))
        assert served.notice() == "held"
        half = stack.enter_context(served.connect())
        half.send(b"GET /half HTTP/1.1\r\nHo")
        until(lambda: len(served.state.connections) == 3)
        served.ask(request("/echo", "Connection: close"))
        served.call(lambda: shutdown_connections(served.state))
        idle_rest = idle.rest()
        half.send(b"st: here\r\n\r\n")
        served.call(served.proceed.set)
        answers = [busy.answer(), half.answer()]

        assert idle_rest == b""
        assert [answer.status for answer in answers] == [200, 200]
        assert [answer.headers["connection"] for answer in answers] == ["close", "close"]
        assert (busy.rest(), half.rest()) == (b"", b"")


def test_stopping_closes_a_connection_once_the_rest_of_its_refused_body_is_there() -> None:
    with serve() as served, served.connect() as caller:
        caller.send(request("/early", "Content-Length: 10", method="POST"))
        caller.answer()
        served.call(lambda: shutdown_connections(served.state))
        served.ask(request("/echo", "Connection: close"))
        caller.send(b"0123456789")

        assert caller.rest() == b""


def test_the_same_rules_hold_over_tls() -> None:
    with serve(QUICK, tls=True) as served:
        with served.connect() as caller:
            caller.send(request(method="POST", body=b"x" * 300_000))
            answer = caller.answer()
        refused, _ = served.ask(MALFORMED["two hosts"])
        slow, _ = served.ask(b"GET / HTT")
        with served.connect() as caller:
            caller.send(request("/early", "Content-Length: 104857600", method="POST"))
            pour(caller, 2_000_000)
            early = caller.answer()

        assert json.loads(answer.body)[3] == 300_000
        assert [refused.status, slow.status, early.status] == [400, 408, 413]
        assert served.refusals() == ["malformed_request", "slow_request"]


def test_plain_bytes_on_the_tls_port_are_closed() -> None:
    with serve(tls=True) as served:
        with Caller(socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE_S)) as caller:
            caller.send(request())
            rest = caller.rest()

        assert not rest.startswith(b"HTTP/")
