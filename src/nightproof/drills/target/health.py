"""Ask a target's health paths again and again, as a load balancer and an orchestrator do, and hold them to the truth.

The truth is what callers got: a service is dead while none of them is answered in time.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nightproof.base.clock import monotonic_s
from nightproof.drills.observed import Call, Sample
from nightproof.drills.stage import pause
from nightproof.drills.target.place import TargetPlace

_EVERY_S = 0.25
_WITHIN_S = 2.0
_AROUND_S = 0.75
_LEAST_CALLS = 5


@dataclass(frozen=True, kw_only=True)
class HealthPaths:
    """Where a target says how it is; empty where nothing is known."""

    live: str = ""
    ready: str = ""


class HealthLookout:
    """Looks from `start` to `stop`; `samples` grows meanwhile. A path that does not answer in 2 s says no."""

    def __init__(self, place: TargetPlace, paths: HealthPaths) -> None:
        self.samples: list[Sample] = []
        self._place = place
        self._paths = paths
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(2 * _WITHIN_S + 1)

    def look(self) -> Sample:
        """Look once."""
        now_s = monotonic_s()
        ready = ask_path(self._place, self._paths.ready) if self._paths.ready else None
        live = ask_path(self._place, self._paths.live) if self._paths.live else None
        return Sample(
            at_s=now_s,
            is_up=ready != 0 and live != 0,
            is_ready=ready is None or is_yes(ready),
            is_live=live is None or is_yes(live),
        )

    def _run(self) -> None:
        while not self._ended.wait(_EVERY_S):
            self.samples.append(self.look())


def ask_path(place: TargetPlace, path: str) -> int:
    """Return the status of a path; 0 where no answer comes in time."""
    return ask_page(place, path)[0]


def ask_page(place: TargetPlace, path: str, *, method: str = "GET") -> tuple[int, bytes, dict[str, str]]:
    """Return status, body and headers of a page; status 0 where no answer comes in time."""
    connection: http.client.HTTPConnection
    if place.tls is None:
        connection = http.client.HTTPConnection(place.host, place.port, timeout=_WITHIN_S)
    else:
        connection = http.client.HTTPSConnection(place.host, place.port, timeout=_WITHIN_S, context=place.tls)
    try:
        connection.request(method, place.prefix + path, headers=place.headers)
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, answer.read(), headers
    except (OSError, http.client.HTTPException):
        return 0, b"", {}
    finally:
        connection.close()


def is_yes(status: int) -> bool:
    """Say whether a health path says that all is well."""
    return 200 <= status < 300


def find_paths(place: TargetPlace, *, within_s: float = 10.0) -> HealthPaths:
    """Take the first path of each kind that says yes on a good day; one that still starts has some time to say so."""
    known = place.adapter.health

    def first(paths: Sequence[str]) -> str:
        return next((path for path in paths if is_yes(ask_path(place, path))), "")

    until_s = monotonic_s() + within_s
    while True:
        found = HealthPaths(live=first(known.live), ready=first(known.ready))
        is_whole = bool(found.live or not known.live) and bool(found.ready or not known.ready)
        if is_whole or monotonic_s() > until_s:
            return found
        pause(_EVERY_S)


def longest_lie_s(
    calls: Sequence[Call],
    samples: Sequence[Sample],
    *,
    says_yes: Callable[[Sample], bool],
    from_s: float,
    within_s: float,
) -> float:
    """Return the longest stretch in which a health path said yes while no caller was answered in time. Pure."""
    return _longest(
        samples, from_s, lambda sample: says_yes(sample) and _answered(calls, sample.at_s, within_s) == 0.0
    )


def longest_false_alarm_s(
    calls: Sequence[Call],
    samples: Sequence[Sample],
    *,
    says_yes: Callable[[Sample], bool],
    from_s: float,
    within_s: float,
) -> float:
    """Return the longest stretch in which a health path said no while every caller was answered in time. Pure."""
    return _longest(
        samples,
        from_s,
        lambda sample: not says_yes(sample) and _answered(calls, sample.at_s, within_s) == 1.0,
    )


def _answered(calls: Sequence[Call], at_s: float, within_s: float) -> float | None:
    """Return the share of the calls about that time that were answered in time; None where they are too few."""
    about = [call for call in calls if abs(call.sent_s - at_s) <= _AROUND_S]
    if len(about) < _LEAST_CALLS:
        return None
    return sum(call.ending == "answered" and call.took_s <= within_s for call in about) / len(about)


def _longest(samples: Sequence[Sample], from_s: float, holds: Callable[[Sample], bool]) -> float:
    longest_s, since_s = 0.0, None
    for sample in samples:
        if sample.at_s < from_s or not holds(sample):
            since_s = None
            continue
        since_s = sample.at_s if since_s is None else since_s
        longest_s = max(longest_s, sample.at_s - since_s)
    return longest_s
