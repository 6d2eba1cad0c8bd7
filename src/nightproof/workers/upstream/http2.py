"""HTTP/2 to an upstream, by httpcore: many calls on one connection, at more CPU than HTTP/1.1 costs.

For an upstream behind TLS that speaks it; one that does not is spoken to in HTTP/1.1.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import httpcore

from nightproof.workers.upstream.addresses import may_connect
from nightproof.workers.upstream.transport import Forbidden, reason_of, unreachable
from nightproof.workers.upstream.values import UpstreamFault

_IDLE_KEPT_S = 30.0
_AT_ONCE = 256


class Http2Reply:
    """An answer over HTTP/2."""

    def __init__(self, response: httpcore.Response, stack: AsyncExitStack) -> None:
        self._response = response
        self._stack = stack
        self._pieces: AsyncIterator[bytes] = response.aiter_stream().__aiter__()
        self._headers = {name.lower(): value for name, value in response.headers}
        self.status = response.status

    def header(self, name: str) -> str:
        """Return a header by its name; empty if it is not there."""
        return self._headers.get(name.encode(), b"").decode("latin-1")

    async def read(self) -> bytes:
        """Return the next piece of the body; empty at its end."""
        try:
            return await anext(self._pieces, b"")
        except (*_WIRE, OSError) as error:
            raise UpstreamFault(
                "upstream_broken", f"the answer ends early ({type(error).__name__})"
            ) from None

    def close(self) -> None:
        """Reset the stream, if it is not over; the connection goes on for others."""
        stack, self._stack = self._stack, AsyncExitStack()
        task = asyncio.ensure_future(stack.aclose())
        _closing.add(task)
        task.add_done_callback(_closed)


class Http2:
    """A connection to one upstream, and more where one is not enough."""

    def __init__(self, *, context: ssl.SSLContext, private: bool = False) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            http1=True,
            http2=True,
            max_connections=_AT_ONCE,
            keepalive_expiry=_IDLE_KEPT_S,
            network_backend=_Network(private=private),
        )

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, connect_s: float
    ) -> Http2Reply:
        """Send once and return when the head of the answer is there."""
        stack = AsyncExitStack()
        try:
            response = await stack.enter_async_context(
                self._pool.stream(
                    "POST",
                    url,
                    headers=list(headers.items()),
                    content=body,
                    extensions={"timeout": {"connect": connect_s, "pool": connect_s}},
                )
            )
        except (httpcore.ConnectTimeout, httpcore.PoolTimeout):
            raise UpstreamFault(
                "upstream_unreachable", f"no connection within {connect_s * 1e3:.0f} ms"
            ) from None
        except httpcore.ConnectError as error:
            raise unreachable(error) from None
        except (*_WIRE, OSError) as error:
            raise UpstreamFault("upstream_broken", f"no answer ({reason_of(error)})") from None
        return Http2Reply(response, stack)

    async def aclose(self) -> None:
        """Close all connections."""
        await asyncio.gather(*_closing, return_exceptions=True)
        await self._pool.aclose()


_WIRE = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
)
_closing: set[asyncio.Future[None]] = set()


def _closed(task: asyncio.Future[None]) -> None:
    _closing.discard(task)
    if not task.cancelled():
        task.exception()  # nobody is left to be told


class _Network(httpcore.AsyncNetworkBackend):
    """Connects to addresses that the name may have."""

    def __init__(self, *, private: bool) -> None:
        self._private = private
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolve, leave out what is not allowed, and connect to the first that answers."""
        try:
            async with asyncio.timeout(timeout):
                return await self._connect(host, port, local_address, socket_options)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error

    async def _connect(
        self, host: str, port: int, local_address: str | None, socket_options: Iterable[Any] | None
    ) -> httpcore.AsyncNetworkStream:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [str(one[4][0]) for one in found]
        failed: Exception = Forbidden()
        for address in addresses:
            if may_connect(host, address, private=self._private):
                try:
                    return await self._inner.connect_tcp(address, port, None, local_address, socket_options)
                except httpcore.ConnectError as error:
                    failed = error
        raise failed

    async def sleep(self, seconds: float) -> None:
        """Wait (the library's own use)."""
        await self._inner.sleep(seconds)
