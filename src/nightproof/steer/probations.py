"""Keep the probations of fresh live releases: begin, judge, and go on with them after a restart.

Owned by `steer.promote`. What a release is held to, what was seen of it and for how long is written to the registry
every second in which something was seen, so that a server that crashes again and again neither forgets what it knows
of the release nor lets it pass unwatched: a kill costs the last second. Decides nothing: that is `releases.probation`.
"""

from __future__ import annotations

import asyncio

import msgspec

from nightproof.base.clock import monotonic_s, utc_us
from nightproof.releases.probation import Counted, Probation, Ruling, Terms, rule, terms_of
from nightproof.settings.settings import PromotionSettings
from nightproof.steer.by_itself import last_switch
from nightproof.steer.stage import Stage
from nightproof.storage.registry_store import RegistryStore

_KEEP_EVERY_S = 1.0
_KEEP_IDLE_EVERY_S = 30.0
"""Where no request came: then only the time moves on."""


class _One(msgspec.Struct):
    """One probation that is on, or that is over and not yet written so."""

    label: str
    terms: Terms
    counted: Counted
    since_s: float
    """As if it had been watched since then without a break."""
    passed_s: float | None = None
    kept_total: int = -1
    kept_s: float = float("-inf")

    def watched_s(self, now: float) -> float:
        return now - self.since_s if self.passed_s is None else self.passed_s

    def is_due(self, now: float) -> bool:
        news = self.kept_total != self.counted.total or self.passed_s is not None
        return now - self.kept_s >= (_KEEP_EVERY_S if news else _KEEP_IDLE_EVERY_S)


class Probations:
    """The probations, one a service. Used on the event loop's thread only."""

    def __init__(self, registry: RegistryStore, stage: Stage, settings: PromotionSettings) -> None:
        self._registry = registry
        self._stage = stage
        self._settings = settings
        self._known: dict[str, _One] = {}
        self._keeping = asyncio.Lock()

    def begin(self, service: str, label: str, before: tuple[int, int], *, age_s: float = 0.0) -> None:
        """Begin to watch a release that has just gone live. `before`: (bad, all) of the one before it."""
        promised = self._stage.describes(service)
        if promised is None or not self._settings.probation_s:
            return
        limit_ms = promised.latency_p99_ms
        terms = terms_of(
            availability=promised.availability,
            latency_p99_ms=limit_ms,
            before=before,
            slow_before=(0, 0) if limit_ms is None else self._stage.slow_before(service, limit_ms / 1_000),
            false_alarm=self._settings.probation_false_alarm,
            for_s=self._settings.probation_s,
        )
        self._watch(service, label, Probation(terms=terms, counted=Counted(failures={}), watched_s=age_s))

    def resume(self, service: str, label: str) -> None:
        """After a start: go on where the last run was, if the live release was on probation."""
        if not self._settings.probation_s or service in self._known:
            return
        kept = self._registry.probation(service, label)
        if kept:
            probation = msgspec.json.decode(kept, type=Probation)
            if probation.watched_s < self._settings.probation_s:
                self._watch(service, label, probation)
            return
        # The last run was killed in the moment of the switch: nothing was seen of it, and what was so before is
        # known no more. It is held to what it promises.
        last = last_switch(self._registry.history(service, most=50))
        if last is None or last.act != "live" or self._registry.previous(service) is None:
            return
        age_s = (utc_us() - last.at_us) / 1e6
        if 0 <= age_s < self._settings.probation_s:
            self.begin(service, label, (0, 0), age_s=age_s)

    def end(self, service: str) -> None:
        """Watch no more: another release is live."""
        self._known.pop(service, None)
        self._stage.end_probation(service)

    def judge(self, service: str, now: float) -> Ruling | None:
        """Say how the live release stands; None where it is not on probation."""
        one = self._known.get(service)
        if one is None or one.passed_s is not None:
            return None
        ruling = rule(one.counted, one.terms, since_s=one.watched_s(now))
        if ruling.standing == "passed":
            one.passed_s = one.watched_s(now)
            self._stage.end_probation(service)
        return ruling

    def said(self, service: str) -> str:
        """Say of a live release whether it is on probation; empty where it is not."""
        one = self._known.get(service)
        return "on probation" if one is not None and one.passed_s is None else ""

    async def keep(self, *, whatever: bool = False) -> None:
        """Write what was seen since the last time, where it is time; `whatever`: all of it. Raises storage faults."""
        async with self._keeping:
            now = monotonic_s()
            for service, one in list(self._known.items()):
                if not whatever and not one.is_due(now):
                    continue
                total, is_over = one.counted.total, one.passed_s is not None
                seen = Probation(terms=one.terms, counted=one.counted, watched_s=one.watched_s(now))
                text = msgspec.json.encode(seen).decode()
                await asyncio.to_thread(self._registry.keep_probation, service, one.label, text)
                one.kept_total, one.kept_s = total, now
                if is_over and self._known.get(service) is one:
                    del self._known[service]

    def _watch(self, service: str, label: str, probation: Probation) -> None:
        terms = msgspec.structs.replace(
            probation.terms,
            false_alarm=self._settings.probation_false_alarm,
            for_s=self._settings.probation_s,
        )
        self._known[service] = _One(
            label=label,
            terms=terms,
            counted=probation.counted,
            since_s=monotonic_s() - probation.watched_s,
        )
        self._stage.begin_probation(service, label, terms, probation.counted)
