"""What a caller is told, byte for byte where it counts: answers, problems, headers, probes, pages, metrics."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from nightproof.base.failures import CATALOGUE
from tests.books import leaves_of, samples
from tests.serving import Served, serving, wait_until

NAME = "/services/mirror/predict"
ID = re.compile(r"[0-9a-f]{11}-[0-9a-f]{20}")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def tight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve the mirror with narrow limits; each test takes a key of its own."""
    limits = ("limits.quota_per_s=0.5", "limits.quota_burst=3", "limits.max_in_flight=1", "receiving.body_s=0.4",
              "receiving.headers_s=0.4", "drain_wait_s=2", "public_url=https://api.example.org/np/")  # fmt: skip
    flags = [word for limit in limits for word in ("--set", limit)]
    with serving("mirror", tmp_path_factory.mktemp("tight") / "state", *flags) as served:
        yield served


def get(served: Served, path: str, **headers: str) -> httpx.Response:
    """Read a page without a key."""
    request = served.client.build_request("GET", path, headers=headers)
    del request.headers["authorization"]
    return served.client.send(request)


def fresh_headers(served: Served) -> dict[str, str]:
    """Make a key with its quota unspent."""
    key = served.operate("POST", "/admin/keys", {"role": "predict"}).json()["key"]
    return {"authorization": f"Bearer {key}"}


def problem_of(answer: httpx.Response, status: int, failure: str) -> dict[str, Any]:
    """Assert that an answer is this problem, whole."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), (
        answer.text
    )
    problem: dict[str, Any] = answer.json()
    assert problem["failure"] == failure
    assert problem["status"] == status
    assert problem["type"].endswith(f"/problems/{failure}")
    assert problem["title"] == CATALOGUE[failure].title
    assert problem["detail"]
    assert isinstance(problem["retryable"], bool)
    assert problem["instance"] == f"urn:nightproof:request:{problem['id']}"
    assert problem["id"] == answer.headers["x-request-id"]
    assert ID.fullmatch(problem["id"])
    assert "Traceback" not in answer.text
    return problem


# -- answers --------------------------------------------------------------------------------------------


def test_one_record_is_answered_in_this_form(mirror: Served):
    answer = mirror.predict({"text": "a"})

    told = answer.json()
    assert list(told) == ["id", "service", "release", "output", "degraded"]
    assert ID.fullmatch(told["id"])
    assert told["service"] == "mirror"
    assert re.fullmatch(r"dev-[0-9a-f]{8}", told["release"])
    assert list(told["output"]) == ["text", "code", "wide", "run", "confidence"]
    assert told["degraded"] is None
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.content)


def test_a_list_is_answered_in_this_form(mirror: Served):
    answer = mirror.predict([{"text": "a"}, {"text": 7}])

    told = answer.json()
    assert answer.status_code == 200
    assert list(told) == ["id", "service", "release", "items"]
    assert list(told["items"][0]) == ["output", "degraded"]
    assert told["items"][0]["degraded"] is None
    assert list(told["items"][1]) == ["failure", "detail", "errors"]
    assert told["items"][1]["errors"] == [{"pointer": "/text", "detail": "expected a string"}]


def test_a_list_of_one_is_a_list(mirror: Served):
    assert len(mirror.predict([{"text": "a"}]).json()["items"]) == 1


def test_an_answer_carries_these_headers(mirror: Served):
    answer = mirror.predict({"text": "a"}, x_request_id="mine\x09or not", x_forwarded_for="10.0.0.1")

    head = answer.headers
    assert head["x-request-id"] == answer.json()["id"]
    assert head["cache-control"] == "no-store"
    assert re.fullmatch(rf"00-[0-9a-f]{{32}}-{head['x-request-id'][-16:]}-01", head["traceparent"])
    stages = re.findall(r"(\w+);dur=(\d+\.\d{3})(?:, |$)", head["server-timing"])
    assert [stage for stage, _ in stages] == ["accept", "admit", "call", "check", "record"]
    assert all(0 <= float(took_ms) < 4_000 for _, took_ms in stages)
    assert not {"nightproof-degraded", "idempotent-replayed", "retry-after"} & set(head)
    assert not [name for name in head if name.startswith("access-control-")]
    assert head["server"] == "nightproof"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", True),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", True),
        (f"00-{TRACE}-{SPAN}-01-more", False),
        (f"ff-{TRACE}-{SPAN}-01", False),
        (f"00-{'0' * 32}-{SPAN}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-{SPAN}-01", False),
        (f"00-{TRACE[:-1]}-{SPAN}-01", False),
        ("garbage", False),
        ("", False),
    ],
)
def test_a_valid_trace_is_taken_up_and_an_invalid_one_ignored(mirror: Served, sent: str, kept: bool):
    answer = mirror.predict({"text": "a"}, traceparent=sent)

    trace = answer.headers["traceparent"].split("-")[1]
    (leaf,) = leaves_of(mirror.state, answer.json()["id"])
    assert answer.status_code == 200
    assert (trace == TRACE) is kept
    assert set(trace) != {"0"}
    assert leaf.get("trace") == (TRACE if kept else None)


# -- problems -------------------------------------------------------------------------------------------


def test_each_refusal_is_a_problem_with_its_name(mirror: Served):
    audit = mirror.operate("POST", "/admin/keys", {"role": "audit"}).json()["key"]
    key = "problems-of-all-kinds"
    mirror.predict({"text": "a"}, idempotency_key=key)

    problem_of(mirror.predict_bytes(b"{"), 400, "malformed_request")
    problem_of(mirror.predict({"text": "a"}, authorization="Bearer x"), 401, "unauthenticated")
    problem_of(mirror.predict({"text": "a"}, authorization=f"Bearer {audit}"), 403, "forbidden")
    problem_of(mirror.client.post("/services/other/predict", json={}), 404, "unknown_service")
    problem_of(mirror.client.get(NAME), 405, "malformed_request")
    problem_of(mirror.predict([{"text": "a"}] * 201), 413, "oversized_request")
    problem_of(mirror.predict_bytes(b"{}", content_type="text/csv"), 415, "unsupported_media_type")
    problem_of(mirror.predict({"text": 7}), 422, "invalid_input")
    problem_of(mirror.predict({"text": "a", "as_of": "1999-01-01T00:00:00Z"}), 422, "stale_input")
    problem_of(mirror.predict({"text": "b"}, idempotency_key=key), 422, "idempotency_conflict")
    problem_of(mirror.predict({"text": "first " + key, "fail_first": True}), 502, "model_error")
    problem_of(
        mirror.predict({"text": "a", "slow_ms": 500}, x_request_timeout_ms="50"), 504, "deadline_exceeded"
    )


def test_the_quota_of_a_key_is_its_own_and_says_when_to_come_again(tight: Served):
    greedy, modest = fresh_headers(tight), fresh_headers(tight)

    answers = [tight.client.post(NAME, json={"text": "a"}, headers=greedy) for _ in range(6)]
    other = tight.client.post(NAME, json={"text": "a"}, headers=modest)

    assert [answer.status_code for answer in answers] == [200] * 3 + [429] * 3
    problem = problem_of(answers[3], 429, "quota_exceeded")
    assert problem["retryable"] is True
    assert 1 <= int(answers[3].headers["retry-after"]) <= 3
    assert other.status_code == 200
    assert not leaves_of(tight.state, answers[3].headers["x-request-id"])  # it is in a summary


def test_a_full_house_says_when_to_come_again(tight: Served):
    first, second = fresh_headers(tight), fresh_headers(tight)
    slow = threading.Thread(
        target=lambda: tight.client.post(NAME, json={"text": "slow", "slow_ms": 600}, headers=first)
    )
    slow.start()
    wait_until(lambda: tight.status()["in_flight"] == 1)

    answer = tight.client.post(NAME, json={"text": "a"}, headers=second)
    slow.join(10)

    problem = problem_of(answer, 503, "overloaded")
    assert problem["retryable"] is True
    assert 1 <= int(answer.headers["retry-after"]) <= 5


def test_links_in_problems_follow_the_public_address(tight: Served):
    answer = tight.client.post(NAME, json={"text": "a"}, headers={"authorization": "Bearer x"})

    assert answer.json()["type"] == "https://api.example.org/np/problems/unauthenticated"


def raw_answer(served: Served, request: bytes) -> httpx.Response:
    """Send bytes, read until the close."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as caller:
        caller.sendall(request)
        data = b""
        while piece := caller.recv(65_536):
            data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return httpx.Response(int(status.split()[1]), headers=headers, content=body)


@pytest.mark.parametrize(
    ("request_bytes", "status", "failure"),
    [
        (b"POST /services/mirror/predict HTTP/1.1\r\nhost: a\r\ncontent-le", 408, "slow_request"),
        (b"GET /livez HTTP/1.1\r\nhost: a\r\nx: " + b"x" * 70_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n", 414, "malformed_request"),
        (b"GARBAGE\r\n\r\n", 400, "malformed_request"),
    ],
    ids=["slow head", "large head", "long address", "garbage"],
)
def test_what_never_becomes_a_request_is_told_a_problem_too(
    tight: Served, request_bytes: bytes, status: int, failure: str
):
    answer = raw_answer(tight, request_bytes)

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.headers["connection"] == "close"
    assert (answer.json()["failure"], answer.json()["status"]) == (failure, status)


def test_a_body_that_does_not_arrive_is_a_slow_request_with_a_record(tight: Served):
    key = fresh_headers(tight)["authorization"]
    head = f"POST {NAME} HTTP/1.1\r\nhost: a\r\nauthorization: {key}\r\ncontent-length: 9\r\n\r\n{{"
    before = samples(tight.metrics(), "nightproof_arrivals_total")

    answer = raw_answer(tight, head.encode())

    assert (answer.status_code, answer.json()["failure"]) == (408, "slow_request")
    after = samples(tight.metrics(), "nightproof_arrivals_total")
    assert sum(after.values()) - sum(before.values()) == 1
    wait_until(lambda: sum(tight.status()["endings"].values()) == tight.status()["arrivals"])


# -- deadlines ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["1", "0.001", "20"])
def test_a_short_deadline_ends_the_callers_wait_and_no_worker(mirror: Served, asked: str):
    pids = mirror.status()["services"][0]["pids"]

    answer = mirror.predict({"text": "a", "slow_ms": 100}, x_request_timeout_ms=asked)

    problem = problem_of(answer, 504, "deadline_exceeded")
    assert problem["retryable"] is True
    assert mirror.predict({"text": "a"}).status_code == 200
    assert mirror.status()["services"][0]["pids"] == pids
    (leaf,) = leaves_of(mirror.state, problem["id"])
    assert leaf["decisions"][0] == f"deadline:{float(asked):g}ms by caller"


NO_TIMES = ["-5", "NaN", "nan", "inf", "0", "0.0", "", "1e3", "+5", "5ms", "5,5", "0x10", "9" * 13]


@pytest.mark.parametrize("asked", NO_TIMES)
def test_what_is_no_time_is_refused(mirror: Served, asked: str):
    problem = problem_of(mirror.predict({"text": "a"}, x_request_timeout_ms=asked), 400, "malformed_request")

    assert "x-request-timeout-ms" in problem["detail"]


def test_two_deadlines_are_refused(mirror: Served):
    headers = [("x-request-timeout-ms", "500"), ("x-request-timeout-ms", "600")]

    answer = mirror.client.post(NAME, json={"text": "a"}, headers=headers)

    problem_of(answer, 400, "malformed_request")


def test_no_deadline_is_longer_than_the_services(mirror: Served):
    answer = mirror.predict({"text": "a"}, x_request_timeout_ms="1000000000")

    (leaf,) = leaves_of(mirror.state, answer.json()["id"])
    assert answer.status_code == 200
    assert leaf["decisions"] == []


# -- methods and paths ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "REPORT"])
def test_another_method_is_refused_with_the_right_one(mirror: Served, method: str):
    service = mirror.client.request(method, NAME)

    assert (service.status_code, service.headers["allow"]) == (405, "POST")
    assert (service.content == b"") is (method == "HEAD")


@pytest.mark.parametrize(
    "path", ["/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/problems/overloaded"]
)
def test_what_is_read_only_takes_get_and_head(mirror: Served, path: str):
    got, headed, posted = (mirror.client.request(method, path) for method in ("GET", "HEAD", "POST"))

    assert (got.status_code, headed.status_code) == (200, 200)
    assert headed.content == b""
    assert headed.headers["content-type"] == got.headers["content-type"]
    problem_of(posted, 405, "malformed_request")
    assert posted.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "path",
    [
        "/", "/nothing", "/services", "/services/mirror", "/services/mirror/predict/", "/services//mirror/predict",
        "/services/mirror/../mirror/predict", "/services/..%2f..%2fetc%2fpasswd/predict", "/docs/../openapi.json",
        "/docs/%2e%2e/%2e%2e/etc/passwd", "/runbooks/..%2f..%2fpyproject.toml", "/problems/", "/problems/no_such",
        "/v1", "/v1/completions", "/%00", "/%c0%ae%c0%ae/", "//livez", "/livez/", "/LIVEZ",
    ],
)  # fmt: skip
def test_a_path_that_is_not_there_is_not_found(mirror: Served, path: str):
    request = (
        f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\nauthorization: Bearer {mirror.key}\r\n\r\n"
    )

    answer = raw_answer(mirror, request.encode())

    assert answer.status_code in (400, 404, 405), answer.text
    told = answer.json()
    assert (
        told.get("failure") in ("unknown_service", "malformed_request")
        or told["error"]["code"] == "model_not_found"
    )
    assert "root:" not in answer.text


def test_every_failure_has_a_page_that_its_problems_point_to(mirror: Served):
    for failure in CATALOGUE.values():
        page = get(mirror, f"/problems/{failure.code}")

        assert page.status_code == 200
        assert page.json()["failure"] == failure.code
        assert page.json()["runbook"] == f"/runbooks/{failure.code}"
        assert page.json()["meaning"] == failure.meaning


# -- pages ----------------------------------------------------------------------------------------------


class Links(HTMLParser):
    """Gather what a page loads or leads to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [
            value for name, value in attrs if name in ("src", "href", "srcset", "action") and value
        ]


def test_the_documentation_opens_without_internet(mirror: Served):
    page = get(mirror, "/docs")
    links = Links()
    links.feed(page.text)

    assert page.status_code == 200
    assert links.found
    for link in links.found:
        assert not re.match(r"[a-z]+:|//", link), link
        loaded = get(mirror, f"/{link}")
        assert loaded.status_code == 200, link
        if link.endswith(".css"):
            assert not re.search(r"url\(\s*['\"]?(?:https?:)?//|@import", loaded.text)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe-eval" not in policy
    assert "http" not in policy
    assert page.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "path", ["/docs", "/docs/init.js", "/openapi.json", "/metrics", "/readyz?verbose", "/nothing"]
)
def test_no_browser_guesses_at_types(mirror: Served, path: str):
    assert get(mirror, path).headers.get_list("x-content-type-options") == ["nosniff"]


def references(node: Any) -> Iterator[str]:
    """Yield all `$ref`s."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for part in node.values():
            yield from references(part)
    elif isinstance(node, list):
        for part in node:
            yield from references(part)


def test_the_document_describes_the_service_with_its_real_types(mirror: Served):
    document = get(mirror, "/openapi.json").json()

    assert document["openapi"].startswith("3.1")
    operation = document["paths"][NAME]["post"]
    assert {"200", "400", "401", "403", "413", "415", "422", "429", "502", "503", "504"} <= set(
        operation["responses"]
    )
    schemas = document["components"]["schemas"]
    assert schemas["mirror.input"]["properties"]["count"]["maximum"] == 1_000
    assert schemas["mirror.input"]["required"] == ["text"]
    for reference in references(document):
        node: Any = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part.replace("~1", "/").replace("~0", "~")]
        assert isinstance(node, dict), reference


# -- probes and metrics ---------------------------------------------------------------------------------


PROBES = ["/livez", "/readyz", "/startupz", "/healthz", "/metrics", "/v2/health/live", "/v2/health/ready"]


@pytest.mark.parametrize("path", PROBES)
def test_probes_ask_for_no_key_and_are_no_arrivals(mirror: Served, path: str):
    before = samples(mirror.metrics(), "nightproof_arrivals_total")

    answer = get(mirror, path)

    assert answer.status_code == 200
    assert samples(mirror.metrics(), "nightproof_arrivals_total") == before


def test_health_tells_each_component_with_its_since(mirror: Served):
    told = get(mirror, "/healthz").json()
    verbose = get(mirror, "/readyz?verbose")

    assert told["ok"] is True
    assert {part["name"] for part in told["components"]} >= {"ledger", "workers:mirror", "disk"}
    assert all(re.match(r"\d{4}-\d\d-\d\dT", part["since"]) for part in told["components"])
    assert verbose.headers["content-type"].startswith("text/plain")
    lines = verbose.text.splitlines()
    assert "[+]ledger ok" in lines
    assert all(line.startswith("[+]") for line in lines)


def test_metrics_parse_and_have_their_names(mirror: Served):
    mirror.predict({"text": "a"})
    plain = get(mirror, "/metrics")
    opened = get(mirror, "/metrics", accept="application/openmetrics-text")

    families = {family.name: family for family in text_string_to_metric_families(plain.text)}
    kinds = {name: family.type for name, family in families.items()}
    assert plain.headers["content-type"].startswith("text/plain")
    for name, kind in {
        "nightproof_requests": "counter",
        "nightproof_arrivals": "counter",
        "nightproof_request_duration_seconds": "histogram",
        "nightproof_stage_duration_seconds": "histogram",
        "nightproof_queue_wait_seconds": "histogram",
        "nightproof_confidence": "histogram",
        "nightproof_audit_commit_seconds": "histogram",
        "nightproof_in_flight": "gauge",
        "nightproof_queue_depth": "gauge",
        "nightproof_workers": "gauge",
    }.items():
        assert kinds.get(name) == kind, name
    assert all(family.documentation for family in families.values())
    requests = [sample.labels for sample in families["nightproof_requests"].samples]
    assert all(set(labels) == {"service", "release", "ending", "failure"} for labels in requests)
    stages = {sample.labels["stage"] for sample in families["nightproof_stage_duration_seconds"].samples}
    assert stages == {"accept", "admit", "call", "check", "record", "reply"}
    workers = {sample.labels["state"] for sample in families["nightproof_workers"].samples}
    assert "ready" in workers or "idle" in workers, workers
    assert opened.headers["content-type"].startswith("application/openmetrics-text")
    assert {family.name for family in openmetrics_families(opened.text)} == set(families)


def test_callers_cannot_make_labels(mirror: Served):
    for n in range(5):
        mirror.client.post(f"/services/made-up-{n}/predict", json={})
        mirror.client.get(f"/made-up-{n}")
        mirror.client.post(f"/v2/models/made-up-{n}/infer", json={})

    labels = [dict(labels) for labels in samples(mirror.metrics(), "nightproof_requests_total")]
    assert {one["service"] for one in labels} <= {"", "mirror"}
    assert {one["failure"] for one in labels} <= {"", *CATALOGUE}


def test_counters_agree_with_what_was_sent(mirror: Served):
    def count(ending: str, failure: str) -> float:
        told = samples(mirror.metrics(), "nightproof_requests_total")
        return sum(n for key, n in told.items() if {("ending", ending), ("failure", failure)} <= set(key))

    before = [count("answered", ""), count("refused", "invalid_input"), count("failed", "deadline_exceeded")]
    mirror.predict([{"text": "a"}] * 3)
    mirror.predict({"text": 7})
    mirror.predict({"text": "a", "slow_ms": 100}, x_request_timeout_ms="10")
    after = [count("answered", ""), count("refused", "invalid_input"), count("failed", "deadline_exceeded")]

    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1, 1]


def test_readiness_falls_first_when_the_server_is_told_to_stop(tight: Served):
    """The last test of this server: it stops."""
    headers = fresh_headers(tight)
    with httpx.Client(base_url=tight.base_url, headers=headers) as kept:
        assert kept.get("/readyz").status_code == 200
        tight.process.terminate()
        wait_until(lambda: kept.get("/readyz").status_code == 503)

        told = kept.get("/readyz")
        refused = kept.post(NAME, json={"text": "a"})
        alive = kept.get("/livez")

    assert json.loads(told.content)["why"] == ["draining"]
    assert told.headers["retry-after"] == "1"
    problem_of(refused, 503, "shutting_down")
    assert int(refused.headers["retry-after"]) >= 1
    assert alive.status_code == 200
    assert tight.stop() == 0
