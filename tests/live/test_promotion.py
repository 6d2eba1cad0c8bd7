"""Promotions that go wrong: bad releases, two operators, full disks, kills; what is live stays live."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nightproof.drills.stage import SHIM
from nightproof.storage.registry_store import RegistryStore
from tests.callers import entries_of, is_alive, leaf_of
from tests.releases import Load, folder_of, operate, release_of, release_slower_than_promised, until
from tests.serving import Served, make_key, serving, wait_until

ADMIN = "/admin/releases/steps"
QUICK = {
    "step_least_s": "1",
    "step_least_requests": "40",
    "rare_margin": "0.08",
    "shape_margin": "0.25",
    "canary_steps": "20,50",
}


def flags(**more: str) -> list[str]:
    """Return the settings of a canary that is over in seconds."""
    return [
        part for name, value in {**QUICK, **more}.items() for part in ("--set", f"promotion.{name}={value}")
    ]


def history(served: Served) -> Any:
    """Return the service's history."""
    return served.operate("GET", f"{ADMIN}/history").json()


def promote(served: Served, version: str, **more: Any) -> Any:
    """Promote a release."""
    return served.operate("POST", f"{ADMIN}/promote", {"version": version, **more})


def parts(served: Served) -> dict[str, str]:
    """Return who plays which part."""
    return {one["part"]: one["version"] for one in served.status()["services"][0]["parts"]}


def start_pids(served: Served) -> set[int]:
    """Return the server's workers, whatever release they are of."""
    pid = served.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(one) for one in children if b"workers.child" in Path(f"/proc/{one}/cmdline").read_bytes()}


@pytest.mark.parametrize(
    ("told", "metric"),
    [
        ({"slow_ms": 60}, "slower"),
        ({"confidence": 0.6}, "less sure"),
        ({"broken_group": "b"}, "errors"),
        ({"approve_below": 0.0}, "other outputs (approve)"),
    ],
    ids=[
        "only slower",
        "only less confident",
        "only wrong for one group of callers",
        "always the same answer",
    ],
)
def test_a_canary_that_is_worse_in_one_way_is_taken_back_for_that(
    state: Path, told: dict[str, Any], metric: str
):
    """Each loads, passes its golden cases, and answers most requests rightly."""
    release_of(state, "1.0", live=True)
    release_of(state, "1.1", by="1.0", **told)

    async def story(served: Served) -> Load:
        load = Load(
            served, 120, record=lambda number: {"x": float(number % 100), "group": "abcde"[number % 5]}
        )
        async with load.running():
            begun = await operate(
                served, "POST", f"{ADMIN}/promote", {"version": "1.1", "way": "canary", "share": 0.3}
            )
            assert begun.status_code == 200, begun.text
            await until(lambda: "canary" not in parts(served), within_s=60)
        return load

    with serving(folder_of(state, "1.0"), state, *flags(), service="steps") as served:
        load = asyncio.run(story(served))
        told_after = history(served)
        live = parts(served)["live"]
        again = promote(served, "1.1", way="canary")

    last = told_after["acts"][0]
    print(f"{last['why']} after {sum(load.statuses.values())} requests")
    assert (last["act"], last["version"], last["who"]) == ("canary_worse", "1.1", "nightproof")
    assert metric in last["why"]
    assert live == "1.0"
    assert again.status_code == 409, "it is latched"
    assert load.broken == []


def test_a_canary_without_traffic_waits_and_is_taken_back_undecided(state: Path):
    release_of(state, "1.0", live=True)
    release_of(state, "1.1")

    with serving(folder_of(state, "1.0"), state, *flags(step_most_s="2"), service="steps") as served:
        promote(served, "1.1", way="canary")
        at_first = parts(served)
        served.wait_until(lambda: "canary" not in parts(served), within_s=10)
        told = history(served)
        again = promote(served, "1.1", way="canary")

    assert at_first == {"live": "1.0", "canary": "1.1"}
    assert (told["acts"][0]["act"], told["acts"][0]["version"]) == ("canary_undecided", "1.1")
    assert told["releases"][0]["latched"] == "", "nothing bad is known of it"
    assert again.status_code == 200


@pytest.mark.parametrize("exits", [False, True], ids=["golden cases fail", "load exits"])
def test_a_release_that_does_not_load_changes_nothing(state: Path, tmp_path: Path, exits: bool):
    """It was good when it was released, and is not when it is promoted."""
    spoiled = tmp_path / "spoiled"
    release_of(state, "1.0", live=True)
    release_of(state, "1.1", spoiled_by=str(spoiled), exits=exits)
    spoiled.touch()

    with serving(folder_of(state, "1.0"), state, service="steps") as served:
        children = start_pids(served)
        refused = promote(served, "1.1")
        served.wait_until(lambda: start_pids(served) == children)
        told_after, live, answer = history(served), parts(served), served.predict({"x": 1})

    assert (refused.status_code, refused.json()["failure"]) == (422, "promotion_refused")
    assert "does not load" in refused.json()["detail"]
    assert told_after["acts"][0]["act"] == "registered"
    assert live == {"live": "1.0"}
    assert answer.status_code == 200


def test_a_bundle_that_was_changed_is_not_promoted(state: Path):
    release_of(state, "1.0", live=True)
    digest = release_of(state, "1.1")

    with serving(folder_of(state, "1.0"), state, service="steps") as served:
        path = state / "bundles" / digest / "artifacts" / "release.json"
        path.chmod(0o600)
        path.write_text(path.read_text().replace("1.1", "1.7"))
        refused = promote(served, "1.1")

    assert (refused.status_code, refused.json()["failure"]) == (422, "promotion_refused")
    assert "was changed" in refused.json()["detail"]


def test_of_two_operators_at_once_one_is_first_and_the_other_is_told_so(state: Path):
    release_of(state, "1.0", live=True)
    for label in ("1.1", "1.2"):
        release_of(state, label, load_s=0.5)

    with serving(folder_of(state, "1.0"), state, service="steps") as served, ThreadPoolExecutor(2) as two:
        told = list(two.map(lambda label: promote(served, label), ("1.1", "1.2")))
        winner = next(one.json()["version"] for one in told if one.status_code == 200)
        acts, live = history(served)["acts"], parts(served)

    assert sorted(one.status_code for one in told) == [200, 409]
    assert "is promoting" in next(one for one in told if one.status_code == 409).json()["detail"]
    assert [act["version"] for act in acts if act["act"] == "live"] == [winner, "1.0"]
    assert live == {"live": winner, "standby": "1.0"}


def test_a_rollback_does_not_wait_for_a_promotion_that_loads(state: Path):
    """The promotion was decided on what is no longer so: it is refused, and its workers end."""
    release_of(state, "1.0", live=True)
    release_of(state, "1.1")
    release_of(state, "1.2", load_s=2.0)

    with serving(folder_of(state, "1.0"), state, service="steps") as served, ThreadPoolExecutor(1) as other:
        assert promote(served, "1.1").status_code == 200
        children = start_pids(served)
        promoting = other.submit(promote, served, "1.2")
        served.wait_until(lambda: start_pids(served) > children)
        back = served.operate("POST", f"{ADMIN}/rollback", {"reason": "now"})
        refused = promoting.result()
        live = parts(served)

    assert back.status_code == 200, back.text
    assert back.json()["took_ms"] < 1_000
    assert (refused.status_code, refused.json()["failure"]) == (409, "promotion_refused")
    assert "was changed meanwhile: rollback 1.0 by local" in refused.json()["detail"]
    assert live["live"] == "1.0"


def test_two_rollbacks_lead_two_releases_back_and_never_forward_again(state: Path):
    release_of(state, "1.0", live=True)
    release_of(state, "1.1")
    release_of(state, "1.2")

    with serving(folder_of(state, "1.0"), state, service="steps") as served:
        for label in ("1.1", "1.2"):
            assert promote(served, label).status_code == 200
        told = [served.operate("POST", f"{ADMIN}/rollback", {}) for _ in range(3)]

    assert [one.status_code for one in told] == [200, 200, 409]
    assert [one.json()["version"] for one in told[:2]] == ["1.1", "1.0"]
    assert "no release to go back to" in told[2].json()["detail"]


def test_a_full_disk_under_the_registry_leaves_the_old_release_live(state: Path, tmp_path: Path):
    release_of(state, "1.0", live=True)
    release_of(state, "1.1")
    env = {
        "PYTHONPATH": f"{SHIM}:{os.environ.get('PYTHONPATH', '')}",
        "FAILING_DISK": str(tmp_path),
        "FAILING_FILE": "registry.db",
    }

    with serving(folder_of(state, "1.0"), state, service="steps", env=env) as served:
        (tmp_path / "fault").write_text("full")
        full = promote(served, "1.1")
        meanwhile, answer = parts(served), served.predict({"x": 1})
        (tmp_path / "fault").unlink()
        later = promote(served, "1.1")

    assert (full.status_code, full.json()["failure"]) == (503, "audit_unavailable")
    assert full.json()["detail"].startswith("Nothing was changed")
    assert meanwhile == {"live": "1.0"}
    assert answer.json()["release"] == "1.0"
    assert later.status_code == 200, "and it recovers"


def test_a_rollback_that_is_refused_ends_the_workers_that_it_had_loaded(state: Path, tmp_path: Path):
    for label in ("1.0", "1.1", "1.2"):
        release_of(state, label, live=label == "1.0")
    env = {
        "PYTHONPATH": f"{SHIM}:{os.environ.get('PYTHONPATH', '')}",
        "FAILING_DISK": str(tmp_path),
        "FAILING_FILE": "registry.db",
    }

    with serving(folder_of(state, "1.0"), state, service="steps", env=env) as served:
        for label in ("1.1", "1.2"):
            assert promote(served, label).status_code == 200
        served.wait_until(lambda: len(start_pids(served)) == 2)
        before = start_pids(served)
        (tmp_path / "fault").write_text("full")
        refused = served.operate("POST", f"{ADMIN}/rollback", {"version": "1.0"})
        served.wait_until(lambda: start_pids(served) == before, within_s=10)
        (tmp_path / "fault").unlink()
        again = served.operate("POST", f"{ADMIN}/rollback", {"version": "1.0"})

    assert (refused.status_code, refused.json()["failure"]) == (503, "audit_unavailable")
    assert again.status_code == 200


def test_a_canary_goes_on_after_the_server_was_killed(state: Path):
    release_of(state, "1.0", live=True)
    release_of(state, "1.1")

    with serving(folder_of(state, "1.0"), state, *flags(), service="steps") as served:
        assert promote(served, "1.1", way="canary", share=0.5, reason="half").status_code == 200
        workers = start_pids(served)
        served.stop(signal.SIGKILL)
        wait_until(lambda: not any(is_alive(pid) for pid in workers))
    with serving(folder_of(state, "1.0"), state, *flags(), service="steps") as served:
        served.wait_until(lambda: parts(served) == {"live": "1.0", "canary": "1.1"})
        by = {served.predict({"x": number}).json()["release"] for number in range(40)}
        (canary,) = [one for one in served.status()["services"][0]["parts"] if one["part"] == "canary"]

    assert by == {"1.0", "1.1"}
    assert canary["share"] == 0.5


def test_a_release_that_is_as_slow_as_the_one_before_is_not_taken_back_for_it(state: Path):
    """The objective was broken before: to go back would mend nothing, and latch a release that is no worse."""
    for label, is_live in (("1.0", True), ("1.1", False)):
        release_slower_than_promised(state, label, live=is_live)

    with serving(folder_of(state, "1.0"), state, service="steps") as served:
        for number in range(60):
            served.predict({"x": number})
        assert promote(served, "1.1").status_code == 200
        for number in range(60):
            served.predict({"x": number})
        looked = served.metrics()
        acts = [act["act"] for act in history(served)["acts"]]

    assert "release_rolled_back" not in looked
    assert acts[0] == "live"


def test_a_fresh_release_stays_on_probation_over_a_restart(state: Path):
    release_of(state, "1.0", live=True)
    release_of(state, "1.1", broken_share=0.5)

    with serving(folder_of(state, "1.0"), state, service="steps") as served:
        assert promote(served, "1.1").status_code == 200
        served.stop()
    with serving(folder_of(state, "1.0"), state, service="steps") as served:
        served.wait_until(lambda: "standby" in parts(served))
        deadline_s = time.monotonic() + 20
        while parts(served)["live"] == "1.1" and time.monotonic() < deadline_s:
            served.predict({"x": 1})
        acts = history(served)["acts"]

    assert (acts[0]["act"], acts[0]["version"], acts[0]["before"]) == ("rolled_back", "1.0", "1.1")


def test_a_bad_release_with_nothing_behind_it_stays_and_says_so(state: Path):
    """The bundle of the release before was damaged: there is no way back, and that pages."""
    digest = release_of(state, "1.0", live=True)
    release_of(state, "1.1", broken_share=0.5)

    with serving(folder_of(state, "1.0"), state, service="steps") as served:
        assert promote(served, "1.1").status_code == 200
        served.stop(signal.SIGKILL)
    damaged = state / "bundles" / digest / "artifacts" / "release.json"
    damaged.chmod(0o600)
    damaged.write_text("{}")
    with serving(folder_of(state, "1.1"), state, service="steps") as served:

        def is_told() -> bool:
            served.predict({"x": 1})
            return 'event="no_way_back"' in served.metrics()

        served.wait_until(is_told, within_s=30)
        live, acts = parts(served), history(served)["acts"]
        log = served.log.read_text()

    assert live == {"live": "1.1"}
    assert acts[0]["act"] == "live"
    assert "1.0 does not load" in log


def test_a_held_release_says_why_it_is_kept(state: Path):
    release_of(state, "1.0", live=True)

    with serving(folder_of(state, "1.0"), state, service="steps") as served:
        held = served.operate("POST", f"{ADMIN}/hold", {"version": "1.0", "reason": "known good"})
        shown = history(served)
        let_go = served.operate("POST", f"{ADMIN}/hold", {"version": "1.0"})

    assert (held.status_code, held.json()["held"]) == (200, "known good")
    assert shown["acts"][0]["act"] == "held"
    assert let_go.json()["held"] == ""


@pytest.mark.parametrize(
    ("role", "status"), [("predict", 403), ("audit", 403), ("operate", 200), ("admin", 200)]
)
def test_who_may_promote(state: Path, role: str, status: int):
    release_of(state, "1.0", live=True)
    release_of(state, "1.1")

    with serving(folder_of(state, "1.0"), state, service="steps") as served:
        key = {"authorization": f"Bearer {make_key(state, role)}"}
        told = served.client.post(f"{ADMIN}/promote", json={"version": "1.1"}, headers=key)
        acts = history(served)["acts"]
        without = served.client.post(
            f"{ADMIN}/promote", json={"version": "1.1"}, headers={"authorization": ""}
        )

    assert told.status_code == status
    assert without.status_code == 401
    assert (acts[0]["act"] == "live" and acts[0]["version"] == "1.1") == (status == 200)
    if status == 200:
        assert acts[0]["who"] not in ("", "local"), "the key's id"


def test_a_setting_that_names_no_metric_stops_the_start(state: Path):
    release_of(state, "1.0", live=True)

    with serving(
        folder_of(state, "1.0"),
        state,
        "--set",
        "promotion.canary_metrics=errors,latencies",
        service="steps",
        wait=False,
    ) as served:
        code = served.process.wait(30)
        told = served.log.read_text()

    assert code != 0
    assert "Nothing is measured under the name 'latencies'" in told


def test_what_was_made_elsewhere_can_be_promoted_by_a_running_server(state: Path):
    """The registry is a file: another process registers, the server looks when it is asked."""
    release_of(state, "1.0", live=True)

    with serving(folder_of(state, "1.0"), state, service="steps") as served:
        release_of(state, "2.0")
        told = promote(served, "2.0")
        answer = served.predict({"x": 1}).json()
    registry = RegistryStore(state / "registry.db")
    live = registry.live("steps")
    registry.close()

    assert told.status_code == 200
    assert answer["release"] == "2.0"
    assert live is not None
    assert live.label == "2.0"


def test_a_rollback_to_a_version_ends_the_canary_that_was_compared_with_live(state: Path):
    release_of(state, "1.0", live=True)
    release_of(state, "1.1")
    release_of(state, "1.2")

    with serving(folder_of(state, "1.0"), state, *flags(), service="steps") as served:
        assert promote(served, "1.1").status_code == 200
        assert promote(served, "1.2", way="canary").status_code == 200
        back = served.operate("POST", f"{ADMIN}/rollback", {"version": "1.0", "reason": "all of it"})
        acts, live = history(served)["acts"], parts(served)

    assert back.status_code == 200, back.text
    assert [(act["act"], act["version"]) for act in acts[:2]] == [("rollback", "1.0"), ("withdrawn", "1.2")]
    assert "canary" not in live
    assert live["live"] == "1.0"


def test_an_oip_version_reaches_live_and_canary_and_no_other(state: Path):
    release_of(state, "1.0", live=True)
    release_of(state, "1.1")
    body = {
        "inputs": [
            {"name": "x", "shape": [1], "datatype": "FP64", "data": [3.0]},
            {"name": "group", "shape": [1], "datatype": "BYTES", "data": ["a"]},
        ]
    }

    with serving(folder_of(state, "1.0"), state, *flags(), service="steps") as served:
        assert promote(served, "1.1", way="canary", share=0.5).status_code == 200

        def by(path: str) -> tuple[int, str]:
            told = served.client.post(f"/v2/models/steps{path}/infer", json=body)
            return told.status_code, str(told.json().get("model_version", ""))

        named = {version: by(f"/versions/{version}") for version in ("1.0", "1.1", "0.9")}
        unnamed = {by("") for _ in range(40)}
        shown = [
            served.client.get(f"/v2/models/steps/versions/{one}").status_code for one in ("1.0", "1.1", "0.9")
        ]

    assert named == {"1.0": (200, "1.0"), "1.1": (200, "1.1"), "0.9": (404, "")}
    assert unnamed == {(200, "1.0"), (200, "1.1")}
    assert shown == [200, 200, 404]


def test_an_idempotency_key_gets_the_first_answer_whatever_was_promoted_meanwhile(state: Path):
    release_of(state, "1.0", live=True)
    release_of(state, "1.1")

    with serving(folder_of(state, "1.0"), state, service="steps") as served:
        first = served.predict({"x": 5}, idempotency_key="k-1")
        assert promote(served, "1.1").status_code == 200
        again, other = served.predict({"x": 5}, idempotency_key="k-1"), served.predict({"x": 5})

    assert first.json()["release"] == again.json()["release"] == "1.0"
    assert again.headers["idempotent-replayed"] == "true"
    assert other.json()["release"] == "1.1"


GOLDEN = ("--set", "workers.golden_every_s=0.5", "--set", "alerts.scale=0.05", "--set", "alerts.every_s=0.2")


def firing(served: Served) -> dict[str, dict[str, Any]]:
    """Return the alerts that fire, by failure."""
    told = served.operate("GET", "/admin/alerts").json()["alerts"]
    return {one["failure"]: one for one in told if one["state"] == "firing"}


def not_well(served: Served) -> set[str]:
    """Return the components that are not."""
    return {one["name"] for one in served.operate("GET", "/healthz").json()["components"] if not one["ok"]}


def test_a_release_whose_workers_all_answer_golden_cases_wrongly_is_rolled_back_at_any_age(
    state: Path, tmp_path: Path
):
    """It was good when it went live, nobody calls it, and its probation is over."""
    turned = tmp_path / "turned"
    release_of(state, "1.0", live=True)
    release_of(state, "1.1", turned_by=str(turned))

    with serving(folder_of(state, "1.0"), state, *flags(probation_s="0"), *GOLDEN, service="steps") as served:
        promote(served, "1.1")
        before = parts(served)["live"]
        turned.touch()
        served.wait_until(lambda: parts(served)["live"] == "1.0", within_s=30)
        answer = served.predict({"x": 1}).json()
        served.wait_until(lambda: "release_rolled_back" in firing(served), within_s=15)
        alert, told, again = firing(served)["release_rolled_back"], history(served), promote(served, "1.1")
        served.wait_until(lambda: "golden_case_failed" not in firing(served), within_s=15)
    recorded = [leaf_of(one) for one in entries_of(state) if one.kind == "release"]

    last = told["acts"][0]
    assert before == "1.1"
    assert (last["act"], last["version"], last["who"]) == ("rolled_back", "1.0", "nightproof")
    assert last["why"].startswith("every worker answers a golden case wrongly: golden.jsonl line 1")
    assert (answer["release"], answer["output"]["by"]) == ("1.0", "1.0")
    assert (alert["severity"], alert["service"]) == ("page", "steps")
    assert alert["why"] == f"1.1 was rolled back to 1.0: {last['why']}", "what was done, and why"
    assert again.status_code == 409, "it is latched"
    assert [one["why"] for one in recorded if one["act"] == "rolled_back"] == [last["why"]]


def test_where_the_release_before_answers_as_wrongly_nothing_is_changed_and_somebody_is_told(
    state: Path, tmp_path: Path
):
    """What turned is around both: going back would help nobody, and once it is well again the alert is over."""
    turned, turned_before = tmp_path / "turned", tmp_path / "turned_before"
    release_of(state, "1.0", live=True, turned_by=str(turned_before))
    release_of(state, "1.1", turned_by=str(turned))

    with serving(folder_of(state, "1.0"), state, *flags(), *GOLDEN, service="steps") as served:
        promote(served, "1.1")
        turned_before.touch()  # first, so that the standby's golden cases are asked before anybody goes back to it
        served.wait_until(lambda: "standby:steps" in not_well(served), within_s=40)
        turned.touch()
        served.wait_until(lambda: "no_way_back" in firing(served), within_s=40)
        alert, live = firing(served)["no_way_back"], parts(served)["live"]
        turned.unlink()
        turned_before.unlink()
        served.wait_until(lambda: "no_way_back" not in firing(served), within_s=40)
        told, answer = history(served), served.predict({"x": 1})

    assert alert["severity"] == "page"
    assert alert["why"].startswith("1.1: every worker answers a golden case wrongly: golden.jsonl line 1")
    assert "; 1.0: " in alert["why"]
    assert live == "1.1"
    assert told["acts"][0]["act"] == "live"
    assert told["releases"][0]["latched"] == ""
    assert answer.status_code == 200


def test_a_canary_whose_workers_all_answer_golden_cases_wrongly_is_taken_back(state: Path, tmp_path: Path):
    turned = tmp_path / "turned"
    release_of(state, "1.0", live=True)
    release_of(state, "1.1", turned_by=str(turned))

    with serving(folder_of(state, "1.0"), state, *flags(), *GOLDEN, service="steps") as served:
        promote(served, "1.1", way="canary")
        turned.touch()
        served.wait_until(lambda: "canary" not in parts(served), within_s=30)
        told = history(served)
        served.wait_until(lambda: "canary_worse" in firing(served), within_s=15)
        alert = firing(served)["canary_worse"]
        served.stop()
    turned.unlink()
    with serving(folder_of(state, "1.0"), state, *GOLDEN, service="steps") as served:
        kept = firing(served)["canary_worse"]
        promote(served, "1.1", again=True, reason="mended")
        served.wait_until(lambda: "canary_worse" not in firing(served), within_s=15)

    assert (told["acts"][0]["act"], told["acts"][0]["version"]) == ("canary_worse", "1.1")
    assert (alert["severity"], alert["service"]) == ("ticket", "steps")
    assert alert["why"].startswith(
        "1.1 was taken back; 1.0 is live: every worker answers a golden case wrongly"
    )
    assert (kept["id"], kept["why"]) == (alert["id"], alert["why"]), "a restart is no end of it"


def test_the_files_of_a_release_that_loads_are_not_collected_under_it(state: Path):
    release_of(state, "1.0", live=True)
    digest = release_of(state, "1.1", load_s=2.0)
    few = ["--set", "releases.keep_newest=1", "--set", "releases.keep_days=0"]
    release_of(state, "1.2")

    with (
        serving(folder_of(state, "1.0"), state, *few, service="steps") as served,
        ThreadPoolExecutor(1) as other,
    ):
        children = start_pids(served)
        promoting = other.submit(promote, served, "1.1")
        served.wait_until(lambda: start_pids(served) > children)
        collected = served.operate("POST", "/admin/releases/collect", {})
        promoted = promoting.result()
        there = (state / "bundles" / digest).is_dir()

    assert collected.status_code == promoted.status_code == 200
    assert there


def test_a_disk_that_stands_still_under_the_registry_holds_up_no_request(state: Path, tmp_path: Path):
    release_of(state, "1.0", live=True)
    release_of(state, "1.1")
    env = {
        "PYTHONPATH": f"{SHIM}:{os.environ.get('PYTHONPATH', '')}",
        "FAILING_DISK": str(tmp_path),
        "FAILING_FILE": "registry.db",
    }

    with (
        serving(folder_of(state, "1.0"), state, service="steps", env=env) as served,
        ThreadPoolExecutor(1) as other,
    ):
        (tmp_path / "fault").write_text("stall")
        promoting = other.submit(promote, served, "1.1")
        served.wait_until(lambda: "promote" in leaf_acts(state))
        until_s = time.monotonic() + 4.0  # the tick looks at the registry each other second
        slowest_s = 0.0
        while time.monotonic() < until_s:
            began_s = time.monotonic()
            assert served.predict({"x": 1}).json()["release"] == "1.0"
            slowest_s = max(slowest_s, time.monotonic() - began_s)
        shown = served.status()["services"][0]["parts"]
        (tmp_path / "fault").unlink()
        promoted = promoting.result()

    assert slowest_s < 1.0
    assert {one["version"]: one["part"] for one in shown}["1.0"] == "live"
    assert promoted.status_code == 200


def leaf_acts(state: Path) -> list[Any]:
    """Return the operators' acts on record."""
    return [leaf_of(entry).get("act") for entry in entries_of(state) if entry.kind == "operator"]
