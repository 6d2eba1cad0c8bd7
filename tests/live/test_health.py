"""Health asks the real thing, in the very states that it must tell; and asking it loads nobody."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nightproof.drills.stage import SHIM
from tests.callers import Callers
from tests.serving import Served, serving, wait_until


def component(served: Served, name: str) -> dict[str, Any]:
    parts = served.client.get("/healthz").json()["components"]
    return next((one for one in parts if one["name"] == name), {})


def value(served: Served, start: str) -> float:
    return sum(
        float(line.rpartition(" ")[2]) for line in served.metrics().splitlines() if line.startswith(start)
    )


def golden_events(served: Served, reason: str = "") -> float:
    return value(served, f'nightproof_events_total{{event="golden_case_failed",reason="{reason}"')


@pytest.fixture
def moody(tmp_path: Path) -> Iterator[Served]:
    """Serve the service whose mood is a file, with golden cases twice a second."""
    env = {
        "TMPDIR": str(tmp_path),
        "NIGHTPROOF_WORKERS_GOLDEN_EVERY_S": "0.5",
        "NIGHTPROOF_WORKERS_BACKOFF_MOST_S": "0.5",
        "NIGHTPROOF_WORKERS_RESTARTS": "100",
    }
    with serving("moody", tmp_path / "state", env=env) as one:
        yield one


def test_one_worker_that_errs_is_replaced_and_its_release_keeps_its_name(moody: Served):
    moody.wait_until(lambda: len(moody.status()["services"][0]["pids"]) == 2)
    before = set(moody.status()["services"][0]["pids"])

    moody.predict({"x": 1.0, "act": "turn"})
    moody.wait_until(lambda: golden_events(moody) == 1)
    moody.wait_until(lambda: len(moody.status()["services"][0]["pids"]) == 2)

    assert len(before & set(moody.status()["services"][0]["pids"])) == 1
    assert golden_events(moody, "release") == 0
    moody.wait_until(lambda: component(moody, "golden:moody")["ok"] is True)
    assert [moody.predict({"x": 1.0}).json()["output"] for _ in range(5)] == [{"y": 2.0}] * 5


def test_a_release_that_errs_everywhere_is_named_once_with_since_when_and_why(moody: Served, tmp_path: Path):
    assert component(moody, "golden:moody")["ok"] is True

    (tmp_path / "mood").write_text("wrong")
    moody.wait_until(lambda: golden_events(moody, "release") == 1)
    moody.wait_until(lambda: "every worker" in component(moody, "golden:moody")["why"])
    told = component(moody, "golden:moody")
    wrong = golden_events(moody)
    moody.wait_until(lambda: golden_events(moody) > wrong)

    assert "every worker of dev-" in told["why"]
    assert told["ok"] is False
    assert re.fullmatch(r"20\d\d-.*Z", told["since"])
    assert golden_events(moody, "release") == 1, "said once, however many replacements err"
    assert '"reason": "release"' in moody.log.read_text()
    moody.wait_until(lambda: moody.client.get("/healthz").status_code == 503)  # no worker is left

    (tmp_path / "mood").unlink()
    moody.wait_until(lambda: component(moody, "golden:moody")["ok"] is True)
    assert moody.client.get("/healthz").status_code == 200


def test_a_ledger_that_nobody_uses_is_asked_by_a_real_write(state: Path, tmp_path: Path):
    env = {
        "NIGHTPROOF_HEALTH_LEDGER_WRITE_EVERY_S": "0.5",
        "FAILING_DISK": str(tmp_path),
        "PYTHONPATH": str(SHIM),
    }
    with serving("mirror", state, env=env) as served:
        entries = served.status()["ledger"]["last_seq"]
        served.wait_until(lambda: served.status()["ledger"]["last_seq"] >= entries + 2)

        (tmp_path / "fault").write_text("full")
        served.wait_until(lambda: component(served, "ledger")["ok"] is False, within_s=5)
        assert served.client.get("/readyz").status_code == 503, "known before anybody was refused"
        assert served.status()["arrivals"] == 0

        (tmp_path / "fault").unlink()
        served.wait_until(lambda: served.client.get("/readyz").status_code == 200, within_s=5)


def test_probes_answer_at_once_while_the_server_is_overloaded(state: Path):
    with serving("slow", state) as served:
        slowest_s: dict[str, float] = {}
        with Callers(served, count=60, pause_s=0.0, record=lambda number: {"x": 1.0, "ms": 20.0}) as callers:
            wait_until(lambda: callers.statuses()[503] > 100)
            for _ in range(10):
                for path in ("/livez", "/readyz", "/healthz", "/startupz"):
                    began_s = time.monotonic()
                    assert served.client.get(path).status_code == 200, path
                    slowest_s[path] = max(slowest_s.get(path, 0.0), time.monotonic() - began_s)

    assert not callers.broken
    assert max(slowest_s.values()) < 1.0, slowest_s


def test_asking_for_metrics_without_end_costs_a_bounded_share(shared_faulty: Served):
    cost = 'nightproof_watch_cost_seconds_total{part="scrape"}'
    before, began_s = value(shared_faulty, cost), time.monotonic()

    while time.monotonic() - began_s < 3.0:
        assert shared_faulty.client.get("/metrics").status_code == 200

    shared_faulty.wait_until(lambda: value(shared_faulty, cost) > before)
    assert value(shared_faulty, cost) - before < 0.1 * (time.monotonic() - began_s) + 0.4


def test_the_page_passes_the_lint_of_prometheus_whatever_has_happened(moody: Served):
    moody.predict({"x": 1.0})
    moody.predict({"x": "none"})
    moody.predict({"x": 1.0, "act": "die"})

    assert lint(moody.metrics()) == (0, "")


def lint(page: str) -> tuple[int, str]:
    """Return what Prometheus' own lint says of a page."""
    found = subprocess.run(
        ["promtool", "check", "metrics"], input=page, capture_output=True, text=True, check=False
    )
    return found.returncode, found.stdout + found.stderr


def series(served: Served) -> set[str]:
    return {line.rpartition(" ")[0] for line in served.metrics().splitlines() if not line.startswith("#")}


def test_callers_cannot_make_series(shared_faulty: Served):
    def attack(number: int) -> None:
        word = f"evil{number}x"
        shared_faulty.client.post(
            f"/services/{word}/predict", json={word: word}, headers={"x-request-id": word}
        )
        shared_faulty.predict({word: 1}, traceparent=word, tracestate=f"{word}=1", idempotency_key=word)
        shared_faulty.client.get(f"/{word}", headers={"authorization": f"Bearer {word}", "user-agent": word})
        shared_faulty.client.post(f"/v2/models/{word}/infer", json={"inputs": []})

    def of_requests() -> set[str]:
        # Workers come and go by themselves, and so do alerts, whose names are the catalogue's.
        ours = ("nightproof_process_", "nightproof_events_total", "nightproof_alert_firing")
        return {one for one in series(shared_faulty) if not one.startswith(ours)}

    attack(0)
    before = of_requests()
    for number in range(1, 60):
        attack(number)

    assert of_requests() == before
    assert not [one for one in series(shared_faulty) if "evil" in one]


WIDE = """
from pydantic import BaseModel, create_model
from nightproof import Model, Service

class Given(BaseModel):
    x: float

Answer = create_model("Answer", **{f"y{place}": (float, ...) for place in range(500)})

class Wide(Model[Given, Answer]):
    def predict(self, batch: list[Given]) -> list[Answer]:
        return [Answer(**{f"y{place}": given.x + place for place in range(500)}) for given in batch]

service = Service("wide", model=Wide, deadline_ms=2_000, workers=(1, 1), spares=0)
"""


def test_five_hundred_outputs_are_served_and_watched_within_bounds(tmp_path: Path):
    folder = tmp_path / "wide"
    folder.mkdir()
    (folder / "service.py").write_text(WIDE)
    with serving(folder, tmp_path / "state") as served:
        assert [served.predict({"x": 1.0}).status_code for _ in range(20)] == [200] * 20

        def is_counted() -> bool:
            return value(served, 'nightproof_output_number_bucket{field="y0",le="+Inf"') == 20

        served.wait_until(is_counted)
        page = served.metrics()
        assert len(set(re.findall(r'nightproof_output_number_bucket\{field="(y\d+)"', page))) == 64
        assert page.count("nightproof_output_number_bucket") == 64 * 22
        assert lint(page) == (0, "")
        assert value(served, "nightproof_output_fields_unwatched") == 436
        assert value(served, 'nightproof_watch_cost_seconds_total{part="outputs"}') < 0.2


def test_each_process_is_there_with_cpu_memory_and_files(shared_faulty: Served):
    shared_faulty.wait_until(lambda: value(shared_faulty, 'nightproof_process_open_fds{process="worker"') > 0)

    page = shared_faulty.metrics()
    pids = shared_faulty.status()["services"][0]["pids"]
    for name in ("resident_memory_bytes", "cpu_seconds_total", "open_fds"):
        found = re.findall(
            rf'nightproof_process_{name}\{{process="(\w+)",service="(\w*)",worker="(\d*)"\}}', page
        )
        assert ("server", "", "") in found
        assert {place for process, _, place in found if process == "worker"} == {
            str(place) for place in range(1, len(pids) + 1)
        }
    assert os.path.exists(f"/proc/{pids[0]}")
