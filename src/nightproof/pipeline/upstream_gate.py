"""The door to one upstream and model: whether it may be asked now, a place among the calls inside, a line before it.

Called by `pipeline.upstreams`; shared by all releases that name the same upstream. Puts the pure machines of `limits`
together: breaker, adaptive limit, and the pause that the upstream itself asked for. Promises that a place and a
breaker's pass are given back exactly once, whatever ends a call, and that nobody waits in line longer than he says.

Its one lock is the event loop: the fields change on the loop's thread, and never across an await.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Literal

import msgspec

from nightproof.base.deadlines import Deadlines
from nightproof.limits.breaker import Breaker, Pass, State
from nightproof.limits.concurrency import Concurrency, Signal
from nightproof.workers.upstream.alarm import Alarm, Clock
from nightproof.workers.upstream.values import UpstreamFault

Counts = Literal["good", "bad", "neither"]
"""What the end of a call says about the upstream."""
Kind = Literal["whole", "streamed"]
"""How an answer is asked for."""

_MOST_IN_LINE = 1_000
_USUAL_WEIGHT = 0.1
_PATIENCE_LEAST_S = 1.0
_PATIENCE_TIMES = 3.0
_SIGNALS: dict[str, Signal] = {
    "upstream_unreachable": "refused",
    "upstream_limited": "refused",
    "upstream_timeout": "slow",
}
_REFUSED_STATUSES = frozenset({503, 529})


def judge(fault: UpstreamFault | None, *, waited_s: float, patience_s: float) -> tuple[Counts, Signal]:
    """Say what the end of a call means to the breaker and to the limit; None: it answered.

    What the upstream did with a request that it refuses (4xx) shows that it is there. A wait that the caller cut
    short says nothing, unless it was long for this upstream: no caller opens a breaker by deadlines of his own.
    """
    if fault is None:
        return "good", "good"
    status = fault.status
    if 400 <= status < 500 and status not in (408, 429):
        return "good", "none"
    if fault.was_cut and waited_s < patience_s:
        return "neither", "none"
    if status in _REFUSED_STATUSES:
        return "bad", "refused"
    return "bad", _SIGNALS.get(fault.failure, "none")


class UpstreamSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One upstream at one moment, for health, metrics and status."""

    name: str
    model: str
    breaker: State
    open_since_s: float = 0.0
    """On the monotonic clock; 0: its breaker is closed."""
    in_flight: int
    in_line: int
    limit: int
    pause_s: float
    """For how long it asked not to be asked."""
    calls: int
    failures: int
    """Of all calls since the start."""
    last_failure: str
    last_detail: str
    warning: str = ""
    """Something of its declaration that an operator should look at."""


class Ticket:
    """Leave to ask once: a place and the breaker's pass. Left exactly once."""

    __slots__ = ("_gate", "_pass")

    def __init__(self, gate: Gate, given: Pass) -> None:
        self._gate = gate
        self._pass: Pass | None = given

    def leave(self, fault: UpstreamFault | None, *, now: float, waited_s: float, kind: Kind) -> None:
        """Say how the call ended, None: it answered, and how long its answer or first token was waited for.

        A second call does nothing.
        """
        given, self._pass = self._pass, None
        if given is not None:
            self._gate._left(given, fault, now=now, waited_s=waited_s, kind=kind)

    def begun(self) -> None:
        """See a stream's first piece: the upstream had room for it."""
        if self._pass is not None:
            self._gate._begun()

    def give_up(self, *, now: float) -> None:
        """Give everything back: the call says nothing about the upstream. A second call does nothing."""
        given, self._pass = self._pass, None
        if given is not None:
            self._gate._given_up(given, now=now)


class Gate:
    """What the server knows of one upstream and model."""

    def __init__(
        self, deadlines: Deadlines, *, most: int, chance: Callable[[], float] = random.random
    ) -> None:
        self._deadlines = deadlines
        self._chance = chance
        self._breaker = Breaker()
        self._limit = Concurrency(most=most)
        self._paused_until_s = 0.0
        self._line: deque[asyncio.Future[bool]] = deque()
        self._usual_s: dict[Kind, float] = {"whole": 0.0, "streamed": 0.0}
        """How long it usually takes to a whole answer, or to the first token; 0: it never answered."""
        self._open_since_s = 0.0
        self._calls = 0
        self._failures = 0
        self._last_failure = ""
        self._last_detail = ""

    def hold_to(self, most: int) -> None:
        """Take the bound of calls at once from a release that was loaded."""
        self._limit.hold_to(most)

    def closed_for_s(self, now: float) -> tuple[float, Literal["", "pause", "breaker"]]:
        """Return for how long nobody may ask it, and why; 0: it may be asked."""
        if self._paused_until_s > now:
            return self._paused_until_s - now, "pause"
        wait_s = self._breaker.wait_s(now)
        return wait_s, "breaker" if wait_s > 0 else ""

    def enter_at_once(self, now: float) -> Ticket | None:
        """Take a ticket if it may be asked, nobody waits and a place is free."""
        if self._line or self._paused_until_s > now or not self._limit.enter():
            return None
        return self._ticket(now)

    async def enter(self, *, now: float, until_s: float, clock: Callable[[], float]) -> Ticket | None:
        """Take a ticket, waiting in line for a place if need be; None if it came to nothing."""
        if self.closed_for_s(now)[0] > 0:
            return None
        if not self._line and self._limit.enter():
            return self._ticket(now)
        if len(self._line) >= _MOST_IN_LINE or until_s <= now:
            return None
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._line.append(waiter)
        try:
            with Alarm(self._deadlines, Clock(until_s, "no place")):
                has_place = await waiter
        except BaseException as error:
            self._leave_line(waiter, now=clock())
            if isinstance(error, UpstreamFault):
                return None
            raise
        return self._ticket(clock()) if has_place else None

    def _leave_line(self, waiter: asyncio.Future[bool], *, now: float) -> None:
        if waiter.done() and not waiter.cancelled():
            if waiter.result():  # the place came just as nobody wanted it any more
                self._limit.leave("none", now=now)
                self._next_in_line()
        else:
            try:
                self._line.remove(waiter)
            except ValueError:
                pass  # a cancelled one may have been passed over already

    def _ticket(self, now: float) -> Ticket | None:
        """Turn a place into a ticket; give it back where the breaker says no."""
        given = self._breaker.enter(now)
        if given is None or self._paused_until_s > now:
            if given is not None:
                self._breaker.cancelled(given)
            self._limit.leave("none", now=now)
            self._next_in_line()
            return None
        return Ticket(self, given)

    def _left(
        self,
        given: Pass,
        fault: UpstreamFault | None,
        *,
        now: float,
        waited_s: float,
        kind: Kind,
    ) -> None:
        usual_s = self._usual_s[kind]
        patience_s = max(_PATIENCE_LEAST_S, _PATIENCE_TIMES * usual_s)
        counts, signal = judge(fault, waited_s=waited_s, patience_s=patience_s)
        if signal == "good" and kind == "streamed":
            signal = "none"  # it was counted when it began
        self._calls += 1
        if counts == "good":
            self._breaker.succeeded(given, now=now)
        elif counts == "bad":
            self._breaker.failed(given, now=now, chance=self._chance())
        else:
            self._breaker.cancelled(given)
        if fault is None:
            self._usual_s[kind] += (waited_s - usual_s) * (_USUAL_WEIGHT if usual_s else 1.0)
        else:
            self._failures += 1
            self._last_failure, self._last_detail = fault.failure, fault.detail
            if fault.retry_after_s > 0:
                self._paused_until_s = max(self._paused_until_s, now + fault.retry_after_s)
        self._limit.leave(signal, now=now)
        self._see_line(now)

    def _begun(self) -> None:
        self._limit.answered()
        self._next_in_line()

    def _given_up(self, given: Pass, *, now: float) -> None:
        self._breaker.cancelled(given)
        self._limit.leave("none", now=now)
        self._see_line(now)

    def _see_line(self, now: float) -> None:
        is_open = self._breaker.state(now) != "closed"
        if not is_open:
            self._open_since_s = 0.0
        elif not self._open_since_s:
            self._open_since_s = now
        if self._line:
            if self.closed_for_s(now)[0] > 0:
                while self._line:  # nobody is asked for a while: they go elsewhere
                    waiter = self._line.popleft()
                    if not waiter.done():
                        waiter.set_result(False)
            else:
                self._next_in_line()

    def _next_in_line(self) -> None:
        while self._line and self._limit.has_room:
            waiter = self._line.popleft()
            if not waiter.done():
                self._limit.enter()
                waiter.set_result(True)

    def snapshot(self, *, name: str, model: str, now: float, warning: str = "") -> UpstreamSnapshot:
        """Return a frozen picture."""
        return UpstreamSnapshot(
            name=name,
            model=model,
            breaker=self._breaker.state(now),
            open_since_s=self._open_since_s,
            in_flight=self._limit.in_flight,
            in_line=len(self._line),
            limit=self._limit.limit,
            pause_s=max(0.0, self._paused_until_s - now),
            calls=self._calls,
            failures=self._failures,
            last_failure=self._last_failure,
            last_detail=self._last_detail,
            warning=warning,
        )

    def __repr__(self) -> str:
        return f"<Gate {self._breaker!r} {self._limit!r} line={len(self._line)}>"
