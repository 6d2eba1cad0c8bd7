"""The drift child as the server sees it: a process and a socket. It never decides; `watcher` does."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import cast

import msgspec

from nightproof.base.frames import FrameReader
from nightproof.watch.drift import wire

_KEPT_ENVIRONMENT = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "VIRTUAL_ENV",
)
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_MOST_WAITING_BYTES = 8 << 20


class DriftChild(asyncio.Protocol):
    """A running child. `on_message` and `on_gone` are called on the event loop."""

    def __init__(
        self, on_message: Callable[[wire.FromChild], None], on_gone: Callable[[DriftChild], None]
    ) -> None:
        self._on_message = on_message
        self._on_gone = on_gone
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._popen: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._loop = asyncio.get_running_loop()

    @property
    def pid(self) -> int:
        """The process id; 0 before the start."""
        return self._popen.pid if self._popen else 0

    async def start(self) -> None:
        """Start the program and connect to it. Raises OSError if the system has no room."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        environment |= dict.fromkeys(_ONE_THREAD, "1") | {"PYTHONDONTWRITEBYTECODE": "1"}
        try:
            ours.setblocking(False)
            # From the main thread: PR_SET_PDEATHSIG fires when the thread that forked ends.
            self._popen = subprocess.Popen(  # noqa: ASYNC220 - a fork of milliseconds, and it must be this thread
                [
                    sys.executable,
                    "-m",
                    "nightproof.watch.drift.child",
                    str(theirs.fileno()),
                    str(os.getpid()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                process_group=0,
                env=environment,
            )
            self._pidfd = os.pidfd_open(self._popen.pid)
            self._loop.add_reader(self._pidfd, self._reap)
            await self._loop.create_connection(lambda: self, sock=ours)
        except OSError:
            ours.close()
            self.end()
            raise
        finally:
            theirs.close()

    def send(self, message: wire.ToChild) -> bool:
        """Write one message; say no where the child is gone or does not keep up."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        if isinstance(message, wire.Rows) and transport.get_write_buffer_size() > _MOST_WAITING_BYTES:
            return False
        transport.write(wire.frame(message))
        return True

    def end(self) -> None:
        """Send SIGKILL; the child holds nothing that is not kept elsewhere."""
        if self._popen is not None and self._popen.returncode is None:
            try:
                os.killpg(self._popen.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass  # it ended by itself in the meantime

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (asyncio's callback)."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Decode what the child said (asyncio's callback); one that speaks nonsense is ended."""
        try:
            for body in self._reader.feed(data):
                self._on_message(wire.read_from_child(body))
        except (ValueError, msgspec.DecodeError):
            self.end()

    def connection_lost(self, exc: Exception | None) -> None:
        """See the socket closed (asyncio's callback): a child without it is of no use."""
        self._transport = None
        self.end()

    def _reap(self) -> None:
        if self._popen is None or self._popen.poll() is None:
            return
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        if self._transport is not None:
            self._transport.close()
        self._on_gone(self)

    def __repr__(self) -> str:
        return f"<DriftChild pid={self.pid}>"
