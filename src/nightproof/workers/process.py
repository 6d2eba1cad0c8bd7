"""One child process as the pool sees it: started, spoken to, killed, and known to be gone.

The handle reports three things to its owner, on the event loop: a message, that the process is gone
(with the cause), and nothing else. It never decides; the pool does.
"""

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
from nightproof.workers import wire

_KEPT_ENVIRONMENT = (
    "PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV",
    "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_SOCKET_BUFFER_BYTES = 1 << 20


def scrubbed_environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a worker: what programs need to run, none of the server's secrets.

    Numeric libraries get one thread each, unless the operator set them: workers are the parallelism.
    """
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    kept |= {name: os.environ.get(name, "1") for name in _ONE_THREAD}
    kept |= {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
    return kept | (extra or {})


def cause_of(returncode: int) -> str:
    """Say in words how a process ended, from its return code."""
    if returncode >= 0:
        return f"exit {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"


class ChildProcess(asyncio.Protocol):
    """A running worker process and the socket to it. Created by `start`."""

    def __init__(
        self,
        on_message: Callable[[ChildProcess, wire.FromWorker], None],
        on_gone: Callable[[ChildProcess, int], None],
    ) -> None:
        self._on_message = on_message
        self._on_gone = on_gone
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._popen: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._loop = asyncio.get_running_loop()
        self.killed_by_us = False
        self.broke_its_word = False
        """It sent what is no message, or let go of its socket: the SIGKILL was ours, the fault its own."""

    @property
    def pid(self) -> int:
        """The process id; 0 before the start."""
        return self._popen.pid if self._popen else 0

    async def start(self, *, show_output: bool, python: str = "") -> None:
        """Start the program and connect to it; `python` is another interpreter than ours.

        Raises OSError if the system has no room, or there is no such interpreter.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
            ours.setblocking(False)
            theirs.setblocking(True)
            # From the main thread: PR_SET_PDEATHSIG fires when the thread that forked ends.
            self._popen = subprocess.Popen(  # noqa: ASYNC220 - a fork of milliseconds, and it must be this thread
                [
                    python or sys.executable,
                    "-m",
                    "nightproof.workers.child",
                    str(theirs.fileno()),
                    str(os.getpid()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=None if show_output else subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                process_group=0,
                env=scrubbed_environment(),
            )
            self._pidfd = os.pidfd_open(self._popen.pid)
            self._loop.add_reader(self._pidfd, self._reap)
            await self._loop.create_connection(lambda: self, sock=ours)
        except OSError:
            ours.close()
            if self._popen is not None:
                self.kill()
            raise
        finally:
            theirs.close()

    def send(self, message: wire.ToWorker) -> None:
        """Write one message; dropped if the process is gone, since `on_gone` tells that story."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(wire.frame(message))

    def kill(self) -> None:
        """Send SIGKILL to the worker's whole process group; `on_gone` follows when it is really gone."""
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
        """Decode what the worker sent (asyncio's callback); a worker that speaks nonsense is killed."""
        try:
            for body in self._reader.feed(data):
                self._on_message(self, wire.from_worker.decode(body))
        except (ValueError, msgspec.DecodeError):
            self._end_for_its_fault()

    def connection_lost(self, exc: Exception | None) -> None:
        """See the socket closed (asyncio's callback): a worker without its socket is of no use."""
        self._transport = None
        if self._popen is not None and self._popen.returncode is None and not self.killed_by_us:
            # It may be on its way out by itself: the pidfd tells. If it lingers, end it.
            self._loop.call_later(0.5, self._end_if_lingering)

    def _end_if_lingering(self) -> None:
        if self._popen is not None and self._popen.returncode is None and not self.killed_by_us:
            self._end_for_its_fault()

    def _end_for_its_fault(self) -> None:
        self.kill()
        self.killed_by_us = False
        self.broke_its_word = True

    def _reap(self) -> None:
        if self._popen is None:
            return
        returncode = self._popen.poll()
        if returncode is None:
            return
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        if self._transport is not None:
            self._transport.close()
        # Grandchildren of user code must not outlive their worker.
        try:
            os.killpg(self._popen.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        self._on_gone(self, returncode)

    def __repr__(self) -> str:
        return f"<ChildProcess pid={self.pid}>"
