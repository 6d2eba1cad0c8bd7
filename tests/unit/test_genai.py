"""Tries at upstreams by OpenTelemetry's names: spans and metrics, without a word of what was said."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanKind, StatusCode

from nightproof.watch import genai
from nightproof.watch.chat_meters import ChatMeters
from nightproof.watch.genai import OTHER_PROVIDER, Endpoint, attempt_traces, endpoint_of
from nightproof.watch.otlp import metrics_of, spans_of
from nightproof.watch.telemetry import Trace
from nightproof.watch.upstreams import UpstreamPicture, upstream_gauges
from nightproof.workers.upstream.values import Attempt, Usage

SCOPE = InstrumentationScope("nightproof", "0")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
FAILED = Attempt("main", "m-1", failure="upstream_error", detail="status 500", duration_us=30_000)
ANSWERED = Attempt("spare", "m-2", duration_us=900_000, first_token_us=200_000)


class Exchange(msgspec.Struct, kw_only=True):
    """The facts of one exchange, as the pipeline has them."""

    attempts: tuple[Attempt, ...] = (FAILED, ANSWERED)
    usage: Usage | None = Usage(40, 11)
    cost: float = 0.0
    upstream: str = "spare"
    model: str = "m-2-2026-05-13"
    finish_reason: str = "stop"
    first_token_us: int = 0
    findings: list[Any] = []
    bypassed: list[str] = []
    check_us: dict[str, int] = {}
    withheld: str = "what nobody was told"


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("https://api.openai.com/v1", Endpoint("openai", "api.openai.com", 443)),
        (
            "https://mine.openai.azure.com/openai/v1",
            Endpoint("azure.ai.openai", "mine.openai.azure.com", 443),
        ),
        ("http://127.0.0.1:8001/v1", Endpoint(OTHER_PROVIDER, "127.0.0.1", 8001)),
        ("https://key:secret@notopenai.com/v1", Endpoint(OTHER_PROVIDER, "notopenai.com", 443)),
        ("http://[::1]:99999/v1", Endpoint()),
        ("", Endpoint()),
    ],
)
def test_an_address_is_told_by_provider_host_and_port_and_nothing_else(url: str, endpoint: Endpoint):
    assert endpoint_of(url) == endpoint


def traced(exchange: Exchange, **more: Any) -> Trace:
    endpoints = {"spare": Endpoint("openai", "api.openai.com", 443)}
    tries = attempt_traces(exchange, endpoints, began_s=100.0, began_us=1_000_000, call_us=5_000)
    plain: dict[str, Any] = {
        "id": "01234567890-0123456789abcdef0123", "trace_id": TRACE, "parent_id": "", "state": "", "service": "desk",
        "release": "1.0", "protocol": "openai", "ending": "answered", "failure": "", "began_us": 1_000_000,
        "duration_us": 990_000, "stages_us": (("accept", 5_000), ("call", 930_000)), "items": (), "records": 1,
        "attempts": tries,
    }  # fmt: skip
    return Trace(**{**plain, **more})


def test_each_try_is_a_client_span_under_the_requests_span():
    spans = spans_of([traced(Exchange())], Resource({}), SCOPE, {})

    root = next(one for one in spans if one.kind is SpanKind.SERVER)
    failed, answered = [one for one in spans if one.kind is SpanKind.CLIENT]
    assert root.name == "POST /v1/chat/completions"
    assert [failed.name, answered.name] == ["chat m-1", "chat m-2"]
    assert all(one.parent == root.context for one in (failed, answered))
    assert failed.status.status_code is StatusCode.ERROR
    assert (failed.attributes or {})["error.type"] == "upstream_error"
    assert (failed.attributes or {})["gen_ai.provider.name"] == OTHER_PROVIDER
    assert dict(answered.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "m-2",
        "gen_ai.response.model": "m-2-2026-05-13",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.response.time_to_first_chunk": 0.2,
        "gen_ai.usage.input_tokens": 40,
        "gen_ai.usage.output_tokens": 11,
        "server.address": "api.openai.com",
        "server.port": 443,
        "nightproof.service": "desk",
        "nightproof.upstream": "spare",
    }
    assert answered.instrumentation_scope is not None
    assert answered.instrumentation_scope.schema_url == genai.SCHEMA_URL
    assert (failed.start_time, failed.end_time) == (1_005_000_000, 1_035_000_000)
    assert (answered.start_time, answered.end_time) == (1_035_000_000, 1_935_000_000)


def test_nothing_that_was_said_is_in_a_span():
    spans = spans_of([traced(Exchange())], Resource({}), SCOPE, {})

    assert "what nobody was told" not in "".join(one.to_json() for one in spans)


def test_tries_stand_where_they_began_where_that_was_noted():
    first = msgspec.structs.replace(FAILED, began_s=100.01)
    second = msgspec.structs.replace(ANSWERED, began_s=100.5, is_hedge=True)

    tries = attempt_traces(
        Exchange(attempts=(first, second)), {}, began_s=100.0, began_us=1_000_000, call_us=5_000
    )

    assert [one.began_us for one in tries] == [1_010_000, 1_500_000]


def test_what_was_not_asked_is_no_span_and_what_was_given_up_says_so():
    shut = Attempt("main", "m-1", failure="upstream_unreachable", detail="not asked: its breaker is open")
    dropped = Attempt("main", "m-1", duration_us=10, is_given_up=True)

    tries = attempt_traces(
        Exchange(attempts=(shut, dropped, ANSWERED)), {}, began_s=0.0, began_us=0, call_us=0
    )

    assert [(one.upstream, one.failure) for one in tries] == [("main", "_given_up"), ("spare", "")]


def test_metrics_are_told_by_the_conventions_names_beside_our_own():
    meters = ChatMeters()
    meters.count_chat("desk", Exchange())
    picture = UpstreamPicture(
        name="spare", model="m-2", provider="openai", address="api.openai.com", port=443
    )
    families = [*meters.families(), *upstream_gauges({"desk": [picture]})]

    data = metrics_of(families, Resource({}), SCOPE, began_ns=1, now_ns=2)

    ours, theirs = data.resource_metrics[0].scope_metrics
    found = {one.name: one for one in theirs.metrics}
    assert set(found) == {name for name, _ in genai.METRICS.values()}
    assert set(genai.METRICS) <= {one.name for one in ours.metrics}
    points = {
        point.attributes["gen_ai.token.type"]: point
        for point in found["gen_ai.client.token.usage"].data.data_points
    }
    assert (points["input"].sum, points["output"].sum) == (40, 11)
    assert list(points["input"].explicit_bounds) == [4.0**power for power in range(14)]
    durations = found["gen_ai.client.operation.duration"].data.data_points
    (answered,) = [point for point in durations if "error.type" not in point.attributes]
    assert dict(answered.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "m-2",
        "server.address": "api.openai.com",
        "server.port": 443,
        "nightproof.service": "desk",
        "nightproof.upstream": "spare",
    }
    assert answered.explicit_bounds[0] == 0.01
    assert answered.explicit_bounds[-1] == pytest.approx(81.92)
