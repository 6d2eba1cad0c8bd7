"""A program that serves a model, which `serve` starts and keeps up: the command of an upstream.

Called by the parts of a chat service when its release is loaded and let go. Promises that the program is told to its
chain only while it answers, that it is started again within a budget and with a pause, and that it is gone when
`stop` returns, and with the server when that is killed. Its words are dropped, or shown as workers' are.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Literal

import msgspec

from nightproof.base.clock import monotonic_s
from nightproof.base.conditions import Condition
from nightproof.declare.chat_description import UpstreamDescription
from nightproof.settings.settings import WorkerSettings
from nightproof.storage.launch import NO_PROGRAM
from nightproof.storage.proc import cause_of
from nightproof.storage.program import Program
from nightproof.workers.budget import RestartBudget

CommandState = Literal["starting", "up", "down", "stopped"]

LOADS_WITHIN_S = 300.0
SILENT_AT_MOST_S = 30.0
_ASKED_EACH_S = 2.0
_ASKED_WHILE_LOADING_EACH_S = 0.1
_ANSWERS_WITHIN_S = 5.0
_ENDS_WITHIN_S = 5.0


class CommandSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A command at one moment."""

    name: str
    state: CommandState
    since_s: float
    """When it got into its state, on the monotonic clock."""
    pid: int
    starts: int
    last_end: str
    """How it ended last, in our words; empty if it never did."""
    has_failed: bool
    """It does not stay up: its restarts do not help."""


def verdict(*, is_up: bool, answers: bool, silent_s: float, loading_s: float) -> Literal["up", "wait", "end"]:
    """Say what a running program's answer to a health question, or the want of one, means. Pure.

    >>> verdict(is_up=False, answers=False, silent_s=0.0, loading_s=20.0)
    'wait'
    """
    if answers:
        return "up"
    if is_up:
        return "end" if silent_s >= SILENT_AT_MOST_S else "wait"
    return "end" if loading_s >= LOADS_WITHIN_S else "wait"


def means_up(status: int) -> bool | None:
    """Say whether a status of a health route means that it serves; None: it has no such route, ask another.

    >>> means_up(200), means_up(503), means_up(404)
    (True, False, None)
    """
    if status in (404, 405):
        return None
    return 0 < status < 500


class ServedCommand:
    """One command, kept up by a task of the loop."""

    def __init__(
        self,
        declared: UpstreamDescription,
        addresses: MutableMapping[str, str],
        settings: WorkerSettings,
        *,
        folder: Path | None = None,
        report: Callable[[str, str], None] = lambda name, text: None,
    ) -> None:
        self._declared = declared
        self._addresses = addresses
        """Where its base URL stands while it is up: the chain's mapping."""
        self._settings = settings
        self._folder = folder
        self._report = report
        """Told, with the upstream's name, what is worth a line of the log."""
        self._budget = RestartBudget(settings)
        self._task: asyncio.Task[None] | None = None
        self._program: Program | None = None
        self._state: CommandState = "stopped"
        self._since_s = monotonic_s()
        self._starts = 0
        self._last_end = ""
        self._was_up: asyncio.Event = asyncio.Event()

    def start(self) -> None:
        """Have it started and kept up."""
        self._become("starting")
        self._task = asyncio.get_running_loop().create_task(self._keep_up())

    async def ready(self, within_s: float) -> bool:
        """Wait until it serves for the first time; say whether it does."""
        try:
            async with asyncio.timeout(within_s):
                await self._was_up.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """End it. It is gone when this returns, or the kernel does not let go of it."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._end()
        self._become("stopped")

    @property
    def has_failed(self) -> bool:
        """Say whether it does not stay up though it was started again (condition `upstream_command_failed`)."""
        return self._state in ("starting", "down") and (self._budget.loads_fail or self._budget.is_exhausted)

    def condition(self, service: str) -> Condition | None:
        """Return what is wrong with it, for the alerts; None: it is up, or may still come up."""
        if not self.has_failed:
            return None
        return Condition(
            failure="upstream_command_failed",
            service=service,
            since_s=self._since_s,
            detail=f"{self._declared.name}: {self._last_end}, {self._starts} starts",
        )

    def snapshot(self) -> CommandSnapshot:
        """Return a frozen picture."""
        return CommandSnapshot(
            name=self._declared.name,
            state=self._state,
            since_s=self._since_s,
            pid=self._program.pid if self._program is not None else 0,
            starts=self._starts,
            last_end=self._last_end,
            has_failed=self.has_failed,
        )

    async def _keep_up(self) -> None:
        while True:
            while not self._budget.may_start(monotonic_s(), starting=0, loaded=0):
                await asyncio.sleep(0.05)
            port = _free_port()
            base_url = self._declared.base_url.replace("{port}", str(port))
            try:
                self._last_end = await self._run_once(port, base_url)
            except OSError as error:
                self._last_end = f"it cannot be started: {error.strerror}"
            except Exception as error:  # noqa: BLE001
                # A border: it is told like a program that ends, and started again within the budget.
                self._last_end = f"it could not be looked after: {type(error).__name__}"
            finally:
                self._addresses.pop(self._declared.name, None)
                await self._end()
            self._report(self._declared.name, self._last_end)
            self._budget.spend(monotonic_s(), while_loading=self._state != "up")
            self._become("down")

    async def _run_once(self, port: int, base_url: str) -> str:
        """Run it until it ends or has to be ended; return why."""
        replaced = {"{port}": str(port), "{python}": sys.executable}
        command = []
        for word in self._declared.command:
            for mark, value in replaced.items():
                word = word.replace(mark, value)
            command.append(word)
        self._starts += 1
        self._program = program = Program.start(
            command, folder=self._folder, show_output=self._settings.show_output
        )
        began_s = answered_s = monotonic_s()
        while not program.gone.done():
            answers = await _answers(base_url)
            now = monotonic_s()
            answered_s = now if answers else answered_s
            means = verdict(
                is_up=self._state == "up",
                answers=answers,
                silent_s=now - answered_s,
                loading_s=now - began_s,
            )
            if means == "end":
                what = "it answers no health question" if self._state == "up" else "it does not come up"
                return f"{what} within {SILENT_AT_MOST_S if self._state == 'up' else LOADS_WITHIN_S:g} s"
            if means == "up" and self._state != "up" and not program.gone.done():
                self._budget.loaded()
                self._become("up")
                self._addresses[self._declared.name] = base_url
                self._was_up.set()
            pause_s = _ASKED_EACH_S if self._state == "up" else _ASKED_WHILE_LOADING_EACH_S
            await asyncio.wait({program.gone}, timeout=pause_s)
        code = program.gone.result()
        return f"there is no program {command[0]!r}" if code == NO_PROGRAM else f"it ended: {cause_of(code)}"

    async def _end(self) -> None:
        program, self._program = self._program, None
        if program is not None:
            program.kill()
            await asyncio.wait({program.gone}, timeout=_ENDS_WITHIN_S)

    def _become(self, state: CommandState) -> None:
        self._state = state
        self._since_s = monotonic_s()

    def __repr__(self) -> str:
        return f"<ServedCommand {self._declared.name} {self._state} starts={self._starts}>"


async def _answers(base_url: str) -> bool:
    """Ask whether the server of a model serves: `/health`, and `/models` where there is none."""
    root, _, path = base_url.partition("://")[2].partition("/")
    host, _, port = root.partition(":")
    for question in ("/health", f"/{path.rstrip('/')}/models" if path else "/models"):
        try:
            async with asyncio.timeout(_ANSWERS_WITHIN_S):
                is_up = means_up(await _status_of(host, int(port), question))
        except (OSError, TimeoutError, ValueError):
            return False
        if is_up is not None:
            return is_up
    return False


async def _status_of(host: str, port: int, path: str) -> int:
    """Return the status of a GET; 0 where the answer is none."""
    reader, writer = await asyncio.open_connection(host, port, limit=4_096)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nhost: {host}:{port}\r\nconnection: close\r\n\r\n".encode())
        line = await reader.readline()
    finally:
        writer.close()
    words = line.split()
    return int(words[1]) if len(words) > 1 and line.startswith(b"HTTP/1.") and words[1].isdigit() else 0


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
