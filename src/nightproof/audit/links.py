"""The two ways to the log's writer: a process of its own, or a thread.

A server's writer is a process: interpreter and disk are then its own, and a commit never makes the event loop
take turns with it. It dies with the server, holds the lock of the state folder while it lives, so that no other
server can begin while it writes, and is started again when it alone is ended. A thread does where only one verb
or one test writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import select
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from typing import cast

from nightproof.audit import messages
from nightproof.audit.messages import ChannelClosed, FromWriter, ToWriter
from nightproof.audit.writing import OpenWith, write_until_closed
from nightproof.base.frames import FrameReader, framed
from nightproof.settings.settings import LedgerSettings
from nightproof.storage.proc import cause_of
from nightproof.storage.spawned import Spawned

_READ_BYTES = 96 * 1024
"""Holds a usual batch; a buffer from 128 KiB on would be mapped and unmapped for each message."""
_CLOSES_WITHIN_S = 2.0


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


class _Writer(Spawned):
    """One writer's process."""

    hears_out = True  # a commit that it told before it ended counts


class ProcessLink:
    """A writer in a process of its own."""

    def __init__(self, program: Sequence[str], opening: Callable[[], messages.Open], lock_fd: int) -> None:
        self._program = list(program)
        self._opening = opening
        self._lock_fd = lock_fd
        self._writer: _Writer | None = None
        self._starting: asyncio.Task[None] | None = None
        """Held here, since the loop holds tasks weakly."""
        self._is_stopping = False
        self._gone = asyncio.Event()

    @property
    def pid(self) -> int:
        """The writer's process; 0 while there is none."""
        writer = self._writer
        return writer.pid if writer is not None and writer.is_running else 0

    def start(self, heard: Callable[[FromWriter], None], lost: Callable[[str], None]) -> None:
        """Start the process and send it the settings and the master key."""
        self._gone = asyncio.Event()

        def gone(returncode: int) -> None:
            self._gone.set()
            if not self._is_stopping:
                why = "it spoke nonsense, or let go of its socket" if writer.broke_its_word else ""
                lost(why or cause_of(returncode))

        writer = self._writer = _Writer(lambda body: heard(messages.from_writer.decode(body)), gone)
        self._starting = asyncio.get_running_loop().create_task(self._start(writer, lost))

    async def _start(self, writer: _Writer, lost: Callable[[str], None]) -> None:
        try:
            await writer.spawn([sys.executable, *self._program], more_fds=[self._lock_fd])
        except OSError as error:
            if not writer.pid:  # else it is killed, and its end is told
                self._gone.set()
                lost(f"it cannot be started: {error.strerror}")
            return
        self.send(self._opening())

    def send(self, message: ToWriter) -> None:
        """Write one message."""
        if self._writer is not None:
            self._writer.write(framed(messages.encode(message)))

    async def stop(self, within_s: float) -> None:
        """Say that nothing more comes: the writer seals, tells of it, closes and ends."""
        self._is_stopping = True
        if self._starting is not None:
            await asyncio.wait([self._starting])
        if self._writer is None or not self._writer.is_running:
            return
        self._writer.hang_up()
        try:
            await asyncio.wait_for(self._gone.wait(), within_s)
        except TimeoutError:
            self._writer.kill()
            with contextlib.suppress(TimeoutError):  # one that hangs in the kernel is left there
                await asyncio.wait_for(self._gone.wait(), _CLOSES_WITHIN_S)

    def __repr__(self) -> str:
        return f"<ProcessLink pid={self.pid}>"


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
