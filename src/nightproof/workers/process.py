"""One worker process as the pool sees it: started, spoken to, killed, and known to be gone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from nightproof.storage.spawned import Spawned, scrubbed_environment
from nightproof.workers import wire


class ChildProcess(Spawned):
    """A worker; its owner is told of each message, and that it is gone with the return code. Begun by `start`."""

    def __init__(
        self,
        on_message: Callable[[ChildProcess, wire.FromWorker], None],
        on_gone: Callable[[ChildProcess, int], None],
    ) -> None:
        super().__init__(
            lambda body: on_message(self, wire.from_worker.decode(body)),
            lambda returncode: on_gone(self, returncode),
        )

    async def start(self, *, show_output: bool, python: str = "") -> None:
        """Start the program and connect to it; `python` is another interpreter than ours.

        Raises OSError if the system has no room, or there is no such interpreter.
        """
        await self.spawn(
            [python or sys.executable, "-m", "nightproof.workers.child"],
            environment=scrubbed_environment(),
            stderr=None if show_output else subprocess.DEVNULL,
        )

    def send(self, message: wire.ToWorker) -> None:
        """Write one message; dropped if the process is gone."""
        self.write(wire.frame(message))
