"""What releases are for, shown on a real server under load: forward and back by itself, back by hand, and killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from nightproof.storage.bundles import open_bundle
from nightproof.storage.registry_store import RegistryStore
from nightproof.storage.statefolder import StateFolder
from tests.callers import entries_of, leaf_of
from tests.releases import Load, folder_of, operate, release_of, until
from tests.serving import ROOT, Served, control_socket, run_nightproof, serving, wait_until

KILLED_AT = Path(__file__).parents[1] / "material" / "killed_at"
QUICK = {
    "step_least_s": "1",
    "step_least_requests": "40",
    "rare_margin": "0.08",
    "shape_margin": "0.25",
    "canary_steps": "20,50",
}
FLAGS = [part for name, value in QUICK.items() for part in ("--set", f"promotion.{name}={value}")]
"""A canary that is over in seconds: short steps, and wide margins that few requests settle."""


def acts_of(served: Served) -> list[tuple[str, str]]:
    """Return the acts on the service, the oldest first."""
    told = served.operate("GET", "/admin/releases/steps/history").json()
    return [(act["act"], act["version"]) for act in reversed(told["acts"])]


def live_of(served: Served) -> str:
    """Return the live release."""
    return str(served.status()["services"][0]["release"])


def releases_recorded(state: Path) -> list[tuple[str, str]]:
    """Return what the audit log has of releases, in its order."""
    leaves = [leaf_of(entry) for entry in entries_of(state) if entry.kind == "release"]
    return [(leaf["act"], leaf["release"]) for leaf in leaves]


def test_a_better_release_goes_live_by_itself_and_a_broken_one_goes_back_by_itself(state: Path):
    """Show 1: 1.0 live; 1.1 from canary to live under load; 1.2, broken in 2 % of cases, back within 5 s."""
    release_of(state, "1.0", live=True)
    release_of(state, "1.1")
    release_of(state, "1.2", broken_share=0.02)

    async def story(served: Served) -> float:
        load = Load(served, rate_per_s=100)
        async with load.running():
            canary = {"version": "1.1", "way": "canary", "share": 0.2, "reason": "more even answers"}
            begun = await operate(served, "POST", "/admin/releases/steps/promote", canary)
            assert begun.status_code == 200, begun.text
            await until(lambda: live_of(served) == "1.1", within_s=60)
            bad_before = load.bad()
            promoted = await operate(
                served, "POST", "/admin/releases/steps/promote", {"version": "1.2", "reason": "friday"}
            )
            assert promoted.status_code == 200, promoted.text
            await until(lambda: live_of(served) == "1.1", within_s=30)
            back_s = time.monotonic()
            await asyncio.sleep(1.0)
        assert bad_before == 0
        assert load.broken == []
        failed = [at for at, _, failure in load.by if failure]
        assert failed, "the release was bad"
        assert all(release == "1.1" for at, release, _ in load.by if at > back_s + 0.3)
        return back_s - failed[0]

    with serving(folder_of(state, "1.0"), state, *FLAGS, service="steps") as served:
        took_s = asyncio.run(story(served))
        acts = acts_of(served)
        told = served.operate("GET", "/admin/releases/steps/history").json()
        again = served.operate("POST", "/admin/releases/steps/promote", {"version": "1.2"})
        shown = run_nightproof("history", "steps", "--state", str(state))
        events = served.metrics()
        served.wait_until(lambda: len(releases_recorded(state)) >= len(acts))

    print(f"rolled back {took_s:.2f} s after the first failure")
    assert took_s < 5.0
    assert acts[-5:] == [
        ("canary", "1.1"),
        ("canary_step", "1.1"),
        ("live", "1.1"),
        ("live", "1.2"),
        ("rolled_back", "1.1"),
    ]
    (bad,) = [one for one in told["releases"] if one["version"] == "1.2"]
    assert bad["latched"].startswith("availability: ")
    assert told["acts"][0]["who"] == "nightproof"
    assert told["acts"][1]["why"] == "friday"
    assert (again.status_code, again.json()["failure"]) == (409, "promotion_refused")
    assert "rolled back" in shown.stdout
    assert 'nightproof_events_total{event="release_rolled_back",reason="",service="steps"} 1.0' in events
    assert releases_recorded(state) == acts


def test_rollback_by_hand_under_load_fails_no_request(state: Path):
    """Show 2: from the command to the first answer by the old release, under the load that the machine gives.

    Three times, since the client that counts and the server share the machine's processors: none may fail a request,
    and the middle one counts.
    """
    release_of(state, "1.0", live=True)
    release_of(state, "1.1")
    began_s, answers = [], []

    with serving(folder_of(state, "1.0"), state, service="steps") as served:
        transport = httpx.HTTPTransport(uds=str(control_socket(state)))
        control = httpx.Client(
            transport=transport, base_url="http://nightproof/admin/releases/steps", timeout=30
        )
        answers.append(control.post("/promote", json={"version": "1.1"}))
        hammer = subprocess.Popen(
            [sys.executable, "-m", "tests.hammer", str(served.port), "steps", served.key, "32"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        for number in range(3):
            if number:
                answers.append(control.post("/promote", json={"version": "1.1"}))
            enough = served.status()["endings"].get("answered", 0) + 2_000
            wait_until(lambda enough=enough: served.status()["endings"].get("answered", 0) > enough)
            began_s.append(time.monotonic())
            answers.append(control.post("/rollback", json={"reason": "it smells"}))
            wait_until(lambda enough=enough: served.status()["endings"]["answered"] > enough + 2_000)
        told = json.loads(hammer.communicate(timeout=30)[0])
        (service,) = served.status()["services"]
        control.close()

    took_ms = [(min(at for at in told["first"]["1.0"] if at > began) - began) * 1e3 for began in began_s]
    print(
        f"{told['rate_per_s']:.0f} requests/s, {sum(told['statuses'].values())} answered, {told['lost']} lost; from"
        f" the command to the first answer by the old release {', '.join(f'{one:.0f}' for one in took_ms)} ms;"
        f" slowest request {told['slowest_s'] * 1e3:.0f} ms"
    )
    assert [one.status_code for one in answers] == [200] * 6
    assert told["statuses"].keys() == {"200"}
    assert told["lost"] == 0
    assert sorted(took_ms)[1] < 100
    assert service["release"] == "1.0"
    assert [one["version"] for one in service["parts"] if one["part"] == "standby"] == ["1.1"]


STEPS = {  # the first release that is opened is the one that is live at the start
    "before the bundle is verified": ("nightproof.steer.releasing:Releasing.open:before:2", "1.0"),
    "after the bundle is verified": ("nightproof.steer.releasing:Releasing.open:after:2", "1.0"),
    "after it is loaded": ("nightproof.parts.services:Services.warm:after", "1.0"),
    "before it is loaded": ("nightproof.parts.services:Services.warm:before", "1.0"),
    "after the act is recorded": ("nightproof.steer.promote:Helm._switch:before", "1.0"),
    "before the registry is written": (
        "nightproof.storage.registry_store:RegistryStore.set_live:before",
        "1.0",
    ),
    "in the registry's transaction": ("nightproof.storage.registry_store:RegistryStore._note:after", "1.0"),
    "before the registry moves it into its file": (
        "nightproof.storage.registry_store:checkpoint:before",
        "1.1",
    ),
    "after the registry is written": (
        "nightproof.storage.registry_store:RegistryStore.set_live:after",
        "1.1",
    ),
    "before the pointer moves": ("nightproof.parts.services:Services.make_live:before", "1.1"),
    "after the pointer has moved": ("nightproof.parts.services:Services.make_live:after", "1.1"),
    "before the history is recorded": ("nightproof.steer.promote:Helm.record_history:before", "1.1"),
    "before the history counts as recorded": (
        "nightproof.storage.registry_store:RegistryStore.mark_recorded:before",
        "1.1",
    ),
    "after the history counts as recorded": (
        "nightproof.storage.registry_store:RegistryStore.mark_recorded:after",
        "1.1",
    ),
}


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_of_a_promotion_one_release_is_live_and_whole(state: Path, step: str):
    """Show 4: the old release is live until the new one is durable, and afterwards the new one is."""
    place, expected = STEPS[step]
    release_of(state, "1.0", live=True)
    digests = {"1.0": "", "1.1": release_of(state, "1.1")}
    registry = RegistryStore(state / "registry.db")
    registry.mark_recorded(1_000)  # what was made before the server ran is not its to record
    registry.close()

    env = {"PYTHONPATH": f"{KILLED_AT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    env["KILL_AT"] = place
    with serving(folder_of(state, "1.0"), state, service="steps", env=env) as served:
        with contextlib.suppress(httpx.TransportError):  # the last steps come after the answer
            told = served.operate("POST", "/admin/releases/steps/promote", {"version": "1.1"})
            assert told.status_code == 200, told.text
        assert served.process.wait(15) == -9

    registry = RegistryStore(state / "registry.db")
    try:
        live = [one for one in registry.releases("steps") if one.live]
        digests["1.0"] = next(one.digest for one in registry.releases("steps") if one.label == "1.0")
    finally:
        registry.close()
    with serving(folder_of(state, "1.0"), state, service="steps") as served:
        answer = served.predict({"x": 2}).json()
        status = served.status()
        acts = acts_of(served)
        ours = [act for act in acts if act[0] not in ("registered",)][1:]
        served.wait_until(lambda: set(ours) <= set(releases_recorded(state)))

    assert [one.label for one in live] == [expected]
    assert (answer["release"], answer["output"]["by"]) == (expected, expected)
    assert status["services"][0]["release"] == expected
    assert open_bundle(StateFolder.open(state).bundles, digests[expected]).digest == live[0].digest
    assert ours == ([("live", "1.1")] if expected == "1.1" else [])


def test_the_same_acts_by_the_command_line(state: Path):
    """Promote, undo and history say what they did, and end with 0, 1 or 2."""
    release_of(state, "1.0", live=True)
    release_of(state, "1.1")

    def run(*words: str) -> tuple[int, str]:
        done = run_nightproof(*words, "--state", str(state))
        return done.returncode, done.stdout + done.stderr

    with serving(folder_of(state, "1.0"), state, service="steps") as served:
        promoted = run("promote", "steps", "1.1", "--reason", "it is better")
        undone = run("undo", "steps", "--reason", "it is not")
        no_way = run("rollback", "steps")
        missing = run("promote", "steps", "9.9")
        both = run("promote", "steps", "1.1", "--shadow", "--canary", "5%")
        share = run("promote", "steps", "1.1", "--canary", "500%")
        told: dict[str, Any] = json.loads(run("history", "steps", "--json")[1])
        served.wait_until(lambda: live_of(served) == "1.0")

    assert promoted[0] == undone[0] == 0, (promoted, undone)
    assert "1.1 is live; 1.0 stays warm" in promoted[1]
    assert "1.0 is live again" in undone[1]
    assert (no_way[0], missing[0], both[0], share[0]) == (1, 1, 2, 2)
    assert "no release to go back to" in no_way[1]
    assert [(act["act"], act["why"]) for act in told["acts"][:2]] == [
        ("rollback", "it is not"),
        ("live", "it is better"),
    ]
