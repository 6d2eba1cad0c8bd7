"""The drift watch in a running server: silent on what it knows, right about what moved, across restarts and deaths."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from tests.loans import CREDIT, light_credit
from tests.releases import folder_of, release_of
from tests.serving import Served, run_nightproof, serving, wait_until

QUICK = ("--set", "drift.window_s=0.2", "--set", "drift.rows_per_s=4000")
Change = Callable[[dict[str, Any]], dict[str, Any]]
LONE = """
from pydantic import BaseModel

from nightproof import Model, Service


class Given(BaseModel):
    amount: float
    kind: str


class Answer(BaseModel):
    large: bool


class Plain(Model[Given, Answer]):
    def predict(self, batch: list[Given]) -> list[Answer]:
        return [Answer(large=given.amount > 1) for given in batch]


service = Service("lone", model=Plain)
"""


@pytest.fixture(scope="module")
def loans() -> list[dict[str, Any]]:
    return list(parquet.read_table(CREDIT / "reference.parquet").to_pylist())


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the example with another model: here it does not matter what is answered."""
    return light_credit(tmp_path_factory.mktemp("light"))


@contextmanager
def credit(state: Path, *flags: str, folder: Path = CREDIT) -> Iterator[Served]:
    """Serve the example, or one like it, with short windows, once its profile is ready."""
    with serving(folder, state, *QUICK, *flags, service="credit") as served:
        served.wait_until(lambda: drift_of(served)["state"] not in ("preparing", "unknown"), within_s=60)
        yield served


def firing(served: Served) -> set[str]:
    """Return the failures whose alerts fire."""
    told = served.operate("GET", "/admin/alerts").json()["alerts"]
    return {one["failure"] for one in told if one["state"] == "firing"}


def drift_of(served: Served) -> dict[str, Any]:
    answer = served.operate("GET", f"/admin/drift/{served.service}")
    return dict(answer.json()) if answer.status_code == 200 else {"state": "unknown"}


def send(
    served: Served, rows: list[dict[str, Any]], count: int, change: Change = dict, seed: int = 1
) -> None:
    """Ask for predictions of rows drawn at random, fifty at once, and wait until the watch has them.

    It takes a sample where rows come faster than it looks, so more are sent until it has half of the count.
    """
    chance = random.Random(seed)
    before = drift_of(served)["rows"]

    def ask() -> None:
        answer = served.predict([change(dict(chance.choice(rows))) for _ in range(50)])
        assert answer.status_code == 200, answer.text

    def has_them() -> bool:
        if drift_of(served)["rows"] >= before + count // 2 // 500 * 500:
            return True
        ask()
        return False

    for _ in range(count // 50):
        ask()
    if drift_of(served)["state"] != "learning":
        served.wait_until(has_them, within_s=40)


def tripled(row: dict[str, Any]) -> dict[str, Any]:
    """Write one field in another currency."""
    return {**row, "credit-amount": min(1_000_000, row["credit-amount"] * 3)}


def test_the_example_is_silent_on_its_own_data_and_names_the_field_that_moves(
    tmp_path: Path, loans: list[dict[str, Any]]
):
    """Feed the unshifted rows, then the shifted ones: nothing, then the right feature and no other."""
    with credit(tmp_path / "state", "--set", "alerts.scale=0.01") as served:
        send(served, loans, 4_000)
        quiet = drift_of(served)
        status = run_nightproof("drift", "credit", "--state", str(served.state))
        send(served, loans, 2_500, tripled, seed=2)
        # The window in which the rows changed may show what follows before it shows the field itself.
        served.wait_until(lambda: "/credit-amount" in drift_of(served).get("features", []), within_s=40)
        moved = drift_of(served)
        shown = run_nightproof("drift", "credit", "--examples", "--state", str(served.state))
        served.wait_until(lambda: "drift_detected" in firing(served))
        metrics = served.metrics()
        components = {one["name"]: one for one in served.status()["components"]}
        overview = run_nightproof("status", "--state", str(served.state))

    assert quiet["state"] == "quiet"
    assert quiet["alarms"] == 0
    assert quiet["reference"]["origin"] == "reference"
    assert quiet["reference"]["answered_rows"] > 900
    assert status.returncode == 0
    assert moved["features"][0] == "/credit-amount"
    # What follows from the amount moves with it: what the model answers, and what its checks flag.
    assert all(one.startswith(("/credit-amount", "output", "check")) for one in moved["features"])
    assert moved["since"] > quiet["window_ended"]
    assert not moved["estimate_valid"]
    assert shown.returncode == 1
    assert "/credit-amount" in shown.stdout
    assert "savings-account" in shown.stdout, "an example is shown"
    assert 'nightproof_drift_detected{service="credit"} 1.0' in metrics
    assert 'nightproof_drift_effect{feature="/credit-amount",service="credit"} 0.' in metrics
    assert "drift of credit since" in overview.stdout
    assert 'nightproof_condition{failure="drift_detected",service="credit"} 1.0' in metrics
    assert not components["drift:credit"]["ok"]
    assert components["drift:credit"]["why"].endswith("features moved; `nightproof drift credit` says which")


def test_a_promotion_and_a_rollback_are_followed(state: Path):
    release_of(state, "1.0", live=True)
    release_of(state, "1.1")
    with serving(folder_of(state, "1.0"), state, *QUICK, service="steps") as served:
        served.wait_until(lambda: drift_of(served).get("release") == "1.0")
        served.operate("POST", "/admin/releases/steps/promote", {"version": "1.1"})
        served.wait_until(lambda: drift_of(served).get("release") == "1.1")
        served.wait_until(lambda: drift_of(served)["state"] == "learning")
        rows = [{"x": float(place), "group": "a"} for place in range(50)]
        served.wait_until(lambda: served.predict(rows).status_code == 200 and drift_of(served)["rows"] > 0)
        served.operate("POST", "/admin/releases/steps/rollback", {"reason": "to see"})
        served.wait_until(lambda: drift_of(served).get("release") == "1.0")
        after = drift_of(served)

    assert after["rows"] == 0, "what the other release was given is not its own"


def test_what_is_kept_is_sealed_and_looking_at_it_is_recorded(
    tmp_path: Path, light: Path, loans: list[dict[str, Any]]
):
    with credit(tmp_path / "state", folder=light) as served:
        send(served, loans, 3_000, tripled)
        served.wait_until(lambda: drift_of(served)["state"] == "drifting", within_s=40)
        wait_until(lambda: bool(drift_of(served)["history"]))
        looked = served.operate("GET", "/admin/drift/credit/examples").json()
        found = run_nightproof("audit", "search", "--json", "--limit", "500", "--state", str(served.state))
    kept = b"".join(path.read_bytes() for path in served.state.iterdir() if path.name.startswith("drift.db"))

    examples = looked["history"][0]["examples"]
    assert any(one["signal"] == "/credit-amount" for one in examples)
    assert len(kept) > 10_000
    assert b"radio/television" not in kept
    assert b"savings" not in kept
    assert '"drift.examples"' in found.stdout
    assert '"kind":"drift"' in found.stdout.replace(" ", "")
    assert '"kind":"profile"' in found.stdout.replace(" ", "")


def test_a_restart_in_the_middle_of_a_drift_loses_neither_profile_nor_alarm(
    tmp_path: Path, light: Path, loans: list[dict[str, Any]]
):
    with credit(tmp_path / "state", folder=light) as served:
        send(served, loans, 3_000, tripled)
        served.wait_until(lambda: drift_of(served)["state"] == "drifting", within_s=40)
        before = drift_of(served)

    with credit(tmp_path / "state", folder=light) as served:
        served.predict(loans[0])
        served.wait_until(lambda: drift_of(served)["state"] == "drifting", within_s=40)
        after = drift_of(served)
        log = served.log.read_text()

    assert after["since"] == before["since"]
    assert after["reference"]["made_us"] == before["reference"]["made_us"]
    assert after["alarms"] == before["alarms"]
    assert '"profile": "kept or made"' in log


def test_a_drift_child_that_is_killed_is_replaced_and_no_request_notices(
    tmp_path: Path, light: Path, loans: list[dict[str, Any]]
):
    with credit(tmp_path / "state", folder=light) as served:
        send(served, loans, 1_000)
        (child,) = drift_children(served)
        os.kill(child, signal.SIGKILL)
        answer = served.predict(loans[0])
        served.wait_until(lambda: bool(served.predict(loans[1]) and drift_children(served)), within_s=40)
        moved = [tripled(row) for row in loans[:50]]
        served.wait_until(
            lambda: bool(served.predict(moved)) and drift_of(served)["state"] == "drifting", within_s=40
        )

    assert answer.status_code == 200
    assert (
        'event="drift_child_gone"' in served.log.read_text() or "drift_child_gone" in served.log.read_text()
    )


def drift_children(served: Served) -> list[int]:
    """Return the server's children that watch for drift."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue
        if b"nightproof.watch.drift.child" in words and parent == served.process.pid:
            found.append(int(path.name))
    return found


def test_without_a_reference_the_profile_is_learnt_from_the_first_rows_and_says_so(tmp_path: Path):
    folder = tmp_path / "lone"
    folder.mkdir()
    (folder / "service.py").write_text(LONE)
    rows = [{"amount": place % 97 / 10 + 0.05, "kind": "abc"[place % 3]} for place in range(500)]
    flags = ("--set", "drift.learn_rows=600")
    with serving(folder, tmp_path / "state", *QUICK, *flags, service="lone") as served:
        served.wait_until(lambda: drift_of(served)["state"] == "learning")
        learning = drift_of(served)
        send(served, rows, 1_500)
        served.wait_until(lambda: bool(served.predict(rows[0]) and drift_of(served)["state"] != "learning"))
        send(served, rows, 1_500)
        served.wait_until(lambda: drift_of(served)["state"] == "quiet", within_s=40)
        learnt = drift_of(served)
        send(served, rows, 2_000, lambda row: {**row, "kind": "z"})
        served.wait_until(lambda: drift_of(served)["state"] == "drifting", within_s=40)
        moved = drift_of(served)

    assert "no reference.parquet" in learning["why"]
    assert learnt["reference"]["origin"] == "live"
    assert moved["features"][0] == "/kind"


def test_a_reference_that_makes_no_profile_stops_nothing(tmp_path: Path):
    folder = tmp_path / "lone"
    folder.mkdir()
    (folder / "service.py").write_text(LONE)
    few = arrow.table({"amount": [1.0, 2.0], "kind": ["a", "b"]})
    parquet.write_table(few, folder / "reference.parquet")
    with serving(folder, tmp_path / "state", service="lone") as served:
        served.wait_until(lambda: drift_of(served)["state"] == "learning")
        told = drift_of(served)
        answer = served.predict({"amount": 2.0, "kind": "a"})

    assert "the reference has 2 rows, fewer than" in told["why"]
    assert answer.status_code == 200


def test_a_reference_may_hold_gaps_more_columns_and_the_rows_times(tmp_path: Path):
    folder = tmp_path / "lone"
    folder.mkdir()
    (folder / "service.py").write_text(LONE)
    count = 6_000
    chance = random.Random(4)
    hours = [place * 24 * 28 / count for place in range(count)]
    parquet.write_table(
        arrow.table(
            {
                "amount": [chance.gauss(9 if hour % 24 < 8 else 1, 1) for hour in hours],
                "kind": [chance.choice("abc") for _ in hours],
                "target": [1] * count,
                "nightproof_at": arrow.array(
                    [int(1.7e9 * 1e6 + hour * 3.6e9) for hour in hours], type=arrow.timestamp("us", tz="UTC")
                ),
            }
        ),
        folder / "reference.parquet",
    )
    with serving(folder, tmp_path / "state", *QUICK, service="lone") as served:
        served.wait_until(lambda: drift_of(served)["state"] == "gathering", within_s=60)
        served.predict({"amount": 2.0, "kind": "a"})
        served.wait_until(lambda: drift_of(served)["reference"] is not None)
        told = drift_of(served)

    assert told["reference"]["seasons"] == "hours"
    assert told["reference"]["rows"] == count
    assert told["reference"]["answered_rows"] == 2_000


def test_the_watch_can_be_turned_off(tmp_path: Path):
    with serving("faulty", tmp_path / "state", "--set", "drift.watch=false") as served:
        served.predict(served.example)
        served.wait_until(lambda: drift_of(served)["state"] == "off")
        children = drift_children(served)

    assert children == []


def test_the_server_process_never_loads_what_computes():
    done = run_python(
        "import sys, nightproof.gateway.server\n"
        "print([name for name in ('numpy', 'pandas', 'pyarrow', 'scipy') if name in sys.modules])"
    )

    assert done == "[]"


def run_python(code: str) -> str:
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


def test_drift_of_all_services_is_listed_as_json(tmp_path: Path):
    with serving("faulty", tmp_path / "state") as served:
        served.wait_until(lambda: drift_of(served)["state"] == "learning")
        listed = run_nightproof("drift", "--json", "--state", str(served.state))
        unknown = run_nightproof("drift", "nobody", "--state", str(served.state))

    (told,) = json.loads(listed.stdout)
    assert told["service"] == served.service
    assert told["promise"] == "at most one false alarm in 30 days"
    assert unknown.returncode == 1
    assert "is not served here" in unknown.stderr
