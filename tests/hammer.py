"""A client that counts: so many connections, each asking again as soon as it is answered. Run as a program of its own.

    python -m tests.hammer PORT SERVICE KEY CONNECTIONS

Ends at the end of its standard input; prints what came back as JSON. Its times are the machine's monotonic clock,
which every process shares.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from typing import Any


class Counts:
    """What all connections were told."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.releases: Counter[str] = Counter()
        self.first: dict[str, list[float]] = {}
        """By release: when it answered again after another one had."""
        self.last = ""
        self.sent = 0
        self.lost = 0
        """Requests that were sent and got no answer."""
        self.slowest_s = 0.0
        self.is_over = False


class Connection(asyncio.Protocol):
    """One caller."""

    def __init__(self, requests: list[bytes], counts: Counts) -> None:
        self._requests = requests
        self._counts = counts
        self._buffer = b""
        self._is_waiting = False
        self._sent_s = 0.0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to ask."""
        self._transport: Any = transport
        self._ask()

    def _ask(self) -> None:
        if self._counts.is_over:
            self._transport.close()
            return
        self._is_waiting, self._sent_s = True, time.monotonic()
        self._counts.sent += 1
        self._transport.write(self._requests[self._counts.sent % len(self._requests)])

    def data_received(self, data: bytes) -> None:
        """Take an answer in, and ask again."""
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        now, counts = time.monotonic(), self._counts
        counts.statuses[int(head[9:12])] += 1
        release = body.partition(b'"release":"')[2].partition(b'"')[0].decode()
        counts.releases[release] += 1
        if release and release not in counts.first:
            counts.first[release] = []
        if release and release != counts.last:
            counts.first[release].append(now)
            counts.last = release
        counts.slowest_s = max(counts.slowest_s, now - self._sent_s)
        self._buffer, self._is_waiting = body[length:], False
        self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        """Note an answer that will not come."""
        self._counts.lost += self._is_waiting
        if not self.ended.done():
            self.ended.set_result(None)


async def main(port: int, service: str, key: str, connections: int) -> None:
    """Ask until standard input ends."""
    requests = []
    for number in range(200):
        body = b'{"x":%d.0,"group":"%c"}' % (number % 100, b"abcdefghij"[(number // 2) % 10])
        head = (
            f"POST /services/{service}/predict HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        requests.append(head.encode() + body)
    counts, loop = Counts(), asyncio.get_running_loop()
    began_s = time.monotonic()
    callers = [
        (await loop.create_connection(lambda: Connection(requests, counts), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    await asyncio.to_thread(sys.stdin.read)
    took_s = time.monotonic() - began_s
    counts.is_over = True
    await asyncio.gather(*(caller.ended for caller in callers))
    told = {
        "statuses": counts.statuses, "releases": counts.releases, "first": counts.first, "lost": counts.lost,
        "slowest_s": counts.slowest_s, "rate_per_s": sum(counts.statuses.values()) / took_s,
    }  # fmt: skip
    print(json.dumps(told))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])))
