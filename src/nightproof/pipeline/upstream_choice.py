"""What a call does next: which upstream it asks, after what pause, for how long. Pure choices.

Called by `pipeline.upstreams` in a loop, with what the call has tried so far. Each upstream that may be asked is asked
once, in order of preference; only when none is left is one tried again, within the retry budget. An open breaker is
not waited for; a pause that an upstream asked for is, if it is short beside the time that is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

MOST_TRIES = 3
_BACKOFF_FIRST_S = 0.1
_BACKOFF_MOST_S = 20.0
_WAIT_SHARE = 0.5
"""Of the time that is left: a longer wait leaves too little for the answer."""
_RESERVE_EACH = 0.25
_RESERVE_MOST = 0.5
_LINE_SHARE = 0.1
_LINE_MOST_S = 0.25


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One upstream as a call sees it."""

    closed_for_s: float = 0.0
    why: Literal["", "pause", "breaker"] = ""
    tries: int = 0
    may_help: bool = True
    """Of one that was tried: another try may go better."""


class Ask(msgspec.Struct, frozen=True):
    """Ask this upstream, after a pause."""

    place: int
    after_s: float = 0.0
    is_retry: bool = False


def next_step(options: Sequence[Option], *, remaining_s: float, may_retry: bool, chance: float) -> Ask | None:
    """Say which upstream to ask next, and after what pause; None: there is no way left.

    `chance`, from 0 to 1, spreads retries over their back-off, and those who wait for a pause over its end.
    """
    if remaining_s <= 0:
        return None
    for place, option in enumerate(options):
        if not option.tries and option.closed_for_s <= 0:
            return Ask(place)
    waits: list[Ask] = []
    for place, option in enumerate(options):
        if option.why == "breaker":
            continue
        if not option.tries:
            waits.append(Ask(place, option.closed_for_s * (1.0 + 0.1 * chance)))
        elif may_retry and option.may_help and option.tries < MOST_TRIES:
            wait_s = max(option.closed_for_s * (1.0 + 0.1 * chance), backoff_s(option.tries, chance))
            waits.append(Ask(place, wait_s, is_retry=True))
    soonest = min(waits, key=lambda wait: wait.after_s, default=None)
    return soonest if soonest is not None and soonest.after_s <= _WAIT_SHARE * remaining_s else None


def backoff_s(tries: int, chance: float) -> float:
    """Return the pause before another try of the same upstream: full jitter, doubled each time."""
    return chance * min(_BACKOFF_MOST_S, _BACKOFF_FIRST_S * 2.0**tries)


def time_for(*, remaining_s: float, others: int) -> float:
    """Return for how long one try may take: what is left, but for a reserve where others could still answer.

    >>> time_for(remaining_s=20.0, others=0), time_for(remaining_s=20.0, others=1), time_for(remaining_s=20.0, others=9)
    (20.0, 15.0, 10.0)
    """
    return remaining_s * (1.0 - min(_RESERVE_MOST, _RESERVE_EACH * others))


def line_time(*, remaining_s: float, others: int) -> float:
    """Return for how long to wait for a place: a moment, where others could answer; else half of what is left."""
    if others:
        return min(_LINE_MOST_S, _LINE_SHARE * remaining_s)
    return _WAIT_SHARE * remaining_s
