"""Bring one receiver its messages: in order, one at a time, until each arrived or was given up.

Runs on the event loop as one task. Promises: a receiver that is slow, down or lying holds up nobody but itself; the
pause between tries doubles up to a bound; what was tried for `give_up_after_h` is given up, and so is, after three
tries, what the receiver says it will never take. Durations are on the monotonic clock.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable

import msgspec

from nightproof.base.clock import monotonic_s, utc_us
from nightproof.settings.settings import NotifySettings
from nightproof.watch.log import log
from nightproof.watch.notify.message import Message
from nightproof.watch.notify.post import NotDelivered
from nightproof.watch.notify.receiver import Receiver

MOST_WAITING = 10_000
_FINAL_TRIES = 3
_SPREAD = 0.2


class Parcel(msgspec.Struct, kw_only=True):
    """One message for one receiver."""

    message: Message
    attempts: int = 0
    waited_s: float = 0.0
    """Time spent waiting to be delivered, over all runs of the server."""
    since_s: float = 0.0
    """On this run's clock: when it was put here, or tried last."""


class Delivery(msgspec.Struct, frozen=True):
    """What became of a parcel."""

    receiver: str
    message_id: str
    outcome: str
    """delivered, failed (and tried again), or given_up."""
    attempts: int
    waited_s: float


class CourierSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """How a receiver is doing."""

    receiver: str
    waiting: int
    oldest_s: float
    """For how long the first in the line has waited; 0 if none does."""
    why: str
    """What kept the last try from arriving; empty after one that arrived."""
    delivered: int
    failed: int
    given_up: int
    given_up_ago_s: float
    """Since a message was given up last; infinite if none was."""


OnDelivery = Callable[[Delivery], Awaitable[None]]


class Courier:
    """The line of messages to one receiver."""

    def __init__(self, receiver: Receiver, settings: NotifySettings, on_delivery: OnDelivery) -> None:
        self.receiver = receiver
        self._settings = settings
        self._on_delivery = on_delivery
        self._line: deque[Parcel] = deque()
        self._news = asyncio.Event()
        self._why = ""
        self._delivered = self._failed = self._given_up = 0
        self._given_up_s = -math.inf

    def put(self, parcel: Parcel) -> list[str]:
        """Add to the end of the line; return the ids of what had to go at its front for want of room."""
        parcel.since_s = monotonic_s()
        self._line.append(parcel)
        self._news.set()
        dropped = []
        while len(self._line) > MOST_WAITING:
            dropped.append(self._line.popleft().message.id)
            self._count_given_up()
        return dropped

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            if not self._line:
                self._news.clear()
                await self._news.wait()
            pause_s = await self._try_first()
            if pause_s > 0:
                await asyncio.sleep(pause_s)

    def snapshot(self) -> CourierSnapshot:
        """Return a frozen picture."""
        first = self._line[0] if self._line else None
        return CourierSnapshot(
            receiver=self.receiver.name,
            waiting=len(self._line),
            oldest_s=first.waited_s + monotonic_s() - first.since_s if first is not None else 0.0,
            why=self._why,
            delivered=self._delivered,
            failed=self._failed,
            given_up=self._given_up,
            given_up_ago_s=monotonic_s() - self._given_up_s,
        )

    def _count_given_up(self) -> None:
        self._given_up += 1
        self._given_up_s = monotonic_s()

    async def _try_first(self) -> float:
        """Try the first in the line once; return how long to wait before the next try."""
        parcel = self._line[0]
        failed: NotDelivered | None = None
        try:
            await self.receiver.tell(parcel.message, now_us=utc_us())
        except NotDelivered as error:
            failed = error
        except Exception as error:  # noqa: BLE001 - a border: a plug of other people's must not end the courier
            failed = NotDelivered(f"fault in the receiver's code ({type(error).__name__})")
        parcel.attempts += 1
        now = monotonic_s()
        parcel.waited_s, parcel.since_s = parcel.waited_s + now - parcel.since_s, now
        outcome = self._judge(parcel, failed)
        if failed is not None:
            if failed.text != self._why:
                log("not_delivered", level="warning", receiver=self.receiver.name, why=failed.text)
            self._why = failed.text
            self._failed += 1
        elif self._why:
            log("delivered_again", receiver=self.receiver.name, waiting=len(self._line) - 1)
            self._why = ""
        if outcome != "failed":
            # Not `popleft`: room may have been made while it was being sent.
            if self._line and self._line[0] is parcel:
                self._line.popleft()
            if outcome == "given_up":
                self._count_given_up()
            else:
                self._delivered += 1
        await self._on_delivery(
            Delivery(self.receiver.name, parcel.message.id, outcome, parcel.attempts, parcel.waited_s)
        )
        if outcome == "given_up":
            log("given_up", level="error", receiver=self.receiver.name, message=parcel.message.id)
        return self._pause_s(parcel.attempts, failed) if outcome == "failed" and failed is not None else 0.0

    def _judge(self, parcel: Parcel, failed: NotDelivered | None) -> str:
        if failed is None:
            return "delivered"
        if failed.is_final and parcel.attempts >= _FINAL_TRIES:
            return "given_up"
        return "given_up" if parcel.waited_s > self._settings.give_up_after_h * 3_600 else "failed"

    def _pause_s(self, attempts: int, failed: NotDelivered) -> float:
        first_s, most_s = self._settings.backoff_first_s, self._settings.backoff_most_s
        pause_s = min(most_s, first_s * 2.0 ** min(attempts - 1, 30))
        pause_s *= 1.0 + random.uniform(-_SPREAD, _SPREAD)  # noqa: S311 - not a secret
        return max(pause_s, min(failed.retry_after_s, most_s))

    def __repr__(self) -> str:
        return f"<Courier {self.receiver.name} waiting={len(self._line)} {self._why}>"
