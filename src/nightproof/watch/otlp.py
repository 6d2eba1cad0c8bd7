"""Send traces and metrics by OTLP over HTTP. Imported only when an endpoint is set: needs `nightproof[otel]`.

A thread of its own takes traces from the queue, makes spans of them and hands them to OpenTelemetry's exporter;
the event loop never waits for it. Spans are made after the fact, from the times that the request's story has:
one per request, one per stage, one per record in a worker, and one per batch in a trace of its own, linked with
the records that were in it; of a chat one per try at an upstream, by the conventions for generative AI.
Promises: no redirect is followed, an export ends after its timeout, a failed one costs what was in it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import random
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import requests
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import export as otel_metrics
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from prometheus_client import Metric

from nightproof.base.clock import monotonic_s, utc_us
from nightproof.base.ids import RUN_ID
from nightproof.watch import genai
from nightproof.watch.telemetry import Queue, Trace

_EVERY_S = 1.0
_BATCH = 200
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_ROUTES = {
    "native": "/services/{service}/predict",
    "oip": "/v2/models/{model}/infer",
    "openai": "/v1/chat/completions",
}
_CUMULATIVE = otel_metrics.AggregationTemporality.CUMULATIVE
_METRIC_EVERY_MS = 60_000
_BATCHES_KNOWN = 5_000


class _Straight(requests.Session):
    """A session that follows no redirect: the collector is the address that was set, and no other."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Refuse to be sent elsewhere (requests' callback); unfollowed, it would count as taken."""
        if resp.is_redirect:
            raise requests.TooManyRedirects("the collector sends us elsewhere", response=resp)


class OtlpSender:
    """The thread that sends."""

    def __init__(
        self, queue: Queue, *, version: str, environment: Mapping[str, str], traces: bool, metrics: bool
    ) -> None:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # we say it, in our own log's form
        self._queue = queue
        self._resource = Resource.create(
            {
                "service.name": environment.get("OTEL_SERVICE_NAME") or "nightproof",
                "service.version": version,
                "service.instance.id": RUN_ID,
            }
        )
        self._scope = InstrumentationScope("nightproof", version)
        self._spans = OTLPSpanExporter(session=_Straight()) if traces else None
        self._metrics = OTLPMetricExporter(session=_Straight()) if metrics else None
        self._metric_every_s = _milliseconds(environment.get("OTEL_METRIC_EXPORT_INTERVAL"), _METRIC_EVERY_MS)
        self._metric_due_s = monotonic_s()
        self._families: Sequence[Metric] | None = None
        self._began_ns = utc_us() * 1_000
        self._told: dict[tuple[int, float], None] = {}
        self._refused: dict[str, bool] = {}
        """By signal: whether its last export failed."""
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)
        self._thread.start()

    def wants_metrics(self, now: float) -> bool:
        """Say whether it is time for metrics."""
        return self._metrics is not None and now >= self._metric_due_s and self._families is None

    def hand_metrics(self, families: Sequence[Metric]) -> None:
        """Take the present metrics along with the next round."""
        self._metric_due_s = monotonic_s() + self._metric_every_s
        self._families = families

    def stop(self, within_s: float) -> None:
        """Send what waits, for that long at most."""
        self._stopping = True
        self._wake.set()
        self._thread.join(within_s)
        for exporter in (self._spans, self._metrics):
            if exporter is not None:
                exporter.shutdown()  # ends a pause between two tries

    def _run(self) -> None:
        while True:
            self._wake.wait(_EVERY_S)
            is_last = self._stopping
            while traces := self._queue.take(_BATCH):
                self._send_traces(traces)
            families, self._families = self._families, None
            if families is not None:
                self._send_metrics(families)
            if is_last:
                return

    def _send_traces(self, traces: list[Trace]) -> None:
        if self._spans is None:
            return
        try:
            spans = spans_of(traces, self._resource, self._scope, self._told)
            is_sent = self._spans.export(spans) is SpanExportResult.SUCCESS
        except Exception:  # noqa: BLE001
            # A border: whatever a collector, a proxy or the exporter does ends here, as a trace that was lost.
            is_sent = False
        if not is_sent:
            self._queue.lost += len(traces)
        self._note("traces", is_sent)

    def _send_metrics(self, families: Sequence[Metric]) -> None:
        if self._metrics is None:
            return
        try:
            data = metrics_of(
                families, self._resource, self._scope, began_ns=self._began_ns, now_ns=utc_us() * 1_000
            )
            is_sent = self._metrics.export(data) is otel_metrics.MetricExportResult.SUCCESS
        except Exception:  # noqa: BLE001 - the same border
            is_sent = False
        self._note("metrics", is_sent)

    def _note(self, signal: str, is_sent: bool) -> None:
        self._queue.sent[f"{signal} {'ok' if is_sent else 'failed'}"] += 1
        # Of each by itself: traces go each second, and what they say must not hide that no metrics arrive.
        self._refused[signal] = not is_sent
        refused = " and ".join(name for name, is_refused in self._refused.items() if is_refused)
        self._queue.trouble = f"the collector did not take {refused}" if refused else ""


def spans_of(
    traces: Sequence[Trace],
    resource: Resource,
    scope: InstrumentationScope,
    told: dict[tuple[int, float], None],
) -> list[ReadableSpan]:
    """Make the spans of some traces, and one more for each batch of theirs that was not told of before."""
    made: list[ReadableSpan] = []
    batches: dict[tuple[int, float], list[tuple[ReadableSpan, Trace]]] = {}
    upstreams = InstrumentationScope(f"{scope.name}.upstreams", scope.version, genai.SCHEMA_URL)

    def span(name: str, trace: Trace, span_id: int, parent: SpanContext | None, began_us: int, took_us: int,
             attributes: dict[str, Any], *, kind: SpanKind = SpanKind.INTERNAL, failure: str = "",
             links: Sequence[Link] = (), within: InstrumentationScope = scope) -> ReadableSpan:  # fmt: skip
        state = TraceState.from_header([trace.state]) if trace.state else None
        one = ReadableSpan(
            name,
            context=SpanContext(int(trace.trace_id, 16), span_id, False, _SAMPLED, state),
            parent=parent,
            resource=resource,
            attributes=attributes | ({"error.type": failure} if failure else {}),
            links=links,
            kind=kind,
            status=Status(StatusCode.ERROR if failure else StatusCode.UNSET),
            start_time=began_us * 1_000,
            end_time=(began_us + max(1, took_us)) * 1_000,
            instrumentation_scope=within,
        )
        made.append(one)
        return one

    for trace in traces:
        root_id = int(trace.id[-16:], 16) or 1
        trace_number = int(trace.trace_id, 16)
        parent = (
            SpanContext(trace_number, int(trace.parent_id, 16), True, _SAMPLED) if trace.parent_id else None
        )
        route = _ROUTES.get(trace.protocol, "")
        failed = trace.failure if trace.ending == "failed" else ""
        root = span(
            f"POST {route}", trace, root_id, parent, trace.began_us, trace.duration_us,
            {
                "http.request.method": "POST", "http.route": route,
                "nightproof.request.id": trace.id, "nightproof.service": trace.service,
                "nightproof.release": trace.release, "nightproof.ending": trace.ending,
                "nightproof.failure": trace.failure, "nightproof.records": trace.records,
            },
            kind=SpanKind.SERVER, failure=failed,
        )  # fmt: skip
        at_us = trace.began_us
        for stage, took_us in trace.stages_us:
            one = span(stage, trace, _new_id(), root.context, at_us, took_us, {"nightproof.stage": stage})
            if stage == "call":
                for item in trace.items:
                    if not item.batch_size:
                        continue
                    key = (item.worker_pid, item.handed_s)
                    mine = span(
                        "predict", trace, _new_id(), one.context, at_us + item.queue_us, item.predict_us,
                        {
                            "nightproof.batch.size": item.batch_size,
                            "nightproof.worker.pid": item.worker_pid,
                            "nightproof.queue.wait_us": item.queue_us,
                            "nightproof.attempts": item.attempts,
                        },
                        failure=item.failure, links=[Link(_batch_context(key))],
                    )  # fmt: skip
                    batches.setdefault(key, []).append((mine, trace))
            at_us += took_us
        for attempt in trace.attempts:
            span(
                genai.span_name(attempt), trace, _new_id(), root.context, attempt.began_us, attempt.duration_us,
                genai.attributes_of(attempt, trace.service),
                kind=SpanKind.CLIENT, failure=attempt.failure, within=upstreams,
            )  # fmt: skip
    for key, members in batches.items():
        if key not in told:
            told[key] = None
            made.append(_batch_span(key, members, resource, scope))
    while len(told) > _BATCHES_KNOWN:
        del told[next(iter(told))]
    return made


def _batch_span(
    key: tuple[int, float],
    members: list[tuple[ReadableSpan, Trace]],
    resource: Resource,
    scope: InstrumentationScope,
) -> ReadableSpan:
    """Make the span of a batch: a trace of its own, since it belongs to all of its requests and to none."""
    first, trace = members[0]
    attributes = first.attributes or {}
    return ReadableSpan(
        "batch",
        context=_batch_context(key),
        resource=resource,
        attributes={
            "nightproof.service": trace.service,
            "nightproof.release": trace.release,
            "nightproof.batch.size": attributes.get("nightproof.batch.size", 0),
            "nightproof.worker.pid": key[0],
        },
        links=[Link(member.context) for member, _ in members if member.context is not None],
        start_time=min(member.start_time or 0 for member, _ in members),
        end_time=max(member.end_time or 0 for member, _ in members),
        instrumentation_scope=scope,
    )


def _batch_context(key: tuple[int, float]) -> SpanContext:
    """Name a batch: the same for every record that was in it, whenever its request ends."""
    digest = hashlib.blake2b(f"{RUN_ID} {key[0]} {key[1]!r}".encode(), digest_size=24).digest()
    return SpanContext(
        int.from_bytes(digest[:16], "big") or 1, int.from_bytes(digest[16:], "big") or 1, False, _SAMPLED
    )


def _new_id() -> int:
    return random.getrandbits(64) or 1


def metrics_of(
    families: Iterable[Metric],
    resource: Resource,
    scope: InstrumentationScope,
    *,
    began_ns: int,
    now_ns: int,
) -> otel_metrics.MetricsData:
    """Say the same as `/metrics`, under the same names, in OpenTelemetry's form.

    What the conventions for generative AI have a name for is said once more, by theirs.
    """
    families = list(families)
    told = [
        otel_metrics.Metric(_name(family), family.documentation, _unit(family.name), data)
        for family in families
        if family.samples and (data := _data(family, began_ns, now_ns)) is not None
    ]
    scopes = [otel_metrics.ScopeMetrics(scope, told, "")]
    if by_convention := _genai_metrics(families, began_ns, now_ns):
        upstreams = InstrumentationScope(f"{scope.name}.upstreams", scope.version, genai.SCHEMA_URL)
        scopes.append(otel_metrics.ScopeMetrics(upstreams, by_convention, genai.SCHEMA_URL))
    return otel_metrics.MetricsData([otel_metrics.ResourceMetrics(resource, scopes, "")])


def _genai_metrics(families: Sequence[Metric], began_ns: int, now_ns: int) -> list[otel_metrics.Metric]:
    """Say our histograms of upstreams by the names of the conventions, with who and where the upstream is."""
    endpoints = {
        (labels["service"], labels["upstream"]): genai.Endpoint(
            labels["provider"] or genai.OTHER_PROVIDER, labels["address"], int(labels["port"] or 0)
        )
        for family in families
        if family.name == "nightproof_upstream_info"
        for labels in (sample.labels for sample in family.samples)
    }
    told = []
    for family in families:
        if family.name not in genai.METRICS or not family.samples:
            continue
        name, unit = genai.METRICS[family.name]
        points = []
        for point in _histogram_points(family, began_ns, now_ns):
            labels = {label: str(value) for label, value in (point.attributes or {}).items()}
            endpoint = endpoints.get((labels["service"], labels["upstream"]), genai.Endpoint())
            attributes = genai.metric_attributes(labels, endpoint)
            points.append(dataclasses.replace(point, attributes=attributes))
        told.append(
            otel_metrics.Metric(name, family.documentation, unit, otel_metrics.Histogram(points, _CUMULATIVE))
        )
    return told


def _name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else str(family.name)


def _unit(name: str) -> str:
    if "seconds" in name:
        return "s"
    return "By" if name.endswith("bytes") else ""


def _data(
    family: Metric, began_ns: int, now_ns: int
) -> otel_metrics.Sum | otel_metrics.Gauge | otel_metrics.Histogram | None:
    if family.type == "histogram":
        return otel_metrics.Histogram(_histogram_points(family, began_ns, now_ns), _CUMULATIVE)
    points = [
        otel_metrics.NumberDataPoint(dict(sample.labels), began_ns, now_ns, float(sample.value))
        for sample in family.samples
    ]
    if family.type == "counter":
        return otel_metrics.Sum(points, _CUMULATIVE, is_monotonic=True)
    return otel_metrics.Gauge(points)


def _histogram_points(family: Metric, began_ns: int, now_ns: int) -> list[otel_metrics.HistogramDataPoint]:
    by_labels: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    for sample in family.samples:
        labels = tuple(sorted((name, value) for name, value in sample.labels.items() if name != "le"))
        found = by_labels.setdefault(labels, {"bounds": [], "running": [], "sum": None})
        if sample.name.endswith("_bucket"):
            found["running"].append(int(sample.value))
            if sample.labels["le"] != "+Inf":
                found["bounds"].append(float(sample.labels["le"]))
        elif sample.name.endswith("_sum"):
            found["sum"] = float(sample.value)
    points = []
    for labels, found in by_labels.items():
        running = found["running"]
        counts = [now - before for now, before in zip(running, [0, *running[:-1]], strict=True)]
        points.append(
            otel_metrics.HistogramDataPoint(
                dict(labels), began_ns, now_ns, running[-1], found["sum"], counts, found["bounds"],
                min=None, max=None,  # type: ignore[arg-type]  # optional on the wire; nobody kept them
            )
        )  # fmt: skip
    return points


def _milliseconds(text: str | None, otherwise_ms: int) -> float:
    try:
        return max(0.1, int(text or otherwise_ms) / 1_000)
    except ValueError:
        return otherwise_ms / 1_000
