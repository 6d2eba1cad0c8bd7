"""Token and cost budgets of chat services, per key and for a service as a whole.

Counted when a call has ended, looked at before the next begins: a budget is overrun by what is under way at most.
Never waits, never does I/O, never reads the clock itself. What is used outlives a restart by `changed` and `restore`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from nightproof.base.errors import Refusal
from nightproof.declare.chat_description import BudgetDescription

_MINUTE_US = 60_000_000
_DAY_US = 86_400_000_000
_MOST_USERS = 100_000


class Used(msgspec.Struct, array_like=True):
    """What a key, or a service, has used in the running day and minute (UTC)."""

    day: int = 0
    minute: int = 0
    tokens_today: int = 0
    tokens_this_minute: int = 0
    cost_today: float = 0.0

    def turn(self, at_us: int) -> None:
        """Begin anew where a minute or a day has ended."""
        if (day := at_us // _DAY_US) != self.day:
            self.day, self.tokens_today, self.cost_today = day, 0, 0.0
        if (minute := at_us // _MINUTE_US) != self.minute:
            self.minute, self.tokens_this_minute = minute, 0


class Left(msgspec.Struct, frozen=True):
    """What a key has left of its budget, and when there is more; None where there is no limit."""

    limit: int
    remaining: int
    reset_s: float


class Budgets:
    """What was used, by service and key. Its one lock is the event loop."""

    def __init__(self) -> None:
        self._used: dict[tuple[str, str], Used] = {}
        self._changed: set[tuple[str, str]] = set()

    def refuse_beyond(self, service: str, key_id: str, budget: BudgetDescription, *, at_us: int) -> None:
        """Raise Refusal `budget_exceeded` where the key or the service has used up what it may."""
        if key_id and (over := self._over(service, key_id, budget, at_us)) is not None:
            what, within = over
            left_us = _DAY_US - at_us % _DAY_US if within == "day" else _MINUTE_US - at_us % _MINUTE_US
            raise Refusal(
                f"The {what} of this {within} is used up.",
                failure="budget_exceeded",
                hint="Wait for the next one, or ask the operator for a larger budget.",
                retry_after_s=left_us / 1e6,
            )

    def _over(
        self, service: str, key_id: str, budget: BudgetDescription, at_us: int
    ) -> tuple[str, Literal["minute", "day"]] | None:
        mine, whole = self._of(service, key_id, at_us), self._of(service, "", at_us)
        if 0 < budget.tokens_per_minute <= mine.tokens_this_minute:
            return "token budget of the key", "minute"
        if 0 < budget.tokens_per_day <= mine.tokens_today:
            return "token budget of the key", "day"
        if 0 < budget.cost_per_day <= mine.cost_today:
            return "cost budget of the key", "day"
        if 0 < budget.service_tokens_per_day <= whole.tokens_today:
            return "token budget of the service", "day"
        if 0 < budget.service_cost_per_day <= whole.cost_today:
            return "cost budget of the service", "day"
        return None

    def count(self, service: str, key_id: str, *, tokens: int, cost: float, at_us: int) -> None:
        """Count what a call has used."""
        for who in (key_id, ""):
            used = self._of(service, who, at_us)
            used.tokens_today += tokens
            used.tokens_this_minute += tokens
            used.cost_today += cost
            self._changed.add((service, who))

    def left(self, service: str, key_id: str, budget: BudgetDescription, *, at_us: int) -> Left | None:
        """Return what a key may still use: of this minute where that is limited, else of this day."""
        used = self._of(service, key_id, at_us)
        if budget.tokens_per_minute:
            left = max(0, budget.tokens_per_minute - used.tokens_this_minute)
            return Left(budget.tokens_per_minute, left, (_MINUTE_US - at_us % _MINUTE_US) / 1e6)
        if budget.tokens_per_day:
            left = max(0, budget.tokens_per_day - used.tokens_today)
            return Left(budget.tokens_per_day, left, (_DAY_US - at_us % _DAY_US) / 1e6)
        return None

    def used(self, service: str, key_id: str = "", *, at_us: int) -> Used:
        """Return what a key, or the service as a whole, has used."""
        return msgspec.structs.replace(self._of(service, key_id, at_us))

    def changed(self) -> list[tuple[str, str, bytes]]:
        """Return the counts that have changed since the last call, to be kept: as `restore` reads them."""
        changed, self._changed = self._changed, set()
        return [(*who, msgspec.msgpack.encode(self._used[who])) for who in changed if who in self._used]

    def not_kept(self, lines: Iterable[tuple[str, str, bytes]]) -> None:
        """Take counts back that could not be kept, for the next time."""
        self._changed.update((service, key_id) for service, key_id, _ in lines)

    def restore(self, lines: Iterable[tuple[str, str, bytes]]) -> None:
        """Go on from kept counts. Raises DecodeError where they are none."""
        for service, key_id, counts in lines:
            self._used[service, key_id] = msgspec.msgpack.decode(counts, type=Used)

    def _of(self, service: str, key_id: str, at_us: int) -> Used:
        who = (service, key_id)
        used = self._used.get(who)
        if used is None:
            if len(self._used) >= _MOST_USERS:
                self._forget_before(at_us // _DAY_US)
            used = self._used[who] = Used()
        used.turn(at_us)
        return used

    def _forget_before(self, day: int) -> None:
        self._used = {who: used for who, used in self._used.items() if used.day >= day or not who[1]}

    def __repr__(self) -> str:
        return f"<Budgets of {len(self._used)}>"
