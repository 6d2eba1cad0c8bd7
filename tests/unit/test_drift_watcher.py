"""The server's side of the drift watch, with a child and a keeper that are scripted."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from nightproof.base.clock import monotonic_of
from nightproof.base.conditions import Condition
from nightproof.settings.settings import DriftSettings
from nightproof.steer.archive import WHOLE_RECORD
from nightproof.steer.drift import masked_reports
from nightproof.steer.driftwatch import one_per_service
from nightproof.watch.drift import watcher as room
from nightproof.watch.drift import wire
from nightproof.watch.drift.detector import Alarm, SignalReport
from nightproof.watch.drift.watcher import DriftWatcher, features_of


class Item(msgspec.Struct):
    """What a step leaves of one record."""

    input: bytes = b"{}"
    output: bytes = b'{"y":1}'
    failure: str = ""
    findings: list[str] = []
    batch_size: int = 1
    subject: bytes = b""
    confidence: float | None = None
    degraded: object | None = None


class Child:
    """A child that keeps what it is told."""

    pid = 7

    def __init__(self) -> None:
        self.heard: list[wire.ToChild] = []
        self.is_slow = False

    def send(self, message: wire.ToChild) -> bool:
        if self.is_slow and isinstance(message, wire.Rows):
            return False
        self.heard.append(message)
        return True

    def end(self) -> None:
        self.heard.append(wire.Forget(""))


class Keeper:
    """A keeper that has what it is given."""

    def __init__(self, profile: bytes = b"profile", fails: bool = False) -> None:
        self.profile = profile
        self.fails = fails
        self.kept: list[tuple[str, Any]] = []

    async def find(self, service: str, digest: str) -> tuple[bytes, bytes]:
        if self.fails:
            raise OSError("no disk")
        return self.profile, b"state"

    async def keep_profile(self, service: str, digest: str, profile: bytes) -> None:
        self.kept.append(("profile", profile))

    async def keep_state(self, service: str, digest: str, state: bytes) -> None:
        self.kept.append(("state", state))

    async def raised(self, told: wire.Told, release: str) -> None:
        self.kept.append(("raised", release))

    async def ended(self, service: str, release: str) -> None:
        self.kept.append(("ended", release))


RELEASE = wire.Release("s", "d1", {}, {})
ALARM = Alarm(at_us=2_000_000, since_us=1_000_000, multiple=1, rows=500, signals=["relation 1", "/a"])


def told(**named: Any) -> wire.Told:
    about = wire.About(origin="reference", rows=5_000)
    return wire.Told(
        **{"service": "s", "digest": "d1", "about": about, "windows": 1, "state": b"new", **named}
    )


async def watching(keeper: Keeper, **settings: Any) -> tuple[DriftWatcher, Child, list[tuple[str, str]]]:
    events: list[tuple[str, str]] = []
    watch = DriftWatcher(
        DriftSettings(**settings), keeper, on_event=lambda event, service: events.append((event, service))
    )
    child = Child()
    watch._child = child  # type: ignore[assignment]
    await watch.watch(RELEASE, "r1", "/nowhere", declares_confidence=True, answer=_nobody)
    return watch, child, events


async def _nobody(inputs: list[bytes]) -> list[tuple[bytes, list[str]]]:
    return []


async def settled(watch: DriftWatcher) -> None:
    while watch._work:
        await asyncio.gather(*watch._work)


def run(work: Any) -> Any:
    return asyncio.run(work)


def test_a_kept_profile_and_state_go_to_the_child():
    async def story() -> None:
        watch, child, _ = await watching(Keeper())

        (order,) = child.heard

        assert isinstance(order, wire.Watch)
        assert (order.profile, order.state) == (b"profile", b"state")
        assert watch.watches("s", "r1", "d1")
        assert not watch.watches("s", "r2", "d1"), "the same bytes under another label are another release"

    run(story())


def test_only_what_the_live_release_was_given_is_counted_and_its_own_answers_only():
    async def story() -> None:
        watch, child, _ = await watching(Keeper())

        watch.take("s", "r1", [Item(b"1")], "key")
        watch.take("s", "r0", [Item(b"2")], "key")
        watch.take("other", "r1", [Item(b"3")], "key")
        watch.take("s", "r1", [Item(b"4", batch_size=0), Item(b"5", failure="invalid_input")], "key")
        watch.take("s", "r1", [Item(b"6", degraded="by"), Item(b"7", failure="model_error")], "key")
        watch._flush()

        rows = child.heard[-1]
        assert isinstance(rows, wire.Rows)
        assert [(row.input, row.output) for row in rows.rows] == [
            (b"1", b'{"y":1}'),
            (b"6", b""),
            (b"7", b""),
        ]

    run(story())


def test_rows_that_come_while_there_is_no_child_go_to_the_next_one():
    async def story() -> None:
        watch, child, _ = await watching(Keeper())
        watch._child = None
        watch.take("s", "r1", [Item(b"1")], "key")
        watch._flush()

        watch._child = child  # type: ignore[assignment]
        watch._flush()

        rows = child.heard[-1]
        assert isinstance(rows, wire.Rows)
        assert [row.input for row in rows.rows] == [b"1"]

    run(story())


def test_five_thousand_requests_a_second_become_a_bounded_sample():
    async def story() -> None:
        watch, child, _ = await watching(Keeper(), rows_per_s=400)
        for place in range(5_000):
            watch.take("s", "r1", [Item(b"%d" % place)], "key")

        watch._flush()

        rows = child.heard[-1]
        assert isinstance(rows, wire.Rows)
        assert len(rows.rows) == 100

    run(story())


def test_a_record_larger_than_any_profile_needs_is_left_out():
    async def story() -> None:
        watch, child, _ = await watching(Keeper())
        watch.take("s", "r1", [Item(b"x" * 300_000)], "key")

        watch._flush()

        assert len(child.heard) == 1

    run(story())


def test_a_child_that_does_not_keep_up_loses_rows_and_says_so():
    async def story() -> None:
        watch, child, _ = await watching(Keeper())
        child.is_slow = True
        watch.take("s", "r1", [Item(), Item()], "key")

        watch._flush()

        status = watch.status_of("s")
        assert status is not None
        assert status.skipped == 2

    run(story())


def test_an_alarm_is_kept_counted_and_told_as_a_condition_until_it_is_over():
    async def story() -> None:
        keeper = Keeper()
        watch, _, events = await watching(keeper)
        report = [
            SignalReport(
                name="/a", feature="/a", side="input", moved=True, rows=500, effect=0.4, psi=1.0, missing=0.0,
                reference_missing=0.0, unseen=0.0, evidence=9.0,
            )
        ]  # fmt: skip

        watch._heard(told(alarm=ALARM, raised=True, report=report))
        await settled(watch)
        during = watch.conditions()
        watch._heard(told(alarm=ALARM))
        watch._heard(told(alarm=None))
        await settled(watch)

        assert events == [("drift_detected", "s")]
        assert [(one.failure, one.service) for one in during] == [("drift_detected", "s")]
        assert during[0].since_s == pytest.approx(monotonic_of(ALARM.since_us), abs=1)
        assert during[0].detail == "moved: /a"
        assert list(watch.effects()) == [("s", "/a", 0.4)]
        assert watch.conditions() == []
        assert [kind for kind, _ in keeper.kept if kind != "state"] == ["raised", "ended"]

    run(story())


def test_a_release_that_is_not_live_any_more_takes_its_alarm_with_it_and_leaves_its_state():
    async def story() -> None:
        keeper = Keeper()
        watch, child, _ = await watching(keeper)
        watch._heard(told(alarm=ALARM, raised=True, state=b"latest"))
        await settled(watch)

        watch.forget("s")
        await settled(watch)

        assert watch.conditions() == []
        assert watch.status() == []
        assert keeper.kept[-2:] == [("state", b"latest"), ("ended", "r1")]
        assert child.heard[-1] == wire.Forget("s")

    run(story())


def test_a_child_that_is_gone_is_told_as_trouble_until_there_is_another():
    async def story() -> None:
        watch, child, _ = await watching(Keeper())
        before = watch.trouble()
        watch._gone(child)  # type: ignore[arg-type]
        during = watch.trouble()
        watch._child = child  # type: ignore[assignment]

        assert before == watch.trouble() == ""
        assert "ended" in during

    run(story())


def test_an_alert_is_told_of_a_service_however_many_sources_are_held():
    def held(service: str, since_s: float, detail: str) -> Condition:
        return Condition(failure="feedback_poisoned", service=service, since_s=since_s, detail=detail)

    merged = one_per_service(
        [held("s", 2.0, "key a: x"), held("t", 3.0, "key c: z"), held("s", 1.0, "key b: y")]
    )

    assert merged == [held("s", 1.0, "key a: x; key b: y"), held("t", 3.0, "key c: z")]


@pytest.mark.parametrize(
    ("feature", "hidden", "is_hidden"),
    [
        ("/a", ["/a"], True),
        ("/a/b", ["/a"], True),
        ("output /a", ["/a"], True),
        ("/ab", ["/a"], False),
        ("/a", ["/a/b"], False),
        ("/a", [], False),
        ("/a", [WHOLE_RECORD], True),
        ("check range", [WHOLE_RECORD], False),
    ],
)
def test_values_of_a_sensitive_field_and_of_all_that_lies_in_it_are_not_shown(
    feature: str, hidden: list[str], is_hidden: bool
):
    report = SignalReport(
        name=feature, feature=feature, side="input", moved=True, rows=500, effect=0.4, psi=1.0, missing=0.0,
        reference_missing=0.0, unseen=0.0, evidence=9.0, labels=["secret"],
    )  # fmt: skip

    (shown,) = masked_reports([report], hidden)

    assert shown.labels == (["value 0"] if is_hidden else ["secret"])


def test_what_another_release_is_told_changes_nothing():
    async def story() -> None:
        watch, _, events = await watching(Keeper())

        watch._heard(told(digest="d0", alarm=ALARM, raised=True))

        assert events == []
        assert watch.conditions() == []

    run(story())


def test_an_estimate_is_not_valid_while_the_data_drifts():
    async def story() -> None:
        watch, _, _ = await watching(Keeper())
        watch.take("s", "r1", [Item(confidence=0.8), Item(confidence=0.6)], "key")
        before = watch.status_of("s")
        watch._heard(told(alarm=ALARM, raised=True))
        during = watch.status_of("s")
        await settled(watch)

        assert before is not None
        assert during is not None
        assert before.estimated_accuracy == pytest.approx(0.7)
        assert before.estimate_valid
        assert not during.estimate_valid
        assert "drifts" in during.estimate_why

    run(story())


def test_a_store_that_says_no_is_asked_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(room, "_PREPARE_AGAIN_S", 0.0)

    async def story() -> None:
        watch, child, _ = await watching(Keeper(fails=True))

        status = watch.status_of("s")
        await asyncio.sleep(0)
        await asyncio.sleep(0)

        assert status is not None
        assert status.state == "preparing"
        assert "could not be kept" in status.why
        assert child.heard == []
        assert not watch.watches("s", "r1", "d1")

    run(story())


def test_a_stop_keeps_where_the_detector_stands_and_ends_the_child():
    async def story() -> None:
        keeper = Keeper()
        watch, child, _ = await watching(keeper)
        watch._heard(told(state=b"latest"))

        await watch.stop()

        assert keeper.kept[-1] == ("state", b"latest")
        assert child.heard[-1] == wire.Forget("")

    run(story())


def test_a_stop_is_not_kept_from_its_end_by_a_store_that_says_no(monkeypatch: pytest.MonkeyPatch):
    class Full(Keeper):
        async def keep_state(self, service: str, digest: str, state: bytes) -> None:
            raise OSError("no space left")

    async def story() -> None:
        watch, child, _ = await watching(Full())
        watch._heard(told(state=b"latest"))

        await watch.stop()

        assert child.heard[-1] == wire.Forget("")

    run(story())


def test_a_child_that_died_gets_the_last_state_there_was():
    async def story() -> None:
        watch, child, events = await watching(Keeper())
        watch._heard(told(state=b"latest"))
        watch._heard(told(state=b""))
        watch._gone(child)  # type: ignore[arg-type]

        watched = watch._services["s"]

        assert events == [("drift_child_gone", "")]
        assert watched.told is not None
        assert watched.told.state == b"latest"
        await settled(watch)

    run(story())


def test_single_fields_are_named_before_what_fields_show_together():
    report = [
        SignalReport(
            name=name, feature=feature, side=side, moved=True, rows=1, effect=0, psi=0, missing=0,
            reference_missing=0, unseen=0, evidence=0,
        )
        for name, feature, side in (
            ("/note (length)", "/note", "input"),
            ("/note (digits)", "/note", "input"),
            ("relation 1", "relation 1 (/a, /b)", "relation"),
            ("check unusual", "check unusual", "check"),
        )
    ]  # fmt: skip

    assert features_of(["relation 1", "/note (digits)", "/note (length)"], report) == ["/note"]
    assert features_of(["relation 1"], report) == ["relation 1 (/a, /b)"]
    assert features_of(["check unusual", "/note (digits)"], report) == ["/note", "check unusual"]
