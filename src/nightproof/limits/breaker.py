"""Stop asking an upstream that keeps failing, and find out when it is well again.

Called by `pipeline.upstreams`, for one upstream and model. Works with a single target: what is refused here goes to
the next upstream or fallback at no cost. Promises that while it is open nothing is let through, while it is half open
at most a few probes are, and that a probe's place is given back however its call ends. Never waits, never reads the
clock, never draws chance itself.

>>> breaker = Breaker()
>>> for _ in range(5):
...     breaker.failed(breaker.enter(0.0), now=0.0, chance=0.5)
>>> breaker.state(1.0), breaker.enter(1.0), breaker.state(5.0)
('open', None, 'half_open')
"""

from __future__ import annotations

from typing import Literal

import msgspec

State = Literal["closed", "open", "half_open"]


class BreakerRules(msgspec.Struct, frozen=True, kw_only=True):
    """When it opens, and for how long."""

    window_s: int = 30
    """Calls are counted over so many buckets of a second."""
    least_calls: int = 20
    failure_ratio: float = 0.5
    in_a_row: int = 5
    """Failures without a success between them that open it, however little traffic there is."""
    open_first_s: float = 5.0
    open_most_s: float = 60.0
    jitter: float = 0.2
    probes: int = 3


_USUAL = BreakerRules()


class Pass(msgspec.Struct, frozen=True):
    """Leave for one call. It belongs to one episode: what a call of an earlier one saw no longer counts."""

    episode: int
    is_probe: bool


class Breaker:
    """The state of one upstream: closed (ask), open (do not), half open (ask a few).

    Its one lock is the event loop: all methods are called on the loop's thread and none awaits.
    """

    __slots__ = (
        "_buckets",
        "_closed_since_s",
        "_episode",
        "_in_a_row",
        "_is_open",
        "_opened",
        "_probes_good",
        "_probes_out",
        "_rules",
        "_until_s",
    )

    def __init__(self, rules: BreakerRules = _USUAL) -> None:
        self._rules = rules
        self._buckets: dict[int, list[int]] = {}
        """Calls and failures of each second of the window."""
        self._in_a_row = 0
        self._is_open = False
        """Open or half open: which of the two, the time tells."""
        self._until_s = 0.0
        self._opened = 0
        """How often it opened without a quiet window in between."""
        self._closed_since_s = float("-inf")
        self._episode = 0
        self._probes_out = 0
        self._probes_good = 0

    def state(self, now: float) -> State:
        """Say what it does with a call now."""
        if not self._is_open:
            return "closed"
        return "open" if now < self._until_s else "half_open"

    def wait_s(self, now: float) -> float:
        """Return for how long nobody may ask; 0: now. While probes are out it cannot be told and is a second."""
        if not self._is_open:
            return 0.0
        if now < self._until_s:
            return self._until_s - now
        return 0.0 if self._probes_out + self._probes_good < self._rules.probes else 1.0

    def enter(self, now: float) -> Pass | None:
        """Let one call through, or not. Whoever got a pass says how its call ended, exactly once."""
        if not self._is_open:
            return Pass(self._episode, is_probe=False)
        if self.wait_s(now) > 0:
            return None
        self._probes_out += 1
        return Pass(self._episode, is_probe=True)

    def succeeded(self, given: Pass, *, now: float) -> None:
        """See a call answered: whatever the answer says, the upstream is there."""
        if given.episode != self._episode:
            return
        if not given.is_probe:
            self._count(now, failed=False)
            self._in_a_row = 0
            return
        self._probes_out -= 1
        self._probes_good += 1
        if self._probes_good >= self._rules.probes:
            self._close(now)

    def failed(self, given: Pass, *, now: float, chance: float) -> None:
        """See a call fail. `chance`, from 0 to 1, spreads the end of an opening over its jitter."""
        if given.episode != self._episode:
            return
        if given.is_probe:
            self._open(now, chance)
            return
        self._count(now, failed=True)
        self._in_a_row += 1
        if self._in_a_row >= self._rules.in_a_row or self._is_failing(now):
            if now - self._closed_since_s >= self._rules.window_s:
                self._opened = 0
            self._open(now, chance)

    def cancelled(self, given: Pass) -> None:
        """See a call given up by its caller: it says nothing, and a probe's place is free again."""
        if given.episode == self._episode and given.is_probe:
            self._probes_out -= 1

    def _open(self, now: float, chance: float) -> None:
        rules = self._rules
        pause_s = min(rules.open_most_s, rules.open_first_s * 2.0 ** min(self._opened, 30))
        self._until_s = now + pause_s * (1.0 + rules.jitter * (2.0 * chance - 1.0))
        self._opened += 1
        self._is_open = True
        self._new_episode()

    def _close(self, now: float) -> None:
        self._is_open = False
        self._closed_since_s = now
        self._new_episode()

    def _new_episode(self) -> None:
        self._episode += 1
        self._probes_out = self._probes_good = self._in_a_row = 0
        self._buckets.clear()

    def _count(self, now: float, *, failed: bool) -> None:
        second = int(now // 1)
        bucket = self._buckets.get(second)
        if bucket is None:
            for old in [one for one in self._buckets if one <= second - self._rules.window_s]:
                del self._buckets[old]
            bucket = self._buckets[second] = [0, 0]
        bucket[0] += 1
        bucket[1] += failed

    def counts(self, now: float) -> tuple[int, int]:
        """Return calls and failures within the window."""
        oldest = int(now // 1) - self._rules.window_s
        recent = [bucket for second, bucket in self._buckets.items() if second > oldest]
        return sum(one[0] for one in recent), sum(one[1] for one in recent)

    def _is_failing(self, now: float) -> bool:
        calls, failures = self.counts(now)
        return calls >= self._rules.least_calls and failures >= self._rules.failure_ratio * calls

    def __repr__(self) -> str:
        kind = "open or half open" if self._is_open else "closed"
        return f"<Breaker {kind} opened={self._opened} probes={self._probes_out}>"
