"""Whatever is seen, in whatever order, and wherever the server is killed: each alert is told once, and once over."""

from __future__ import annotations

from itertools import count

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from nightproof.watch.alerts.judge import Verdict
from nightproof.watch.alerts.machine import Alert, Track, step
from nightproof.watch.alerts.rules import Rule
from nightproof.watch.alerts.telling import Silence, due, mark_told

RULES = [
    Rule(failure="model_timeout", service="a", severity="page", for_s=2.0, clear_s=3.0),
    Rule(failure="availability_burning", service="a", severity="page", clear_s=3.0),
    Rule(failure="model_timeout", service="b", severity="page", for_s=2.0, clear_s=3.0),
]
JUDGEMENTS = st.sampled_from(["bad", "good", "unknown"])
LOOKS = st.lists(
    st.tuples(
        st.tuples(*[JUDGEMENTS for _ in RULES]),
        st.booleans(),  # the server is killed and started again after this look
        st.sampled_from([-7_200.0, 0.0, 0.0, 0.0, 86_400.0]),  # the wall clock steps by that
        st.booleans(),  # everything is silenced now
    ),
    max_size=60,
)


@given(LOOKS)
def test_every_alert_is_told_at_most_once_that_it_fires_and_then_once_that_it_is_over(looks):
    tracks, told, ids = {}, [], count(1)
    now_s, now_us = 0.0, 10**15
    silence = Silence(id="s", until_us=2 * 10**18, until_s=1e12, reason="r", who="w")

    for judgements, is_killed, wall_step_s, is_silenced in looks:
        now_s, now_us = now_s + 1.0, now_us + int((1.0 + wall_step_s) * 1e6)
        verdicts = {
            rule.key: Verdict(judgement, is_condition=rule.for_s > 0)
            for rule, judgement in zip(RULES, judgements, strict=True)
        }
        tracks, changed = step(
            tracks, RULES, verdicts, now_s=now_s, now_us=now_us, draw_id=lambda: str(next(ids))
        )
        groups = due(tracks, changed, [silence] if is_silenced else [], now_s=now_s, group_wait_s=1.0)
        tracks = mark_told(tracks, groups)
        told += [(one.id, one.state) for group in groups for one in group.alerts]
        if is_killed:
            kept = [msgspec.json.encode(track.alert) for track in tracks.values()]
            now_s = 5_000.0 if now_s < 5_000.0 else 0.0  # another clock altogether
            found = [msgspec.json.decode(body, type=Alert) for body in kept]
            tracks = {alert.key: Track(alert=alert, since_s=now_s) for alert in found}

    assert len(told) == len(set(told)), "nothing twice"
    for alert_id, state in told:
        if state == "resolved":
            assert told.index((alert_id, "firing")) < told.index((alert_id, "resolved"))
    for track in tracks.values():
        if track.alert.state == "firing" and track.alert.is_told:
            assert (track.alert.id, "firing") in told


@given(LOOKS)
def test_what_is_not_known_resolves_nothing(looks):
    tracks, ids = {}, count(1)
    for place, (judgements, *_) in enumerate(looks):
        verdicts = {
            rule.key: Verdict("bad" if judgement == "bad" else "unknown")
            for rule, judgement in zip(RULES, judgements, strict=True)
        }
        fired = {key for key, track in tracks.items() if track.alert.state == "firing"}
        tracks, _ = step(
            tracks, RULES, verdicts, now_s=float(place), now_us=place, draw_id=lambda: str(next(ids))
        )
        assert fired <= {key for key, track in tracks.items() if track.alert.state == "firing"}
