"""More work than can be done: it is refused early and clearly, what is taken in is done, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.callers import Callers, entries_of, leaf_of, offer
from tests.serving import Served, serving

CAPACITY_PER_S = 100  # two workers, 20 ms a record
QUICK = {"NIGHTPROOF_LEDGER_SUMMARY_EVERY_S": "0.3"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve the service whose model sets its capacity."""
    with serving("slow", tmp_path_factory.mktemp("overload") / "state", env=QUICK) as one:
        yield one


def pool_of(served: Served) -> dict[str, Any]:
    """Return the status of the one service."""
    (service,) = served.status()["services"]
    return dict(service)


def is_at_rest(served: Served) -> bool:
    """Say whether nothing is inside any more."""
    status = served.status()
    pool = status["services"][0]
    return (status["in_flight"], pool["queued"], pool["workers"]["busy"]) == (0, 0, 0)


def recorded(served: Served) -> Counter[str]:
    """Count what the ledger has of requests, by ending; shared summaries count as refused."""
    counts: Counter[str] = Counter()
    for entry in entries_of(served.state):
        facts = leaf_of(entry)
        if entry.kind == "request":
            counts[facts["ending"]] += 1
        elif entry.kind == "summary":
            counts["refused"] += facts["count"]
    return counts


def test_a_queue_brings_more_workers_at_once(served: Served):
    assert pool_of(served)["workers"]["ready"] + pool_of(served)["workers"]["busy"] <= 1

    with Callers(served, count=6, pause_s=0.0) as callers:
        served.wait_until(lambda: 'event="scaled"' in served.metrics())
        served.wait_until(lambda: len(pool_of(served)["pids"]) == 3)

    assert callers.statuses() == {200: len(callers.told)}
    served.wait_until(lambda: is_at_rest(served))


@pytest.mark.parametrize("times", [5, 8])
def test_many_times_the_capacity_is_refused_early_and_the_rest_answered(served: Served, times: int):
    served.wait_until(lambda: served.predict({"x": 1.0}).status_code == 200)
    before = served.status()

    told = asyncio.run(offer(served, rate_per_s=CAPACITY_PER_S * times, for_s=2.0))

    statuses = Counter(one.status for one in told)
    refused = [one for one in told if one.status == 503]
    assert len(told) == CAPACITY_PER_S * times * 2, "everyone was told something"
    assert set(statuses) <= {200, 503, 504}, statuses
    assert statuses[504] <= len(told) * 0.02, "next to nobody is let in to wait in vain"
    assert statuses[200] >= CAPACITY_PER_S * 2 * 0.5, f"the work goes on: {statuses}"
    assert {one.failure for one in refused} == {"overloaded"}
    assert all(1 <= one.body["retry-after"] <= 60 for one in refused)
    assert all(one.body["output"]["y"] == 2 * one.record["x"] for one in told if one.status == 200)

    served.wait_until(lambda: is_at_rest(served), within_s=5)
    after = [served.predict({"x": 1.0}).status_code for _ in range(10)]
    assert after == [200] * 10, "back to normal"
    assert served.status()["pid"] == before["pid"]
    assert pool_of(served)["restarts"] == before["services"][0]["restarts"]


def test_callers_who_hang_up_free_what_they_held_and_are_recorded(served: Served):
    served.wait_until(lambda: is_at_rest(served))
    before = recorded(served)
    body = json.dumps({"x": 1.0, "ms": 200.0}).encode()
    headers = "".join(f"{name}: {value}\r\n" for name, value in served.headers.items())
    head = f"POST /services/slow/predict HTTP/1.1\r\nhost: t\r\n{headers}content-length: {len(body)}\r\n\r\n"

    with contextlib.ExitStack() as stack:
        for _ in range(10):
            caller = stack.enter_context(socket.create_connection(("127.0.0.1", served.port)))
            caller.sendall(head.encode() + body)
        served.wait_until(lambda: served.status()["in_flight"] >= 8)

    served.wait_until(lambda: is_at_rest(served), within_s=2)
    served.wait_until(lambda: sum((recorded(served) - before).values()) == 10, within_s=2)
    endings = recorded(served) - before
    assert set(endings) <= {"abandoned", "answered"}
    assert endings["abandoned"] >= 7
    gone = [leaf_of(one) for one in entries_of(served.state) if b'"abandoned"' in one.leaf]
    assert {one["failure"] for one in gone} == {"caller_gone"}
    assert pool_of(served)["restarts"] == 0


def test_every_arrival_has_one_ending_and_is_in_the_ledger_once(served: Served):
    def books_balance() -> bool:
        status = served.status()
        counted = Counter(status["endings"])
        return status["arrivals"] == sum(counted.values()) and counted == recorded(served)

    served.wait_until(lambda: is_at_rest(served))
    served.wait_until(books_balance, within_s=5)
