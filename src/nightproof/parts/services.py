"""Load the releases of every service, and move the pointers that say which part each plays.

Built by `runtime`; `steer.promote` tells it what to do (its `Stage`), the pipeline reads the pointers. Promises: a
pointer moves to a loaded release only, at once and for the next request; what is inside finishes on the release
that it began on; workers are ended after that. Decides nothing: which release is live is in the registry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, Literal

import orjson

from nightproof.base.clock import monotonic_s, utc_us
from nightproof.base.errors import DeclarationError, NightproofError, StateError
from nightproof.base.fingerprint import fingerprint_of
from nightproof.base.ids import RequestIds
from nightproof.base.masking import subject_of
from nightproof.checks.input import InputChecks
from nightproof.checks.output import OutputChecks
from nightproof.parts.chats import Chats
from nightproof.parts.lookout import Lookout
from nightproof.parts.shadow import Shadow, begun
from nightproof.pipeline.house import House, ServedRelease, ServedService
from nightproof.pipeline.last_good import LastGood
from nightproof.releases.judge import Rules
from nightproof.releases.probation import Counted, Terms
from nightproof.releases.routing import Split
from nightproof.releases.tally import Picture, Tally
from nightproof.settings.settings import Settings
from nightproof.steer.driftwatch import LiveRelease
from nightproof.steer.from_folder import Differing, release_of
from nightproof.steer.releasing import Releasing
from nightproof.steer.stage import Promised
from nightproof.steer.tasks import Tasks
from nightproof.storage.comparisons import Comparisons
from nightproof.storage.quarantine import QuarantineStore
from nightproof.storage.registry_store import RegisteredRelease, RegistryStore, SwitchAct
from nightproof.storage.sqlite import StorageOutcomeUnknown, StorageUnavailable
from nightproof.storage.statefolder import StateFolder
from nightproof.watch.happened import Happened
from nightproof.watch.log import log
from nightproof.watch.windows import FINE_BOUNDS_S, slower_than
from nightproof.workers.engine import Job, Origin
from nightproof.workers.pool import Pool

_LOOK_EVERY_S = 0.05
_OVERFLOW_SHARE = 0.1
_RESIZE_AFTER_S = 0.2
_DRAIN_SHARE = 1.5
"""Of the service's deadline: after that nobody waits any more for what a pool still holds."""
_BAD_ENDINGS = ("failed", "degraded")
_QUIET = ("worker_ready", "scaled", "canary_step")
_LOUD = ("release_rolled_back", "no_way_back", "canary_worse")


class Loaded:
    """A release that is loaded for a replay alone."""

    def __init__(
        self, release: ServedRelease, end: Callable[[ServedRelease], Coroutine[Any, Any, None]]
    ) -> None:
        self.engine = release.engine
        self._release = release
        self._end = end

    def fails_by(self, output: bytes) -> str:
        """Name the failure of an answer by the release's own checks; empty where it holds."""
        return self._release.output_checks.judge(output).failure

    async def end(self) -> None:
        """End its workers."""
        await self._end(self._release)


class Services:
    """The served services with their pools."""

    def __init__(
        self,
        settings: Settings,
        state: StateFolder,
        house: House,
        *,
        registry: RegistryStore,
        quarantine: QuarantineStore,
        comparisons: Comparisons,
        releasing: Releasing,
        chats: Chats,
        happened: Happened,
        tasks: Tasks,
    ) -> None:
        self._settings = settings
        self._state = state
        self._house = house
        self._registry = registry
        self._quarantine = quarantine
        self._comparisons = comparisons
        self._releasing = releasing
        self._chats = chats
        self._happened = happened
        self.notices: list[Differing] = []
        """Folders that are not served as they are, to be told to whoever started the server."""
        self._begin = tasks.begin
        self._pools: list[Pool] = []
        self._waiting: dict[tuple[str, str], ServedRelease] = {}
        """Loaded beside, and not yet in a part."""
        self._loading: dict[tuple[str, str], asyncio.Task[ServedRelease]] = {}
        self._lookouts: dict[str, Lookout] = {}
        self._shadows: dict[str, Shadow] = {}
        self._warming: set[str] = set()
        self._ids = RequestIds()

    # -- start and stop -----------------------------------------------------------------------

    async def serve_folder(self, folder: Path) -> ServedService:
        """Serve the live release of the service that the folder declares; the folder itself only where none is live."""
        release, pool = await release_of(
            folder,
            self._releasing,
            self._registry,
            self._state,
            pool_of=lambda path, label, origin: self._pool(path, label, origin=origin),
            on_differs=self._folder_differs,
        )
        name = pool.description.service
        if name in self._house.services:
            await pool.stop()
            raise DeclarationError(
                f"{folder} declares service {name!r}, which another folder declares too.",
                hint="Give one another name.",
            )
        if not release.live:
            self._registry.set_live(name, release.label, who="serve", why="nothing was live")
        served = ServedService(name, await self._release(pool, name, release.label, release.digest))
        self._house.services[name] = served
        self._after_switch(served)
        return served

    def _folder_differs(self, told: Differing, live: RegisteredRelease) -> None:
        """Say where a folder is not what is served, and with which commands it would be."""
        named = {"service": live.service, "live": live.label, "why": told.why, "commands": told.commands}
        log("folder_not_served", level="warning", **named)
        self.notices.append(told)

    def live(self) -> Iterable[LiveRelease]:
        """Return the release that is live now of each service, for the drift watch."""
        for name, served in self._house.services.items():
            live = served.live
            yield LiveRelease(
                name, live.label, live.digest, live.engine, live.input_checks, live.output_checks
            )

    async def stop(self) -> None:
        """End all workers; what they hold is told so."""
        await self.keep_shadows()
        await asyncio.gather(*(pool.stop() for pool in self._pools))
        await self._chats.stop()

    # -- the stage ----------------------------------------------------------------------------

    def describes(self, service: str) -> Promised | None:
        """Return what the live release declares; None where the service is not served here."""
        served = self._house.services.get(service)
        if served is None:
            return None
        described = served.live.engine.description
        return Promised(
            availability=described.availability,
            latency_p99_ms=described.latency_p99_ms,
            has_subject=bool(described.subject_pointers),
            has_confidence=bool(described.confidence_field),
            is_chat=described.chat is not None,
        )

    def parts(self, service: str) -> dict[str, str]:
        """Return the loaded releases: part by label."""
        served = self._house.services.get(service)
        if served is None:
            return {}
        named = (
            ("live", served.live),
            ("canary", served.canary),
            ("shadow", served.shadow),
            ("standby", served.standby),
        )
        found: dict[str, str] = {}
        for part, release in named:
            if release is not None:
                found.setdefault(release.label, part)
        return found

    async def warm(self, release: RegisteredRelease, *, workers: Literal["all", "few"]) -> None:
        """Verify the bundle and have it loaded beside, or find it loaded. Raises StateError or DeclarationError."""
        served = self._house.services[release.service]
        key = (release.service, release.label)
        if served.find(release.label) is not None or key in self._waiting:
            return
        loaded = await self._load(release, workers=workers)
        if served.find(release.label) is not None or key in self._waiting:
            await self._end(loaded)  # somebody was quicker
            return
        self._waiting[key] = loaded

    async def let_go(self, service: str, label: str) -> None:
        """End the workers of a release that plays no part; nothing where it plays one."""
        release = self._waiting.pop((service, label), None)
        if release is not None:
            await self._end(release)

    def make_live(self, service: str, label: str, *, act: SwitchAct) -> None:
        """Move the pointer to a loaded release; the one that was live becomes standby. Never waits."""
        served = self._house.services[service]
        fresh, old, dropped = self._taken(served, label), served.live, served.standby
        if fresh is old:
            return
        if served.canary is fresh:
            served.canary = served.split = None
            self._lookout(served).tally = None
        if served.shadow is fresh:
            self._end_shadow(served)
        fresh.is_withdrawn, old.is_withdrawn = False, act != "live"
        served.live, served.standby = fresh, old
        served.overflow = old if _takes_the_same(fresh, old) and self._settings.promotion.overflow_s else None
        # What was taken back for being bad answers only where else there would be a refusal.
        share = self._settings.limits.wait_share if act == "rolled_back" else _OVERFLOW_SHARE
        served.overflow_share = share
        self._after_switch(served)
        if dropped is not None and dropped not in (fresh, old):
            self._begin(self._end(dropped))
        self._begin(self._settle(served, fresh, old, is_bad=act == "rolled_back"))

    def make_canary(self, service: str, label: str, split: Split, rules: Rules) -> None:
        """Give a loaded release its share of the requests, and begin to count."""
        served = self._house.services[service]
        canary = self._taken(served, label)
        if served.standby is canary:
            served.standby = None
            canary.engine.resize()
        lookout = self._lookout(served)
        lookout.tally = Tally(split.share, rules.slack)
        lookout.confidence_field = served.live.engine.description.confidence_field
        served.canary, served.split = canary, split
        self._hang(served)

    def move_canary(self, service: str, split: Split) -> None:
        """Give the canary another share."""
        served = self._house.services[service]
        lookout = self._lookout(served)
        if lookout.tally is not None:
            lookout.tally.next_step(split.share)
        served.split = split

    def make_shadow(self, service: str, label: str, *, since_us: int) -> None:
        """Give a loaded release copies of requests; what was compared in this trial before stays."""
        served = self._house.services[service]
        release = self._taken(served, label)
        shadow = Shadow(
            served,
            release,
            self._comparisons,
            begun(self._comparisons, self._ids, service=service, label=label, since_us=since_us),
            places=self._settings.promotion.shadow_places,
            examples=self._settings.promotion.examples,
            vault=self._house.vault,
        )
        served.shadow = release
        self._shadows[service] = shadow
        self._lookout(served).on_answered = shadow.offer
        self._hang(served)

    def end_trial(self, service: str) -> None:
        """Take canary or shadow off the way; its workers finish what they have, and end."""
        served = self._house.services[service]
        lookout = self._lookout(served)
        lookout.tally = None
        canary, served.canary, served.split = served.canary, None, None
        shadow = self._end_shadow(served)
        for release in (canary, shadow):
            if release is not None and release not in served.parts():
                self._begin(self._end(release))
        self._hang(served)
        self.warm_standby(service)

    def picture(self, service: str) -> Picture | None:
        """Return what was counted of the canary."""
        lookout = self._lookouts.get(service)
        return None if lookout is None or lookout.tally is None else lookout.tally.picture()

    def rates_before(self, service: str) -> tuple[int, int]:
        """Return how many requests of the live release ended badly since the start, and how many there were."""
        endings = self._house.meters.endings_of(service, self._house.services[service].live.label)
        bad = sum(endings.get(ending, 0) for ending in _BAD_ENDINGS)
        return bad, bad + endings.get("answered", 0)

    def slow_before(self, service: str, limit_s: float) -> tuple[int, int]:
        """Return how many answers of the service took longer since the start, and how many there were."""
        counts = self._house.meters.totals().durations.get(service, [])
        return (slower_than(limit_s, counts, FINE_BOUNDS_S), sum(counts)) if counts else (0, 0)

    def golden_trouble(self, service: str, label: str) -> str:
        """Say that every worker of a loaded release answers a golden case wrongly; empty where that is not so."""
        served = self._house.services.get(service)
        release = None if served is None else served.find(label)
        if release is None:
            return ""
        picture = release.engine.snapshot()
        if picture.golden_level != "release":
            return ""
        # The first line only: what follows is the user's traceback.
        why = picture.trouble.partition("\n")[0]
        return f"every worker answers a golden case wrongly{': ' if why else ''}{why}"

    def begin_probation(self, service: str, label: str, terms: Terms, counted: Counted) -> None:
        """Count how the fresh live release does, beside what was counted before."""
        served = self._house.services[service]
        lookout = self._lookout(served)
        lookout.counted, lookout.fresh, lookout.slow_s = counted, label, terms.slow_s
        self._hang(served)

    def end_probation(self, service: str) -> None:
        """Count no more."""
        served = self._house.services.get(service)
        if served is not None:
            self._lookout(served).counted = None
            self._hang(served)

    def warm_standby(self, service: str) -> None:
        """Have the release before loaded again, in the background, if there is one and it is not."""
        served = self._house.services.get(service)
        if served is None or served.standby is not None or service in self._warming:
            return
        previous = self._registry.previous(service)
        if previous is not None and served.find(previous.label) is None:
            self._warming.add(service)
            self._begin(self._warm_standby(served, previous))

    def shadow_of(self, service: str) -> Shadow | None:
        """Return the shadow's comparison, while there is one."""
        return self._shadows.get(service)

    async def keep_shadows(self) -> None:
        """Write what the shadows found."""
        for shadow in list(self._shadows.values()):
            try:
                await asyncio.to_thread(shadow.keep)
            except (StorageUnavailable, StorageOutcomeUnknown) as error:
                log("shadow_not_kept", level="warning", why=str(error))

    async def load_beside(self, release: RegisteredRelease) -> Loaded:
        """Load a release for a replay, with one worker of its own; it plays no part. The caller ends it."""
        return Loaded(await self._load(release, workers="few", share=1), self._end)

    def is_chat(self, service: str) -> bool:
        """Say whether a service is answered by somebody's LLM."""
        served = self._house.services.get(service)
        return served is not None and served.live.engine.description.chat is not None

    def is_busy(self, service: str) -> bool:
        """Say whether callers of a service wait for a worker just now."""
        served = self._house.services.get(service)
        return served is not None and served.live.engine.snapshot().queued > 0

    # -- inside -------------------------------------------------------------------------------

    def _taken(self, served: ServedService, label: str) -> ServedRelease:
        release = self._waiting.pop((served.name, label), None) or served.find(label)
        if release is None:
            raise NightproofError(f"{served.name} {label} is not loaded.", hint="Promote it again.")
        return release

    def _lookout(self, served: ServedService) -> Lookout:
        return self._lookouts.setdefault(served.name, Lookout())

    def _hang(self, served: ServedService) -> None:
        """Let the pipeline see the lookout only while it has something to look out for."""
        lookout = self._lookout(served)
        served.watcher = None if lookout.is_idle else lookout

    def _end_shadow(self, served: ServedService) -> ServedRelease | None:
        self._lookout(served).on_answered = None
        shadow = self._shadows.pop(served.name, None)
        if shadow is not None:
            self._begin(asyncio.to_thread(shadow.keep))
        release, served.shadow = served.shadow, None
        return release

    def _after_switch(self, served: ServedService) -> None:
        """Set what depends on what the live release declares."""
        if served.live.engine.description.audit_on_failure == "spill":
            self._house.spilling_services.add(served.name)
        else:
            self._house.spilling_services.discard(served.name)

    async def _settle(
        self, served: ServedService, fresh: ServedRelease, old: ServedRelease, *, is_bad: bool
    ) -> None:
        """After a switch: let the old one help until the new one has its workers, then make it small, or end it."""
        # Not in the same moment: loading workers and the first answers would take each other's processor.
        await asyncio.sleep(_RESIZE_AFTER_S)
        if served.live is fresh:
            fresh.engine.resize()
        until_s = monotonic_s() + self._settings.promotion.overflow_s
        least = fresh.engine.description.workers_min
        while served.overflow is old and monotonic_s() < until_s:
            picture = fresh.engine.snapshot()
            if picture.workers["ready"] + picture.workers["busy"] >= least and not picture.queued:
                break
            await asyncio.sleep(_LOOK_EVERY_S)
        if served.overflow is old:
            served.overflow = None
        await self._drained(old)
        if served.standby is not old:
            return
        if is_bad:
            served.standby = None
            await self._end(old)
            self.warm_standby(served.name)
            return
        few = self._settings.promotion.standby_workers
        old.engine.resize((few, few), spares=0)

    async def _drained(self, release: ServedRelease) -> None:
        """Wait until a release has nothing more to do, for as long as anybody may wait for it."""
        until_s = monotonic_s() + release.engine.description.deadline_ms / 1_000 * _DRAIN_SHARE
        while monotonic_s() < until_s:
            picture = release.engine.snapshot()
            if not picture.queued and not picture.running and not (release.chat and release.chat.inside):
                return
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _end(self, release: ServedRelease) -> None:
        await self._drained(release)
        await release.engine.stop()
        await self._chats.let_go(release.chat)
        self._pools = [pool for pool in self._pools if pool is not release.engine]

    async def _warm_standby(self, served: ServedService, previous: RegisteredRelease) -> None:
        """Load the release before; it failing leaves the service whole."""
        try:
            release = await self._load(previous, workers="few")
        except NightproofError as error:
            log(
                "standby_not_loaded",
                level="warning",
                service=served.name,
                release=previous.label,
                why=error.text.partition("\n")[0],
            )
            return
        finally:
            self._warming.discard(served.name)
        now = self._registry.previous(served.name)
        if served.standby is None and now == previous and served.find(previous.label) is None:
            served.standby = release
            log("standby_ready", service=served.name, release=previous.label)
        else:
            await self._end(release)

    async def _load(
        self, release: RegisteredRelease, *, workers: Literal["all", "few"], share: int = 0
    ) -> ServedRelease:
        """Verify signature and bytes of a release and load it. Raises StateError or DeclarationError."""
        opened = await self._releasing.open(release)
        few = share or self._settings.promotion.standby_workers
        number = (few, few) if workers == "few" else None
        spares = None if workers == "all" else 0
        pool = self._pool(opened.path, release.label, workers=number, spares=spares, origin=opened.origin)
        try:
            await pool.start()
        except BaseException:
            self._pools.remove(pool)
            raise
        if pool.description.service != release.service:
            await pool.stop()
            self._pools.remove(pool)
            raise DeclarationError(
                f"{release.label} declares service {pool.description.service!r}, not {release.service!r}.",
                hint="Release its folder under its own name.",
            )
        return await self._release(pool, release.service, release.label, release.digest)

    def _pool(
        self,
        path: Path,
        label: str,
        *,
        workers: tuple[int, int] | None = None,
        spares: int | None = None,
        origin: Origin = Origin(),  # noqa: B008 - frozen
    ) -> Pool:
        pool = Pool(
            path,
            release=label,
            settings=self._settings.workers,
            on_poison=lambda job: self._hold(pool, job),
            observe=self.observe,
            workers=workers,
            spares=spares,
            origin=origin,
        )
        self._pools.append(pool)
        return pool

    async def _release(self, pool: Pool, name: str, label: str, digest: str) -> ServedRelease:
        try:
            chat = await self._chats.load(pool.description, pool.folder)
        except BaseException:
            await pool.stop()
            self._pools.remove(pool)
            raise
        try:
            # For the time when another release, or none, is served: its records are shown masked as it said.
            self._state.remember(sensitive={f"{name} {label}": pool.description.sensitive_pointers})
        except StateError as error:
            log("not_remembered", level="warning", why=error.text)  # then all of its content is shown masked
        ages = [way.max_age_s for way in pool.description.fallbacks if way.kind == "last_good"]
        return ServedRelease(
            service=name,
            label=label,
            digest=digest,
            engine=pool,
            input_checks=InputChecks(pool.description),
            output_checks=OutputChecks(pool.description),
            poison=set(self._quarantine.active_fingerprints(name, label, utc_us())),
            last_good=LastGood(max_age_s=max(ages)) if ages else None,
            chat=chat,
        )

    # -- poison and events --------------------------------------------------------------------

    def _hold(self, pool: Pool, job: Job) -> None:
        """Put a record that ended two workers of a release into quarantine, and refuse it there from now on."""
        release = next(
            (one for served in self._house.services.values() for one in served.parts() if one.engine is pool),
            None,
        )
        if release is None:
            return
        fingerprint = fingerprint_of(job.input)
        release.poison.add(fingerprint)
        self._house.meters.count_event("quarantined", service=release.service, reason="poison_input")
        log(
            "quarantined",
            level="error",
            service=release.service,
            release=release.label,
            fingerprint=fingerprint.hex()[:16],
        )
        pointers = release.engine.description.subject_pointers
        named = subject_of(orjson.loads(job.input), pointers) if pointers else None
        try:
            self._quarantine.hold(
                service=release.service,
                release=release.label,
                fingerprint=fingerprint,
                reason="poison_input",
                input_bytes=job.input,
                subject=self._house.vault.pseudonym(named) if named else b"",
            )
        except (StorageUnavailable, StorageOutcomeUnknown) as error:
            log("quarantine_not_kept", level="error", why=str(error))

    def refresh_poison(self) -> None:
        """Read the quarantine again: entries expire, and operators release them."""
        for served in self._house.services.values():
            for release in served.parts():
                held = self._quarantine.active_fingerprints(served.name, release.label, utc_us())
                release.poison.clear()  # only now: if it cannot be read, what is known stays
                release.poison |= held

    def observe(self, event: str, **named: Any) -> None:
        """Count and log what happened to a room: the hook that alerts are made of."""
        service, reason = str(named.get("service", "")), str(named.get("reason", named.get("failure", "")))
        self._house.meters.count_event(event, service=service, reason=reason)
        if event == "load_failed" and reason.startswith("release_"):
            detail = f"{named.get('release', '')} does not load: {named.get('why', '')}"
            self._happened.note(reason, service=service, detail=detail, now_s=monotonic_s())
        level = "info" if event in _QUIET else "error" if event in _LOUD else "warning"
        log(event, level=level, **named)


def _takes_the_same(one: ServedRelease, other: ServedRelease) -> bool:
    """Say whether what was checked for the one may be answered by the other."""
    a, b = one.engine.description, other.engine.description
    return a.input_schema == b.input_schema and a.output_schema == b.output_schema
