"""HTTP/2 to an upstream, by httpcore: many calls on one connection, at more CPU than HTTP/1.1 costs.

For an upstream behind TLS that speaks it; one that does not is spoken to in HTTP/1.1. httpcore forgets a stream that is
dropped, and the upstream would go on writing, and charging: here it is told so (RST_STREAM). That reaches into httpcore
1.0, so its version is bounded, and `tests/live/test_upstream_http2.py` sees it from the other side.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import httpcore
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

from nightproof.workers.upstream.addresses import may_connect
from nightproof.workers.upstream.transport import Forbidden, reason_of, unreachable
from nightproof.workers.upstream.values import UpstreamFault

_IDLE_KEPT_S = 30.0
_AT_ONCE = 256


class Http2Reply:
    """An answer over HTTP/2."""

    def __init__(
        self, response: httpcore.Response, stack: AsyncExitStack, closing: set[asyncio.Task[None]]
    ) -> None:
        self._stack = stack
        self._closing = closing
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
        task = asyncio.get_running_loop().create_task(stack.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        if not task.cancelled():
            task.exception()  # nobody is left to be told


class Http2:
    """A connection to one upstream, and more where one is not enough."""

    def __init__(self, *, context: ssl.SSLContext, private: bool = False) -> None:
        self._closing: set[asyncio.Task[None]] = set()
        """Streams that are being let go."""
        self._pool = _Pool(
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
        return Http2Reply(response, stack, self._closing)

    async def aclose(self) -> None:
        """Close all connections."""
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._pool.aclose()


_WIRE = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
)
_NO_REQUEST = httpcore.Request("POST", "https://upstream.invalid/")
"""Carries the (missing) time limits of a write."""


class _Resetting(httpcore.AsyncHTTP2Connection):
    """Tells the other side when a stream is let go before its end."""

    async def _response_closed(self, stream_id: int) -> None:
        stream = self._h2_state.streams.get(stream_id)
        if stream is not None and not stream.closed:
            try:
                self._h2_state.reset_stream(stream_id, error_code=ErrorCodes.CANCEL)
                await self._write_outgoing_data(_NO_REQUEST)
            except (ProtocolError, OSError, *_WIRE):
                pass  # the connection is gone, and the stream with it
        await super()._response_closed(stream_id)


class _Connection(httpcore.AsyncHTTPConnection):
    """A connection that, where it turns out to be HTTP/2, resets what is let go."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_connection" and type(value) is httpcore.AsyncHTTP2Connection:
            value.__class__ = _Resetting
        super().__setattr__(name, value)


class _Pool(httpcore.AsyncConnectionPool):
    """The pool of such connections."""

    def create_connection(self, origin: httpcore.Origin) -> Any:
        """Make a connection (the pool's own use)."""
        made: Any = super().create_connection(origin)
        if type(made) is httpcore.AsyncHTTPConnection:
            made.__class__ = _Connection
        return made


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
