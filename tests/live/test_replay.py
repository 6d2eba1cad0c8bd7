"""Replay and shadow: what a release would have answered, by how much otherwise and for whom, before it goes live."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from nightproof.base.ids import RequestIds
from nightproof.settings.settings import PromotionSettings
from nightproof.steer.replay import Replays
from nightproof.steer.tasks import Tasks
from nightproof.storage.comparisons import Comparisons
from nightproof.storage.registry_store import RegisteredRelease, RegistryStore
from tests.callers import entries_of, leaf_of
from tests.releases import Load, folder_of, operate, release_of, until
from tests.serving import ROOT, Served, make_key, run_nightproof, serving, wait_until

ADMIN = "/admin/releases/steps"


def record_requests(served: Served, count: int) -> None:
    """Have that many requests answered and recorded."""
    hammer = subprocess.Popen(
        [sys.executable, "-m", "tests.hammer", str(served.port), "steps", served.key, "32"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    wait_until(lambda: served.status()["endings"].get("answered", 0) >= count, within_s=60)
    told = json.loads(hammer.communicate(timeout=30)[0])
    assert told["statuses"].keys() == {"200"}


def replayed(served: Served, *more: str) -> tuple[int, dict[str, Any]]:
    """Run the verb and return its exit code and report."""
    done = run_nightproof("replay", "steps", *more, "--json", "--state", str(served.state))
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_replay_shows_what_would_change_by_how_much_and_for_whom(state: Path, tmp_path: Path):
    """Show 3: 10,000 recorded requests through 1.2, which is broken for one group and stricter for some."""
    release_of(state, "1.0", live=True)
    release_of(state, "1.2", by="1.0", broken_group="b", approve_below=40.0, wrong=0.5)
    page = tmp_path / "replay.html"

    with serving(folder_of(state, "1.0"), state, service="steps") as served:
        record_requests(served, 10_000)
        code, report = replayed(served, "--to", "1.2", "--last", "10000", "--page", str(page), "--examples")
        strict, _ = replayed(served, "--to", "1.2", "--last", "500", "--most-changed", "5%")
        table = run_nightproof("replay", "steps", "--to", "1.2", "--last", "300", "--state", str(state))
        answered = served.predict({"x": 2}).json()
    accesses = [leaf_of(entry) for entry in entries_of(state) if entry.kind == "access"]

    found = report["comparison"]
    assert (code, report["state"], found["compared"]) == (0, "finished", 10_000)
    assert abs(found["newly_failing"] - 1_000) <= 60, "one group of ten"
    assert found["failures"] == {"invalid_output": found["newly_failing"]}
    number = found["fields"]["y"]
    assert 0.8 < number["changed"] / number["compared"] < 0.95, "those above 10 get another number"
    assert number["most_abs"] == 0.5
    approve = found["fields"]["approve"]
    assert 0.08 < approve["changed"] / approve["compared"] < 0.13, "those between 40 and 50"
    assert approve["moves"] == {"true → false": approve["changed"]}
    assert len(report["examples"]) == 50
    assert report["examples"][0]["input"].keys() == {"x", "group"}
    assert strict == 1, "more than 5 % would change"
    assert "fails by" in table.stdout
    html = page.read_text()
    assert html.count("<svg") >= 3
    assert "<script" not in html
    assert "http" not in html, "nothing is fetched"
    assert [leaf["act"] for leaf in accesses][:2] == ["replay", "replay.report"]
    assert answered["release"] == "1.0", "a replay changes nothing"


def test_a_replay_names_the_group_that_is_hit(state: Path):
    release_of(state, "1.0", live=True)
    release_of(state, "1.2", by="1.0", broken_group="b")

    with serving(folder_of(state, "1.0"), state, service="steps") as served:
        record_requests(served, 1_500)
        _, report = replayed(served, "--to", "1.2", "--last", "1500")
        sealed = (state / "comparisons.db").read_bytes()

    changed = [one for one in report["most_hit"] if one["by"] == "group"]
    assert [(one["value"], one["changed"] == one["compared"]) for one in changed] == [("b", True)]
    assert b"group" not in sealed, "what names inputs is sealed"


def test_a_replay_goes_on_after_a_kill_and_counts_no_record_twice(state: Path):
    release_of(state, "1.0", live=True)
    release_of(state, "1.2", by="1.0", slow_ms=30)

    with serving(folder_of(state, "1.0"), state, service="steps") as served:
        record_requests(served, 3_000)
        run = served.operate("POST", f"{ADMIN}/replay", {"version": "1.2", "last": 3_000}).json()

        def progress() -> Any:
            return served.operate("POST", f"{ADMIN}/progress", {"id": run["id"]}).json()

        wait_until(lambda: progress()["done"] >= 400, within_s=30)
        served.stop(signal.SIGKILL)
    with serving(folder_of(state, "1.0"), state, service="steps") as served:
        stopped = served.operate("POST", f"{ADMIN}/progress", {"id": run["id"]}).json()
        again = served.operate("POST", f"{ADMIN}/replay", {"version": "1.2", "last": 3_000}).json()
        _, report = replayed(served, "--to", "1.2", "--last", "3000")

    assert stopped["state"] == "stopped"
    assert 400 <= stopped["done"] < 3_000
    assert again["id"] == run["id"] == report["id"]
    assert (report["done"], report["comparison"]["compared"]) == (3_000, 3_000)
    assert report["comparison"]["newly_failing"] == 0


@pytest.mark.parametrize("role", ["operate", "audit", "predict"])
def test_only_an_admin_may_run_recorded_inputs(state: Path, role: str):
    release_of(state, "1.0", live=True)
    release_of(state, "1.2")

    with serving(folder_of(state, "1.0"), state, service="steps") as served:
        key = {"authorization": f"Bearer {make_key(state, role)}"}
        asked = served.client.post(f"{ADMIN}/replay", json={"version": "1.2"}, headers=key)
        shown = served.client.post(f"{ADMIN}/shadow", json={"examples": True}, headers=key)

    assert (asked.status_code, shown.status_code) == (403, 403)


def test_a_release_that_does_not_load_ends_the_replay_with_its_reason(state: Path, tmp_path: Path):
    release_of(state, "1.0", live=True)
    release_of(state, "1.2", by="1.0", spoiled_by=str(tmp_path / "spoiled"))
    (tmp_path / "spoiled").touch()

    with serving(folder_of(state, "1.0"), state, service="steps") as served:
        served.predict({"x": 1})
        done = run_nightproof("replay", "steps", "--to", "1.2", "--last", "10", "--state", str(state))

    assert done.returncode == 1
    assert "does not load" in done.stderr


def test_a_replay_that_ends_by_a_fault_of_ours_says_so_and_is_told(tmp_path: Path):
    class Vault:
        def seal_bytes(self, content: bytes, **named: Any) -> bytes:
            return content

    class Archive:
        vault, ids = Vault(), RequestIds()

        async def note(self, kind: str, **named: Any) -> None:
            pass

    async def load(release: RegisteredRelease) -> Any:
        raise KeyError(release.label)

    registry = RegistryStore(tmp_path / "registry.db")
    registry.register("steps", "1.1", "d")
    tasks = Tasks()
    replays = Replays(
        cast(Any, Archive()),
        registry,
        Comparisons(tmp_path / "comparisons.db"),
        PromotionSettings(),
        load=load,
        is_busy=lambda service: False,
        is_chat=lambda service: False,
        sensitive_of=lambda service, label: (),
        tasks=tasks,
    )

    async def story() -> str:
        begun = await replays.start("me", "steps", "1.1", 10)
        while not list(tasks.conditions()):
            await asyncio.sleep(0.01)
        return (await replays.progress(begun.id)).state

    state = asyncio.run(asyncio.wait_for(story(), 20))

    assert state == "failed: an unexpected KeyError; see the log"
    assert [one.detail for one in tasks.conditions()] == ["beside the requests: Replays._run: KeyError"]


def test_a_shadow_answers_nobody_and_tells_what_it_would_have(state: Path):
    release_of(state, "1.0", live=True)
    release_of(state, "1.2", by="1.0", broken_group="b", slow_ms=5)

    async def story(served: Served) -> Load:
        load = Load(
            served, rate_per_s=80, record=lambda number: {"x": float(number % 100), "group": "ab"[number % 2]}
        )
        async with load.running():
            begun = await operate(served, "POST", f"{ADMIN}/promote", {"version": "1.2", "way": "shadow"})
            assert begun.status_code == 200, begun.text
            await until(
                lambda: served.operate("POST", f"{ADMIN}/shadow", {}).json()["comparison"]["compared"] > 100,
                within_s=30,
            )
        return load

    with serving(folder_of(state, "1.0"), state, service="steps") as served:
        load = asyncio.run(story(served))
        parts = {one["part"]: one["version"] for one in served.status()["services"][0]["parts"]}
        _, report = replayed(served, "--shadow", "--examples")
        ended = served.operate("POST", f"{ADMIN}/rollback", {})

    found = report["comparison"]
    assert load.bad() == 0
    assert {by for _, by, _ in load.by} == {"1.0"}
    assert parts == {"live": "1.0", "shadow": "1.2"}
    assert 0.35 < found["newly_failing"] / found["compared"] < 0.65
    assert {example["input"]["group"] for example in report["examples"]} == {"b"}
    assert (ended.status_code, ended.json()["act"]) == (200, "withdrawn")


def test_a_shadow_goes_on_after_a_kill_and_the_next_trial_begins_anew(state: Path):
    release_of(state, "1.0", live=True)
    release_of(state, "1.2", by="1.0", broken_group="b")

    def report(served: Served) -> dict[str, Any]:
        return dict(served.operate("POST", f"{ADMIN}/shadow", {"examples": True}).json())

    def compare(served: Served, least: int) -> dict[str, Any]:
        """Ask until at least so many were compared, and that is written."""

        def has_them() -> bool:
            served.predict({"x": 1.0, "group": "b"})
            return bool(report(served)["comparison"]["compared"] >= least)

        served.wait_until(has_them)
        return report(served)

    with serving(folder_of(state, "1.0"), state, service="steps") as served:
        assert served.operate("POST", f"{ADMIN}/promote", {"version": "1.2", "way": "shadow"}).is_success
        first = compare(served, 5)
        served.stop(signal.SIGKILL)
    with serving(folder_of(state, "1.0"), state, service="steps") as served:
        served.wait_until(lambda: len(served.status()["services"][0]["parts"]) == 2)
        at_start = report(served)
        second = compare(served, at_start["comparison"]["compared"] + 5)
        assert served.operate("POST", f"{ADMIN}/rollback", {}).is_success
        assert served.operate("POST", f"{ADMIN}/promote", {"version": "1.2", "way": "shadow"}).is_success
        anew = report(served)

    assert at_start["comparison"]["compared"] >= first["comparison"]["compared"] >= 5
    assert second["id"] == at_start["id"] == first["id"]
    assert second["comparison"]["newly_failing"] == second["comparison"]["compared"]
    assert len(second["examples"]) == min(50, second["comparison"]["compared"])
    assert anew["id"] != first["id"]
    assert anew["comparison"]["compared"] == 0


def test_labels_are_no_requests_for_a_shadow_or_a_replay(state: Path):
    """What brings labels has a record as any request has; no release is asked what it would have said to it."""
    release_of(state, "1.0", live=True)
    release_of(state, "1.2", by="1.0")

    with serving(folder_of(state, "1.0"), state, service="steps") as served:
        served.operate("POST", f"{ADMIN}/promote", {"version": "1.2", "way": "shadow"})
        for number in range(10):
            told = served.predict({"x": number}).json()
            label = {"id": told["id"], "label": {"approve": told["output"]["approve"]}}
            assert served.client.post("/services/steps/feedback", json=label).status_code == 200
        served.wait_until(
            lambda: served.operate("POST", f"{ADMIN}/shadow", {}).json()["comparison"]["compared"] >= 1
        )
        ended = served.operate("POST", f"{ADMIN}/rollback", {})
        wait_until(lambda: served.operate("POST", f"{ADMIN}/shadow", {}).json()["done"] >= 1)
        shadow = served.operate("POST", f"{ADMIN}/shadow", {}).json()["comparison"]
        _, report = replayed(served, "--to", "1.2", "--last", "10")

    assert ended.json()["act"] == "withdrawn"
    assert (shadow["newly_failing"], shadow["failures"]) == (0, {})
    assert set(shadow["groups"]) == {"caller", "x"}
    found = report["comparison"]
    assert (report["done"], found["compared"], found["skipped"]) == (10, 10, 0), "ten predictions, ten labels"
    assert found["newly_failing"] == 0
