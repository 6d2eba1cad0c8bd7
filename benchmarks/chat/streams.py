"""Streams side by side: when the first piece came, how late each piece was, and what it costs in memory.

The upstream writes down when each piece left it, on the clock that all processes of a machine share, so what lies
between is told apart from what the upstream did. A piece may be held back on purpose until so many characters more
have come (`HOLD_BACK_CHARS`, more only while something suspicious is open); it is late by what it came after the
piece that set it free, or after the last one.
"""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import time
from dataclasses import dataclass
from itertools import accumulate

import httptools
import orjson
import uvloop

from benchmarks import machine
from benchmarks.chat import questions
from benchmarks.openloop import percentile
from benchmarks.systems import NotRun, Running
from benchmarks.upstream_fast import PIECES

HOLD_BACK_CHARS = 64
_ENDS_AT = tuple(accumulate(len(piece) for piece in PIECES))
_PATIENCE_S = 15.0


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """What many streams at once looked like to their callers. Times in milliseconds."""

    streams: int
    """Ended while they were looked at."""
    broken: int
    pieces: int
    first_p50_ms: float
    first_p99_ms: float
    """From the request to the first piece of text."""
    delay_p50_ms: float
    delay_p99_ms: float
    """From a piece's leaving the upstream to its arrival, what was held back on purpose included."""
    late_p99_ms: float
    late_max_ms: float
    """Beyond what was held back on purpose."""
    server_us_per_piece: float
    server_mb: float
    growth_kb_per_s: float
    """Slope of the server process's memory over the time, after a warm-up."""
    driver_late_p99_ms: float
    """Of the measuring process's own clock: what it adds to every figure here."""
    others_cores: float


@dataclass(slots=True)
class _Stream:
    number: int
    asked_s: float
    came: list[tuple[float, int]]
    """When, and how many characters there were then."""
    is_whole: bool = False


class _Caller(asyncio.Protocol):
    """One connection that reads one stream after the other."""

    def __init__(self, ended: asyncio.Queue[_Stream], stream: _Stream) -> None:
        self._ended = ended
        self._stream = stream
        self._open = b""
        self._chars = 0
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._is_over = False

    def ask(self, request: bytes) -> None:
        """Send the request."""
        if self._transport is not None:
            self._transport.write(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        now = time.monotonic()
        events = (self._open + body).split(b"\n\n")
        self._open = events.pop()
        for event in events:
            if event == b"data: [DONE]":
                self._stream.is_whole = True
                continue
            choices = orjson.loads(event[6:]).get("choices")
            text = choices[0]["delta"].get("content") if choices else None
            if text:
                self._chars += len(text)
                self._stream.came.append((now, self._chars))

    def on_message_complete(self) -> None:
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._stream.is_whole &= self._parser.get_status_code() == 200
            self._ended.put_nowait(self._stream)
            if self._transport is not None:
                self._transport.close()


def read_streams(target: Running, upstream: Running, *, at_once: int, seconds: float) -> Streamed:
    """Keep so many streams open, each followed by another, and read what their callers saw."""
    left_of(upstream)  # forget earlier ones
    driver = _Driver(target, at_once, seconds)
    server_s = machine.own_cpu_s(target.pid)
    with machine.watch_others() as others:
        uvloop.run(driver.run())
    server_s = machine.own_cpu_s(target.pid) - server_s
    left = left_of(upstream)
    whole = [one for one in driver.ended if one.is_whole and str(one.number) in left]
    if not whole:
        raise NotRun(f"{target.title} ended no stream as it should")
    first, delays, late, pieces = [], [], [], 0
    for one in whole:
        sent = left[str(one.number)]
        pieces += len(sent)
        first.append((one.came[0][0] - one.asked_s) * 1e3)
        for came_s, at, free_at in _arrivals(one):
            delays.append((came_s - sent[at]) * 1e3)
            late.append((came_s - sent[free_at]) * 1e3)
    return Streamed(
        streams=len(whole),
        broken=len(driver.ended) - len(whole),
        pieces=pieces,
        first_p50_ms=percentile(first, 0.5),
        first_p99_ms=percentile(first, 0.99),
        delay_p50_ms=percentile(delays, 0.5),
        delay_p99_ms=percentile(delays, 0.99),
        late_p99_ms=percentile(late, 0.99),
        late_max_ms=max(late),
        server_us_per_piece=server_s / pieces * 1e6,
        server_mb=driver.memory[-1][1] / 1e6,
        growth_kb_per_s=slope(driver.memory) / 1e3,
        driver_late_p99_ms=percentile(driver.own_late_ms, 0.99),
        others_cores=others.cores,
    )


def _arrivals(stream: _Stream) -> list[tuple[float, int, int]]:
    """Return of each piece when all of it was there, its place, and the place of the piece that set it free."""
    found = []
    came = iter(stream.came)
    now_s, chars = next(came)
    free = 0
    last = len(_ENDS_AT) - 1
    for place, ends_at in enumerate(_ENDS_AT):
        while chars < ends_at:
            try:
                now_s, chars = next(came)
            except StopIteration:  # something of it was taken out: not to happen with this text
                raise NotRun("a stream that ended well lacks some of its text") from None
        while free < last and _ENDS_AT[free] < ends_at + HOLD_BACK_CHARS:
            free += 1
        found.append((now_s, place, free))
    return found


def slope(points: list[tuple[float, float]]) -> float:
    """Return the slope of the line through the points by least squares; 0 of fewer than three."""
    if len(points) < 3:
        return 0.0
    mid_x = sum(x for x, _ in points) / len(points)
    mid_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mid_x) ** 2 for x, _ in points)
    return sum((x - mid_x) * (y - mid_y) for x, y in points) / spread if spread else 0.0


def left_of(upstream: Running) -> dict[str, list[float]]:
    """Ask the upstream when the pieces of its streams left, by the streams' numbers."""
    connection = http.client.HTTPConnection("127.0.0.1", upstream.port, timeout=_PATIENCE_S)
    try:
        connection.request("GET", "/left")
        told: dict[str, list[float]] = json.loads(connection.getresponse().read())
        return told
    finally:
        connection.close()


class _Driver:
    """Keeps the streams going, and looks at the server's memory meanwhile."""

    def __init__(self, target: Running, at_once: int, seconds: float) -> None:
        self._target = target
        self._at_once = at_once
        self._seconds = seconds
        self._bodies = questions.bodies(model="chat", is_streamed=True)
        self._number = 0
        self.ended: list[_Stream] = []
        self.memory: list[tuple[float, float]] = []
        self.own_late_ms: list[float] = []

    async def run(self) -> None:
        """Start them spread over the length of one, then follow each by another until the time is over."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[_Stream] = asyncio.Queue()
        until_s = loop.time() + self._seconds
        length_s = len(PIECES) / 50.0
        watching = asyncio.create_task(self._watch(loop.time() + min(length_s, self._seconds / 2)))
        gc.collect()
        gc.disable()
        try:
            for _ in range(self._at_once):
                await self._begin(queue)
                await asyncio.sleep(length_s / self._at_once)
            running = self._at_once
            while running:
                stream = await asyncio.wait_for(queue.get(), _PATIENCE_S)
                self.ended.append(stream)
                if loop.time() < until_s:
                    await self._begin(queue)
                else:
                    running -= 1
        except TimeoutError:
            raise NotRun(f"{self._target.title}: a stream neither went on nor ended") from None
        finally:
            gc.enable()
            watching.cancel()

    async def _begin(self, queue: asyncio.Queue[_Stream]) -> None:
        self._number += 1
        body = questions.numbered(self._bodies[self._number % len(self._bodies)], self._number)
        stream = _Stream(self._number, 0.0, [])
        caller = _Caller(queue, stream)
        await asyncio.get_running_loop().create_connection(lambda: caller, "127.0.0.1", self._target.port)
        stream.asked_s = time.monotonic()
        caller.ask(self._target.head(len(body)) + body)

    async def _watch(self, from_s: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + 0.1
            await asyncio.sleep(0.1)
            self.own_late_ms.append((loop.time() - due_s) * 1e3)
            if loop.time() >= from_s:
                self.memory.append((loop.time(), float(machine.own_rss_bytes(self._target.pid))))
