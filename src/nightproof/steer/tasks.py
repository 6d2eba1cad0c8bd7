"""Run what goes on beside the requests, and tell of what fails there: nothing ends silently.

The one way in which the server begins tasks that nobody waits for. What is to go on for ever, or to be done in any
case, is begun again after a pause. An error is told in the log once, in health (`steps`) for as long as it stands,
and, where it is a fault of ours and no store or network that is away, as `internal_error`, which pages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

import msgspec

from nightproof.base.clock import monotonic_s
from nightproof.base.conditions import Condition
from nightproof.base.errors import NightproofError
from nightproof.watch.health import Component, Health
from nightproof.watch.log import log, log_unexpected

CONDITIONS = ("internal_error",)
_AGAIN_S = 1.0
_TOLD_S = 600.0
"""For so long it is told that something failed which is not done again."""


class _Failing(msgspec.Struct, frozen=True):
    error: str
    is_ours: bool
    since_s: float
    until_s: float


class Tasks:
    """The tasks of a server. Used on the event loop's thread only."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._alone: set[str] = set()
        self._failing: dict[str, _Failing] = {}

    # -- to begin -----------------------------------------------------------------------------

    def begin(self, work: Coroutine[Any, Any, Any], *, name: str = "") -> asyncio.Task[Any]:
        """Begin what is done once and waited for by nobody: its error is told. Without a name it has its function's."""
        return self._begin(name or _name_of(work), work, is_awaited=False)

    def begin_alone(self, name: str, work: Coroutine[Any, Any, Any]) -> None:
        """Begin it as `begin` does, unless the one of this name still goes on."""
        if name in self._alone:
            work.close()
            return
        self._alone.add(name)
        self.begin(work, name=name).add_done_callback(lambda done: self._alone.discard(name))

    def hold(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin what its caller waits for, who is told its error; it goes on where the caller is cut off.

        A fault of ours is told here all the same: the caller may have gone.
        """
        return self._begin(_name_of(work), work, is_awaited=True)

    def keep_up(self, name: str, do: Callable[[], Awaitable[object]]) -> None:
        """Do something again and again for ever; it waits by itself between two times."""
        self.hold(self._again(name, do, is_for_ever=True))

    def insist(self, name: str, do: Callable[[], Awaitable[object]]) -> None:
        """Do something once, and try again until it went well."""
        self.hold(self._again(name, do, is_for_ever=False))

    def cancel(self) -> None:
        """End them all."""
        for task in list(self._tasks):
            task.cancel()

    async def end(self) -> None:
        """End them all, and wait until they are."""
        self.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- what failed --------------------------------------------------------------------------

    def failed(self, name: str, error: BaseException, *, for_s: float = float("inf")) -> None:
        """Take in that something failed; it is told until it `works`, or for `for_s` seconds."""
        kind, now = type(error).__name__, monotonic_s()
        is_ours = not _is_foreseen(error)
        known = self._failing.get(name)
        is_news = known is None or known.until_s < now or known.error != kind
        if is_news and is_ours:
            log_unexpected(error, doing=name)
        elif is_news:
            why = error.text if isinstance(error, NightproofError) else kind
            log("task_failed", level="warning", task=name, error=kind, why=why)
        since_s = now if is_news or known is None else known.since_s
        self._failing[name] = _Failing(kind, is_ours, since_s, now + for_s)

    def works(self, name: str) -> None:
        """Take in that something that may have failed works."""
        self._failing.pop(name, None)

    def health(self, health: Health) -> list[Component]:
        """Return whether everything that goes on beside the requests does."""
        why = ", ".join(f"{name} fails: {one.error}" for name, one in self._told())
        return [health.see("steps", ok=not why, why=why, needed=False)]

    def conditions(self) -> Iterable[Condition]:
        """Return what failed by a fault of ours, for the alerts."""
        ours = [(name, one) for name, one in self._told() if one.is_ours]
        if ours:
            detail = ", ".join(f"{name}: {one.error}" for name, one in ours)
            since_s = min(one.since_s for _, one in ours)
            yield Condition(
                failure="internal_error", since_s=since_s, detail=f"beside the requests: {detail}"
            )

    # -- inside -------------------------------------------------------------------------------

    async def _again(self, name: str, do: Callable[[], Awaitable[object]], *, is_for_ever: bool) -> None:
        while True:
            try:
                await do()
            except Exception as error:  # noqa: BLE001
                # A border: whatever goes wrong is told, and tried again.
                self.failed(name, error, for_s=_TOLD_S)
                await asyncio.sleep(_AGAIN_S)
                continue
            self.works(name)
            if not is_for_ever:
                return

    def _begin(self, name: str, work: Coroutine[Any, Any, Any], *, is_awaited: bool) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(name, done, is_awaited=is_awaited))
        return task

    def _ended(self, name: str, done: asyncio.Task[Any], *, is_awaited: bool) -> None:
        self._tasks.discard(done)
        error = None if done.cancelled() else done.exception()
        if error is not None and not (is_awaited and _is_foreseen(error)):
            self.failed(name, error, for_s=_TOLD_S)

    def _told(self) -> list[tuple[str, _Failing]]:
        now = monotonic_s()
        self._failing = {name: one for name, one in self._failing.items() if one.until_s >= now}
        return list(self._failing.items())

    def __repr__(self) -> str:
        return f"<Tasks {len(self._tasks)} failing={sorted(self._failing)}>"


def _name_of(work: Coroutine[Any, Any, Any]) -> str:
    return str(getattr(work, "__qualname__", type(work).__name__))


def _is_foreseen(error: BaseException) -> bool:
    """Say whether something is away or full, or said no, and nothing of ours is wrong."""
    return isinstance(error, NightproofError | OSError)
