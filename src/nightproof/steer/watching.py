"""What the server knows of itself, kept by its tick: the meters' seconds, their history, processes, health.

Built and asked by `runtime`. Promises that watching never takes serving down: what it cannot do is said in its
own component, and nothing here raises for what a disk, a collector or a dead process does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import thread_time

from prometheus_client import Metric

from nightproof.audit.ledger import Ledger
from nightproof.base.clock import monotonic_s, utc_us
from nightproof.base.conditions import Condition
from nightproof.limits.limiter import Limiter
from nightproof.settings.settings import Settings
from nightproof.storage.statefolder import StateFolder
from nightproof.watch.families import counter, gauge
from nightproof.watch.health import Component, Health, Thrift
from nightproof.watch.history import History
from nightproof.watch.log import log
from nightproof.watch.meters import Meters
from nightproof.watch.outputs import plan_of
from nightproof.watch.resources import Resources
from nightproof.watch.telemetry import Queue, Sender, choose, sampler_of
from nightproof.watch.timeline import Asked, Timeline, spans_of, timeline
from nightproof.watch.windows import SERVER, next_beat
from nightproof.workers.engine import Engine, EngineSnapshot

_GOLDEN_MISSED = 3.0
"""So many golden rounds without an answer, and nobody knows whether the model still answers rightly."""
_GOLDEN_PATIENCE_S = 15.0
_LAG_KEPT_S = 60.0
_LAST_TRACES_WITHIN_S = 2.0

CONDITIONS = ("loop_lagging", "history_not_kept", "telemetry_failing")

Families = Callable[[], Sequence[Metric]]


class Watching:
    """The server's view of itself."""

    def __init__(
        self,
        settings: Settings,
        state: StateFolder,
        *,
        meters: Meters,
        ledger: Ledger,
        limiter: Limiter,
        engines: Callable[[], Mapping[str, Engine]],
        disk_free_bytes: Callable[[], int],
        certificate_days: Callable[[], float | None],
    ) -> None:
        self._meters = meters
        self._ledger = ledger
        self._limiter = limiter
        self._engines = engines
        self._settings = settings
        self._disk_free_bytes = disk_free_bytes
        self._certificate_days = certificate_days
        self.resources = Resources()
        self.history = History(
            state.watch_db,
            most_bytes=settings.history.most_bytes,
            totals=meters.totals,
            values=self._values,
            may_write=lambda: disk_free_bytes() > settings.ledger.disk_low_bytes,
            on_cost=lambda took_s: meters.spent("history", took_s),
        )
        self.page_thrift = Thrift()
        """Rations the rendering of `/metrics`, so that asking for it cannot load the server."""
        self._ticked_s = self._second_s = self._kept_s = monotonic_s()
        self._began_us = utc_us()
        self._lag_s = 0.0
        """The longest lag of the second that runs."""
        self._lags: list[tuple[float, float]] = []
        self._sender: Sender | None = None
        self._traces: Queue | None = None
        self._families: Families = list
        self._telemetry_trouble = ""
        self._commits = 0
        self.committed_s = monotonic_s()
        """When the ledger was last seen to have made something durable."""

    def begin_telemetry(
        self, environment: Mapping[str, str], *, version: str, families: Families
    ) -> Queue | None:
        """Begin to send what the standard's variables ask for; without an endpoint nothing is even imported."""
        choice = choose(environment)
        self._telemetry_trouble = choice.why_not
        if choice.traces or choice.metrics:
            try:
                from nightproof.watch.otlp import OtlpSender
            except ImportError as error:
                self._telemetry_trouble = f"{error.name} is missing: pip install 'nightproof[otel]'"
            else:
                settings = self._settings.telemetry
                self._families = families
                self._traces = Queue(
                    per_s=settings.traces_per_s if choice.traces else 0,
                    most=settings.queue_traces,
                    sampler=sampler_of(environment),
                )
                self._sender = OtlpSender(
                    self._traces,
                    version=version,
                    environment=environment,
                    traces=choice.traces,
                    metrics=choice.metrics,
                )
        if self._telemetry_trouble:
            log("telemetry_off", level="warning", why=self._telemetry_trouble)
        return self._traces if choice.traces else None

    # -- the tick -----------------------------------------------------------------------------

    def tick(self, *, slept_s: float, meant_s: float) -> None:
        """Take in a tick: a part of a second's work each time, the rest when a second is over."""
        now = monotonic_s()
        self._lag_s = max(self._lag_s, slept_s - meant_s)
        commits = self._ledger.snapshot().commits
        if commits != self._commits:
            self._commits, self.committed_s = commits, now
        self.watch_new_releases()
        self._meters.look_into_outputs()
        seconds, beat_s, began_ago_s = next_beat(self._second_s, now)
        if not seconds:
            return
        self._second_s = beat_s
        began_s = thread_time()
        self._meters.tick()
        self.resources.look(
            {name: engine.snapshot().pids for name, engine in self._engines().items()}, now=now
        )
        self._lags = [(at, lag) for at, lag in self._lags if at > now - _LAG_KEPT_S] + [(now, self._lag_s)]
        self.history.sample(at_s=int(utc_us() / 1e6 - began_ago_s), seconds=seconds)
        self._lag_s = 0.0
        if self._sender is not None and self._sender.wants_metrics(now):
            self._sender.hand_metrics(self._families())
        if now - self._kept_s >= self._settings.history.write_every_s:
            self._kept_s = now
            self.history.begin_keeping()
        self._meters.spent("tick", thread_time() - began_s)

    def should_write(self) -> bool:
        """Say whether the ledger has been silent for so long that only a write can tell how it is."""
        silent_s = monotonic_s() - self.committed_s
        return self._ledger.is_writable and silent_s > self._settings.health.ledger_write_every_s

    async def timeline(self, asked: Asked) -> Timeline:
        """Return what a stretch of time looked like."""
        span_s, _ = spans_of(asked)
        windows = await self.history.select(
            since_s=asked.since_s, until_s=utc_us() // 1_000_000, span_s=span_s, scope=asked.service
        )
        return timeline(windows, asked)

    async def close(self) -> None:
        """Keep the last windows, send the last traces: both within a bounded time."""
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.hand_metrics(self._families())
            await asyncio.to_thread(sender.stop, _LAST_TRACES_WITHIN_S)
        self.history.sample(at_s=utc_us() // 1_000_000, seconds=0)
        await self.history.close()

    def watch_new_releases(self) -> None:
        """Begin to count the answers of releases that have become live."""
        for name, engine in self._engines().items():
            described, release = engine.description, engine.snapshot().release
            if not self._meters.watches(name, release):
                plan = plan_of(
                    described.output_schema,
                    confidence_field=described.confidence_field,
                    sensitive=described.sensitive_pointers,
                )
                self._meters.watch_outputs(name, release, plan)

    def _values(self) -> Mapping[str, Mapping[str, float]]:
        """Return the present values that history keeps."""
        server = self.resources.server
        values: dict[str, dict[str, float]] = {
            SERVER: {
                "in_flight": float(self._limiter.snapshot().in_flight),
                "memory_bytes": float(server.memory_bytes),
                "cpu_cores": server.cpu_cores,
                "open_files": float(server.open_files),
                "disk_free_bytes": float(self._disk_free_bytes()),
                "loop_lag_s": self._lag_s,
            }
        }
        for name, engine in self._engines().items():
            picture = engine.snapshot()
            mine = [one for (service, _), one in self.resources.workers.items() if service == name]
            values[name] = {
                "queue_depth": float(picture.queued),
                "workers_ready": float(sum(picture.workers[state] for state in ("ready", "busy", "spare"))),
                "workers_busy": float(picture.workers["busy"]),
                "worker_memory_bytes": float(sum(one.memory_bytes for one in mine)),
                "worker_cpu_cores": sum(one.cpu_cores for one in mine),
            }
        return values

    # -- what is seen from outside ------------------------------------------------------------

    def health(self, health: Health) -> list[Component]:
        """Return the state of golden cases, event loop, certificate and history."""
        see, now = health.see, monotonic_s()
        parts = []
        for name, engine in self._engines().items():
            if engine.description.golden_cases:
                why = golden_trouble(
                    engine.snapshot(), every_s=self._settings.workers.golden_every_s, now=now
                )
                parts.append(see(f"golden:{name}", ok=not why, why=why, needed=False))
        why = self._loop_trouble()
        parts.append(see("loop", ok=not why, why=why, needed=False))
        days = self._certificate_days()
        if days is not None:
            near = days < self._settings.health.certificate_warn_days
            why = f"ends in {days:.1f} days" if near else ""
            parts.append(see("certificate", ok=not near, why=why, needed=False))
        why = self._history_trouble()
        parts.append(see("history", ok=not why, why=why, needed=False))
        if self._traces is not None or self._telemetry_trouble:
            why = self._sending_trouble()
            parts.append(see("telemetry", ok=not why, why=why, needed=False))
        return parts

    def conditions(self) -> Iterable[Condition]:
        """Return what is wrong with event loop, history and telemetry."""
        if why := self._loop_trouble():
            yield Condition(failure="loop_lagging", detail=why)
        if why := self._history_trouble():
            yield Condition(failure="history_not_kept", detail=why)
        if why := self._sending_trouble():
            yield Condition(failure="telemetry_failing", detail=why)

    def _loop_trouble(self) -> str:
        lag_s = self.worst_lag_s()
        slow = lag_s > self._settings.health.loop_lag_s
        return f"lagged by {lag_s:.2f} s within the last minute" if slow else ""

    def _history_trouble(self) -> str:
        trouble = self.history.snapshot().trouble
        return "" if trouble == "not begun" else trouble

    def _sending_trouble(self) -> str:
        return self._telemetry_trouble or (self._traces.trouble if self._traces is not None else "")

    def worst_lag_s(self) -> float:
        """Return the event loop's longest lag within the last minute."""
        return max((lag for _, lag in self._lags), default=0.0)

    def gauges(self) -> Iterable[Metric]:
        """Return processes, certificate, event loop and history for `/metrics`."""
        server, workers = self.resources.server, self.resources.workers
        processes = {("server", "", ""): server} | {
            ("worker", service, str(place)): one for (service, place), one in workers.items()
        }
        labels = ["process", "service", "worker"]
        yield gauge(
            "nightproof_process_resident_memory_bytes",
            "Memory of the server and of each worker.",
            {key: float(one.memory_bytes) for key, one in processes.items()},
            labels,
        )
        yield counter(
            "nightproof_process_cpu_seconds",
            "CPU time of the server and of each worker's place.",
            {key: one.cpu_s for key, one in processes.items()},
            labels,
        )
        yield gauge(
            "nightproof_process_open_fds",
            "Open files of the server and of each worker.",
            {key: float(one.open_files) for key, one in processes.items()},
            labels,
        )
        yield gauge(
            "nightproof_process_max_fds",
            "Most files that the server may open.",
            {(): float(self.resources.most_files)},
        )
        yield gauge(
            "nightproof_process_start_time_seconds", "When the server began.", {(): self._began_us / 1e6}
        )
        yield gauge(
            "nightproof_event_loop_lag_seconds",
            "Longest lag of the event loop within the last minute.",
            {(): self.worst_lag_s()},
        )
        days = self._certificate_days()
        if days is not None:
            yield gauge(
                "nightproof_certificate_expiry_timestamp_seconds",
                "When the TLS certificate ends.",
                {(): utc_us() / 1e6 + days * 86_400},
            )
        if self._traces is not None:
            sending = self._traces.snapshot()
            yield counter(
                "nightproof_telemetry_dropped_traces",
                "Traces that were not sent.",
                {(reason,): float(count) for reason, count in sending.dropped.items()},
                ["reason"],
            )
            yield counter(
                "nightproof_telemetry_exports",
                "Exports to the collector.",
                {tuple(key.split()): float(count) for key, count in sending.sent.items()},
                ["signal", "outcome"],
            )
        kept = self.history.snapshot()
        yield gauge("nightproof_history_bytes", "Size of watch.db and its log.", {(): float(kept.size_bytes)})
        yield counter(
            "nightproof_history_lost_windows",
            "Windows that could not be kept.",
            {(): float(kept.lost)},
        )


def golden_trouble(picture: EngineSnapshot, *, every_s: float, now: float) -> str:
    """Say what is wrong with a release's golden cases: answered wrongly, or not asked for too long."""
    if picture.golden_level == "release":
        return f"every worker of {picture.release} answers a golden case wrongly"
    if picture.golden_level == "worker":
        return "a worker answered a golden case wrongly and was taken out"
    silent_s = now - picture.golden_passed_s
    if picture.golden_passed_s and silent_s > _GOLDEN_MISSED * every_s + _GOLDEN_PATIENCE_S:
        return f"no golden case was answered for {silent_s:.0f} s"
    return ""
