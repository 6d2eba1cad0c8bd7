"""A server as a unit file runs it: started by its command line, and again a second after it ended, whatever ended it.

`deploy/nightproof.service` says the same: Restart=always, RestartSec=1. Owned by a stage.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from nightproof.base.clock import monotonic_s

_RESTART_PAUSE_S = 1.0
_LOOK_AGAIN_S = 0.05
_STOPS_WITHIN_S = 40.0


class Exit(NamedTuple):
    """One end of the process."""

    at_s: float
    code: int
    """The exit code; negative for the signal that ended it."""


class Supervised:
    """Runs the command until `stop`."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path) -> None:
        self.exits: list[Exit] = []
        self.starts = 0
        self._command = list(command)
        self._env = dict(env)
        self._cwd = cwd
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._held = threading.Event()
        """Set while it is to stay down."""
        self._lock = threading.Lock()
        """Guards `_process` against a stop while it is started."""
        self._thread = threading.Thread(target=self._supervise, name="supervisor", daemon=True)

    @property
    def pid(self) -> int:
        """The process id of the server that runs now; 0 between two of them."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else 0

    def start(self) -> None:
        """Start it."""
        self._begin()
        self._thread.start()

    def signal(self, number: int) -> None:
        """Send it a signal; nobody's fault if it is gone."""
        if pid := self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def pause(self) -> int:
        """End it in order and keep it down; return its exit code."""
        self._held.set()
        process = self._process
        if process is None:
            return 0
        return self._end(process)

    def resume(self) -> None:
        """Let it run again."""
        self._held.clear()

    def stop(self) -> int:
        """End it for good as `systemctl stop` does; return its exit code."""
        with self._lock:
            self._stopping.set()
            process = self._process
        if process is None:
            return 0
        code = self._end(process)
        if self._thread.is_alive():
            self._thread.join(5)
        return code

    def _end(self, process: subprocess.Popen[bytes]) -> int:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
        try:
            return process.wait(_STOPS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def _begin(self) -> None:
        with self._lock:
            if self._stopping.is_set():
                return
            with self._log.open("ab") as sink:
                # A session of its own: a Ctrl-C is for the drill, which then ends the server in order.
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=self._env,
                    cwd=self._cwd, start_new_session=True,
                )  # fmt: skip
            self.starts += 1

    def _supervise(self) -> None:
        while (process := self._process) is not None:
            code = process.wait()
            self.exits.append(Exit(monotonic_s(), code))
            if self._stopping.wait(_RESTART_PAUSE_S):
                return
            while self._held.is_set():
                if self._stopping.wait(_LOOK_AGAIN_S):
                    return
            self._begin()
