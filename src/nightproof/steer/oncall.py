"""Judge what alerts once a second, keep it, record it, and have receivers told.

Built and started by `runtime`. The choices are pure (`watch.alerts`); here they are carried out, in this order: what
changed and whom to tell is kept in one transaction, then receivers are told, then the audit log. While the disk takes
nothing, alerts go on from memory: a full disk is the last thing to be silent about.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec
from prometheus_client import Metric

from nightproof.audit.ledger import AuditOutcomeUnknown, AuditUnavailable
from nightproof.base.clock import iso_us, monotonic_s, utc_us
from nightproof.base.conditions import Condition
from nightproof.base.failures import CATALOGUE
from nightproof.settings.settings import Settings
from nightproof.steer.tasks import Tasks
from nightproof.storage.alert_store import (
    AlertStore,
    Change,
    DropAlert,
    DropParcel,
    DropSilence,
    DropUnrecorded,
    PutAlert,
    PutCounts,
    PutParcel,
    PutSilence,
    PutUnrecorded,
    TouchParcel,
)
from nightproof.storage.sqlite import NotFound, StorageOutcomeUnknown, StorageUnavailable
from nightproof.watch.alerts.counts import ALL, FAILED, Series, Slowness, values_of
from nightproof.watch.alerts.judge import judge
from nightproof.watch.alerts.machine import Alert, Track, Transition, step
from nightproof.watch.alerts.rules import Key, Promise, Rule, rules_of
from nightproof.watch.alerts.telling import Group, Held, Silence, due, held_back, mark_told, severity_order
from nightproof.watch.families import gauge
from nightproof.watch.health import Component, Health
from nightproof.watch.log import log
from nightproof.watch.meters import Meters
from nightproof.watch.notify.courier import Courier, Delivery, Parcel
from nightproof.watch.notify.message import Message, ToldAlert, told
from nightproof.watch.notify.post import NotDelivered, Sender
from nightproof.watch.notify.receiver import Receiver
from nightproof.watch.notify.receivers import heartbeat_of, receivers_of

_COUNTS_EVERY_S = 60.0
_KEEP_COUNTS_S = 3.1 * 86_400
_MOST_UNRECORDED = 10_000
_MOST_UNSAVED = 20_000
_LATE_LOOKS = 5
_GIVEN_UP_SHOWN_S = 600.0
_EVENTS = {"delivered": "message_delivered", "failed": "message_failed", "given_up": "message_given_up"}

REPORTABLE = frozenset({"audit_tampered", "content_unreadable"})

Note = Callable[..., Awaitable[None]]


class Readings(msgspec.Struct, frozen=True, kw_only=True):
    """What the rooms say at one moment."""

    promises: Sequence[Promise]
    conditions: Sequence[Condition]
    unread: Sequence[str] = ()
    """Failures whose conditions could not be asked for."""
    is_complete: bool = True
    """Every service that is to be served is there."""
    is_ending: bool = False
    """The server drains: what stops now is meant to, and says nothing of how it was."""


class AlertShown(msgspec.Struct, frozen=True, kw_only=True):
    """One alert as `nightproof alerts` shows it."""

    id: str
    alertname: str
    service: str
    failure: str
    severity: str
    state: str
    since: str
    title: str
    why: str
    runbook: str
    told: bool
    held_by: str
    """The silence or the cause that keeps it from being told; empty if nothing does."""
    known: bool
    """Whether there is anything to judge it by now."""


class OnCall:
    """The alerts of this server."""

    def __init__(
        self,
        settings: Settings,
        store: AlertStore,
        *,
        meters: Meters,
        read: Callable[[], Readings],
        note: Note,
        address: Callable[[], str],
    ) -> None:
        self._settings = settings
        self._store = store
        self._meters = meters
        self._read = read
        self._note = note
        self._address = address
        self._sender = Sender(settings.notify.within_s)
        self._receivers = receivers_of(settings, self._sender)
        self._heartbeat = heartbeat_of(settings.notify)
        self._couriers = {one.name: Courier(one, settings.notify, self._delivered) for one in self._receivers}
        self._rules: list[Rule] = []
        self._series: dict[str, Series] = {}
        self._slowness = Slowness()
        self._tracks: dict[Key, Track] = {}
        self._silences: list[Silence] = []
        self._reported: dict[str, Condition] = {}
        """What a verb found and told us of, by failure; it stands until the verb finds it gone."""
        self._unsaved: deque[Change] = deque()
        self._unrecorded: dict[str, bytes] = {}
        self._saving = asyncio.Lock()
        self._tasks = Tasks()
        self._save_trouble = ""
        self._looked_s = monotonic_s()
        self._counts_kept_s = monotonic_s()
        self._repeated_s = self._beat_s = -float("inf")
        self._not_repeated: dict[str, tuple[float, str]] = {}
        """Receivers that do not take what fires again: since when, and why."""
        self._beat_arrived_s = monotonic_s()
        self._beat_why = ""

    # -- start and stop -----------------------------------------------------------------------

    async def start(self) -> None:
        """Take over what the run before left, and begin to look and to tell."""
        kept = await asyncio.to_thread(self._store.read)
        now_s, now_us = monotonic_s(), utc_us()
        for body in kept.alerts:
            alert = msgspec.json.decode(body, type=Alert)
            self._tracks[alert.key] = Track(alert=alert, since_s=now_s)
            if alert.failure in REPORTABLE and alert.state in ("pending", "firing"):
                self._reported[alert.failure] = Condition(
                    failure=alert.failure, since_s=now_s, detail=alert.why
                )
        for body in kept.silences:
            silence = msgspec.json.decode(body, type=Silence)
            left_s = (silence.until_us - now_us) / 1e6
            self._silences.append(msgspec.structs.replace(silence, until_s=now_s + left_s))
        self._unrecorded = dict(kept.unrecorded)
        points: dict[str, list[tuple[float, dict[str, int]]]] = {}
        for service, at_us, body in kept.counts:
            at_s = now_s - (now_us - at_us) / 1e6
            points.setdefault(service, []).append((at_s, msgspec.json.decode(body, type=dict[str, int])))
        for service, counted in points.items():
            self._series_of(service, now_s).restore(counted, now_s=now_s)
        for parcel in kept.parcels:
            courier = self._couriers.get(parcel.receiver)
            if courier is None:
                self._unsaved.append(
                    DropParcel(parcel.receiver, parcel.id)
                )  # nobody is to be told there any more
                continue
            courier.put(
                Parcel(
                    message=msgspec.json.decode(parcel.body, type=Message),
                    attempts=parcel.attempts,
                    waited_s=parcel.waited_s,
                )
            )
        for name, one in self._couriers.items():
            self._tasks.keep_up(f"courier {name}", one.run)
        self._tasks.keep_up("alerts", self._look_soon)

    async def stop(self) -> None:
        """End looking and telling, keep what is left, and close."""
        await self._tasks.end()
        self._unsaved += self._count_changes(monotonic_s(), utc_us())
        await self._save()
        await self._sender.close()
        try:
            self._store.close()
        except (StorageUnavailable, StorageOutcomeUnknown) as error:
            log("not_closed", level="warning", why=str(error))

    # -- looking ------------------------------------------------------------------------------

    async def _look_soon(self) -> None:
        """Look after the pause. The heartbeat is held back while that fails: somebody outside notices."""
        await asyncio.sleep(self._settings.alerts.every_s)
        await self.look()

    async def look(self) -> None:
        """Judge everything once, and see that who is to be told will be."""
        readings = self._read()
        if readings.is_ending:
            return
        now_s, now_us, scale = monotonic_s(), utc_us(), self._settings.alerts.scale
        self._rules = rules_of(readings.promises, scale=scale)
        self._count(readings, now_s)
        verdicts = judge(
            self._rules,
            self._series,
            [
                *readings.conditions,
                *self._reported.values(),
                *self._own_conditions(now_s),
                *self._tasks.conditions(),
            ],
            now_s=now_s,
            unread=readings.unread,
        )
        before = self._tracks
        tracks, changed = step(
            before,
            self._rules,
            verdicts,
            now_s=now_s,
            now_us=now_us,
            draw_id=lambda: secrets.token_hex(8),
            is_complete=readings.is_complete,
            scale=scale,
        )
        changes: list[Change] = self._end_silences(now_s, now_us)
        groups = due(
            tracks,
            changed,
            self._silences,
            now_s=now_s,
            group_wait_s=self._settings.alerts.group_wait_s * scale,
        )
        self._tracks = mark_told(tracks, groups)
        messages = [self._message(group, now_us) for group in groups]
        changes += self._state_changes(before)
        changes += self._transition_changes(changed, now_us)
        for message in messages:
            body = msgspec.json.encode(message)
            changes += [PutParcel(name, message.id, body) for name in self._couriers]
        counts_are_due = now_s - self._counts_kept_s >= _COUNTS_EVERY_S * scale
        if counts_are_due or any(one.alert.state == "firing" for one in changed):
            self._counts_kept_s = now_s
            changes += self._count_changes(now_s, now_us)
        self._unsaved += changes
        await self._save()
        for message in messages:
            for name, courier in self._couriers.items():
                dropped = courier.put(Parcel(message=message))
                self._unsaved += [DropParcel(name, one) for one in dropped]
        self._looked_s = now_s
        self._tasks.begin_alone("record", self._record_all())
        self._say_again(now_s, now_us)
        self._beat(now_s)

    def _count(self, readings: Readings, now_s: float) -> None:
        totals = self._meters.totals()
        for service, values in values_of(totals, self._slowness.add(totals, readings.promises)).items():
            self._series_of(service, now_s).add(values, now_s=now_s)

    def _series_of(self, service: str, now_s: float) -> Series:
        series = self._series.get(service)
        if series is None:
            series = self._series[service] = Series(now_s=now_s, scale=self._settings.alerts.scale)
        return series

    def _own_conditions(self, now_s: float) -> list[Condition]:
        """Return what is wrong with telling itself."""
        wrong: list[str] = []
        longest_s = 0.0
        after_s = self._settings.notify.failing_after_s
        for courier in self._couriers.values():
            picture = courier.snapshot()
            if picture.why and picture.oldest_s > after_s:
                wrong.append(f"{picture.receiver}: {picture.why}; {picture.waiting} waiting")
                longest_s = max(longest_s, picture.oldest_s - after_s)
            elif picture.given_up_ago_s < _GIVEN_UP_SHOWN_S:
                wrong.append(f"{picture.receiver}: {picture.given_up} messages given up")
                longest_s = max(longest_s, picture.given_up_ago_s)
        for name, (since_s, why) in self._not_repeated.items():
            if now_s - since_s > after_s and not any(one.startswith(name) for one in wrong):
                wrong.append(f"{name}: {why}")
                longest_s = max(longest_s, now_s - since_s - after_s)
        if (
            self._beat_why
            and now_s - self._beat_arrived_s > after_s + self._settings.notify.heartbeat_every_s
        ):
            wrong.append(f"heartbeat: {self._beat_why}")
        if not wrong:
            return []
        return [Condition(failure="delivery_failing", since_s=now_s - longest_s, detail="; ".join(wrong))]

    # -- what is kept -------------------------------------------------------------------------

    def _state_changes(self, before: dict[Key, Track]) -> list[Change]:
        changes: list[Change] = []
        for key, track in self._tracks.items():
            old = before.get(key)
            if old is not None and _is_kept_alike(old.alert, track.alert):
                continue
            changes.append(PutAlert("|".join(key), msgspec.json.encode(track.alert)))
        changes += [DropAlert("|".join(key)) for key in before if key not in self._tracks]
        return changes

    def _transition_changes(self, changed: Sequence[Transition], now_us: int) -> list[Change]:
        changes: list[Change] = []
        for one in changed:
            alert = one.alert
            log(
                "alert",
                level="warning" if alert.state == "firing" else "info",
                alertname=alert.alertname,
                service=alert.service,
                state=alert.state,
                before=one.before,
                why=alert.why,
            )
            facts = {
                "alert": alert.id,
                "alertname": alert.alertname,
                "service": alert.service,
                "failure": alert.failure,
                "severity": alert.severity,
                "state": alert.state,
                "before": one.before,
                "why": alert.why,
                "changed": now_us,
            }
            entry_id, body = f"{alert.id}-{alert.state}", msgspec.json.encode(facts)
            if len(self._unrecorded) < _MOST_UNRECORDED:
                self._unrecorded[entry_id] = body
                changes.append(PutUnrecorded(entry_id, body))
        return changes

    def _count_changes(self, now_s: float, now_us: int) -> list[Change]:
        keep_from_us = now_us - int(_KEEP_COUNTS_S * self._settings.alerts.scale * 1e6)
        return [
            PutCounts(service, now_us, msgspec.json.encode(dict(series.newest)), keep_from_us)
            for service, series in self._series.items()
            if series.newest
        ]

    async def _save(self) -> None:
        """Make what changed durable; what cannot be written now is tried again with the next change."""
        async with self._saving:
            if not self._unsaved:
                return
            changes = list(self._unsaved)
            try:
                await asyncio.to_thread(self._store.apply, changes)
            except (StorageUnavailable, StorageOutcomeUnknown) as error:
                if not self._save_trouble:
                    log("alerts_not_kept", level="error", why=error.text)
                self._save_trouble = error.text
                while len(self._unsaved) > _MOST_UNSAVED:
                    self._unsaved.popleft()
                return
            self._save_trouble = ""
            for _ in changes:
                self._unsaved.popleft()

    async def _record_all(self) -> None:
        """Tell the audit log what changed, in order; what it does not take now is told later."""
        for entry_id, body in list(self._unrecorded.items()):
            try:
                await self._note("alert", **msgspec.json.decode(body, type=dict[str, Any]))
            except (AuditUnavailable, AuditOutcomeUnknown):
                return
            self._unrecorded.pop(entry_id, None)
            self._unsaved.append(DropUnrecorded(entry_id))

    # -- telling ------------------------------------------------------------------------------

    def _message(self, group: Group, now_us: int) -> Message:
        return Message(
            id=f"msg_{secrets.token_hex(12)}",
            at_us=now_us,
            instance=self.instance,
            service=group.service,
            alerts=tuple(told(alert, runbooks_url=self.runbooks_url) for alert in group.alerts),
        )

    async def _delivered(self, delivery: Delivery) -> None:
        self._meters.count_event(_EVENTS[delivery.outcome], reason=delivery.receiver.partition(" ")[0])
        if delivery.outcome == "failed":
            self._unsaved.append(
                TouchParcel(delivery.receiver, delivery.message_id, delivery.attempts, delivery.waited_s)
            )
            return  # kept with the next look: a kill before loses no more than the number of tries
        self._unsaved.append(DropParcel(delivery.receiver, delivery.message_id))
        await self._save()

    def _say_again(self, now_s: float, now_us: int) -> None:
        if now_s - self._repeated_s < self._settings.alerts.repeat_s:
            return
        self._repeated_s = now_s
        firing = [
            told(track.alert, runbooks_url=self.runbooks_url)
            for track in self._tracks.values()
            if track.alert.state == "firing" and track.alert.is_told
        ]
        for receiver in self._receivers:
            if self._couriers[receiver.name].snapshot().waiting:
                self._not_repeated.pop(receiver.name, None)  # what waits must be first, to keep the order
            else:
                self._tasks.begin_alone(f"again {receiver.name}", self._keep_up(receiver, firing))

    async def _keep_up(self, receiver: Receiver, firing: Sequence[ToldAlert]) -> None:
        try:
            await receiver.keep_up(firing, instance=self.instance, now_us=utc_us())
        except NotDelivered as error:
            if receiver.name not in self._not_repeated:
                log("not_repeated", level="warning", receiver=receiver.name, why=error.text)
            since_s = self._not_repeated.get(receiver.name, (monotonic_s(), ""))[0]
            self._not_repeated[receiver.name] = (since_s, error.text)
        else:
            self._not_repeated.pop(receiver.name, None)

    def _beat(self, now_s: float) -> None:
        """Say to somebody outside that alerts are judged; called only by a look that went well."""
        if self._heartbeat and now_s - self._beat_s >= self._settings.notify.heartbeat_every_s:
            self._beat_s = now_s
            self._tasks.begin_alone("heartbeat", self._send_heartbeat())

    async def _send_heartbeat(self) -> None:
        firing = sum(track.alert.state == "firing" for track in self._tracks.values())
        body = msgspec.json.encode({"instance": self.instance, "at": iso_us(utc_us()), "firing": firing})
        try:
            await self._sender.post(self._heartbeat, body, {"content-type": "application/json"})
        except NotDelivered as error:
            self._beat_why = error.text
        else:
            self._beat_why, self._beat_arrived_s = "", monotonic_s()

    # -- what operators ask -------------------------------------------------------------------

    @property
    def instance(self) -> str:
        """This server's name in alerts: two servers must not share one, or one resolves the other's."""
        chosen = self._settings.alerts.instance or urlsplit(self._settings.server.public_url).netloc
        return chosen or f"{socket.gethostname()}:{self._address().rpartition(':')[2]}"

    @property
    def promises(self) -> list[Promise]:
        """The objectives that are judged."""
        return list(self._read().promises)

    def alerts(self) -> list[AlertShown]:
        """Return what is pending, firing, or was resolved lately; the most urgent first."""
        held = held_back(self._tracks, self._silences)
        alerts = (track.alert for track in self._tracks.values())
        shown = sorted(alerts, key=lambda one: (severity_order(one)[0], one.key in held, severity_order(one)))
        return [self._shown(alert, held.get(alert.key)) for alert in shown]

    def alert_of(self, failure: str, service: str) -> AlertShown | None:
        """Return the most urgent alert of a failure, of a service or of the whole server."""
        for one in self.alerts():
            if one.failure == failure and one.service in ("", service):
                return one
        return None

    def seen(self, failure: str, service: str) -> str:
        """Say how often requests ended by a failure, lately and in the days that are counted, up to now."""
        self._count(self._read(), monotonic_s())
        series = self._series.get(service)
        if series is None:
            return ""
        lately, ever = series.window(300.0), series.newest
        name = FAILED + failure
        return (
            f"{lately.get(name)} of {lately.get(ALL)} requests in the last {lately.span_s:.0f} s,"
            f" {ever.get(name, 0)} of {ever.get(ALL, 0)} counted in all"
        )

    def picture(self) -> dict[str, Any]:
        """Return all that `nightproof alerts` shows."""
        shown = self.alerts()
        return {
            "instance": self.instance,
            "firing": sum(one.state == "firing" for one in shown),
            "alerts": shown,
            "silences": [self._silence_shown(one) for one in self._silences],
            "receivers": [courier.snapshot() for courier in self._couriers.values()],
            "heartbeat": {"set": bool(self._heartbeat), "why": self._beat_why},
            "rules": len(self._rules),
        }

    async def silence(
        self, *, alertname: str, service: str, for_s: float, reason: str, who: str
    ) -> dict[str, Any]:
        """Keep alerts quiet for a while."""
        silence = Silence(
            id=f"sil_{secrets.token_hex(6)}",
            alertname=alertname,
            service=service,
            until_us=utc_us() + int(for_s * 1e6),
            until_s=monotonic_s() + for_s,
            reason=reason,
            who=who,
        )
        self._silences.append(silence)
        self._unsaved.append(PutSilence(silence.id, msgspec.json.encode(silence)))
        await self._save()
        return self._silence_shown(silence)

    async def unsilence(self, silence_id: str) -> dict[str, Any]:
        """End a silence. Raises NotFound."""
        found = next((one for one in self._silences if one.id == silence_id), None)
        if found is None:
            raise NotFound(f"There is no silence {silence_id}.", hint="`nightproof alerts` shows them.")
        self._silences.remove(found)
        self._unsaved.append(DropSilence(silence_id))
        await self._save()
        return self._silence_shown(found)

    def report(self, failure: str, *, is_wrong: bool, detail: str) -> None:
        """Take in what a verb found of something that no room watches by itself."""
        if is_wrong:
            since_s = self._reported[failure].since_s if failure in self._reported else monotonic_s()
            self._reported[failure] = Condition(failure=failure, since_s=since_s, detail=detail)
        else:
            self._reported.pop(failure, None)

    def reported(self, failure: str) -> str:
        """Return what was reported last of a failure and still stands; empty if nothing does."""
        return self._reported[failure].detail if failure in self._reported else ""

    async def test(self) -> list[dict[str, Any]]:
        """Send a test alert to every receiver now, past the line, and say what came back from each."""
        now_us = utc_us()
        message = Message(
            id=f"msg_{secrets.token_hex(12)}",
            at_us=now_us,
            instance=self.instance,
            service="",
            is_test=True,
            alerts=(
                ToldAlert(
                    id=secrets.token_hex(8),
                    alertname="NightproofTest",
                    service="",
                    failure="delivery_failing",
                    severity="ticket",
                    state="firing",
                    title="This is a test",
                    why="somebody ran `nightproof alerts test`; nothing is wrong",
                    starts_us=now_us,
                    runbook_url=f"{self.runbooks_url}/delivery_failing",
                ),
            ),
        )
        return list(await asyncio.gather(*(self._try(one, message) for one in self._receivers)))

    async def _try(self, receiver: Receiver, message: Message) -> dict[str, Any]:
        began_s = monotonic_s()
        try:
            told_back, arrived, hint = await receiver.tell(message, now_us=utc_us()), True, ""
        except NotDelivered as error:
            told_back, arrived, hint = error.text, False, error.hint
        took_ms = round((monotonic_s() - began_s) * 1e3, 1)
        return {
            "receiver": receiver.name, "arrived": arrived, "answer": told_back, "hint": hint, "took_ms": took_ms,
        }  # fmt: skip

    # -- what is seen from outside ------------------------------------------------------------

    def health(self, health: Health) -> list[Component]:
        """Return whether alerts are judged, kept and told."""
        late_s = monotonic_s() - self._looked_s
        why = ""
        if late_s > _LATE_LOOKS * max(1.0, self._settings.alerts.every_s):
            why = f"not judged for {late_s:.0f} s"
        elif self._save_trouble:
            why = "what fires cannot be kept on the disk"
        parts = [health.see("alerts", ok=not why, why=why, needed=False)]
        if self._couriers or self._heartbeat:
            wrong = self._own_conditions(monotonic_s())
            why = wrong[0].detail if wrong else ""
            parts.append(health.see("delivery", ok=not wrong, why=why, needed=False))
        return parts

    def gauges(self) -> Iterable[Metric]:
        """Return the present values for `/metrics`."""
        firing: dict[tuple[str, str, str, str], float] = {}
        for track in self._tracks.values():
            alert = track.alert
            firing[alert.alertname, alert.service, alert.failure, alert.severity] = float(
                alert.state == "firing"
            )
        labels = ["alertname", "service", "failure", "severity"]
        yield gauge(
            "nightproof_alert_firing", "Whether an alert fires; absent while it is quiet.", firing, labels
        )
        waiting = {(name,): float(one.snapshot().waiting) for name, one in self._couriers.items()}
        yield gauge(
            "nightproof_messages_waiting", "Messages that a receiver is still to take.", waiting, ["receiver"]
        )
        age = monotonic_s() - self._looked_s
        yield gauge("nightproof_alerts_judged_age_seconds", "Since alerts were judged last.", {(): age})

    @property
    def runbooks_url(self) -> str:
        """The address that runbooks are served under."""
        base = self._settings.server.public_url.rstrip("/") or self._address()
        return f"{base}/runbooks"

    def _shown(self, alert: Alert, held: Held | None) -> AlertShown:
        return AlertShown(
            id=alert.id,
            alertname=alert.alertname,
            service=alert.service,
            failure=alert.failure,
            severity=alert.severity,
            state=alert.state,
            since=iso_us(alert.since_us),
            title=CATALOGUE[alert.failure].title,
            why=alert.why,
            runbook=f"{self.runbooks_url}/{CATALOGUE[alert.failure].runbook}",
            told=alert.is_told,
            held_by=f"{held.by} {held.name}" if held is not None else "",
            known=alert.is_known,
        )

    def _silence_shown(self, silence: Silence) -> dict[str, Any]:
        return {
            "id": silence.id,
            "alert": silence.alertname,
            "service": silence.service,
            "until": iso_us(silence.until_us),
            "reason": silence.reason,
            "who": silence.who,
        }

    def _end_silences(self, now_s: float, now_us: int) -> list[Change]:
        over = [one for one in self._silences if one.is_over(now_s=now_s, now_us=now_us)]
        self._silences = [one for one in self._silences if one not in over]
        return [DropSilence(one.id) for one in over]


def _is_kept_alike(before: Alert, now: Alert) -> bool:
    """Say whether what is kept of an alert stays the same: its words may change with each look."""
    return (before.id, before.state, before.is_told) == (now.id, now.state, now.is_told)
