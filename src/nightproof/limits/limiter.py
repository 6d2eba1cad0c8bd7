"""Grant places to requests, and take them back.

Called by `pipeline.admit` only. Promises that places in use never exceed the limit and that every place
is given back exactly once, also on cancel. Never waits, never does I/O, never reads the clock itself.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from types import TracebackType

import msgspec

from nightproof.base.errors import Refusal
from nightproof.limits import decide
from nightproof.settings.settings import LimitSettings

_KEYS_KEPT = 100_000


class LimiterSnapshot(msgspec.Struct, frozen=True):
    """What is inside at one moment."""

    in_flight: int
    bytes_inside: int
    in_flight_by_service: dict[str, int]
    keys_on_quota: int


class Place:
    """Room for one request, given back when the `with` block ends, whatever ends it."""

    __slots__ = ("_given_back", "_limiter", "service", "size_bytes")

    def __init__(self, limiter: Limiter, service: str, size_bytes: int) -> None:
        self._limiter = limiter
        self._given_back = False
        self.service = service
        self.size_bytes = size_bytes

    def give_back(self) -> None:
        """Give the place back; a second call does nothing."""
        if not self._given_back:
            self._given_back = True
            self._limiter._take_back(self)

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back()


class Limiter:
    """Places for all services, and the quota of each key.

    Its one lock is the event loop: all methods are called on the loop's thread and none awaits.
    """

    def __init__(self, settings: LimitSettings) -> None:
        self._settings = settings
        self._in_flight = 0
        self._bytes = 0
        self._by_service: dict[str, int] = {}
        self._due_s: OrderedDict[str, float] = OrderedDict()

    def spend_quota(self, key_id: str, *, now: float) -> None:
        """Count one request of this key. Raises Refusal `quota_exceeded` with the time to wait."""
        rate = self._settings.quota_per_s
        if rate <= 0:
            return
        due_s, wait_s = decide.next_arrival_s(
            self._due_s.get(key_id, 0.0), now=now, interval_s=1.0 / rate, burst=self._settings.quota_burst
        )
        if wait_s > 0:
            raise Refusal(
                f"The key may send {rate:g} requests a second.",
                failure="quota_exceeded",
                hint=f"Wait {wait_s:.3f} s, or ask the operator for a larger quota.",
                retry_after_s=wait_s,
            )
        self._due_s[key_id] = due_s
        self._due_s.move_to_end(key_id)
        if len(self._due_s) > _KEYS_KEPT:
            self._due_s.popitem(last=False)

    def quota_left(self, key_id: str, *, now: float) -> tuple[int, int, float] | None:
        """Return a key's burst, what is left of it, and the seconds until it is whole; None without a quota."""
        rate, burst = self._settings.quota_per_s, self._settings.quota_burst
        if rate <= 0:
            return None
        ahead_s = max(0.0, self._due_s.get(key_id, 0.0) - now)
        return burst, max(0, burst - math.ceil(ahead_s * rate)), ahead_s

    def grant(
        self, service: str, *, size_bytes: int, queue_s: float, own_s: float, remaining_s: float
    ) -> Place:
        """Grant a place, or refuse with a reason. `queue_s` and `own_s` are the engine's forecast."""
        answer = decide.decide_admission(
            queue_s=queue_s,
            own_s=own_s,
            remaining_s=remaining_s,
            wait_share=self._settings.wait_share,
            in_flight=self._in_flight,
            most_in_flight=self._settings.max_in_flight,
            bytes_inside=self._bytes + size_bytes,
            most_bytes=self._settings.queue_bytes,
        )
        if answer == "deadline_exceeded":
            raise Refusal(
                "The deadline passed before the request could be admitted.",
                failure="deadline_exceeded",
                hint="Send a longer x-request-timeout-ms, or retry when the service is less busy.",
            )
        if answer == "overloaded":
            raise Refusal(
                f"Service {service!r} has more work waiting than this request's deadline allows.",
                failure="overloaded",
                hint="Retry after the given delay.",
                retry_after_s=min(60.0, max(1.0, queue_s)),
            )
        self._in_flight += 1
        self._bytes += size_bytes
        self._by_service[service] = self._by_service.get(service, 0) + 1
        return Place(self, service, size_bytes)

    def _take_back(self, place: Place) -> None:
        self._in_flight -= 1
        self._bytes -= place.size_bytes
        self._by_service[place.service] -= 1

    @property
    def in_flight(self) -> int:
        """Count the requests that have a place now."""
        return self._in_flight

    def snapshot(self) -> LimiterSnapshot:
        """Return a frozen picture of what is inside."""
        return LimiterSnapshot(self._in_flight, self._bytes, dict(self._by_service), len(self._due_s))

    def __repr__(self) -> str:
        return f"<Limiter in_flight={self._in_flight}/{self._settings.max_in_flight} bytes={self._bytes}>"
