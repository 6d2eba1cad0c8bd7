"""Traces and metrics reach a real OTLP receiver, and a receiver that is away costs nobody his answer."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.serving import Served, free_port, serving, wait_until

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
STAGES = {"accept", "admit", "call", "check", "record"}


class Collector:
    """What an OTLP/HTTP receiver has received, decoded by the official messages."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self.metrics: dict[str, Any] = {}
        self.bytes = b""
        self.paths: list[str] = []
        self.answer = 200
        self.unknown = ""
        """A path that it does not know."""
        self.wait_s = 0.0
        self.url = ""

    def take(self, path: str, body: bytes) -> None:
        self.bytes += body
        if path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resources.append(
                    {one.key: one.value.string_value for one in resource.resource.attributes}
                )
                for scope in resource.scope_spans:
                    self.spans += scope.spans
        elif path == "/v1/metrics":
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for scope in resource.scope_metrics:
                    self.metrics |= {metric.name: metric for metric in scope.metrics}

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """Run an OTLP/HTTP receiver on the loopback address."""
    collector = Collector()

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            collector.paths.append(self.path)
            time.sleep(collector.wait_s)
            is_known = self.path != collector.unknown
            if collector.answer == 200 and is_known:
                collector.take(self.path, body)
            self.send_response(collector.answer if is_known else 404)
            if collector.answer == 302:
                self.send_header("location", f"{collector.url}/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.daemon_threads = True
    collector.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()


def sending(url: str, **more: str) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_METRIC_EXPORT_INTERVAL": "500", **more}


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def dropped(served: Served, reason: str) -> float:
    start = f'nightproof_telemetry_dropped_traces_total{{reason="{reason}"}} '
    return sum(
        float(line.removeprefix(start)) for line in served.metrics().splitlines() if line.startswith(start)
    )


def component(served: Served) -> dict[str, Any]:
    parts = served.client.get("/healthz").json()["components"]
    return next(one for one in parts if one["name"] == "telemetry")


def test_a_request_is_a_trace_with_a_span_per_stage_under_its_callers_span(state: Path):
    with collecting() as collector, serving("mirror", state, env=sending(collector.url)) as served:
        answer = served.predict(
            served.example, traceparent=f"00-{TRACE}-{SPAN}-01", tracestate="congo=t61rcWkgMzE"
        )
        refused = served.predict({"nobody": "knows me"})
        wait_until(lambda: len(collector.named("POST /services/{service}/predict")) == 2)

        mine, theirs = sorted(
            collector.named("POST /services/{service}/predict"),
            key=lambda one: one.trace_id.hex() != TRACE,
        )
        stages = [one for one in collector.spans if one.parent_span_id == mine.span_id]
        (call,) = [one for one in stages if one.name == "call"]
        (predict,) = [one for one in collector.named("predict") if one.parent_span_id == call.span_id]
        (batch,) = [one for one in collector.named("batch") if one.trace_id == predict.links[0].trace_id]

        assert answer.status_code == 200
        assert mine.trace_id.hex() == TRACE
        assert mine.parent_span_id.hex() == SPAN
        assert mine.trace_state == "congo=t61rcWkgMzE"
        assert answer.headers["traceparent"] == f"00-{TRACE}-{mine.span_id.hex()}-01"
        assert answer.headers["tracestate"] == "congo=t61rcWkgMzE"
        assert attributes(mine)["nightproof.request.id"] == answer.json()["id"]
        assert attributes(mine)["nightproof.ending"] == "answered"
        assert {one.name for one in stages} == STAGES
        assert all(mine.start_time_unix_nano <= one.start_time_unix_nano for one in stages)
        assert max(one.end_time_unix_nano for one in stages) <= mine.end_time_unix_nano + 10_000
        assert batch.span_id == predict.links[0].span_id
        assert predict.span_id in {link.span_id for link in batch.links}
        assert attributes(theirs)["nightproof.failure"] == refused.json()["failure"] == "invalid_input"
        assert collector.resources[0]["service.name"] == "nightproof"


def test_the_records_of_one_batch_are_linked_with_one_batch_span(state: Path):
    with collecting() as collector, serving("mirror", state, env=sending(collector.url)) as served:
        served.predict([served.example] * 4)
        wait_until(lambda: len(collector.named("predict")) == 4 and collector.named("batch"))

        linked = {link.span_id for batch in collector.named("batch") for link in batch.links}

        assert {one.span_id for one in collector.named("predict")} == linked
        assert sum(attributes(one)["nightproof.batch.size"] for one in collector.named("batch")) == 4


def test_nothing_of_the_callers_is_in_what_is_sent(state: Path):
    with collecting() as collector, serving("faulty", state, env=sending(collector.url)) as served:
        for record in ({"x": 1234.5678}, {"x": "Mrs Smith-Jones"}, {"Mrs Smith-Jones": 1}):
            served.predict(record)
        served.client.post("/services/Mrs Smith-Jones/predict", json={})
        wait_until(lambda: len([one for one in collector.spans if one.kind == 2]) == 4)
        wait_until(lambda: "nightproof_requests_total" in collector.metrics)

    assert b"Smith" not in collector.bytes
    assert b"1234.5678" not in collector.bytes


def test_metrics_go_out_under_the_names_of_the_page(state: Path):
    with collecting() as collector, serving("mirror", state, env=sending(collector.url)) as served:
        for _ in range(3):
            served.predict(served.example)

        def arrived() -> bool:
            found = collector.metrics.get("nightproof_arrivals_total")
            return found is not None and found.sum.data_points[0].as_double == 3

        wait_until(arrived)
        durations = collector.metrics["nightproof_request_duration_seconds"]
        names = {line.split()[2] for line in served.metrics().splitlines() if line.startswith("# TYPE")}

    assert durations.unit == "s"
    assert durations.histogram.data_points[0].count == 3
    assert sum(durations.histogram.data_points[0].bucket_counts) == 3
    assert collector.metrics["nightproof_arrivals_total"].sum.is_monotonic
    assert collector.metrics.keys() <= names


def test_a_caller_who_is_not_sampled_leaves_no_trace_and_is_told_so(state: Path):
    with collecting() as collector, serving("mirror", state, env=sending(collector.url)) as served:
        quiet = served.predict(served.example, traceparent=f"00-{TRACE}-{SPAN}-00")
        broken = served.predict(served.example, traceparent=f"00-{'0' * 32}-{SPAN}-01", tracestate="congo=1")
        wait_until(lambda: len(collector.named("batch")) == 1)

        assert quiet.headers["traceparent"].endswith("-00")
        assert "tracestate" not in broken.headers, "a state without a parent is worth nothing"
        assert TRACE not in {one.trace_id.hex() for one in collector.spans}


def test_a_collector_that_is_away_or_slow_costs_traces_and_no_answers(state: Path):
    env = sending(
        f"http://127.0.0.1:{free_port()}",
        NIGHTPROOF_TELEMETRY_QUEUE_TRACES="10",
        OTEL_EXPORTER_OTLP_TIMEOUT="1",
    )
    with serving("mirror", state, env=env) as served:
        began_s = time.monotonic()
        statuses = [served.predict(served.example).status_code for _ in range(60)]
        took_s = time.monotonic() - began_s

        assert statuses == [200] * 60
        assert took_s < 5
        served.wait_until(lambda: dropped(served, "queue") > 0 or dropped(served, "rate") > 0)
        served.wait_until(lambda: dropped(served, "export") > 0)
        served.wait_until(lambda: component(served)["ok"] is False)
        assert component(served)["needed"] is False
        assert served.client.get("/readyz").status_code == 200
        began_s = time.monotonic()
        assert served.stop() == 0
        assert time.monotonic() - began_s < 10


def test_a_collector_that_sends_us_elsewhere_is_not_followed(state: Path):
    with collecting() as collector:
        collector.answer = 302
        with serving("mirror", state, env=sending(collector.url)) as served:
            served.predict(served.example)
            served.wait_until(lambda: dropped(served, "export") > 0)

    assert set(collector.paths) <= {"/v1/traces", "/v1/metrics"}


def test_without_an_endpoint_nothing_of_opentelemetry_is_loaded(shared_faulty: Served):
    maps = Path(f"/proc/{shared_faulty.process.pid}/maps").read_text()

    assert "nightproof_telemetry" not in shared_faulty.metrics()
    assert "otlp" not in shared_faulty.client.get("/healthz").text
    assert "google/_upb" not in maps, "protobuf's library would be mapped"


def test_traces_that_arrive_do_not_hide_that_no_metrics_do(state: Path):
    """Else the alert never had its time to fire: metrics go once a minute, traces each second."""
    start = 'nightproof_telemetry_exports_total{outcome="ok",signal="traces"} '

    def taken(served: Served) -> float:
        lines = served.metrics().splitlines()
        return sum(float(line.removeprefix(start)) for line in lines if line.startswith(start))

    with collecting() as collector:
        collector.unknown = "/v1/metrics"
        env = sending(collector.url, OTEL_METRIC_EXPORT_INTERVAL="600000")
        with serving("mirror", state, env=env) as served:
            served.wait_until(lambda: component(served)["why"] == "the collector did not take metrics")
            for _ in range(2):  # what the first one says is surely seen when the second one has arrived
                before = taken(served)
                served.predict(served.example)
                served.wait_until(lambda before=before: taken(served) > before)
            after = component(served)

    assert (after["ok"], after["why"]) == (False, "the collector did not take metrics")
