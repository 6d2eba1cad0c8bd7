"""The drift child as the server sees it: a process and a socket. It never decides; `watcher` does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from nightproof.storage.spawned import Spawned, scrubbed_environment
from nightproof.watch.drift import wire

_MOST_WAITING_BYTES = 8 << 20


class DriftChild(Spawned):
    """A running child. `on_message` and `on_gone` are called on the event loop."""

    def __init__(
        self, on_message: Callable[[wire.FromChild], None], on_gone: Callable[[DriftChild], None]
    ) -> None:
        super().__init__(lambda body: on_message(wire.read_from_child(body)), lambda _: on_gone(self))

    async def start(self) -> None:
        """Start the program and connect to it. Raises OSError if the system has no room."""
        await self.spawn(
            [sys.executable, "-m", "nightproof.watch.drift.child"],
            environment=scrubbed_environment(),
            stderr=subprocess.DEVNULL,
        )

    def send(self, message: wire.ToChild) -> bool:
        """Write one message; say no where the child is gone or does not keep up."""
        if isinstance(message, wire.Rows) and self.unread_bytes > _MOST_WAITING_BYTES:
            return False
        return self.write(wire.frame(message))

    def end(self) -> None:
        """Send SIGKILL; the child holds nothing that is not kept elsewhere."""
        self.kill()
