"""Listen, serve, and stop in the right order. The one place that meets sockets and signals.

Order of a stop (SIGTERM, SIGINT): not ready → a pause in which load balancers see it → no new
connections → what was admitted finishes → workers end → the ledger closes. A second signal hurries.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from email.utils import formatdate
from pathlib import Path
from typing import Any

import uvloop

from nightproof.base.clock import monotonic_s
from nightproof.base.errors import NightproofError, SettingError
from nightproof.gateway.app import Gateway
from nightproof.gateway.receiving import (
    ReceivingLimits,
    ReceivingProtocol,
    ReceivingState,
    Sweeper,
    receiving_config,
    shutdown_connections,
)
from nightproof.gateway.tls import Certificate
from nightproof.runtime import Runtime
from nightproof.settings.settings import Settings, refuse_open_binding
from nightproof.steer.tick import note
from nightproof.storage.statefolder import StateFolder
from nightproof.watch.log import log

EXIT_FENCED = 70
_BACKLOG = 2_048
_OPEN_FILES = 65_536
_SWITCH_S = 0.0005
"""How long the ledger's writer waits for the interpreter while the loop is busy; the default of 5 ms is two commits."""
_GC_THRESHOLDS = (20_000, 20, 50)
"""Requests make next to no cycles, so the collector's default of a walk each 700 objects was 14 % of the CPU."""
_HANDSHAKE_S = 5.0
_GOODBYE_S = 2.0
_CONNECTIONS_END_WITHIN_S = 5.0

OnReady = Callable[["Server"], Awaitable[None]]


class Server:
    """One server process: runtime, listener, control socket."""

    def __init__(self, settings: Settings, folders: Sequence[Path], state: StateFolder) -> None:
        refuse_open_binding(settings.server)
        self._settings = settings
        self._certificate = Certificate(settings.server) if settings.server.tls_cert else None
        self._listener = _listen(settings)
        self._stop_asked = asyncio.Event()
        self._hurry = asyncio.Event()
        self.exit_code = 0
        self.runtime = Runtime(
            settings,
            folders,
            state,
            on_fence=self._fenced,
            certificate_days=self._certificate.days_left if self._certificate else lambda: None,
        )
        self._state = state
        self._receiving = ReceivingState()
        self._sweeper = Sweeper(self._receiving)
        self._control_receiving = ReceivingState()
        """The control socket's own: a flood at the front door must not lock the operator out."""
        self._control_sweeper = Sweeper(self._control_receiving)

    @property
    def url(self) -> str:
        """The address that the server listens on."""
        host, port = self._listener.getsockname()[:2]
        scheme = "https" if self._certificate else "http"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    async def run(self, on_ready: OnReady) -> int:
        """Serve until told to stop; return the exit code. Raises NightproofError if it cannot start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload_certificate)
        self.runtime.address = self.url
        public = await self._serve_tcp()
        control = await self._serve_control()
        self._sweeper.start()
        self._control_sweeper.start()
        self.runtime.tasks.keep_up("date", self._keep_date)
        starting = loop.create_task(self.runtime.start())
        stopping = loop.create_task(self._stop_asked.wait())
        started = False
        try:
            await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                await starting  # raises what kept it from starting
                started = True
                gc.collect()
                gc.freeze()  # what is loaded now stays: the collector need not walk it again
                gc.set_threshold(*_GC_THRESHOLDS)
                await on_ready(self)
                await self._stop_asked.wait()
        finally:
            stopping.cancel()
            await self._stop(public, control, starting, graceful=started)
        return self.exit_code

    async def _serve_tcp(self) -> asyncio.Server:
        receiving = self._settings.receiving
        limits = ReceivingLimits(
            first_byte_s=receiving.first_byte_s,
            headers_s=receiving.headers_s,
            body_s=receiving.body_s,
            min_body_bytes_per_s=receiving.min_body_bytes_per_s,
            keep_alive_s=receiving.keep_alive_s,
            write_stalled_s=receiving.write_stalled_s,
            request_line_bytes=receiving.request_line_bytes,
            header_bytes=receiving.header_bytes,
            headers_bytes=receiving.headers_bytes,
            headers_count=receiving.headers_count,
            connections_total=receiving.connections_total,
            connections_per_address=receiving.connections_per_address,
        )
        config = receiving_config(Gateway(self.runtime))
        return await asyncio.get_running_loop().create_server(
            lambda: ReceivingProtocol(
                config, self._receiving, {}, limits=limits, on_refused=self.runtime.connection_refused
            ),
            sock=self._listener,
            backlog=_BACKLOG,
            ssl=self._certificate.context if self._certificate else None,
            ssl_handshake_timeout=_HANDSHAKE_S if self._certificate else None,
            ssl_shutdown_timeout=_GOODBYE_S if self._certificate else None,
        )

    async def _serve_control(self) -> asyncio.Server:
        """Serve operators' verbs on a socket that only the owner of the state folder can open."""
        path = self._state.prepare_socket()
        config = receiving_config(Gateway(self.runtime, is_local=True))
        before = os.umask(0o177)
        try:
            return await asyncio.get_running_loop().create_unix_server(
                lambda: ReceivingProtocol(
                    config,
                    self._control_receiving,
                    {},
                    limits=ReceivingLimits(),
                    on_refused=lambda failure, address: None,
                ),
                path=str(path),
            )
        finally:
            os.umask(before)

    async def _stop(
        self, public: asyncio.Server, control: asyncio.Server, starting: asyncio.Task[None], *, graceful: bool
    ) -> None:
        self.runtime.house.draining = True
        if graceful and self.exit_code == 0:
            log("draining")
            await asyncio.wait(
                [asyncio.ensure_future(self._hurry.wait())], timeout=self._settings.server.drain_wait_s
            )
        public.close()
        shutdown_connections(self._receiving)
        if not starting.done():
            starting.cancel()
        await asyncio.wait([starting])
        await self.runtime.stop(is_hurried=self._hurry.is_set)
        deadline_s = monotonic_s() + _CONNECTIONS_END_WITHIN_S
        shutdown_connections(self._receiving)
        shutdown_connections(self._control_receiving)
        while self._receiving.connections and monotonic_s() < deadline_s and not self._hurry.is_set():
            await asyncio.sleep(0.02)
        control.close()
        self._sweeper.stop()
        self._control_sweeper.stop()

    def _asked_to_stop(self) -> None:
        if self._stop_asked.is_set():
            self._hurry.set()
        self._stop_asked.set()

    def _fenced(self, why: str) -> None:
        """The ledger's disk failed in a way that nobody can judge: end, so that recovery can."""
        log("ledger_fenced", level="error", why=why, exit_code=EXIT_FENCED)
        self.exit_code = EXIT_FENCED
        self._stop_asked.set()

    def _reload_certificate(self) -> None:
        if self._certificate is None:
            log("reload_ignored", level="warning", why="no certificate is in use")
            return
        try:
            self._certificate.reload()
        except SettingError as error:
            log("certificate_reload_failed", level="error", why=error.text)
            self.runtime.rooms.certificate_trouble = error.text
            self.runtime.house.meters.count_event("certificate_reload_failed")
            self._note("certificate.reload", outcome="refused")
        else:
            self.runtime.rooms.certificate_trouble = ""
            log("certificate_reloaded", days_left=round(self._certificate.days_left(), 1))
            self._note("certificate.reload", outcome="loaded")

    def _note(self, act: str, **named: Any) -> None:
        async def write() -> None:
            try:
                await note(
                    self.runtime.house.ledger,
                    self.runtime.house.ids,
                    "operator",
                    who="signal",
                    act=act,
                    **named,
                )
            except NightproofError as error:
                log("act_not_recorded", level="error", act=act, why=error.text)

        self.runtime.tasks.begin(write())

    async def _keep_date(self) -> None:
        """Write the date header once a second, for all answers."""
        headers = [(b"date", formatdate(usegmt=True).encode()), (b"server", b"nightproof")]
        self._receiving.set_default_headers(headers)
        self._control_receiving.set_default_headers(headers)
        await asyncio.sleep(1.0)


def _listen(settings: Settings) -> socket.socket:
    host, port = settings.server.host, settings.server.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
    except OSError as error:
        listener.close()
        raise SettingError(
            f"Cannot listen on {host} port {port}: {error.strerror}.",
            hint="Choose another one with --port, or end the program that has it.",
        ) from error
    return listener


def _raise_file_limit() -> None:
    """Allow as many open files as the system grants: a shell's usual 1,024 is under `connections_total`."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, _OPEN_FILES), most))


def serve(settings: Settings, folders: Sequence[Path], on_ready: OnReady) -> int:
    """Serve the folders until told to stop. Returns the exit code; raises NightproofError if it cannot start."""
    _raise_file_limit()
    sys.setswitchinterval(_SWITCH_S)
    state = StateFolder.open(settings.state, unsafe_fs=settings.server.unsafe_fs)
    state.lock()

    async def run() -> int:
        server = Server(settings, folders, state)
        return await server.run(on_ready)

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(run())
    finally:
        state.unlock()
        sys.stderr.flush()
