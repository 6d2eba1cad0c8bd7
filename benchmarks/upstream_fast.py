"""A model server that costs next to nothing: the upstream of the chat benchmark, for Nightproof and its peers alike.

    python -m benchmarks.upstream_fast --port 9000 --pace 50

OpenAI's chat protocol, one fixed answer. Whole, it is 0.4 kB and leaves at once. Streamed, its pieces leave at the pace
that was given, and when each really left is told by `GET /left` (once, then it is forgotten), under the number that
the question carries (`number 17`), so that what lies between two processes can be told from what the upstream did.
Time is CLOCK_MONOTONIC, which all processes of a machine share.
"""

import argparse
import asyncio
import json
import re
import time
from typing import Any

import httptools
import uvloop

MODEL = "fast-1"
CREATED = 1_780_000_000
ANSWER = (
    "Thank you for asking. Your parcel left our house this morning and should be with you by Thursday at the latest."
    " If nobody is at home, the driver leaves it with a neighbour."
)
SPOKEN = (
    "Thank you for writing to us about your parcel. It left our house early this morning, and the "
    "driver has it on board for tomorrow. He rings twice; if nobody opens, a neighbour takes it, and a "
    "card in your letter box says which one. Should the box look damaged, please take two pictures "
    "before you open it, one from above and one from the side, and send them with the number of the "
    "order. You find a form for that under https://lumen-oak.example/help and the people there answer "
    "on the same day. For the lamp you asked about there is a second shade in linen, which fits the "
    "same foot without tools. Both colours are in stock at the moment, and adding one to this order "
    "costs no postage as long as the parcel is not closed, which happens at six in the evening."
)
PIECES: tuple[str, ...] = tuple(re.findall(r"\s*\S+", SPOKEN))
_NUMBER = re.compile(rb"number (\d+)")
_USAGE = {"prompt_tokens": 180, "completion_tokens": 50, "total_tokens": 230}


def whole() -> bytes:
    """Return the fixed answer, head and body."""
    body = json.dumps(
        {
            "id": "chatcmpl-fast",
            "object": "chat.completion",
            "created": CREATED,
            "model": MODEL,
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}
            ],
            "usage": _USAGE,
        },
        separators=(",", ":"),
    ).encode()
    return _answer(body)


def _answer(body: bytes, kind: bytes = b"application/json") -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (kind, len(body), body)


def _event(choices: list[dict[str, Any]], **more: Any) -> bytes:
    told = {
        "id": "chatcmpl-fast",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": MODEL,
        "choices": choices,
    }
    data = b"data: " + json.dumps({**told, **more}, separators=(",", ":")).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


def _piece(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    return _event([{"index": 0, "delta": delta, "finish_reason": finish_reason}])


_WHOLE = whole()
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_ROLE = _piece({"role": "assistant", "content": ""})
_SPOKEN = [_piece({"content": piece}) for piece in PIECES]
_DONE = b"data: [DONE]\n\n"
_LAST = _piece({}, "stop") + _event([], usage=_USAGE) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(_DONE), _DONE)


class Caller(asyncio.Protocol):
    """One connection."""

    def __init__(self, pace_per_s: float, left: dict[str, list[float]]) -> None:
        self._gap_s = 1.0 / pace_per_s
        self._left = left
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._body = b""
        self._path = b""
        self._next: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._next is not None:
            self._next.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if self._transport is not None:
                self._transport.close()

    def on_message_begin(self) -> None:
        self._body = b""

    def on_url(self, url: bytes) -> None:
        self._path = url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._transport is None:
            return
        if b'"stream":true' in self._body or b'"stream": true' in self._body:
            self._stream()
        elif self._path == b"/left":
            self._transport.write(_answer(json.dumps(self._left).encode()))
            self._left.clear()
        else:
            self._transport.write(_WHOLE)

    def _stream(self) -> None:
        found = _NUMBER.search(self._body)
        times: list[float] = []
        if found is not None:
            self._left[str(int(found[1]))] = times
        begin_s = self._loop.time()

        def speak(place: int) -> None:
            if self._transport is None:
                return
            if place == len(_SPOKEN):
                self._transport.write(_LAST)
                return
            times.append(time.monotonic())
            self._transport.write(_HEAD + _ROLE + _SPOKEN[0] if place == 0 else _SPOKEN[place])
            self._next = self._loop.call_at(begin_s + (place + 1) * self._gap_s, speak, place + 1)

        speak(0)


async def serve(port: int, pace_per_s: float) -> None:
    """Answer until this is cancelled."""
    left: dict[str, list[float]] = {}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Caller(pace_per_s, left), "127.0.0.1", port, backlog=1_024)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Serve on the port named on the command line."""
    parser = argparse.ArgumentParser(description="Serve a fixed answer, fast.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pace", type=float, default=50.0, help="pieces a second of a streamed answer")
    asked = parser.parse_args()
    uvloop.run(serve(asked.port, asked.pace))


if __name__ == "__main__":
    main()
