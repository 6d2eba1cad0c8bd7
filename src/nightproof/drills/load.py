"""Callers: a crowd that asks at a rate which does not care how the server fares (open loop), each ending written down.

A thread with an event loop of its own, over kept connections, as a pool of clients has them. A call's time counts from
the moment when it was due. Used by every drill; knows nothing of faults.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import orjson
import uvloop

from nightproof.base.clock import monotonic_s
from nightproof.base.failures import CATALOGUE
from nightproof.drills.chat_told import told_of_chat, told_of_stream
from nightproof.drills.observed import Call, Ending

_MOST_CONNECTIONS = 2_000
_LONGEST_HEAD_BYTES = 1 << 16
_LONGEST_BODY_BYTES = 1 << 24


class Door(Protocol):
    """Where and how a server is asked, and how its answers are read."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...

    @property
    def tls(self) -> ssl.SSLContext | None: ...

    def request(self, body: bytes, headers: Sequence[tuple[str, str]] = ()) -> bytes:
        """Write a whole request."""

    def read(self, answer: Answer, *, sent_s: float, took_s: float) -> Call:
        """Say how a call ended, from what its caller was told."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a service of a stage is asked, and with whose key."""

    port: int
    service: str
    key: str
    tls: ssl.SSLContext | None = None
    host: str = "127.0.0.1"
    chat: bool = False
    """It is asked in OpenAI's protocol."""

    @property
    def path(self) -> str:
        """Return the route that answers."""
        return "/v1/chat/completions" if self.chat else f"/services/{self.service}/predict"

    def request(self, body: bytes, headers: Sequence[tuple[str, str]] = ()) -> bytes:
        """Write a whole request of the service's protocol."""
        more = "".join(f"{name}: {value}\r\n" for name, value in headers)
        return (
            f"POST {self.path} HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\n"
            f"authorization: Bearer {self.key}\r\ncontent-type: application/json\r\n{more}"
            f"content-length: {len(body)}\r\n\r\n"
        ).encode() + body

    def read(self, answer: Answer, *, sent_s: float, took_s: float) -> Call:
        """Read an answer of the native protocol."""
        return classify(answer, sent_s=sent_s, took_s=took_s)


class Answer(msgspec.Struct, frozen=True):
    """What came back to one request."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def failure(self) -> str:
        """The failure that it names, or that a fallback stands in for."""
        told = self.told
        return str(told.get("failure") or (told.get("degraded") or {}).get("failure") or "")

    @property
    def told(self) -> dict[str, Any]:
        """Its body as an object, in the native protocol's words; empty where it is none."""
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            return told_of_stream(self.body)
        try:
            read = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return {}
        return told_of_chat(read) if isinstance(read, dict) else {}


def classify(answer: Answer, *, sent_s: float, took_s: float) -> Call:
    """Say how a call ended, from what its caller was told."""
    told = answer.told
    degraded = told.get("degraded") or {}
    failure = str(told.get("failure") or degraded.get("failure") or "")
    ending: Ending
    if told.get("looks_whole"):
        # An end that a client takes for one, of what is none.
        ending, failure = "torn", failure or "looks_whole"
    elif told.get("is_cut"):
        ending = "lost"
    elif answer.status == 200 and not told.get("failure"):
        ending = "degraded" if degraded else "answered"
    elif _status(answer.status, failure) < 500 or (failure in CATALOGUE and CATALOGUE[failure].shed):
        ending = "refused"
    else:
        ending = "failed"
    return Call(
        sent_s=sent_s,
        took_s=took_s,
        status=answer.status,
        ending=ending,
        failure=failure,
        by=str(degraded.get("by", "")) if isinstance(degraded, dict) else "",
        id=answer.headers.get("x-request-id", ""),
        release=str(told.get("release", "")),
        output=digest(told.get("output")) if ending == "answered" else "",
    )


def _status(status: int, failure: str) -> int:
    """Return the status that an error has; one within a stream came too late for a status of its own."""
    if status == 200 and failure in CATALOGUE and CATALOGUE[failure].statuses:
        return CATALOGUE[failure].statuses[0]
    return status if status != 200 else 500


def digest(output: object) -> str:
    """Name an answer by what it says; the last digits of a number may differ with the batch that it came in."""
    output = _rounded(output)
    return hashlib.sha256(orjson.dumps(output, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """Read one answer. Raises IncompleteReadError where the connection ends before it does."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name
    }
    return Answer(int(first.split(" ")[1]), headers, await _read_body(reader, first, headers))


async def _read_body(reader: asyncio.StreamReader, first: str, headers: dict[str, str]) -> bytes:
    """Read a body of announced length, in chunks, or up to the end of the connection."""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return await _read_chunks(reader, is_stream="event-stream" in headers.get("content-type", ""))
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    is_last = first.startswith("HTTP/1.0") or headers.get("connection", "").lower() == "close"
    return await reader.read(_LONGEST_BODY_BYTES) if is_last else b""


async def _read_chunks(reader: asyncio.StreamReader, *, is_stream: bool) -> bytes:
    """Read a body in chunks; of a stream that is cut, what came of it is what its caller has."""
    body = b""
    try:
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            body += (await reader.readexactly(size + 2))[:-2]
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass  # trailers
    except (OSError, asyncio.IncompleteReadError) as error:
        if not is_stream:
            raise
        return body + (error.partial if isinstance(error, asyncio.IncompleteReadError) else b"")
    return body


class Crowd:
    """Ordinary callers. `calls` grows while they ask; its times are on the monotonic clock."""

    def __init__(
        self,
        place: Door,
        bodies: Sequence[bytes],
        *,
        rate_per_s: float,
        patience_s: float,
        seed: int = 0,
        pace: float = 1.0,
    ) -> None:
        self.calls: list[Call] = []
        self.rate_per_s = rate_per_s
        self.sent = 0
        self._place = place
        self._requests = [place.request(body) for body in bodies]
        self._patience_s = patience_s
        self._pace = pace
        # It only spreads arrivals; nothing secret depends on it.
        self._draw = random.Random(seed)  # noqa: S311
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._open = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="crowd", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more, and wait until every call has its ending."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(self._patience_s + 5.0)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._ask_on())

    async def _ask_on(self) -> None:
        tasks: set[asyncio.Task[None]] = set()
        due_s = monotonic_s()
        while not self._ended.is_set():
            if self.rate_per_s <= 0:
                await asyncio.sleep(0.02)
                due_s = monotonic_s()
                continue
            due_s += self._draw.expovariate(self.rate_per_s * self._pace)
            while (ahead_s := due_s - monotonic_s()) > 0 and not self._ended.is_set():
                await asyncio.sleep(min(ahead_s, 0.1))
            task = asyncio.create_task(self._one(due_s, self.sent % len(self._requests)))
            self.sent += 1
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.wait(tasks)
        for _, writer in self._idle:
            writer.close()

    async def _one(self, due_s: float, asked: int) -> None:
        try:
            async with asyncio.timeout(max(0.1, due_s + self._patience_s - monotonic_s())):
                answer = await self._exchange(self._requests[asked])
        except TimeoutError:
            self._note(Call(sent_s=due_s, took_s=monotonic_s() - due_s, ending="hung"))
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            self._note(Call(sent_s=due_s, took_s=monotonic_s() - due_s, ending="lost"))
        else:
            call = self._place.read(answer, sent_s=due_s, took_s=monotonic_s() - due_s)
            self._note(msgspec.structs.replace(call, asked=asked))

    def _note(self, call: Call) -> None:
        self.calls.append(call)

    async def _exchange(self, request: bytes) -> Answer:
        connection = self._from_pool()
        if connection is None:
            connection = await asyncio.open_connection(
                self._place.host, self._place.port, ssl=self._place.tls, limit=_LONGEST_HEAD_BYTES
            )
        reader, writer = connection
        is_whole = False
        try:
            writer.write(request)
            answer = await read_answer(reader)
            is_whole = answer.headers.get("connection", "").lower() != "close"
            return answer
        finally:
            if is_whole and len(self._idle) < _MOST_CONNECTIONS:
                self._idle.append(connection)
            else:
                with contextlib.suppress(OSError):
                    writer.close()

    def _from_pool(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Return a kept connection that the server has not closed meanwhile, as clients' pools do."""
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        return None


def ask_all(
    place: Door, requests: Sequence[bytes], *, at_once: int = 8, patience_s: float = 10.0
) -> list[Call]:
    """Send requests in a closed loop, so many at once, and return their endings in order."""

    async def run() -> list[Call]:
        gate = asyncio.Semaphore(at_once)

        async def one(request: bytes) -> Call:
            async with gate:
                began_s = monotonic_s()
                try:
                    async with asyncio.timeout(patience_s):
                        reader, writer = await asyncio.open_connection(
                            place.host, place.port, ssl=place.tls, limit=_LONGEST_HEAD_BYTES
                        )
                        try:
                            writer.write(request)
                            answer = await read_answer(reader)
                        finally:
                            writer.close()
                except TimeoutError:
                    return Call(sent_s=began_s, took_s=monotonic_s() - began_s, ending="hung")
                except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
                    return Call(sent_s=began_s, took_s=monotonic_s() - began_s, ending="lost")
                return place.read(answer, sent_s=began_s, took_s=monotonic_s() - began_s)

        return list(await asyncio.gather(*(one(request) for request in requests)))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())
