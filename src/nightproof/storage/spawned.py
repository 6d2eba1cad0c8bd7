"""A program of ours in a process of its own, and the socket to it, over which frames go both ways.

Used for workers, the drift watch's child and the log's writer; what a frame means is theirs. Reports two things to its
owner, on the event loop: a frame, and that the process is gone, once and for good. It never decides; the owner does.
The program must bind itself to us by `proc.die_with`, so it is started from the main thread.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from typing import cast

import msgspec

from nightproof.base.frames import FrameReader

_KEPT_ENVIRONMENT = (
    "PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV",
    "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_SOCKET_BUFFER_BYTES = 1 << 20
_LINGERS_S = 0.5


def scrubbed_environment() -> dict[str, str]:
    """Return what programs need to run, and none of the server's secrets.

    Numeric libraries get one thread each, unless the operator set them: processes are the parallelism.
    """
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    kept |= {name: os.environ.get(name, "1") for name in _ONE_THREAD}
    return kept | {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}


class Spawned(asyncio.Protocol):
    """A running program and the socket to it. Made running by `spawn`, once."""

    hears_out = False
    """What it said before it ended is read before it counts as gone: for a program whose socket nobody else holds."""

    def __init__(self, on_frame: Callable[[bytes], None], on_gone: Callable[[int], None]) -> None:
        self._on_frame = on_frame
        self._on_gone = on_gone
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._popen: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._loop = asyncio.get_running_loop()
        self._is_gone = False
        self.killed_by_us = False
        self.broke_its_word = False
        """It sent what is no message, or let go of its socket: the SIGKILL was ours, the fault its own."""

    @property
    def pid(self) -> int:
        """The process id; 0 before the start."""
        return self._popen.pid if self._popen else 0

    @property
    def is_running(self) -> bool:
        """Say whether the process is there, as far as it is known."""
        return self._popen is not None and self._popen.returncode is None

    async def spawn(
        self,
        command: Sequence[str],
        *,
        environment: dict[str, str] | None = None,
        more_fds: Sequence[int] = (),
        stderr: int | None = None,
    ) -> None:
        """Start the command, given the socket's file descriptor and our process id as its last words, and connect.

        Raises OSError if the system has no room, or there is no such program.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
            ours.setblocking(False)
            theirs.setblocking(True)
            # From the main thread: PR_SET_PDEATHSIG fires when the thread that forked ends.
            self._popen = subprocess.Popen(  # noqa: ASYNC220 - a fork of milliseconds, and it must be this thread
                [*command, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=(theirs.fileno(), *more_fds),
                process_group=0,  # a Ctrl-C is for the server, which then ends it
                env=environment,
            )
            self._pidfd = os.pidfd_open(self._popen.pid)
            self._loop.add_reader(self._pidfd, self._reap)
            await self._loop.create_connection(lambda: self, sock=ours)
        except OSError:
            ours.close()
            self.kill()
            raise
        finally:
            theirs.close()

    def write(self, frame: bytes) -> bool:
        """Write one frame; say no where the process is gone, since `on_gone` tells that story."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        transport.write(frame)
        return True

    @property
    def unread_bytes(self) -> int:
        """What was written and not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def hang_up(self) -> None:
        """Say that nothing more comes, for a program that ends by itself then; what it says until it has is heard."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    def kill(self) -> None:
        """Send SIGKILL to the whole process group; `on_gone` follows when it is really gone."""
        self.killed_by_us = True
        if self._popen is not None and self._popen.returncode is None:
            try:
                os.killpg(self._popen.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it ended by itself in the meantime
            except PermissionError:
                self._popen.kill()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (asyncio's callback)."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Hand on what it sent (asyncio's callback); one that speaks nonsense is killed."""
        try:
            for body in self._reader.feed(data):
                self._on_frame(body)
        except (ValueError, msgspec.DecodeError):
            self._end_for_its_fault()

    def connection_lost(self, exc: Exception | None) -> None:
        """See the socket closed (asyncio's callback): a program without it is of no use."""
        self._transport = None
        if not self.is_running:
            self._say_gone()
        elif not self.killed_by_us:
            # It may be on its way out by itself: the pidfd tells. If it lingers, end it.
            self._loop.call_later(_LINGERS_S, self._end_if_lingering)

    def _end_if_lingering(self) -> None:
        if self.is_running and not self.killed_by_us:
            self._end_for_its_fault()

    def _end_for_its_fault(self) -> None:
        self.kill()
        self.killed_by_us = False
        self.broke_its_word = True

    def _reap(self) -> None:
        if self._popen is None or self._popen.poll() is None:
            return
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        # What it started must not outlive it.
        try:
            os.killpg(self._popen.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        if self._transport is None:
            self._say_gone()
        elif not self.hears_out:
            self._transport.close()
            self._say_gone()
        # Else the end of its socket comes next, behind what it said.

    def _say_gone(self) -> None:
        if self._popen is not None and self._popen.returncode is not None and not self._is_gone:
            self._is_gone = True
            self._on_gone(self._popen.returncode)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} pid={self.pid}>"
