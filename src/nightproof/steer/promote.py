"""Take releases forward and back: promote, canary, shadow, rollback, and what happens by itself.

Called by the operators' routes and by the server's tick. The order of every switch is: verify, warm up beside, record
who asked, make it durable in the registry, move the pointer. So the old release stays live until the new one is
durable, and whatever is killed in between, a start finds one live release. Of two who decide at once the registry
lets the first one through (`expected`), and tells the second who was quicker. Chooses nothing itself: that is
`releases.judge`, `releases.probation`, and the workers' golden cases; starts no workers itself: that is the stage.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Literal

import msgspec

from nightproof.base.clock import iso_us, monotonic_s
from nightproof.base.conditions import Condition
from nightproof.base.errors import DeclarationError, NightproofError, Refusal, StateError
from nightproof.releases.judge import Judgement, Rules, judge
from nightproof.releases.routing import Unit, steps_from
from nightproof.settings.settings import PromotionSettings
from nightproof.steer.by_itself import BY_ITSELF, ByItself, rolled_back, taken_back, taken_off
from nightproof.steer.plan import Asked, Plan, shares_of
from nightproof.steer.probations import Probations
from nightproof.steer.shown import Done, History, PartShown, ReleaseShown, act_shown, judged, shown
from nightproof.steer.stage import Promised, Stage, must_be_served, refuse_shadow_of_chat, refused
from nightproof.steer.tasks import Tasks
from nightproof.storage.registry_store import (
    Changed,
    RegisteredRelease,
    RegistryStore,
    SwitchAct,
    Trial,
    TrialEnd,
)
from nightproof.storage.sqlite import NotFound, StorageOutcomeUnknown, StorageUnavailable

_AGAIN_S = 2.0
"""Pause before a verdict that could not be followed (a full disk, mostly) is judged again."""


class _Watch(msgspec.Struct):
    """What the tick watches of one service."""

    trial: Trial | None = None
    plan: Plan | None = None
    rules: Rules | None = None
    step_began_s: float = 0.0
    judgement: Judgement | None = None


class Helm:
    """Where operators and the tick change what is live. One change of a service is made at a time."""

    def __init__(
        self,
        registry: RegistryStore,
        stage: Stage,
        settings: PromotionSettings,
        *,
        note: Callable[..., Awaitable[None]],
        observe: Callable[..., None],
        tasks: Tasks,
    ) -> None:
        self._registry = registry
        self._stage = stage
        self._settings = settings
        self._note = note
        self._observe = observe
        self._tasks = tasks
        self._steps = shares_of(settings.canary_steps)
        self._metrics = tuple(part.strip() for part in settings.canary_metrics.split(",") if part.strip())
        self._rules()  # a metric that is not measured stops the start
        self._promoting: dict[str, tuple[str, str]] = {}
        self._doors: dict[str, asyncio.Lock] = {}
        self._acting: set[str] = set()
        self._watched: dict[str, _Watch] = {}
        self._by_itself = ByItself()
        self._probations = Probations(registry, stage, settings)
        self._is_recording = False

    def _rules(self) -> Rules:
        settings = self._settings
        return Rules(
            metrics=self._metrics,
            false_alarm=settings.false_alarm,
            rare_margin=settings.rare_margin,
            shape_margin=settings.shape_margin,
            least_requests=settings.step_least_requests,
            least_s=settings.step_least_s,
            most_s=settings.step_most_s,
        )

    # -- what operators ask -------------------------------------------------------------------

    async def promote(self, who: str, service: str, asked: Asked) -> Done:
        """Bring a release forward: at once, as canary or as shadow. Raises Refusal or NotFound."""
        began_s = monotonic_s()
        promised = must_be_served(self._stage, service)
        generation = self._registry.generation(service)
        release = self._judge_asked(service, asked)
        if asked.way == "shadow":
            refuse_shadow_of_chat(service, promised)
        if (busy := self._promoting.get(service)) is not None:
            raise refused(
                f"{busy[0]} is promoting {service} {busy[1]} right now.",
                "Wait for it, and decide again.",
                409,
            )
        self._promoting[service] = (who, asked.version)
        before = self._live_label(service)
        try:
            await self._warm(release, workers="few" if asked.way == "shadow" else "all")
            try:
                await self._note(
                    "operator",
                    who=who,
                    act="promote",
                    service=service,
                    release=asked.version,
                    way=asked.way,
                    why=asked.reason[:1_000],
                )
                if release.latched:
                    await asyncio.to_thread(
                        self._registry.unlatch, service, asked.version, who=who, why=asked.reason
                    )
                    generation = self._registry.generation(service)
                if asked.way == "now":
                    await self._switch(
                        service, asked.version, "live", who=who, why=asked.reason, expected=generation
                    )
                else:
                    await self._put_on_trial(who, service, asked, promised, generation)
            except BaseException:
                await self._stage.let_go(service, asked.version)
                raise
        finally:
            del self._promoting[service]
        text = {
            "now": f"{service} {asked.version} is live; {before} stays warm.",
            "canary": f"{service} {asked.version} is canary with {asked.share:.0%}; {before} is live.",
            "shadow": f"{service} {asked.version} gets copies of requests; {before} is live.",
        }[asked.way]
        return Done(
            service=service,
            act="live" if asked.way == "now" else asked.way,
            version=asked.version,
            before=before,
            text=text,
            took_ms=(monotonic_s() - began_s) * 1e3,
        )

    async def rollback(self, who: str, service: str, version: str = "", *, why: str = "") -> Done:
        """Go back: end the trial if one is on, else make the release before live, or the named one.

        Raises Refusal or NotFound.
        """
        began_s = monotonic_s()
        must_be_served(self._stage, service)
        generation = self._registry.generation(service)
        before = self._live_label(service)
        trial = self._registry.trial(service)
        if trial is not None and version in ("", before, trial.label):
            await self._say(who, "rollback", service, trial.label, why)
            await self._end_trial(service, "withdrawn", who=who, why=why, expected=generation)
            return Done(
                service=service,
                act="withdrawn",
                version=trial.label,
                before=before,
                text=f"{service} {trial.label} is {trial.kind} no more; {before} is live as before.",
                took_ms=(monotonic_s() - began_s) * 1e3,
            )
        target = self._registry.find(service, version) if version else self._registry.previous(service)
        if target is None and version:
            raise NotFound(
                f"{service} has no release {version}.", hint=f"See `nightproof history {service}`."
            )
        if target is None:
            raise refused(
                f"{service} has no release to go back to.",
                f"`nightproof history {service}` shows all; promote one with `nightproof promote`.",
                409,
            )
        if target.live:
            raise refused(f"{service} {target.label} is live already.", "Nothing was done.", 409)
        await self._warm(target, workers="all")
        try:
            if trial is not None and trial.label != target.label:
                # A canary is compared with what is live: with another one live the comparison is over.
                await self._end_trial(service, "withdrawn", who=who, why=why, expected=generation)
                generation = self._registry.generation(service)
            said = self._tasks.hold(self._say(who, "rollback", service, target.label, why))
            await self._switch(
                service, target.label, "rollback", who=who, why=why, expected=generation, recorded=said
            )
        except Refusal:
            await self._stage.let_go(service, target.label)
            raise
        return Done(
            service=service,
            act="rollback",
            version=target.label,
            before=before,
            text=f"{service} {target.label} is live again; {before} finishes what it has.",
            took_ms=(monotonic_s() - began_s) * 1e3,
        )

    async def hold(self, who: str, service: str, version: str, why: str) -> ReleaseShown:
        """Keep a release whatever happens; without a reason, let it go again. Raises NotFound."""
        await self._note(
            "operator",
            who=who,
            act="hold" if why else "unhold",
            service=service,
            release=version,
            why=why[:1_000],
        )
        held = await asyncio.to_thread(self._registry.hold, service, version, why, who=who)
        self._record_soon()
        return shown(held, self._stage.parts(service))

    def history(self, service: str, *, most: int = 100) -> History:
        """Return a service's releases and acts, the newest first. Raises NotFound."""
        releases = self._registry.releases(service)
        if not releases:
            raise NotFound(
                f"No release of {service!r} is registered here.",
                hint="See `nightproof status` for the names.",
            )
        parts = self._stage.parts(service)
        return History(
            service=service,
            releases=[shown(one, parts) for one in releases],
            acts=[act_shown(one) for one in self._registry.history(service, most=most)],
        )

    def overview(self, service: str) -> list[PartShown]:
        """Return the releases that play a part, with what is known of how they do."""
        watch = self._watched.get(service, _Watch())
        known = {one.label: one for one in self._registry.releases(service)}
        found = []
        for label, part in self._stage.parts(service).items():
            release = known.get(label)
            text = self._probations.said(service) if part == "live" else ""
            if part == "canary" and watch.plan is not None and watch.judgement is not None:
                text = judged(watch.judgement)
            found.append(
                PartShown(
                    version=label,
                    part=part,
                    digest=release.digest[:12] if release else "",
                    since=iso_us(watch.trial.since_us)
                    if part in ("canary", "shadow") and watch.trial
                    else "",
                    share=watch.plan.split.share if part == "canary" and watch.plan else 0.0,
                    text=text,
                )
            )
        return found

    def taken_back(self, service: str) -> str:
        """Name the release that was taken back last; empty if none was."""
        return taken_back(self._registry.history(service, most=50))

    def judgement(self, service: str) -> Judgement | None:
        """Return the last judgement of the canary."""
        return self._watched.get(service, _Watch()).judgement

    # -- what happens by itself ---------------------------------------------------------------

    async def resume(self, service: str) -> None:
        """After a start: bring the trial back that was on, and go on with the probation of a fresh release."""
        watch = self._watched.setdefault(service, _Watch())
        acts = self._registry.history(service, most=50)
        self._by_itself.resume(service, acts, self._live_label(service))
        self._probations.resume(service, self._live_label(service))
        self._stage.warm_standby(service)
        trial = self._registry.trial(service)
        if trial is None:
            return
        release = self._registry.find(service, trial.label)
        if release is None or release.live:
            return
        try:
            await self._stage.warm(release, workers="all" if trial.kind == "canary" else "few")
        except (StateError, DeclarationError) as error:
            await self._end_trial(
                service,
                "withdrawn",
                who=BY_ITSELF,
                why=f"it did not load again after a restart: {error.text}",
            )
            return
        if self._registry.trial(service) != trial:
            await self._stage.let_go(service, trial.label)
            return
        self._take_up(service, trial, watch)

    def tick(self) -> None:
        """Judge what is on trial and on probation; what follows is begun as a task."""
        now = monotonic_s()
        for service, watch in self._watched.items():
            if service in self._acting:
                continue
            follow = (
                self._judge_golden(service, watch)
                or self._judge_canary(service, watch, now)
                or self._judge_live(service, now)
            )
            if follow is not None:
                self._acting.add(service)
                self._tasks.begin(self._follow(service, follow))

    def conditions(self) -> Iterable[Condition]:
        """Return what was done by itself lately, and where nothing could be done."""
        return self._by_itself.conditions()

    async def record_history(self) -> None:
        """Bring the audit log up to the registry's history. Raises what keeps it from that: it is tried again."""
        if self._is_recording:
            return
        self._is_recording = True
        try:
            while acts := await asyncio.to_thread(self._registry.unrecorded):
                for act in acts:
                    await self._note(
                        "release",
                        service=act.service,
                        release=act.label,
                        digest=act.digest,
                        act=act.act,
                        before=act.origin,
                        who=act.who,
                        why=act.why,
                        acted_us=act.at_us,
                    )
                    await asyncio.to_thread(self._registry.mark_recorded, act.at)
        finally:
            self._is_recording = False

    def _record_soon(self) -> None:
        """Record without waiting for it; what cannot be recorded now is the tick's, which tells of it."""

        async def record() -> None:
            with contextlib.suppress(NightproofError):
                await self.record_history()

        self._tasks.begin(record())

    def has_unrecorded(self) -> bool:
        """Say whether the audit log is behind the registry."""
        return not self._is_recording and bool(self._registry.unrecorded(most=1))

    async def keep(self, *, whatever: bool = False) -> None:
        """Write what was seen of releases on probation, so that a restart begins none anew. Raises storage faults."""
        await self._probations.keep(whatever=whatever)

    # -- inside -------------------------------------------------------------------------------

    def _judge_asked(self, service: str, asked: Asked) -> RegisteredRelease:
        release = self._registry.find(service, asked.version)
        if release is None:
            raise NotFound(
                f"{service} has no release {asked.version}.", hint=f"See `nightproof history {service}`."
            )
        if release.live:
            raise refused(f"{service} {asked.version} is live already.", "Nothing was done.", 409)
        if release.latched and not asked.again:
            raise refused(
                f"{service} {asked.version} was taken back by itself: {release.latched}",
                "Mend it and make another release; or promote this one --again, with a reason.",
                409,
            )
        trial = self._registry.trial(service)
        if trial is not None and not (trial.label == asked.version and asked.way == "now"):
            raise refused(
                f"{service} {trial.label} is on trial as {trial.kind}.",
                f"End that first: `nightproof rollback {service}`.",
                409,
            )
        if asked.way == "canary":
            try:
                steps_from(asked.share, self._steps)
            except ValueError as error:
                raise refused(f"{error}.", "Give a part like 5%.", 422) from None
        return release

    async def _warm(self, release: RegisteredRelease, *, workers: Literal["all", "few"]) -> None:
        try:
            await self._stage.warm(release, workers=workers)
        except (StateError, DeclarationError) as error:
            raise refused(
                f"{release.service} {release.label} does not load: {error.text}",
                error.hint or "Nothing was changed.",
                422,
            ) from error

    async def _say(self, who: str, act: str, service: str, label: str, why: str) -> None:
        """Record an operator's act. Going back does not wait for a log that cannot be written: it follows later."""
        try:
            await self._note("operator", who=who, act=act, service=service, release=label, why=why[:1_000])
        except NightproofError:
            self._observe("act_not_recorded", service=service, reason=act)

    async def _put_on_trial(
        self, who: str, service: str, asked: Asked, promised: Promised, generation: int
    ) -> None:
        kind: Literal["canary", "shadow"] = "canary" if asked.way == "canary" else "shadow"
        unit: Unit = asked.unit or ("subject" if promised.has_subject else "request")
        plan = Plan(
            shares=steps_from(asked.share, self._steps) if kind == "canary" else (1.0,),
            at=0,
            unit=unit,
            salt=secrets.token_hex(8),
            who=who,
            why=asked.reason,
        )
        async with self._door(service):
            trial = await self._commit(
                lambda: self._registry.begin_trial(
                    service,
                    asked.version,
                    kind,
                    msgspec.json.encode(plan).decode(),
                    who=who,
                    why=asked.reason,
                    expected=generation,
                )
            )
            watch = self._watched.setdefault(service, _Watch())
            self._by_itself.acted(service)
            self._take_up(service, trial, watch)
        self._record_soon()

    def _take_up(self, service: str, trial: Trial, watch: _Watch) -> None:
        """Let a loaded release play the part that the registry says."""
        plan = msgspec.json.decode(trial.plan, type=Plan)
        watch.trial, watch.plan, watch.judgement = trial, plan, None
        if trial.kind == "shadow":
            self._stage.make_shadow(service, trial.label, since_us=trial.since_us)
            return
        watch.rules = self._rules()
        watch.step_began_s = monotonic_s()
        self._stage.make_canary(service, trial.label, plan.split, watch.rules)

    async def _switch(
        self,
        service: str,
        label: str,
        act: SwitchAct,
        *,
        who: str,
        why: str,
        latch: str = "",
        expected: int | None,
        recorded: asyncio.Task[None] | None = None,
    ) -> None:
        """Make a loaded release live: durable first, then the pointer. A caller who leaves does not part the two.

        `recorded` is the act's record on its way: it is waited for before the pointer moves.
        """

        async def switch() -> None:
            async with self._door(service):
                trial = self._registry.trial(service)
                await self._commit(
                    lambda: self._registry.set_live(
                        service, label, act=act, who=who, why=why, latch=latch, expected=expected
                    )
                )
                if recorded is not None:
                    await recorded
                watch = self._watched.setdefault(service, _Watch())
                if trial is not None and trial.label == label:
                    watch.trial = watch.plan = watch.judgement = None
                before = self._stage.rates_before(service)
                self._stage.make_live(service, label, act=act)
                self._by_itself.switched(service)
                self._probations.end(service)
                if act == "live":
                    self._probations.begin(service, label, before)
            self._record_soon()

        await asyncio.shield(self._tasks.hold(switch()))

    async def _end_trial(
        self,
        service: str,
        act: TrialEnd,
        *,
        who: str,
        why: str,
        latch: str = "",
        expected: int | None = None,
    ) -> None:
        async def end() -> None:
            async with self._door(service):
                await self._commit(
                    lambda: self._registry.end_trial(
                        service, act, who=who, why=why, latch=latch, expected=expected
                    )
                )
                watch = self._watched.setdefault(service, _Watch())
                watch.trial = watch.plan = watch.judgement = None
                self._stage.end_trial(service)
            self._record_soon()

        await asyncio.shield(self._tasks.hold(end()))

    async def _commit(self, change: Callable[[], Any]) -> Any:
        """Make a change in the registry, off the loop. Raises Refusal with what stands in its way."""
        try:
            return await asyncio.to_thread(change)
        except Changed as error:
            raise refused(error.text, error.hint, 409) from error
        except StorageUnavailable as error:
            raise Refusal(
                f"Nothing was changed: {error.text}", failure="audit_unavailable", hint=error.hint
            ) from error
        except StorageOutcomeUnknown as error:
            raise Refusal(
                f"What was live stays live in this run; the next start may find the other: {error.text}",
                failure="audit_outcome_unknown",
                hint=error.hint,
            ) from error

    def _door(self, service: str) -> asyncio.Lock:
        """Return the lock between the registry's commit and the pointer's move; held for milliseconds."""
        return self._doors.setdefault(service, asyncio.Lock())

    def _judge_canary(
        self, service: str, watch: _Watch, now: float
    ) -> Callable[[], Coroutine[Any, Any, None]] | None:
        picture = self._stage.picture(service)
        plan, rules, trial = watch.plan, watch.rules, watch.trial
        if picture is None or plan is None or rules is None or trial is None or trial.kind != "canary":
            return None
        promised = self._stage.describes(service)
        has_confidence = promised is not None and promised.has_confidence
        verdict = judge(picture, rules, step_s=now - watch.step_began_s, has_confidence=has_confidence)
        watch.judgement = verdict
        if verdict.verdict == "worse":
            return lambda: self._take_back(service, trial, "canary_worse", verdict.why)
        if verdict.is_overdue:
            return lambda: self._take_back(service, trial, "canary_undecided", verdict.why)
        if verdict.verdict == "not_worse":
            return lambda: self._go_on(service, trial, plan, watch)
        return None

    async def _take_back(
        self, service: str, trial: Trial, act: Literal["canary_worse", "canary_undecided"], why: str
    ) -> None:
        generation = self._registry.generation(service)
        if self._registry.trial(service) != trial:
            return
        latch = why if act == "canary_worse" else ""
        await self._end_trial(service, act, who=BY_ITSELF, why=why, latch=latch, expected=generation)
        live = self._live_label(service)
        self._by_itself.did(service, act, f"{taken_off(trial.label, live)}: {why}")
        self._observe(act, service=service, release=trial.label, live=live, why=why)

    async def _go_on(self, service: str, trial: Trial, plan: Plan, watch: _Watch) -> None:
        """Give the canary its next share; after the last one it goes live."""
        generation = self._registry.generation(service)
        if self._registry.trial(service) != trial:
            return
        passed = f"not worse than {self._live_label(service)} at {plan.split.share:.0%}"
        if plan.at + 1 >= len(plan.shares):
            why = f"canary passed: {passed}" + (f"; {plan.why}" if plan.why else "")
            await self._switch(service, trial.label, "live", who=plan.who, why=why, expected=generation)
            return
        onward = msgspec.structs.replace(plan, at=plan.at + 1)
        async with self._door(service):
            moved = await self._commit(
                lambda: self._registry.move_trial(
                    service,
                    msgspec.json.encode(onward).decode(),
                    who=BY_ITSELF,
                    why=f"{passed}; now {onward.split.share:.0%}",
                    expected=generation,
                )
            )
            watch.trial, watch.plan, watch.step_began_s = moved, onward, monotonic_s()
            self._stage.move_canary(service, onward.split)
        self._observe("canary_step", service=service, release=trial.label, share=onward.split.share)
        self._record_soon()

    def _judge_live(self, service: str, now: float) -> Callable[[], Coroutine[Any, Any, None]] | None:
        ruling = self._probations.judge(service, now)
        if ruling is not None and ruling.standing == "broken" and self._by_itself.may_try(service):
            return lambda: self._roll_back_by_itself(service, ruling.why)
        return None

    def _judge_golden(self, service: str, watch: _Watch) -> Callable[[], Coroutine[Any, Any, None]] | None:
        """Judge by golden cases, at any age: a release whose workers all answer them wrongly is not what was tested."""
        trial = watch.trial
        if trial is not None and trial.kind == "canary":
            why = self._stage.golden_trouble(service, trial.label)
            if why:
                return lambda: self._take_back(service, trial, "canary_worse", why)
        why = self._stage.golden_trouble(service, self._live_label(service))
        if not why:
            self._by_itself.golden_hold_again(service)
        if not why or not self._by_itself.may_try(service):
            return None
        return lambda: self._roll_back_by_itself(service, why, by_golden=True)

    def _say_stuck(self, service: str, release: str, why: str, *, by_golden: bool) -> None:
        if self._by_itself.could_not(service, f"{release}: {why}", by_golden=by_golden):
            self._observe("no_way_back", service=service, release=release, why=why)

    async def _roll_back_by_itself(self, service: str, why: str, *, by_golden: bool = False) -> None:
        """Go back to the release before, and latch the bad one: it does not come back by itself."""
        generation = self._registry.generation(service)
        bad, target = self._live_label(service), self._registry.previous(service)
        trial = self._registry.trial(service)
        if target is None:
            why = f"{why}; there is no release to go back to"
            self._say_stuck(service, bad, why, by_golden=by_golden)
            return
        try:
            await self._stage.warm(target, workers="all")
            wrong = self._stage.golden_trouble(service, target.label)
            standing = f"{target.label}: {wrong}" if wrong else ""
        except (StateError, DeclarationError) as error:
            standing = f"{target.label} does not load: {error.text.partition(chr(10))[0]}"
        if standing:
            self._say_stuck(service, bad, f"{why}; {standing}", by_golden=by_golden)
            return
        if trial is not None and trial.label != target.label:
            await self._end_trial(
                service, "withdrawn", who=BY_ITSELF, why=f"{bad} is being rolled back", expected=generation
            )
            generation = self._registry.generation(service)
        await self._switch(
            service, target.label, "rolled_back", who=BY_ITSELF, why=why, latch=why, expected=generation
        )
        self._by_itself.did(service, "release_rolled_back", f"{rolled_back(bad, target.label)}: {why}")
        self._observe("release_rolled_back", service=service, release=bad, live=target.label, why=why)

    async def _follow(self, service: str, follow: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do what a verdict asks for; what stands in the way is logged, and the next tick judges again."""
        try:
            await follow()
        except NightproofError as error:
            self._observe("verdict_not_followed", service=service, why=error.text)
            await asyncio.sleep(_AGAIN_S)
        finally:
            self._acting.discard(service)

    def _live_label(self, service: str) -> str:
        return next((label for label, part in self._stage.parts(service).items() if part == "live"), "")
