"""What happens in one moment stands as a condition for a while."""

from __future__ import annotations

from nightproof.base.conditions import Condition
from nightproof.watch.alerts.judge import judge
from nightproof.watch.alerts.machine import Track, step
from nightproof.watch.alerts.rules import Key, rules_of
from nightproof.watch.happened import Happened


def test_what_happened_stands_for_its_time_and_not_longer():
    happened = Happened(shown_s=600.0)

    happened.note("audit_writer_lost", detail="it ended by SIGKILL", now_s=100.0)

    assert list(happened.conditions(now_s=699.0)) == [
        Condition(failure="audit_writer_lost", since_s=100.0, detail="it ended by SIGKILL")
    ]
    assert list(happened.conditions(now_s=700.0)) == []


def test_what_happens_again_within_its_time_is_counted_and_stands_longer():
    happened = Happened(shown_s=600.0)

    for now_s in (100.0, 500.0):
        happened.note("release_refused", service="loans", detail="1.1 was refused", now_s=now_s)
    happened.note("release_refused", detail="2.0 was refused", now_s=500.0)

    assert [one.detail for one in happened.conditions(now_s=800.0)] == [
        "1.1 was refused (2 times)",
        "2.0 was refused",
    ]
    happened.note("release_refused", service="loans", detail="1.1 was refused", now_s=2_000.0)
    assert [one.detail for one in happened.conditions(now_s=2_000.0)] == ["1.1 was refused"]


def test_a_lost_writer_makes_a_ticket_that_is_resolved_by_itself():
    happened = Happened(shown_s=600.0)
    happened.note("audit_writer_lost", detail="it ended by SIGKILL", now_s=0.0)
    rules = rules_of([])
    tracks: dict[Key, Track] = {}
    states: list[tuple[float, str, str]] = []

    for now in range(0, 700, 5):
        verdicts = judge(rules, {}, list(happened.conditions(now_s=float(now))), now_s=float(now))
        tracks, changed = step(
            tracks, rules, verdicts, now_s=float(now), now_us=now, draw_id=lambda: "one", is_complete=True
        )
        states += [(float(now), one.alert.alertname, one.alert.state) for one in changed]

    name = "NightproofAuditWriterLost"
    assert states == [(0.0, name, "pending"), (15.0, name, "firing"), (620.0, name, "resolved")]
