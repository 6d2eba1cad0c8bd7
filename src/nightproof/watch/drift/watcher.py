"""Remember how each service's data stands against its release's profile. The server's side of the drift watch.

`take` is called for each recorded request and keeps a fair sample of what was answered; four times a second the
sample goes to the drift child, which counts and judges; what it tells is kept here, and in `drift.db` through the
keeper. Promises: `take` costs a few microseconds and bounded memory whatever the traffic; the event loop never
computes; a child that dies is started again from what was kept, and no request notices. All state is touched on the
event loop's thread only.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from random import Random
from typing import Protocol

import msgspec

from nightproof.base.clock import iso_us, monotonic_of, monotonic_s, utc_us
from nightproof.base.conditions import Condition
from nightproof.settings.settings import DriftSettings
from nightproof.storage.reference_file import LINES, has_reference
from nightproof.storage.reference_file import NAME as REFERENCE
from nightproof.watch.drift import wire
from nightproof.watch.drift.detector import Rules, SignalReport
from nightproof.watch.drift.process import DriftChild
from nightproof.watch.log import log

_FLUSH_EVERY_S = 0.25
_SAVE_EVERY_S = 30.0
_LARGEST_ROW_BYTES = 256 * 1024
_RESTART_AFTER_S = (0.5, 2.0, 10.0, 60.0)
_BUILD_WITHIN_S = 300.0
_PREPARE_AGAIN_S = 30.0
_KEEP_WITHIN_S = 5.0
_CONFIDENCE_MINUTES = 60


class Answered(Protocol):
    """What `take` reads of a request's records."""

    input: bytes
    output: bytes
    failure: str
    findings: list[str]
    batch_size: int
    subject: bytes
    confidence: float | None

    @property
    def degraded(self) -> object | None:
        """The fallback that answered in the release's place."""


class Keeper(Protocol):
    """What the watcher keeps things with; called on the event loop, works beside it."""

    async def find(self, service: str, digest: str) -> tuple[bytes, bytes]:
        """Return the kept profile and state; empty where there is none, or none that can be read."""

    async def keep_profile(self, service: str, digest: str, profile: bytes) -> None:
        """Keep a profile."""

    async def keep_state(self, service: str, digest: str, state: bytes) -> None:
        """Keep a detector's state."""

    async def raised(self, told: wire.Told, release: str) -> None:
        """Keep an alarm with its examples, and record it."""

    async def ended(self, service: str, release: str) -> None:
        """Keep that the alarm is over."""


class DriftStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How one service stands, for operators."""

    service: str
    release: str
    state: str
    """off, preparing, learning, gathering, quiet or drifting."""
    why: str
    since: str
    features: list[str]
    """Those that moved, strongest evidence first."""
    promise: str
    reference: wire.About | None
    rows: int
    filling: int
    window_rows: int
    evidence: float
    """The largest of the scales; at 1 it alarms."""
    alarms: int
    skipped: int
    estimated_accuracy: float | None
    """Mean confidence of the last hour: what accuracy would be if confidence meant what it says."""
    estimate_valid: bool
    estimate_why: str
    window_began: str
    window_ended: str
    signals: list[SignalReport]


class Sample:
    """A fair sample of one service's answered records since the last flush (a reservoir)."""

    __slots__ = ("_chance", "_most", "rows", "seen")

    def __init__(self, most: int) -> None:
        self.rows: list[wire.Row] = []
        self.seen = 0
        self._most = most
        self._chance = Random()  # noqa: S311 - a sample is no secret

    def add(self, item: Answered, caller: str) -> None:
        """Consider one record: every one seen since the last flush has the same chance to be kept."""
        self.seen += 1
        place = len(self.rows)
        if place >= self._most:
            place = int(self._chance.random() * self.seen)
            if place >= self._most:
                return
        own = not item.failure and item.degraded is None
        row = wire.Row(item.input, item.output if own else b"", item.findings, caller, item.subject)
        if place == len(self.rows):
            self.rows.append(row)
        else:
            self.rows[place] = row

    def take_all(self) -> list[wire.Row]:
        """Hand the sample over and begin anew."""
        rows, self.rows, self.seen = self.rows, [], 0
        return rows


class Watched:
    """One service as the watcher remembers it."""

    def __init__(self, release: wire.Release, label: str, sample: Sample) -> None:
        self.release = release
        self.label = label
        self.sample = sample
        self.flushed_s = monotonic_s()
        self.saved_s = monotonic_s()
        self.state = "preparing"
        self.why = "the profile is being made"
        self.profile = b""
        self.kept_state = b""
        self.told: wire.Told | None = None
        self.report: list[SignalReport] = []
        self.dropped = 0
        self.confidence: deque[list[float]] = deque(maxlen=_CONFIDENCE_MINUTES)
        """Per minute: the minute, records, and the sum of their confidence."""
        self.declares_confidence = False


class DriftWatcher:
    """Everything watched, and the child that does it."""

    def __init__(
        self, settings: DriftSettings, keeper: Keeper, *, on_event: Callable[[str, str], None]
    ) -> None:
        self._settings = settings
        self._keeper = keeper
        self._on_event = on_event
        self._rules = Rules(
            promise_s=settings.promise_days * 86_400,
            window_rows=settings.window_rows,
            window_s=settings.window_s,
        )
        self._services: dict[str, Watched] = {}
        self._child: DriftChild | None = None
        self._deaths = 0
        self._born_s = 0.0
        self._not_before_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self._work: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    # -- start and stop -----------------------------------------------------------------------

    def start(self) -> None:
        """Begin to flush."""
        if self._settings.watch:
            self._task = asyncio.create_task(self._flush_for_ever())

    async def stop(self) -> None:
        """Keep where the detectors stand, and end the child."""
        self._is_stopping = True
        if self._task is not None:
            self._task.cancel()
        for watched in self._services.values():
            if watched.told is not None and watched.told.state:
                release = watched.release
                self._do(self._keeper.keep_state(release.service, release.digest, watched.told.state))
        if self._work:
            await asyncio.wait(self._work, timeout=_KEEP_WITHIN_S)
        if self._child is not None:
            self._child.end()

    # -- what the pipeline and the runtime tell it --------------------------------------------

    def take(self, service: str, label: str, items: Sequence[Answered], caller: str) -> None:
        """Consider the records of one request. Called for each that was recorded."""
        watched = self._services.get(service)
        if watched is None or watched.label != label:
            return
        for item in items:
            if item.batch_size and item.failure != "invalid_input" and len(item.input) <= _LARGEST_ROW_BYTES:
                watched.sample.add(item, caller)
                if item.confidence is not None:
                    self._count_confidence(watched, item.confidence)

    def _count_confidence(self, watched: Watched, confidence: float) -> None:
        minute = monotonic_s() // 60
        minutes = watched.confidence
        if not minutes or minutes[-1][0] != minute:
            minutes.append([minute, 0.0, 0.0])
        minutes[-1][1] += 1
        minutes[-1][2] += confidence

    def watches(self, service: str, label: str, digest: str) -> bool:
        """Say whether this release of the service is being watched, or prepared to be."""
        watched = self._services.get(service)
        return watched is not None and (watched.label, watched.release.digest) == (label, digest)

    async def watch(
        self,
        release: wire.Release,
        label: str,
        folder: str,
        *,
        declares_confidence: bool,
        answer: Callable[[list[bytes]], Awaitable[list[tuple[bytes, list[str]]]]],
    ) -> None:
        """Watch a release from now on: by its kept profile, or its reference, or else what its first rows show.

        `answer` has the release answer reference rows; it takes its time and returns as many as it could.
        """
        sample = Sample(max(1, int(self._settings.rows_per_s * _FLUSH_EVERY_S)))
        watched = Watched(release, label, sample)
        watched.declares_confidence = declares_confidence
        self._services[release.service] = watched
        if not self._settings.watch:
            watched.state, watched.why = "off", "drift.watch is off"
            return
        try:
            await self._prepare(watched, folder, answer)
        except Exception as error:  # noqa: BLE001
            # A border: whatever a store or the log said no to is tried again, and the service is served meanwhile.
            watched.why = f"the profile could not be kept: {type(error).__name__}"
            log("drift_not_prepared", level="warning", service=release.service, error=type(error).__name__)
            asyncio.get_running_loop().call_later(_PREPARE_AGAIN_S, self._let_go, watched)

    def _let_go(self, watched: Watched) -> None:
        """Forget a release that could not be prepared; the tick finds it unwatched and begins again."""
        if self._services.get(watched.release.service) is watched:
            del self._services[watched.release.service]

    async def _prepare(
        self,
        watched: Watched,
        folder: str,
        answer: Callable[[list[bytes]], Awaitable[list[tuple[bytes, list[str]]]]],
    ) -> None:
        release = watched.release
        profile, state = await self._keeper.find(release.service, release.digest)
        if not profile and not has_reference(folder):
            watched.why = f"the release has no {LINES if release.is_chat else REFERENCE}"
        elif not profile:
            profile, why = await self._build(release, folder, answer)
            if profile:
                await self._keeper.keep_profile(release.service, release.digest, profile)
            watched.why = why
        if self._services.get(release.service) is not watched:
            return  # another release came meanwhile
        watched.profile, watched.kept_state = profile, state
        watched.state = "gathering" if profile else "learning"
        if profile:
            watched.why = ""
        log(
            "drift_watch",
            service=release.service,
            release=watched.label,
            profile="kept or made" if profile else "to be learnt from live rows",
            why=watched.why,
        )
        self._order(watched)

    def forget(self, service: str) -> None:
        """Watch a service no longer, or another release of it next: an alarm that stands was about this one."""
        watched = self._services.pop(service, None)
        if watched is not None and watched.told is not None and watched.told.state:
            self._do(self._keeper.keep_state(service, watched.release.digest, watched.told.state))
        if watched is not None and watched.state == "drifting":
            log("drift_over", service=service, release=watched.label, why="it is not live any more")
            self._do(self._keeper.ended(service, watched.label))
        if self._child is not None:
            self._child.send(wire.Forget(service))

    async def _build(
        self,
        release: wire.Release,
        folder: str,
        answer: Callable[[list[bytes]], Awaitable[list[tuple[bytes, list[str]]]]],
    ) -> tuple[bytes, str]:
        """Have a child of its own make the profile; return it, or nothing and why."""
        told: asyncio.Queue[wire.FromChild | None] = asyncio.Queue()
        child = DriftChild(told.put_nowait, lambda _: told.put_nowait(None))
        try:
            async with asyncio.timeout(_BUILD_WITHIN_S):
                await child.start()
                child.send(
                    wire.Build(release, folder, self._settings.answer_rows, self._settings.window_rows)
                )
                said = await told.get()
                if isinstance(said, wire.Drafted):
                    answers = await answer(said.inputs)
                    child.send(
                        wire.Finish([one[0] for one in answers], [one[1] for one in answers], utc_us())
                    )
                    said = await told.get()
        except (OSError, TimeoutError) as error:
            return b"", f"the profile was not made: {type(error).__name__}"
        finally:
            child.end()
        if isinstance(said, wire.Built):
            return said.profile, ""
        if isinstance(said, wire.NoProfile):
            return b"", said.why
        return b"", "the process that made the profile ended"

    # -- the child ----------------------------------------------------------------------------

    async def _flush_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_EVERY_S)
            try:
                if self._child is None and self._is_needed() and monotonic_s() >= self._not_before_s:
                    await self._start_child()
                self._flush()
            except Exception as error:  # noqa: BLE001
                # A border: drift is watched beside the serving, and whatever goes wrong here is tried again.
                log("drift_flush", level="warning", error=type(error).__name__)

    def _is_needed(self) -> bool:
        return any(
            one.state in ("gathering", "learning", "quiet", "drifting") for one in self._services.values()
        )

    async def _start_child(self) -> None:
        child = DriftChild(self._heard, self._gone)
        try:
            await child.start()
        except OSError as error:
            self._not_before_s = monotonic_s() + _RESTART_AFTER_S[-1]
            log("drift_child_not_started", level="warning", why=error.strerror or "")
            return
        self._child, self._born_s = child, monotonic_s()
        for watched in self._services.values():
            if watched.told is not None and watched.told.state:
                watched.kept_state = watched.told.state
            self._order(watched)

    def _order(self, watched: Watched) -> None:
        if self._child is not None and watched.state not in ("off", "preparing"):
            self._child.send(
                wire.Watch(
                    watched.release,
                    self._rules,
                    watched.profile,
                    watched.kept_state,
                    self._settings.learn_rows,
                    self._settings.caller_rows,
                )
            )

    def _flush(self) -> None:
        now = monotonic_s()
        for watched in self._services.values():
            is_watched = watched.state not in ("off", "preparing")
            if self._child is None and is_watched:
                continue  # the sample goes to the next child, and the time with it
            rows = watched.sample.take_all()
            elapsed_s, watched.flushed_s = now - watched.flushed_s, now
            if self._child is None or not is_watched:
                continue
            message = wire.Rows(watched.release.service, watched.release.digest, rows, elapsed_s, utc_us())
            if (rows or watched.state == "drifting") and not self._child.send(message):
                watched.dropped += len(rows)
            elif not rows:
                watched.flushed_s = now - elapsed_s  # the time goes with the next rows

    def _gone(self, child: DriftChild) -> None:
        if child is not self._child:
            return
        self._child = None
        if self._is_stopping:
            return
        self._deaths = 0 if monotonic_s() - self._born_s > 60 else self._deaths + 1
        self._not_before_s = monotonic_s() + _RESTART_AFTER_S[min(self._deaths, len(_RESTART_AFTER_S) - 1)]
        self._on_event("drift_child_gone", "")
        log("drift_child_gone", level="warning", deaths=self._deaths)

    def _heard(self, message: wire.FromChild) -> None:
        if isinstance(message, wire.Built):
            watched = self._services.get(message.service)
            if watched is not None and watched.release.digest == message.digest:
                watched.profile = message.profile
                self._do(self._keeper.keep_profile(message.service, message.digest, message.profile))
        elif isinstance(message, wire.Told):
            self._take_in(message)

    def _take_in(self, told: wire.Told) -> None:
        watched = self._services.get(told.service)
        if watched is None or watched.release.digest != told.digest:
            return
        was_drifting = watched.state == "drifting"
        if not told.state and watched.told is not None:
            told.state = watched.told.state  # the last one that there is, for a child that has to begin again
            is_new_state = False
        else:
            is_new_state = bool(told.state)
        watched.told = told
        watched.report = told.report or watched.report
        watched.state = _state_of(told)
        if watched.state != "learning":
            watched.why = ""
        if is_new_state and (told.raised or monotonic_s() - watched.saved_s > _SAVE_EVERY_S):
            watched.saved_s = monotonic_s()
            self._do(self._keeper.keep_state(told.service, told.digest, told.state))
        if told.raised and told.alarm is not None:
            self._on_event("drift_detected", told.service)
            log(
                "drift_detected",
                level="warning",
                service=told.service,
                release=watched.label,
                signals=told.alarm.signals,
            )
            self._do(self._keeper.raised(told, watched.label))
        elif was_drifting and watched.state != "drifting":
            log("drift_over", service=told.service, release=watched.label)
            self._do(self._keeper.ended(told.service, watched.label))

    def _do(self, work: Awaitable[None]) -> None:
        async def done() -> None:
            try:
                await work
            except Exception as error:  # noqa: BLE001
                # A border: what cannot be kept now is kept the next time; the log has it.
                log("drift_not_kept", level="warning", error=type(error).__name__)

        task = asyncio.create_task(done())
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    # -- what others ask ----------------------------------------------------------------------

    @property
    def child_pid(self) -> int:
        """The drift child's process id; 0 while there is none."""
        return self._child.pid if self._child else 0

    def conditions(self) -> list[Condition]:
        """Return what holds now, for alerts."""
        found = []
        for watched in self._services.values():
            told = watched.told
            if watched.state == "drifting" and told is not None and told.alarm is not None:
                features = ", ".join(features_of(told.alarm.signals, watched.report)[:5])
                found.append(
                    Condition(
                        failure="drift_detected",
                        service=told.service,
                        since_s=monotonic_of(told.alarm.since_us),
                        detail=f"moved: {features}",
                    )
                )
        return found

    def trouble(self) -> str:
        """Say why nothing is watched though it should be; empty where it is, or where there is nothing yet."""
        if self._child is None and self._not_before_s and self._is_needed():
            return "the process that watches for drift ended and is not there again yet"
        return ""

    def is_drifting(self, service: str) -> bool:
        """Say whether an alarm of the service stands."""
        watched = self._services.get(service)
        return watched is not None and watched.state == "drifting"

    def mean_confidence(self, service: str) -> float | None:
        """Return the mean confidence of a service's answers in the last hour; None where there is none."""
        watched = self._services.get(service)
        minutes = list(watched.confidence) if watched is not None else []
        rows = sum(minute[1] for minute in minutes)
        return sum(minute[2] for minute in minutes) / rows if rows else None

    def effects(self) -> Iterable[tuple[str, str, float]]:
        """Return service, feature and effect of each feature: the largest of its signals, on the last window."""
        for service, watched in self._services.items():
            largest: dict[str, float] = {}
            for signal in watched.report:
                largest[signal.feature] = max(largest.get(signal.feature, 0.0), signal.effect)
            for feature, effect in largest.items():
                yield service, feature, effect

    def status(self) -> list[DriftStatus]:
        """Return how each service stands."""
        return [self._status(watched) for _, watched in sorted(self._services.items())]

    def status_of(self, service: str) -> DriftStatus | None:
        """Return how one service stands."""
        watched = self._services.get(service)
        return None if watched is None else self._status(watched)

    def _status(self, watched: Watched) -> DriftStatus:
        told = watched.told
        alarm = told.alarm if told else None
        estimate = self.mean_confidence(watched.release.service)
        drifting = watched.state == "drifting"
        return DriftStatus(
            service=watched.release.service,
            release=watched.label,
            state=watched.state,
            why=watched.why,
            since=iso_us(alarm.since_us) if alarm else "",
            features=features_of(alarm.signals, watched.report) if alarm else [],
            promise=f"at most one false alarm in {self._settings.promise_days:g} days",
            reference=told.about if told else None,
            rows=told.rows if told else 0,
            filling=told.filling if told else 0,
            window_rows=self._settings.window_rows,
            evidence=max((one[2] for one in told.windows_judged), default=0.0) if told else 0.0,
            alarms=told.alarms if told else 0,
            skipped=(told.skipped if told else 0) + watched.dropped,
            estimated_accuracy=estimate,
            estimate_valid=estimate is not None and not drifting,
            estimate_why=_estimate_why(watched, estimate),
            window_began=iso_us(told.window_began_us) if told and told.window_began_us else "",
            window_ended=iso_us(told.window_ended_us) if told and told.window_ended_us else "",
            signals=watched.report,
        )

    def __repr__(self) -> str:
        states = {name: watched.state for name, watched in self._services.items()}
        return f"<DriftWatcher {states} child={self.child_pid}>"


def _state_of(told: wire.Told) -> str:
    if told.about.origin == "learning":
        return "learning"
    if told.alarm is not None:
        return "drifting"
    return "quiet" if told.windows else "gathering"


def _estimate_why(watched: Watched, estimate: float | None) -> str:
    if not watched.declares_confidence:
        return "the output has no Confidence field"
    if estimate is None:
        return "nothing was answered in the last hour"
    if watched.state == "drifting":
        return "not valid: the data drifts, and confidence was learnt on other data"
    return "an estimate without labels: right only if confidence means what it says"


def features_of(signals: Sequence[str], report: Sequence[SignalReport]) -> list[str]:
    """Name the fields behind signals, the inputs first: outputs and flags move because an input did.

    What fields show together is named only where no single one moved.
    """
    sides = {one.name: (one.feature, one.side) for one in report}
    named = [sides.get(name, (name, name.partition(" ")[0])) for name in signals]
    single = sorted((one for one in named if one[1] != "relation"), key=lambda one: one[1] != "input")
    return list(dict.fromkeys(feature for feature, _ in single or named))
