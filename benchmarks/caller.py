"""A keep-alive HTTP connection that asks and is answered, cheap enough to drive thousands a second.

Used by the open loop and by the fault drivers, on uvloop with the parser that the servers use. One
request at a time on each connection; a connection that ends in between is reported as `LOST`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import httptools

LOST = 0
"""The status of a request whose connection ended without an answer."""
SILENT = -1
"""The status of a request that was not answered while we listened."""

WhenAnswered = Callable[[int, bytes], None]


class Connection(asyncio.Protocol):
    """One connection; calls back with status and body once per `ask`."""

    def __init__(self, *, keep_body: bool = False) -> None:
        self.is_open = False
        self._keep_body = keep_body
        self._body = b""
        self._answered: WhenAnswered | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None

    def ask(self, request: bytes, answered: WhenAnswered) -> None:
        """Send a whole request; `answered` hears of its one ending."""
        self._answered = answered
        if self._transport is None or not self.is_open:
            self._end(LOST)
            return
        self._transport.write(request)

    def close(self) -> None:
        """Close without waiting; an unanswered request is reported as lost."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self.is_open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._answered is not None:
            self._end(LOST)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.is_open = False
            self.close()

    def on_message_begin(self) -> None:
        self._body = b""

    def on_body(self, body: bytes) -> None:
        if self._keep_body:
            self._body += body

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.is_open = False
            self.close()
        self._end(self._parser.get_status_code())

    def _end(self, status: int) -> None:
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(status, self._body)


async def connect(port: int, *, keep_body: bool = False) -> Connection:
    """Open one connection to the loopback port."""
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: Connection(keep_body=keep_body), "127.0.0.1", port
    )
    return connection


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one request of a fault test came to; times are seconds on the loop's clock."""

    begun_s: float
    ended_s: float
    status: int
    body: bytes = b""

    @property
    def is_good(self) -> bool:
        """Answered with 2xx."""
        return 200 <= self.status < 300


def _settles(ended: "asyncio.Future[tuple[int, bytes]]") -> WhenAnswered:
    """Give the callback that ends the wait, unless the waiter has left."""

    def answered(status: int, body: bytes) -> None:
        if not ended.done():
            ended.set_result((status, body))

    return answered


async def ask_once(port: int, request: bytes, patience_s: float) -> Outcome:
    """Send one request on a connection of its own and wait for its ending."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    ended: asyncio.Future[tuple[int, bytes]] = loop.create_future()
    try:
        connection = await connect(port, keep_body=True)
    except OSError:
        return Outcome(begun, loop.time(), LOST)
    connection.ask(request, _settles(ended))
    try:
        status, body = await asyncio.wait_for(ended, patience_s)
    except TimeoutError:
        status, body = SILENT, b""
    connection.close()
    return Outcome(begun, loop.time(), status, body)


class Crowd:
    """Callers in a closed loop, each on its own connection, every outcome written down."""

    def __init__(
        self, port: int, requests: list[bytes], *, keep_body: bool = False, pause_s: float = 0.0
    ) -> None:
        self.outcomes: list[Outcome] = []
        self._port = port
        self._requests = requests
        self._keep_body = keep_body
        self._pause_s = pause_s
        self._goes_on = True
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, callers: int) -> None:
        """Let that many callers begin."""
        self._tasks = [asyncio.create_task(self._call(turn)) for turn in range(callers)]

    async def finish(self, patience_s: float) -> None:
        """Let every caller end its request, and write down as silent what is unanswered by then."""
        self._goes_on = False
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _call(self, turn: int) -> None:
        loop = asyncio.get_running_loop()
        connection: Connection | None = None
        while self._goes_on:
            begun = loop.time()
            try:
                if connection is None or not connection.is_open:
                    connection = await connect(self._port, keep_body=self._keep_body)
                status, body = await self._ask(connection, self._requests[turn % len(self._requests)])
            except OSError:
                status, body = LOST, b""
            except asyncio.CancelledError:
                self.outcomes.append(Outcome(begun, loop.time(), SILENT))
                raise
            self.outcomes.append(Outcome(begun, loop.time(), status, body if self._keep_body else b""))
            turn += 1
            if status == LOST:
                # A caller that lost its connection waits a little, as any real one would.
                await asyncio.sleep(0.01)
            elif self._pause_s:
                await asyncio.sleep(self._pause_s)
        if connection is not None:
            connection.close()

    @staticmethod
    async def _ask(connection: Connection, request: bytes) -> tuple[int, bytes]:
        ended: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        connection.ask(request, _settles(ended))
        return await ended
