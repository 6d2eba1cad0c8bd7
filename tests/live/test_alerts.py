"""Alerts on real servers with real receivers: in time, once, through kills and restarts; and what operators do."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks.webhooks import Webhook as Verifying

from tests.receivers import Hook, alertmanager, hook, prometheus
from tests.serving import Served, free_port, run_nightproof, serving, wait_until

SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
QUICK = (
    "--set", "alerts.scale=0.05", "--set", "alerts.every_s=0.2", "--set", "notify.backoff_first_s=0.1",
    "--set", "notify.backoff_most_s=0.5", "--set", "workers.restarts=100", "--set", "alerts.instance=here",
)  # fmt: skip
TIMED_OUT = "NightproofModelTimeout"


def told_of(url: str, name: str = "") -> list[dict[str, Any]]:
    """Return what an Alertmanager holds as active."""
    found = httpx.get(f"{url}/api/v2/alerts", params={"active": "true"}, timeout=5).json()
    return [one for one in found if name in ("", one["labels"]["alertname"])]


def to(one: Hook) -> tuple[str, ...]:
    """Return the flags that make a hook a receiver."""
    return ("--set", f"notify.webhook={one.url}", "--set", f"notify.webhook_secret={SECRET}")


def hang(served: Served, times: int = 3) -> None:
    """Have the model hang, until it was told so many times; a busy machine may be late with its workers."""
    told = 0
    while told < times:
        wait_until(lambda: served.client.get("/readyz").status_code == 200, within_s=30)
        failure = served.predict({"x": 1, "act": "hang"}).json()["failure"]
        assert failure in ("model_timeout", "model_unavailable")
        told += failure == "model_timeout"


def works_again(served: Served) -> bool:
    """Have the model answer: without good requests an alert is not known to be over."""
    return served.predict({"x": 1}).status_code == 200


def alerts_of(served: Served) -> dict[str, Any]:
    """Return what `nightproof alerts --json` shows."""
    return dict(served.operate("GET", "/admin/alerts").json())


def states(served: Served) -> dict[str, str]:
    """Return the state of each alert by name."""
    return {one["alertname"]: one["state"] for one in reversed(alerts_of(served)["alerts"])}


@contextmanager
def moody(folder: Path, *flags: str) -> Iterator[tuple[Served, Path]]:
    """Serve the moody service; the path is its mood's."""
    place = folder / "tmp"
    place.mkdir()
    with serving("moody", folder / "state", *flags, env={"TMPDIR": str(place)}) as served:
        yield served, place / "mood"


def test_a_dead_model_is_in_a_real_alertmanager_within_ten_seconds_and_resolved_when_it_is_mended(
    tmp_path: Path,
):
    with ExitStack() as stack:
        pager = stack.enter_context(hook())
        manager = stack.enter_context(alertmanager(tmp_path / "am", pager.url))
        served, mood = stack.enter_context(moody(tmp_path, "--set", f"alertmanager={manager}"))
        rules = run_nightproof("alerts", "rules", "--scale", "0.02", "--state", str(served.state))
        assert rules.returncode == 0, rules.stderr
        watching = stack.enter_context(prometheus(tmp_path / "prom", served.host, rules.stdout, manager))
        name = "NightproofModelUnavailable"

        def mine() -> list[dict[str, Any]]:
            return [
                one for one in told_of(manager, name) if "job" not in one["labels"]
            ]  # not Prometheus' own

        mood.write_text("load_exits")
        began_s = time.monotonic()
        for pid in served.status()["services"][0]["pids"]:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: bool(mine()), within_s=10)
        took_s = time.monotonic() - began_s

        (alert,) = mine()
        assert took_s < 10
        assert alert["labels"] | {"instance": ""} == {
            "alertname": name, "service": "moody", "failure": "model_unavailable", "severity": "page", "instance": "",
        }  # fmt: skip
        assert alert["annotations"]["runbook_url"] == f"{served.base_url}/runbooks/model_unavailable"
        assert served.client.get(alert["annotations"]["runbook_url"]).text.startswith("# model_unavailable")
        wait_until(lambda: bool(pager.alerts("firing", name)), within_s=10)

        def prometheus_sees() -> bool:
            found = httpx.get(f"{watching}/api/v1/alerts", timeout=5).json()["data"]["alerts"]
            return any(one["labels"]["alertname"] == name and one["state"] == "firing" for one in found)

        wait_until(prometheus_sees, within_s=15)

        mood.write_text("healed")
        wait_until(lambda: served.client.get("/readyz").status_code == 200, within_s=20)
        wait_until(lambda: not told_of(manager, name), within_s=45)
        wait_until(lambda: bool(pager.alerts("resolved", name)), within_s=10)

        served.stop(signal.SIGKILL)
        wait_until(lambda: bool(told_of(manager, "NightproofWatchBlind")), within_s=20)


def test_a_burn_of_a_little_over_fourteen_times_the_budget_fires_within_a_minute(tmp_path: Path):
    with serving("faulty", tmp_path / "state") as served:
        began_s = time.monotonic()
        burning = False
        for round_ in range(60):
            for number in range(50):
                served.predict({"x": 1, "act": "raise" if (round_ * 50 + number) % 50 == 7 else "answer"})
            burning = states(served).get("NightproofAvailabilityBurning") == "firing"
            if burning or time.monotonic() - began_s > 60:
                break
        took_s = time.monotonic() - began_s
        (page, *_) = [one for one in alerts_of(served)["alerts"] if one["failure"] == "availability_burning"]

    assert burning
    assert took_s < 60
    assert page["severity"] == "page"


def test_everything_killed_while_the_receivers_are_down_the_alert_arrives_once_at_each(tmp_path: Path):
    hook_port, manager_port = free_port(), free_port()
    flags = (
        *QUICK, "--set", f"notify.webhook=http://127.0.0.1:{hook_port}/hook",
        "--set", f"notify.webhook_secret={SECRET}", "--set", f"alertmanager=http://127.0.0.1:{manager_port}",
    )  # fmt: skip
    with serving("faulty", tmp_path / "state", *flags) as served:
        hang(served)
        wait_until(lambda: any(one["told"] for one in alerts_of(served)["alerts"]))
        wait_until(lambda: all(one["waiting"] and one["why"] for one in alerts_of(served)["receivers"]))
        before = {one["id"] for one in alerts_of(served)["alerts"] if one["alertname"] == TIMED_OUT}
        served.stop(signal.SIGKILL)

    with ExitStack() as stack:
        own = stack.enter_context(hook(hook_port))
        pager = stack.enter_context(hook())
        stack.enter_context(alertmanager(tmp_path / "am", pager.url, port=manager_port))
        served = stack.enter_context(serving("faulty", tmp_path / "state", *flags))
        wait_until(lambda: bool(own.alerts("firing", TIMED_OUT)) and bool(pager.alerts("firing", TIMED_OUT)))
        wait_until(lambda: all(one["waiting"] == 0 for one in alerts_of(served)["receivers"]))
        assert {one["id"] for one in alerts_of(served)["alerts"] if one["alertname"] == TIMED_OUT} == before
        wait_until(lambda: works_again(served) and bool(own.alerts("resolved", TIMED_OUT)), within_s=30)

    assert {one["fingerprint"] for one in own.alerts("firing", TIMED_OUT)} == before
    assert len(own.alerts("firing", TIMED_OUT)) == 1
    assert len(own.alerts("resolved", TIMED_OUT)) == 1
    assert len(pager.alerts("firing", TIMED_OUT)) == 1
    assert all(Verifying(SECRET).verify(got.body, got.headers) for got in own.took)


def test_a_restart_in_the_middle_of_an_alert_tells_nobody_again(tmp_path: Path):
    with hook() as one:
        for round_ in range(2):
            with serving("faulty", tmp_path / "state", *QUICK, *to(one)) as served:
                hang(served)
                wait_until(lambda: bool(one.alerts("firing", TIMED_OUT)))
                wait_until(lambda: states(served).get(TIMED_OUT) == "firing")
                assert served.stop() == 0
            assert len(one.alerts("firing", TIMED_OUT)) == 1, f"after round {round_}"
            assert one.alerts("resolved", TIMED_OUT) == []


def test_two_servers_at_one_alertmanager_do_not_resolve_each_others_alerts(tmp_path: Path):
    with ExitStack() as stack:
        pager = stack.enter_context(hook())
        manager = stack.enter_context(alertmanager(tmp_path / "am", pager.url))
        flags = (*QUICK[:-2], "--set", f"alertmanager={manager}")  # each with its own name
        one, two = (stack.enter_context(serving("faulty", tmp_path / name, *flags)) for name in ("a", "b"))
        hang(one)
        hang(two)
        wait_until(lambda: len(told_of(manager, TIMED_OUT)) == 2)

        def mend_one() -> bool:
            one.predict({"x": 1})
            return len(told_of(manager, TIMED_OUT)) == 1

        wait_until(mend_one, within_s=30)
        (left,) = told_of(manager, TIMED_OUT)

    assert left["labels"]["instance"].endswith(f":{two.port}")


def test_a_receiver_that_stalls_holds_up_no_caller_and_no_other_receiver(tmp_path: Path):
    with hook() as slow, hook() as quick:
        slow.slow_s = 30.0
        flags = (*QUICK, *to(slow), "--set", f"notify.apprise=json://127.0.0.1:{quick.port}/x")
        with serving("faulty", tmp_path / "state", *flags) as served:
            hang(served)
            wait_until(lambda: any("ModelTimeout" in got.json["title"] for got in list(quick.took)))
            wait_until(lambda: served.client.get("/readyz").status_code == 200)
            began_s = time.monotonic()
            answers = [served.predict({"x": 1}).status_code for _ in range(50)]
            took_s = time.monotonic() - began_s
            assert served.stop() == 0

    assert answers == [200] * 50
    assert took_s < 5


def test_a_receiver_that_stays_down_is_itself_an_alert_at_the_others(tmp_path: Path):
    with hook() as one:
        flags = (
            *QUICK, *to(one), "--set", f"alertmanager=http://127.0.0.1:{free_port()}",
            "--set", "notify.failing_after_s=0.5",
        )  # fmt: skip
        with serving("faulty", tmp_path / "state", *flags) as served:
            hang(served)
            wait_until(lambda: bool(one.alerts("firing", "NightproofDeliveryFailing")))
            health = {part["name"]: part for part in served.client.get("/healthz").json()["components"]}
            wait_until(lambda: served.client.get("/readyz").status_code == 200)

    (alert, *_) = one.alerts("firing", "NightproofDeliveryFailing")
    assert "alertmanager 127.0.0.1" in alert["annotations"]["description"]
    assert "Connection refused" in alert["annotations"]["description"]
    assert not health["delivery"]["ok"]


def test_an_alertmanager_that_is_not_there_is_an_alert_before_it_is_needed(tmp_path: Path):
    with hook() as one:
        flags = (
            *QUICK, *to(one), "--set", f"alertmanager=http://127.0.0.1:{free_port()}", "--set", "alerts.repeat_s=1",
            "--set", "notify.failing_after_s=1",
        )  # fmt: skip
        with serving("faulty", tmp_path / "state", *flags) as served:
            wait_until(lambda: bool(one.alerts("firing", "NightproofDeliveryFailing")))
            asked = run_nightproof("alerts", "--state", str(served.state))

    assert asked.returncode == 1
    assert "Connection refused" in asked.stdout


def test_every_change_of_an_alert_is_in_the_audit_log_once(tmp_path: Path):
    with serving("faulty", tmp_path / "state", *QUICK) as served:
        hang(served)
        wait_until(lambda: states(served).get(TIMED_OUT) == "firing")
        wait_until(lambda: works_again(served) and states(served).get(TIMED_OUT) == "resolved", within_s=20)

        def found() -> list[dict[str, Any]]:
            done = run_nightproof(
                "audit",
                "search",
                "--kind",
                "alert",
                "--failure",
                "model_timeout",
                "--json",
                "--state",
                str(served.state),
            )
            return list(json.loads(done.stdout)["records"]) if done.returncode == 0 else []

        wait_until(lambda: len(found()) >= 2, within_s=20)
        records = found()
        shown = [
            json.loads(
                run_nightproof("audit", "show", one["id"], "--json", "--state", str(served.state)).stdout
            )
            for one in records
        ]

    facts = [one["facts"] for entry in shown for one in (entry if isinstance(entry, list) else [entry])]
    assert sorted((one["before"], one["state"]) for one in facts) == [
        ("firing", "resolved"),
        ("quiet", "firing"),
    ]
    assert len({one["alert"] for one in facts}) == 1


def test_an_operator_sees_silences_and_is_told_when_a_silence_ends(tmp_path: Path):
    with hook() as one, serving("faulty", tmp_path / "state", *QUICK, *to(one)) as served:
        state = ("--state", str(served.state))
        quiet = run_nightproof("alerts", *state)
        made = run_nightproof(
            "alerts",
            "silence",
            "model_timeout",
            "--service",
            "faulty",
            "--for",
            "1h",
            "--reason",
            "known",
            "--json",
            *state,
        )
        every = run_nightproof(
            "alerts", "silence", "availability_burning", "--for", "1h", "--reason", "known", "--json", *state
        )
        hang(served)
        wait_until(lambda: states(served).get(TIMED_OUT) == "firing")
        loud = run_nightproof("alerts", *state)
        as_json = json.loads(run_nightproof("alerts", "--json", *state).stdout)
        assert one.alerts("firing", TIMED_OUT) == []
        ended = run_nightproof("alerts", "unsilence", json.loads(made.stdout)["id"], *state)
        wait_until(lambda: bool(one.alerts("firing", TIMED_OUT)))
        unknown = run_nightproof("alerts", "silence", "nonsense", "--for", "1h", "--reason", "x", *state)
        misplaced = run_nightproof("alerts", "--json", "unsilence", "sil_0", *state)
        nothing = run_nightproof("alerts", "silence", "--for", "1h", "--reason", "x", *state)
        acts = run_nightproof("audit", "search", "--kind", "operator", "--json", *state)

    assert (quiet.returncode, made.returncode, every.returncode, ended.returncode) == (0, 0, 0, 0)
    assert "nothing fires" in quiet.stdout
    assert loud.returncode == 1
    assert (
        f"nightproof runbook model_timeout --service faulty   {served.base_url}/runbooks/model_timeout"
        in loud.stdout
    )
    assert "not told: silence sil_" in loud.stdout
    assert as_json["firing"] >= 1
    assert unknown.returncode == 1
    assert "No alert has this name" in unknown.stderr
    assert nothing.returncode == misplaced.returncode == 2
    assert len(json.loads(acts.stdout)["records"]) >= 3


def test_a_silence_outlives_a_restart(tmp_path: Path):
    with hook() as one:
        for _ in range(2):
            with serving("faulty", tmp_path / "state", *QUICK, *to(one)) as served:
                if not alerts_of(served)["silences"]:
                    run_nightproof(
                        "alerts",
                        "silence",
                        "--all",
                        "--for",
                        "1h",
                        "--reason",
                        "move",
                        "--state",
                        str(served.state),
                    )
                hang(served)
                wait_until(lambda: states(served).get(TIMED_OUT) == "firing")
                served.stop(signal.SIGKILL)

        assert one.took == []


def test_a_test_alert_goes_through_every_receiver_and_says_what_came_back(tmp_path: Path):
    with hook() as good, hook() as bad:
        bad.answers = 401
        flags = (*QUICK, *to(good), "--set", f"alertmanager={bad.url}")
        with serving("faulty", tmp_path / "state", *flags) as served:
            mixed = run_nightproof("alerts", "test", "--json", "--state", str(served.state))
            bad.answers = 200
            fine = run_nightproof("alerts", "test", "--state", str(served.state))
        with serving("faulty", tmp_path / "other") as served:
            none = run_nightproof("alerts", "test", "--state", str(served.state))

    outcomes = {one["receiver"].split()[0]: one for one in json.loads(mixed.stdout)}
    assert mixed.returncode == 1
    assert (outcomes["webhook"]["arrived"], outcomes["alertmanager"]["arrived"]) == (True, False)
    assert outcomes["alertmanager"]["answer"] == "status 401"
    assert fine.returncode == 0, fine.stdout
    assert good.alerts("firing", "NightproofTest")
    assert none.returncode == 1
    assert "No receiver is set" in none.stderr


def test_the_heartbeat_arrives_while_alerts_are_judged_and_stops_with_the_server(tmp_path: Path):
    with hook() as one:
        flags = (*QUICK, "--set", f"notify.heartbeat={one.url}", "--set", "notify.heartbeat_every_s=0.3")
        with serving("faulty", tmp_path / "state", *flags) as served:
            wait_until(lambda: len(one.took) >= 3)
            served.process.send_signal(signal.SIGSTOP)
            time.sleep(0.5)
            before = len(one.took)
            time.sleep(1.0)
            stopped = len(one.took) - before
            served.process.send_signal(signal.SIGCONT)
            wait_until(lambda: len(one.took) > before)

    assert stopped == 0
    assert one.took[0].json["instance"] == "here"


def test_a_tampered_log_alerts_once_verify_found_it_also_after_a_restart(tmp_path: Path):
    state = tmp_path / "state"
    with serving("faulty", state, *QUICK) as served:
        reported = served.operate(
            "POST",
            "/admin/alerts/report",
            {"failure": "audit_tampered", "is_wrong": True, "detail": "record 3: leaf"},
        )
        wait_until(lambda: states(served).get("NightproofAuditTampered") == "firing")
        served.stop(signal.SIGKILL)
    with serving("faulty", state, *QUICK) as served:
        wait_until(lambda: states(served).get("NightproofAuditTampered") == "firing")
        time.sleep(2.0)
        still = states(served).get("NightproofAuditTampered")
        verified = run_nightproof("audit", "verify", "--state", str(state))
        wait_until(lambda: states(served).get("NightproofAuditTampered") == "resolved")

    assert reported.status_code == 200
    assert still == "firing"
    assert verified.returncode == 0


def test_only_a_key_that_may_see_status_sees_live_values_on_a_runbook_page(shared_faulty: Served):
    from tests.serving import make_key

    operate = make_key(shared_faulty.state, "operate")
    plain = shared_faulty.client.get("/runbooks/model_timeout", headers={"authorization": ""}).text
    predict = shared_faulty.client.get("/runbooks/model_timeout").text
    live = shared_faulty.client.get(
        "/runbooks/model_timeout?service=faulty", headers={"authorization": f"Bearer {operate}"}
    ).text

    assert predict == plain
    assert "## Now" not in plain
    assert "predict_timeout_ms  400" in live


@pytest.mark.parametrize("route", ["", "/objectives"])
def test_a_predict_key_does_not_see_alerts(shared_faulty: Served, route: str):
    assert shared_faulty.client.get(f"/admin/alerts{route}").status_code == 403
