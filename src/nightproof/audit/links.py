"""The two ways to the log's writer: a process of its own, or a thread.

A server's writer is a process: interpreter and disk are then its own, and a commit never makes the event loop
take turns with it. It dies with the server, holds the lock of the state folder while it lives, so that no other
server can begin while it writes, and is started again when it alone is ended. A thread does where only one verb
or one test writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import cast

import msgspec

from nightproof.audit import messages
from nightproof.audit.messages import ChannelClosed, FromWriter, ToWriter
from nightproof.audit.writing import OpenWith, write_until_closed
from nightproof.base.frames import FrameReader, framed
from nightproof.settings.settings import LedgerSettings

_READ_BYTES = 1 << 18
_SOCKET_BUFFER_BYTES = 1 << 20
_CLOSES_WITHIN_S = 2.0
_LINGERS_S = 0.5


class ThreadLink:
    """A writer in a thread of this process."""

    def __init__(self, open_log: OpenWith, settings: LedgerSettings) -> None:
        self._open_log = open_log
        self._settings = settings
        self._channel: _ThreadChannel | None = None
        self._thread: threading.Thread | None = None

    @property
    def pid(self) -> int:
        """No process of its own."""
        return 0

    def start(self, heard: Callable[[FromWriter], None], lost: Callable[[str], None]) -> None:
        """Start the thread. It is never lost: it ends when it is stopped, or with the process."""
        self._channel = _ThreadChannel(heard)
        self._thread = threading.Thread(
            target=write_until_closed,
            args=(self._channel, self._open_log, self._settings),
            name="ledger",
            daemon=True,
        )
        self._thread.start()

    def send(self, message: ToWriter) -> None:
        """Give a message to the thread."""
        if self._channel is not None:
            self._channel.inbox.put(message)

    async def stop(self, within_s: float) -> None:
        """Let the thread seal and close. One that hangs in the kernel is left there."""
        if self._channel is not None and self._thread is not None:
            self._channel.inbox.put(None)
            await asyncio.to_thread(self._thread.join, within_s)


class _ThreadChannel:
    """The way as the writer's thread sees it."""

    def __init__(self, heard: Callable[[FromWriter], None]) -> None:
        self.inbox: queue.SimpleQueue[ToWriter | None] = queue.SimpleQueue()
        self._heard = heard
        self._loop = asyncio.get_running_loop()

    def receive(self, timeout_s: float | None) -> ToWriter | None:
        """Return the next message; None when the time is up."""
        try:
            message = self.inbox.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if message is None:
            raise ChannelClosed
        return message

    def send(self, message: FromWriter) -> None:
        """Tell the ledger, on its loop."""
        try:
            self._loop.call_soon_threadsafe(self._heard, message)
        except RuntimeError as error:  # the loop is closed: nobody is left to tell
            raise ChannelClosed from error


class ProcessLink(asyncio.Protocol):
    """A writer in a process of its own."""

    def __init__(self, program: Sequence[str], opening: Callable[[], messages.Open], lock_fd: int) -> None:
        self._program = list(program)
        self._opening = opening
        self._lock_fd = lock_fd
        self._loop = asyncio.get_running_loop()
        self._heard: Callable[[FromWriter], None] = lambda message: None
        self._lost: Callable[[str], None] = lambda why: None
        self._popen: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes] = []
        self._is_stopping = False
        self._connecting: asyncio.Task[None] | None = None
        """Held here, since the loop holds tasks weakly."""
        self._broken = ""
        self._returncode: int | None = None
        self._gone = asyncio.Event()

    @property
    def pid(self) -> int:
        """The writer's process; 0 while there is none."""
        return self._popen.pid if self._popen is not None and self._popen.returncode is None else 0

    def start(self, heard: Callable[[FromWriter], None], lost: Callable[[str], None]) -> None:
        """Start the process and send it the settings and the master key. Raises OSError."""
        self._heard, self._lost = heard, lost
        self._reader = FrameReader()
        self._broken = ""
        self._returncode = None
        self._gone = asyncio.Event()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
            ours.setblocking(False)
            self._popen = subprocess.Popen(
                [sys.executable, *self._program, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), self._lock_fd),
                process_group=0,  # a Ctrl-C is for the server, which then stops the writer
            )
            self._pidfd = os.pidfd_open(self._popen.pid)
            self._loop.add_reader(self._pidfd, self._reap)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._unsent = []
        self.send(self._opening())
        popen = self._popen
        self._connecting = self._loop.create_task(self._connect(ours))
        self._connecting.add_done_callback(lambda done: self._see_connected(done, popen))

    async def _connect(self, ours: socket.socket) -> None:
        await self._loop.create_connection(lambda: self, sock=ours)

    def _see_connected(self, done: asyncio.Task[None], popen: subprocess.Popen[bytes]) -> None:
        """End a writer that cannot be spoken to: it would wait for its settings, and the ledger for it."""
        error = None if done.cancelled() else done.exception()
        if error is not None:
            self._end(f"it cannot be spoken to: {error}", popen)

    def send(self, message: ToWriter) -> None:
        """Write one message."""
        body = framed(messages.encode(message))
        if self._transport is None:
            self._unsent.append(body)
        elif not self._transport.is_closing():
            self._transport.write(body)

    async def stop(self, within_s: float) -> None:
        """Close our end: the writer seals, closes and ends."""
        self._is_stopping = True
        if self._transport is not None:
            self._transport.close()
        if self._popen is None or self._popen.returncode is not None:
            return
        try:
            await asyncio.wait_for(self._gone.wait(), within_s)
        except TimeoutError:
            self._popen.kill()
            with contextlib.suppress(TimeoutError):  # one that hangs in the kernel is left there
                await asyncio.wait_for(self._gone.wait(), _CLOSES_WITHIN_S)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport, and send what waited for it (asyncio's callback)."""
        self._transport = cast(asyncio.Transport, transport)
        unsent, self._unsent = self._unsent, []
        for body in unsent:
            self._transport.write(body)

    def data_received(self, data: bytes) -> None:
        """Decode what the writer says (asyncio's callback)."""
        try:
            for body in self._reader.feed(data):
                self._heard(messages.from_writer.decode(body))
        except (ValueError, msgspec.DecodeError) as error:
            self._end(f"it sent what is no message: {error}", self._popen)

    def connection_lost(self, exc: Exception | None) -> None:
        """See the socket closed (asyncio's callback): a writer without it is of no use."""
        self._transport = None
        if self._returncode is not None:
            self._say_gone(self._returncode)
        elif not self._is_stopping:
            # It may be on its way out by itself: the pidfd tells. If it lingers, end it.
            self._loop.call_later(_LINGERS_S, self._end, "it closed its socket", self._popen)

    def _end(self, why: str, popen: subprocess.Popen[bytes] | None) -> None:
        if popen is not None and popen is self._popen and popen.returncode is None:
            self._broken = self._broken or why
            popen.kill()

    def _reap(self) -> None:
        if self._popen is None or self._popen.poll() is None:
            return
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._returncode = self._popen.returncode
        if self._transport is None:
            self._say_gone(self._returncode)
        # Else what it said before it ended is read first: a commit that it told counts.

    def _say_gone(self, returncode: int) -> None:
        if not self._gone.is_set():
            self._gone.set()
            if not self._is_stopping:
                self._lost(self._broken or _cause_of(returncode))

    def __repr__(self) -> str:
        return f"<ProcessLink pid={self.pid}>"


def _cause_of(returncode: int) -> str:
    if returncode >= 0:
        return f"exit {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"


class SocketChannel:
    """The way as the writer's process sees it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader = FrameReader()
        self._waiting: list[bytes] = []
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    def receive(self, timeout_s: float | None) -> ToWriter | None:
        """Return the next message; None when the time is up."""
        while not self._waiting:
            if not self._poll.poll(None if timeout_s is None else timeout_s * 1_000):
                return None
            try:
                arrived = self._connection.recv(_READ_BYTES)
            except ConnectionResetError:
                arrived = b""
            if not arrived:
                raise ChannelClosed
            self._waiting = self._reader.feed(arrived)
        return cast(ToWriter, messages.to_writer.decode(self._waiting.pop(0)))

    def send(self, message: FromWriter) -> None:
        """Tell the ledger."""
        try:
            self._connection.sendall(framed(messages.encode(message)))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ChannelClosed from error
