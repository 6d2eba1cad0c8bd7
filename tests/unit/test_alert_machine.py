"""The states of an alert, and who is told: pending, firing, resolved; silences, causes, groups."""

from __future__ import annotations

from itertools import count

import msgspec

from nightproof.watch.alerts.judge import Judgement, Verdict
from nightproof.watch.alerts.machine import Alert, Track, Transition, step
from nightproof.watch.alerts.rules import Key, Promise, Rule, rules_of
from nightproof.watch.alerts.telling import Silence, due, held_back, mark_told

RULE = Rule(failure="model_unavailable", service="loans", severity="page", for_s=2.0, clear_s=20.0)


class Watched:
    """One rule's alert over time, with clocks of its own."""

    def __init__(self, *rules: Rule) -> None:
        self.rules = list(rules or (RULE,))
        self.tracks: dict[Key, Track] = {}
        self.now_s = 100.0
        self.now_us = 1_000_000_000
        self._ids = count(1)

    def look(
        self, judgement: Judgement | None, *, after_s: float = 1.0, is_condition: bool = True, **named: object
    ):
        """Move on and look once; return the transitions as (before, after)."""
        self.now_s += after_s
        self.now_us += int(after_s * 1e6)
        verdicts = {
            rule.key: Verdict(judgement, "because", is_condition=is_condition)
            for rule in self.rules
            if judgement
        }
        self.tracks, changed = step(
            self.tracks, self.rules, verdicts, now_s=self.now_s, now_us=self.now_us,
            draw_id=lambda: str(next(self._ids)), **named,
        )  # fmt: skip
        return [(one.before, one.alert.state) for one in changed]

    @property
    def alert(self) -> Alert:
        """Return its alert."""
        return self.tracks[self.rules[0].key].alert


def test_a_condition_waits_then_fires_and_is_resolved_when_it_was_well_for_long_enough():
    watched = Watched()

    assert watched.look("bad") == [("quiet", "pending")]
    assert watched.look("bad") == []
    assert watched.look("bad") == [("pending", "firing")]
    assert watched.look("good") == []
    assert watched.look("bad") == [], "it came back before it counted as over"
    assert watched.look("good") == []
    assert watched.look("good", after_s=19.0) == []
    assert watched.look("good") == [("firing", "resolved")]


def test_a_condition_that_passes_at_once_never_fires():
    watched = Watched()

    assert watched.look("bad") == [("quiet", "pending")]
    assert watched.look("good") == [("pending", "resolved")]
    assert watched.tracks == {}


def test_what_counts_already_took_time_to_show_fires_at_once():
    assert Watched().look("bad", is_condition=False) == [("quiet", "firing")]


def test_what_is_not_known_neither_raises_nor_resolves_an_alert():
    watched = Watched()
    watched.look("unknown")
    assert watched.tracks == {}
    watched.look("bad", is_condition=False)

    assert watched.look("unknown", after_s=3_600) == []
    assert watched.alert.state == "firing"
    assert not watched.alert.is_known
    assert watched.look("unknown", after_s=20_000) == []
    assert watched.look("unknown", after_s=2_000) == [("firing", "resolved")], (
        "after six hours without any figure"
    )
    assert watched.alert.why.startswith("nothing to judge it by")


def test_a_wall_clock_that_steps_changes_nothing_but_what_is_written_down():
    watched = Watched()
    watched.look("bad")
    watched.now_us -= 3_600_000_000

    assert watched.look("bad", after_s=2.0) == [("pending", "firing")]
    watched.now_us += 86_400_000_000
    assert watched.look("good") == []
    assert watched.look("good", after_s=20.0) == [("firing", "resolved")]


def test_an_alert_goes_on_after_a_restart_under_the_same_id():
    watched = Watched()
    watched.look("bad", is_condition=False)
    kept = msgspec.json.decode(msgspec.json.encode(watched.alert), type=Alert)

    after = Watched()
    after.tracks = {kept.key: Track(alert=kept, since_s=after.now_s)}

    assert after.look("bad") == []
    assert after.alert.id == kept.id


def test_while_services_are_still_loading_an_alert_without_a_rule_stays_and_later_ends():
    watched = Watched()
    watched.look("bad", is_condition=False)
    watched.rules = []

    assert watched.look(None, is_complete=False) == []
    assert watched.look(None) == [("firing", "resolved")]


def test_an_alert_that_fires_again_is_another_one():
    watched = Watched()
    watched.look("bad", is_condition=False)
    first = watched.alert.id
    watched.look("good")
    watched.look("good", after_s=20.0)

    assert watched.look("bad", is_condition=False) == [("resolved", "firing")]
    assert watched.alert.id != first


def alert_of(failure: str, service: str = "loans", severity: str = "page", **named: object) -> Alert:
    """Return a firing alert."""
    rule = Rule(failure=failure, service=service, severity=severity)  # type: ignore[arg-type]
    facts = {"id": failure, "alertname": rule.alertname, "state": "firing", "since_us": 1, "fired_us": 1}
    return Alert(failure=failure, service=service, severity=severity, **{**facts, **named})  # type: ignore[arg-type]


def rule_of(failure: str) -> Rule:
    """Return the failure's own rule for the service `loans`."""
    promise = Promise(service="loans", availability=0.999)
    return next(one for one in rules_of([promise]) if (one.failure, one.service) == (failure, "loans"))


def tracks_of(*alerts: Alert, since_s: float = 0.0) -> dict[Key, Track]:
    """Return tracks of alerts that fire since then."""
    return {one.key: Track(alert=one, since_s=since_s) for one in alerts}


def test_a_symptom_is_not_told_while_its_cause_is_and_is_told_when_the_cause_ends():
    cause, symptom = alert_of("model_timeout"), alert_of("availability_burning")
    both, later = tracks_of(cause, symptom), tracks_of(symptom)

    (group,) = due(both, [], [], now_s=5.0, group_wait_s=1.0)

    assert [one.failure for one in group.alerts] == ["model_timeout"]
    assert held_back(both, [])[symptom.key].name == "NightproofModelTimeout"
    (group,) = due(later, [], [], now_s=5.0, group_wait_s=1.0)
    assert [one.failure for one in group.alerts] == ["availability_burning"]


def test_a_symptom_waits_for_a_cause_that_is_about_to_fire_and_no_longer():
    """A dead upstream: what it does to requests fires at once, that it is down after two seconds."""
    symptom = alert_of("upstream_unreachable")
    cause = alert_of("upstream_down", state="pending", fired_us=0)
    unknown = alert_of("upstream_down", state="pending", fired_us=0, is_known=False)

    assert due(tracks_of(symptom, cause), [], [], now_s=5.0, group_wait_s=1.0) == []
    assert held_back(tracks_of(symptom, cause), [])[symptom.key].name == "NightproofUpstreamDown"
    assert held_back(tracks_of(symptom, cause), []).keys() == {symptom.key}
    for gone in (tracks_of(symptom), tracks_of(symptom, unknown)):
        (group,) = due(gone, [], [], now_s=5.0, group_wait_s=1.0)
        assert group.alerts == (symptom,)


def test_a_pending_cause_of_less_weight_or_that_is_over_holds_nothing_back():
    symptom = alert_of("upstream_unreachable")
    lesser = alert_of("upstream_down", severity="ticket", state="pending")
    over = alert_of("upstream_down", state="resolved")

    assert held_back(tracks_of(symptom, lesser), []) == {}
    assert held_back(tracks_of(symptom, over), []) == {}


def test_what_is_pending_and_no_longer_known_says_so_until_it_is():
    watched = Watched()
    watched.look("bad")
    assert watched.alert.is_known

    watched.look("unknown", after_s=1.0)
    assert (watched.alert.state, watched.alert.is_known) == ("pending", False)
    watched.look("bad", after_s=0.5)
    assert (watched.alert.state, watched.alert.is_known) == ("pending", True)


def test_one_dead_upstream_tells_one_alert_from_the_first_failed_request_to_its_end():
    """The whole way: the symptom fires at the first look, the cause is pending and then fires, both end."""
    rules = [rule_of("upstream_unreachable"), rule_of("upstream_down")]
    tracks: dict[Key, Track] = {}
    told: list[tuple[str, str]] = []
    for second in range(60):
        is_dead = second < 20
        bad = Verdict("bad", "it is dead", is_condition=False)
        verdicts = {
            rules[0].key: bad if is_dead else Verdict("good"),
            rules[1].key: msgspec.structs.replace(bad, is_condition=True)
            if second >= 1 and is_dead
            else Verdict("good"),
        }
        tracks, changed = step(
            tracks, rules, verdicts, now_s=float(second), now_us=second, draw_id=lambda: "id"
        )
        groups = due(tracks, changed, [], now_s=float(second), group_wait_s=1.0)
        tracks = mark_told(tracks, groups)
        told += [(one.failure, one.state) for group in groups for one in group.alerts]

    assert told == [("upstream_down", "firing"), ("upstream_down", "resolved")]


def test_a_cause_of_another_service_or_of_less_weight_holds_nothing_back():
    symptom = alert_of("availability_burning")
    elsewhere = alert_of("model_timeout", service="other")
    lesser = alert_of("model_timeout", severity="ticket")

    assert held_back(tracks_of(symptom, elsewhere, lesser), []) == {}


def test_what_is_wrong_with_the_whole_server_stands_before_the_same_of_one_service():
    whole, one = alert_of("audit_unavailable", service=""), alert_of("audit_unavailable")

    assert set(held_back(tracks_of(whole, one), [])) == {one.key}


def test_the_alerts_of_a_service_gather_for_a_moment_and_are_told_as_one():
    tracks = tracks_of(alert_of("model_timeout"), since_s=10.0) | tracks_of(
        alert_of("model_error"), since_s=10.9
    )

    assert due(tracks, [], [], now_s=10.5, group_wait_s=1.0) == []
    (group,) = due(tracks, [], [], now_s=11.0, group_wait_s=1.0)
    assert {one.failure for one in group.alerts} == {"model_timeout", "model_error"}


def test_a_silence_holds_back_what_was_not_told_yet_and_lets_it_out_when_it_ends():
    tracks = tracks_of(alert_of("model_timeout"))
    silence = Silence(id="s", alertname="model_timeout", until_us=100, until_s=100.0, reason="r", who="w")

    assert due(tracks, [], [silence], now_s=5.0, group_wait_s=1.0) == []
    assert len(due(tracks, [], [], now_s=5.0, group_wait_s=1.0)) == 1
    assert silence.is_over(now_s=0.0, now_us=100)
    assert silence.is_over(now_s=100.0, now_us=0), "a wall clock that stepped back does not lengthen it"


def test_what_was_told_is_told_to_be_over_even_while_silenced_and_what_was_not_is_not():
    silence = Silence(id="s", until_us=100, until_s=100.0, reason="r", who="w")
    told = alert_of("model_timeout", state="resolved", is_told=True)
    untold = alert_of("model_error", state="resolved")
    changed = [Transition(told, "firing"), Transition(untold, "firing")]

    (group,) = due({}, changed, [silence], now_s=5.0, group_wait_s=1.0)

    assert group.alerts == (told,)


def test_an_alert_is_told_once():
    tracks = tracks_of(alert_of("model_timeout"))
    groups = due(tracks, [], [], now_s=5.0, group_wait_s=1.0)

    assert due(mark_told(tracks, groups), [], [], now_s=6.0, group_wait_s=1.0) == []
