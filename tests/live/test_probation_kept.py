"""A probation outlives its server: what was so before, what was seen, and for how long it was watched."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from nightproof.releases.probation import Counted, Probation, Terms
from nightproof.settings.settings import PromotionSettings
from nightproof.steer import probations
from nightproof.steer.probations import Probations
from nightproof.steer.stage import Promised, Stage
from nightproof.storage.registry_store import RegistryStore
from tests.releases import folder_of, release_slower_than_promised
from tests.serving import serving, wait_until


class Lookout:
    """The part of the stage that counts; each run of a server has its own."""

    def __init__(self) -> None:
        self.counted = Counted(failures={})

    def describes(self, service: str) -> Promised:
        return Promised(availability=0.99, latency_p99_ms=None, has_subject=False, has_confidence=False)

    def begin_probation(self, service: str, label: str, terms: Terms, counted: Counted) -> None:
        self.counted = counted

    def end_probation(self, service: str) -> None:
        pass

    def see(self, *, good: int = 0, bad: int = 0) -> None:
        for failure in [""] * good + ["model_error"] * bad:
            self.counted.add(failure=failure, duration_s=0.01, slow_s=None)


class Runs:
    """Servers one after the other over one registry, with a clock that the test moves."""

    def __init__(self, registry: RegistryStore) -> None:
        self.registry = registry
        self.now = 1_000.0

    def start(self, settings: PromotionSettings | None = None) -> tuple[Probations, Lookout]:
        lookout = Lookout()
        settings = settings or PromotionSettings()
        return Probations(self.registry, cast(Stage, lookout), settings), lookout

    def resume(self, settings: PromotionSettings | None = None) -> tuple[Probations, Lookout]:
        begun, lookout = self.start(settings)
        begun.resume("loans", "1.1")
        return begun, lookout

    def keep(self, begun: Probations, *, after_s: float = 2.0) -> None:
        self.now += after_s
        asyncio.run(begun.keep())

    def kept(self) -> Probation:
        return msgspec.json.decode(self.registry.probation("loans", "1.1"), type=Probation)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    with contextlib.closing(RegistryStore(tmp_path / "registry.db")) as registry:
        for label in ("1.0", "1.1"):
            registry.register("loans", label, label)
            registry.set_live("loans", label)
        found = Runs(registry)
        monkeypatch.setattr(probations, "monotonic_s", lambda: found.now)
        yield found


def test_what_was_so_before_is_what_a_release_is_held_to_after_a_restart(runs: Runs):
    """One in five was bad with the release before already: it is no fault of this one."""
    begun, lookout = runs.start()
    begun.begin("loans", "1.1", (40, 200))
    lookout.see(good=8, bad=2)
    runs.keep(begun)

    again, lookout = runs.resume()
    lookout.see(good=80, bad=20)
    ruling = again.judge("loans", runs.now)

    assert ruling is not None
    assert ruling.standing == "watched"
    assert lookout.counted.total == 110
    assert again.said("loans") == "on probation"


def test_a_server_that_crashes_again_and_again_finds_a_bad_release_all_the_same(runs: Runs):
    """In no single run is enough seen of it."""
    begun, lookout = runs.start()
    begun.begin("loans", "1.1", (0, 500))
    standings = []
    for _ in range(12):
        lookout.see(good=9, bad=1)
        ruling = begun.judge("loans", runs.now)
        assert ruling is not None
        standings.append(ruling.standing)
        runs.keep(begun)
        begun, lookout = runs.resume()

    assert standings[:3] == ["watched"] * 3
    assert standings[-1] == "broken"
    alone, lookout = runs.start()
    alone.begin("loans", "1.1", (0, 500))
    lookout.see(good=9, bad=1)
    assert (told := alone.judge("loans", runs.now)) is not None
    assert told.standing == "watched", "one run's requests say nothing"


def test_a_release_passes_when_it_was_watched_for_long_enough_and_not_while_no_server_ran(runs: Runs):
    begun, _ = runs.start()
    begun.begin("loans", "1.1", (0, 500))
    runs.now += 500
    runs.keep(begun)
    runs.now += 10_000
    begun, lookout = runs.resume()
    at_once = begun.judge("loans", runs.now)
    runs.now += 150
    later = begun.judge("loans", runs.now)
    runs.keep(begun)
    lookout.see(bad=50)
    after, _ = runs.resume()

    assert (at_once and at_once.standing, later and later.standing) == ("watched", "passed")
    assert begun.said("loans") == ""
    assert after.judge("loans", runs.now) is None, "it is over, for the next server too"
    assert runs.kept().watched_s > 600


def test_nothing_is_written_while_nothing_is_seen_but_the_time_now_and_then(runs: Runs):
    begun, lookout = runs.start()
    begun.begin("loans", "1.1", (0, 500))
    runs.keep(begun, after_s=0.25)
    first = runs.kept()
    runs.keep(begun, after_s=5.0)
    idle = runs.kept()
    lookout.see(good=1)
    runs.keep(begun)
    seen = runs.kept()
    runs.keep(begun, after_s=40)

    assert first.watched_s == 0.25, "begun is written at once"
    assert idle == first
    assert (seen.counted.total, seen.watched_s) == (1, 7.25)
    assert runs.kept().watched_s == 47.25


def test_another_release_that_goes_live_ends_it_and_a_late_write_brings_nothing_back(runs: Runs):
    begun, lookout = runs.start()
    begun.begin("loans", "1.1", (0, 500))
    lookout.see(good=5)
    runs.keep(begun)
    runs.registry.set_live("loans", "1.0", act="rollback")
    lookout.see(good=5)
    runs.keep(begun)

    assert runs.registry.probation("loans", "1.1") == ""
    assert runs.resume()[0].judge("loans", runs.now) is None


def test_a_kill_in_the_moment_of_the_switch_leaves_the_probation_to_what_is_promised(runs: Runs):
    begun, lookout = runs.resume()
    lookout.see(good=5, bad=5)
    ruling = begun.judge("loans", runs.now)

    assert ruling is not None
    assert ruling.standing == "broken"
    assert "allowed 1.00%" in ruling.why


def test_new_settings_hold_for_a_probation_that_is_on(runs: Runs):
    begun, _ = runs.start()
    begun.begin("loans", "1.1", (0, 500))
    runs.keep(begun)

    shorter, _ = runs.resume(PromotionSettings(probation_s=30))
    runs.now += 29
    passed = shorter.judge("loans", runs.now)
    off, _ = runs.resume(PromotionSettings(probation_s=0))

    assert passed is not None
    assert passed.standing == "passed"
    assert off.judge("loans", runs.now) is None


def test_a_release_that_is_as_slow_as_the_one_before_stays_over_a_kill(state: Path):
    """What was so before is known to the next server too: else it would go back to what is no better."""
    for label, is_live in (("1.0", True), ("1.1", False)):
        release_slower_than_promised(state, label, live=is_live)

    def kept() -> Any:
        with contextlib.closing(RegistryStore(state / "registry.db")) as registry:
            text = registry.probation("steps", "1.1")
        return json.loads(text) if text else {"counted": {"total": 0}}

    with serving(folder_of(state, "1.0"), state, service="steps") as served:
        for number in range(60):
            served.predict({"x": number})
        promoted = served.operate("POST", "/admin/releases/steps/promote", {"version": "1.1"})
        assert promoted.status_code == 200
        for number in range(5):
            served.predict({"x": number})
        wait_until(lambda: kept()["counted"]["total"] == 5)
        served.stop(signal.SIGKILL)
    with serving(folder_of(state, "1.0"), state, service="steps") as served:
        for number in range(60):
            served.predict({"x": number})
        wait_until(lambda: kept()["counted"]["total"] == 65)
        metrics = served.metrics()
        live = served.status()["services"][0]["release"]

    assert "release_rolled_back" not in metrics
    assert "no_way_back" not in metrics
    assert live == "1.1"
