"""Say what is true now: what is wrong in which room, for the alerts, and the values that runbook pages show.

Built by `runtime`, which owns the rooms. Asks them for snapshots only, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
from prometheus_client import Metric

from nightproof.audit.ledger import COMMIT_BUCKETS_S
from nightproof.base.clock import iso_us, monotonic_s, utc_us
from nightproof.base.conditions import Condition
from nightproof.base.failures import CATALOGUE
from nightproof.pipeline.house import House, ServedService
from nightproof.steer import by_itself, tasks, upkeep, watching
from nightproof.steer.driftwatch import DriftWatch
from nightproof.steer.oncall import OnCall, Readings
from nightproof.steer.promote import Helm
from nightproof.steer.runbook import Present, facts_of, fill
from nightproof.steer.tasks import Tasks
from nightproof.steer.upkeep import Upkeep
from nightproof.steer.watching import Watching
from nightproof.watch.alerts.rules import Promise
from nightproof.watch.chat_meters import BYPASS_SHOWN_S, budget_gauge
from nightproof.watch.conditions import Conditions, Question
from nightproof.watch.families import counter, gauge, histogram_of
from nightproof.watch.happened import Happened
from nightproof.watch.health import Component, Health
from nightproof.watch.upstreams import Pictures, upstream_components, upstream_conditions, upstream_gauges

ASKED: dict[str, tuple[str, ...]] = {
    "services": ("model_unavailable", "workers_exhausted", "golden_case_failed", "poison_input"),
    "ledger": ("audit_unavailable", "audit_outcome_unknown"),
    "upkeep": upkeep.CONDITIONS,
    "watching": watching.CONDITIONS,
    "releases": by_itself.CONDITIONS,
    "drift": ("drift_detected", "feedback_poisoned"),
    "upstreams": ("upstream_down", "upstream_command_failed"),
    "checks": ("check_bypassed",),
    "server": ("certificate_expiring", "certificate_reload_failed", "unclean_stop"),
    "happened": (
        "audit_writer_lost",
        "release_refused",
        "release_unsigned",
        "release_damaged",
        "release_incompatible",
    ),
    "tasks": tasks.CONDITIONS,
}
"""By room: what its answer can name. What is in no room alerts by how requests end, or by what a verb finds."""
_UNCLEAN_STOP_SHOWN_S = 600.0


class Rooms:
    """The rooms, as those see them who ask what is true now."""

    def __init__(
        self,
        house: House,
        upkeep: Upkeep,
        watching: Watching,
        helm: Helm,
        happened: Happened,
        drift_watch: DriftWatch,
        *,
        certificate_days: Callable[[], float | None],
        began_s: float,
        tasks: Tasks,
    ) -> None:
        self._house = house
        self._upkeep = upkeep
        self._watching = watching
        self._helm = helm
        self._happened = happened
        self._drift_watch = drift_watch
        self._certificate_days = certificate_days
        self._began_s = began_s
        self._tasks = tasks
        self._conditions = Conditions()
        self.was_unclean = False
        self.upstreams: Callable[[], Pictures] = dict
        """Take pictures of what chat services ask; there is nothing to be seen without one."""
        self.budgets: Callable[[], Mapping[str, Mapping[str, float]]] = dict
        """Say what is left of each chat service's budgets, 0 to 1."""
        self.certificate_trouble = ""
        """Why the last reload of the certificate was refused; empty after one that was not."""

    # -- for the alerts -----------------------------------------------------------------------

    def readings(self) -> Readings:
        """Return what the rooms say now, for the alerts to be judged by."""
        promises = []
        for name, served in self._house.services.items():
            declared = served.live.engine.description
            promises.append(
                Promise(
                    service=name,
                    availability=declared.availability,
                    latency_p99_ms=declared.latency_p99_ms,
                )
            )
        conditions, unread = self._conditions.ask(self._questions(), now_s=monotonic_s())
        return Readings(
            promises=promises,
            conditions=conditions,
            unread=unread,
            is_complete=not self._house.starting,
            is_ending=self._house.draining,
        )

    def gauge(self) -> Metric:
        """Return what is wrong now, for `/metrics`."""
        present, _ = self._conditions.ask(self._questions(), now_s=monotonic_s())
        values = {(one.failure, one.service): 1.0 for one in present}
        meaning = "What is wrong now, by its name in the catalogue."
        return gauge("nightproof_condition", meaning, values, ["failure", "service"])

    def gauges(self) -> Iterable[Metric]:
        """Return the present values of services, admission, log, releases and upstreams, for `/metrics`."""
        pictures = {name: served.live.engine.snapshot() for name, served in self._house.services.items()}
        limiter, ledger = self._house.limiter.snapshot(), self._house.ledger.snapshot()
        yield gauge(
            "nightproof_workers",
            "Workers by state.",
            {
                (name, state): float(count)
                for name, one in pictures.items()
                for state, count in one.workers.items()
            },
            ["service", "state"],
        )
        queued = {(name,): float(one.queued) for name, one in pictures.items()}
        yield gauge("nightproof_queue_depth", "Records that wait for a worker.", queued, ["service"])
        queued = {(name,): float(one.queue_bytes) for name, one in pictures.items()}
        yield gauge("nightproof_queue_bytes", "Size of what waits for a worker.", queued, ["service"])
        yield counter(
            "nightproof_worker_restarts",
            "Workers replaced since the start.",
            {(name,): float(one.restarts) for name, one in pictures.items()},
            ["service"],
        )
        yield gauge(
            "nightproof_quarantined",
            "Records refused as poison now.",
            {(name,): float(len(served.live.poison)) for name, served in self._house.services.items()},
            ["service"],
        )
        yield gauge("nightproof_in_flight", "Requests inside.", {(): float(limiter.in_flight)})
        yield gauge(
            "nightproof_audit_writable",
            "Whether the ledger takes entries.",
            {(): float(ledger.state == "open")},
        )
        yield gauge("nightproof_audit_entries", "Entries in the ledger.", {(): float(ledger.last_seq + 1)})
        yield histogram_of(
            "nightproof_audit_commit_seconds",
            "From hand-over to durable.",
            COMMIT_BUCKETS_S,
            ledger.commit_buckets,
            ledger.commit_sum_s,
        )
        yield gauge(
            "nightproof_release_part",
            "Releases by the part they play; a canary's value is its share.",
            {
                (name, one.version, one.part): one.share if one.part == "canary" else 1.0
                for name in self._house.services
                for one in self._helm.overview(name)
            },
            ["service", "release", "part"],
        )
        yield self.gauge()
        yield from upstream_gauges(self.upstreams())
        yield budget_gauge(self.budgets())

    def upstream_health(self, health: Health) -> list[Component]:
        """Return how each upstream is."""
        return upstream_components(self.upstreams(), health)

    def _questions(self) -> list[Question]:
        """Return one question for each room that can have something wrong."""
        ask: dict[str, Callable[[], Iterable[Condition]]] = {
            "services": self._service_conditions,
            "ledger": self._ledger_conditions,
            "upkeep": self._upkeep.conditions,
            "watching": self._watching.conditions,
            "releases": self._helm.conditions,
            "drift": self._drift_watch.conditions,
            "upstreams": lambda: upstream_conditions(self.upstreams()),
            "checks": self._check_conditions,
            "server": self._server_conditions,
            "happened": lambda: self._happened.conditions(now_s=monotonic_s()),
            "tasks": self._tasks.conditions,
        }
        return [Question(room, failures, ask[room]) for room, failures in ASKED.items()]

    def _service_conditions(self) -> Iterable[Condition]:
        for name, served in self._house.services.items():
            picture = served.live.engine.snapshot()
            # The first line only: what follows is the user's traceback.
            trouble = picture.trouble.partition("\n")[0]
            if not served.live.engine.is_ready():
                yield Condition(
                    failure="model_unavailable", service=name, detail=trouble or "no worker is ready"
                )
            if picture.backing_off:
                detail = f"{picture.restarts} restarts since the start"
                yield Condition(failure="workers_exhausted", service=name, detail=detail)
            if not picture.golden_ok:
                yield Condition(failure="golden_case_failed", service=name, detail=trouble)
            if held := len(served.live.poison):
                yield Condition(
                    failure="poison_input", service=name, detail=f"{held} records are in quarantine"
                )

    def _ledger_conditions(self) -> Iterable[Condition]:
        ledger = self._house.ledger.snapshot()
        if ledger.state == "unavailable":
            yield Condition(failure="audit_unavailable", detail=ledger.why)
        if ledger.state == "fenced":
            yield Condition(failure="audit_outcome_unknown", detail=ledger.why)

    def _check_conditions(self) -> Iterable[Condition]:
        by_service: dict[str, list[str]] = {}
        for service, check in self._house.meters.chat.bypassed(now_s=monotonic_s()):
            by_service.setdefault(service, []).append(check)
        for service, checks in by_service.items():
            detail = (
                f"no verdict within the last {BYPASS_SHOWN_S / 60:.0f} min from {', '.join(sorted(checks))}"
            )
            yield Condition(failure="check_bypassed", service=service, detail=detail)

    def _server_conditions(self) -> Iterable[Condition]:
        days = self._certificate_days()
        if days is not None and days < self._house.settings.health.certificate_warn_days:
            yield Condition(failure="certificate_expiring", detail=f"ends in {days:.1f} days")
        if self.certificate_trouble:
            yield Condition(failure="certificate_reload_failed", detail=self.certificate_trouble)
        if self.was_unclean and monotonic_s() - self._began_s < _UNCLEAN_STOP_SHOWN_S:
            yield Condition(
                failure="unclean_stop", since_s=self._began_s, detail="the last run did not end with a stop"
            )

    # -- for runbooks -------------------------------------------------------------------------

    def runbook(
        self,
        page: str,
        failure: str,
        service: str,
        *,
        server: Present,
        on_call: OnCall,
        components: Sequence[Component],
    ) -> str:
        """Return a runbook page with the present values in it. Of several services, one must be named.

        `server` brings address, state folder and metrics.
        """
        services = self._house.services
        served = services.get(service) or (next(iter(services.values())) if len(services) == 1 else None)
        facts = self._facts(failure, served, on_call)
        facts["not ok"] = "; ".join(f"{part.name}: {part.why}" for part in components if not part.ok)
        present = msgspec.structs.replace(
            server,
            at=iso_us(utc_us())[:19] + "Z",
            service=served.name if served is not None else "",
            live_digest=served.live.digest if served is not None else "",
            taken_back=self._helm.taken_back(served.name) if served is not None else "",
            facts=facts_of(facts),
        )
        return fill(page, failure, present)

    def _facts(self, failure: str, served: ServedService | None, on_call: OnCall) -> dict[str, object]:
        """Return what is true now and helps with a failure."""
        name = served.name if served is not None else ""
        facts: dict[str, object] = {}
        alert = on_call.alert_of(failure, name)
        facts["alert"] = (
            f"{alert.state} since {alert.since[:19]}Z: {alert.why}" if alert is not None else "quiet"
        )
        if served is not None:
            engine, declared = served.live.engine.snapshot(), served.live.engine.description
            recent = self._house.meters.snapshot().services.get(name)
            workers = [f"{count} {state}" for state, count in engine.workers.items() if count]
            facts |= {
                "service": name,
                "release": served.live.label,
                "release before": served.standby.label if served.standby is not None else "",
                "workers": ", ".join(workers) or "none",
                "restarts": engine.restarts,
                "trouble": engine.trouble.partition("\n")[0],
                "queued": engine.queued,
                "deadline_ms": declared.deadline_ms,
                "predict_timeout_ms": declared.predict_timeout_ms,
                "max_batch": declared.max_batch,
                "promised": f"availability {declared.availability:g}"
                + (f", p99 {declared.latency_p99_ms:g} ms" if declared.latency_p99_ms is not None else ""),
                "quarantined": len(served.live.poison) or "",
            }
            if recent is not None:
                facts["last minute"] = f"{recent.rate_per_s:.1f}/s; " + ", ".join(
                    f"{count} {ending}" for ending, count in sorted(recent.endings.items())
                )
                if recent.p99_ms is not None and recent.p50_ms is not None:
                    facts["latency"] = (
                        f"p50 {recent.p50_ms:.0f} ms, p99 {recent.p99_ms:.0f} ms (of what was answered)"
                    )
        if CATALOGUE[failure].statuses:
            facts[failure] = on_call.seen(failure, name)
        facts["ledger"] = self._house.ledger.snapshot().state
        facts["disk free"] = f"{self._upkeep.disk_free_bytes / 1e9:.1f} GB"
        return facts
