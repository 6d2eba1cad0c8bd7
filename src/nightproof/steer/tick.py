"""What happens by itself, on the server's tick: steps that cannot keep each other from being done.

Among them: shared summaries become records, and a lost ledger is tried again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from nightproof.audit.ledger import AuditOutcomeUnknown, AuditUnavailable, Ledger
from nightproof.audit.record import make_entry
from nightproof.base.clock import utc_us
from nightproof.base.ids import RequestIds
from nightproof.steer.tasks import Tasks

_LINES_PER_ENTRY = 100
Summaries = Counter[tuple[str, str, str]]


class Step(msgspec.Struct, eq=False):
    """Something that is to be done again and again."""

    name: str
    do: Callable[[float], object]
    """Given the present time; what it returns is awaited if it can be. Never waits for long."""
    every_s: Callable[[], float] = float
    """The least time between two times; 0: at every tick."""
    is_apart: bool = False
    """It may wait for a disk: it is done beside the others, and not again before it has ended."""
    due_s: float = 0.0
    doing: asyncio.Task[None] | None = None


class Ticking:
    """Does the steps that are due. One that fails is told and done again; the others go on."""

    def __init__(self, steps: Sequence[Step], tasks: Tasks) -> None:
        self._steps = list(steps)
        self._tasks = tasks

    async def tick(self, now: float) -> None:
        """Do what is due."""
        for step in self._steps:
            if now < step.due_s or (step.doing is not None and not step.doing.done()):
                continue
            if step.is_apart:
                step.doing = self._tasks.hold(self._do(step, now))
            else:
                await self._do(step, now)

    async def _do(self, step: Step, now: float) -> None:
        try:
            step.due_s = now + step.every_s()
            doing = step.do(now)
            if isinstance(doing, Awaitable):
                await doing
                step.due_s = now + step.every_s()  # what it found may have changed when the next time is
        except Exception as error:  # noqa: BLE001
            # A border: whatever goes wrong now (a store that cannot be read, mostly) is tried again, and nothing
            # ends the ticking.
            self._tasks.failed(step.name, error)
        else:
            self._tasks.works(step.name)


async def flush_summaries(summaries: Summaries, ledger: Ledger, ids: RequestIds) -> None:
    """Write the counted refusals as summary entries; what cannot be written stays counted."""
    taken = dict(summaries)
    summaries.clear()
    lines: list[dict[str, Any]] = [
        {"failure": failure, "service": service, "whose": whose, "count": count}
        for (failure, service, whose), count in sorted(taken.items())
    ]
    for at in range(0, len(lines), _LINES_PER_ENTRY):
        part = lines[at : at + _LINES_PER_ENTRY]
        count = sum(line["count"] for line in part)
        try:
            await ledger.append(make_entry("summary", ids.draw(), utc_us(), {"lines": part, "count": count}))
        except AuditUnavailable:
            _count_again(summaries, lines[at:])
            return
        except AuditOutcomeUnknown as fault:
            _count_again(summaries, lines[at + _LINES_PER_ENTRY :])
            _count_if_lost(fault, summaries, part)
            return
        except asyncio.CancelledError:
            # This part is on its way to the ledger; the rest is for the flush at the stop.
            _count_again(summaries, lines[at + _LINES_PER_ENTRY :])
            raise


def _count_if_lost(fault: AuditOutcomeUnknown, summaries: Summaries, part: list[dict[str, Any]]) -> None:
    """Count a part again that is not in the log; one that may arrive there yet, only once it has not."""

    def count(done: asyncio.Future[int]) -> None:
        if done.exception() is not None:
            _count_again(summaries, part)

    if fault.later is None:
        _count_again(summaries, part)
    else:
        fault.later.add_done_callback(count)


def _count_again(summaries: Summaries, lines: list[dict[str, Any]]) -> None:
    for line in lines:
        summaries[line["failure"], line["service"], line["whose"]] += line["count"]


async def note(ledger: Ledger, ids: RequestIds, kind: str, **named: Any) -> None:
    """Write one entry about the server or an operator's act. Raises AuditUnavailable if it cannot be recorded."""
    await ledger.append(make_entry(kind, ids.draw(), utc_us(), named))


async def try_again(ledger: Ledger, ids: RequestIds) -> None:
    """Try a real write on a ledger that could not be written, so that it recovers without traffic."""
    if not ledger.is_writable and ledger.should_try:
        try:
            await note(ledger, ids, "server", event="audit_back")
        except (AuditUnavailable, AuditOutcomeUnknown):
            pass  # still not; its state says so, and health shows it
