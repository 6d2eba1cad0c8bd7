"""Build the rooms in order, start them, keep them, stop them in the opposite order.

Called by `gateway.server`. After `start`, `house` can be served from; before, every service call is told
that the server is starting. `stop` first finishes what was admitted, then ends workers, then closes the
ledger, so that no acknowledged answer is without its record.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import orjson
from prometheus_client import Metric

from nightproof import __version__
from nightproof.audit.ledger import AuditOutcomeUnknown, AuditUnavailable
from nightproof.base.clock import monotonic_s, utc_now, utc_us
from nightproof.base.errors import Fault
from nightproof.base.ids import RequestIds
from nightproof.base.values import Caller, Reply
from nightproof.declare.folder import read_golden
from nightproof.limits.limiter import Limiter
from nightproof.parts.chats import Chats
from nightproof.parts.services import Services
from nightproof.pipeline.house import House, RecordedReply
from nightproof.pipeline.record import REST, WHOLE
from nightproof.present import Rooms
from nightproof.settings.settings import Settings
from nightproof.steer import status as steer_status
from nightproof.steer.archive import Archive
from nightproof.steer.driftwatch import DriftWatch
from nightproof.steer.find import Desk
from nightproof.steer.from_folder import Differing
from nightproof.steer.intake import Intakes
from nightproof.steer.oncall import OnCall
from nightproof.steer.promote import Helm
from nightproof.steer.recovery import unfinished_streams
from nightproof.steer.releasing import Releasing
from nightproof.steer.replay import Replays
from nightproof.steer.runbook import Present
from nightproof.steer.tasks import Tasks
from nightproof.steer.tick import Step, Ticking, flush_summaries, note, try_again
from nightproof.steer.upkeep import Upkeep
from nightproof.steer.watching import Watching
from nightproof.storage import proc
from nightproof.storage.alert_store import AlertStore
from nightproof.storage.comparisons import Comparisons
from nightproof.storage.keyring import Keyring
from nightproof.storage.ledger_protocol import LedgerReading
from nightproof.storage.ledger_rows import StoredEntry
from nightproof.storage.quarantine import QuarantineStore
from nightproof.storage.registry_store import RegistryStore
from nightproof.storage.sqlite import StorageOutcomeUnknown, StorageUnavailable
from nightproof.storage.statefolder import StateFolder
from nightproof.watch.families import gauge
from nightproof.watch.happened import Happened
from nightproof.watch.health import Component, Health
from nightproof.watch.log import log
from nightproof.watch.meters import Meters
from nightproof.workers.engine import Engine

_TICK_S = 0.25
_COLLECT_EVERY_S = 86_400.0
_DISK_EVERY_S = 2.0
_KEEP_EVERY_S = 2.0
_POISON_EVERY_S = 5.0
_LAST_ENDINGS_WITHIN_S = 1.0
_HAPPENED_SHOWN_S = 600.0
_HEALTH_HOLDS_S = 0.1
"""Components are looked at once in this time, however often probes ask."""


class Runtime:
    """The running server, without its sockets."""

    def __init__(
        self,
        settings: Settings,
        folders: Sequence[Path],
        state: StateFolder,
        *,
        on_fence: Callable[[str], None],
        certificate_days: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.settings = settings
        self.state = state
        self.address = ""
        self._folders = list(folders)
        self._began_s = monotonic_s()
        self.healths = Health()
        """Where rooms beside these tell how they are: `healths.ask_also`."""
        self._parts: list[Component] = []
        self._parts_seen_s = float("-inf")
        self._metrics_pages: dict[bool, tuple[bytes, str]] = {}
        self.tasks = Tasks()
        """What goes on beside the requests."""
        self._happened = Happened(shown_s=_HAPPENED_SHOWN_S)
        self._reader: LedgerReading | None = None
        self._reading = asyncio.Lock()
        self._slept_s = _TICK_S
        self._was_unclean = False
        self.keyring = Keyring(state.keyring_db, state.keyring_pepper)
        self.registry = RegistryStore(state.registry_db)
        self.comparisons = Comparisons(state.comparisons_db)
        meters = Meters()
        summaries: Counter[tuple[str, str, str]] = Counter()
        self.archive = Archive(
            settings,
            state,
            on_fence=on_fence,
            on_lost=lambda entries: summaries.update({("audit_unavailable", "", ""): entries}),
            on_state=lambda now, why: log(
                "ledger", level="info" if now in ("open", "closed") else "error", state=now, why=why
            ),
            on_writer_lost=self._writer_lost,
            is_apart=True,
        )
        self.releasing = Releasing(self.archive, self.registry, state, settings, say=self._say)
        self.intakes = Intakes(self.releasing, state, settings)
        self.desk = Desk(self.archive, self.archive.sensitive_of)
        vault = self.archive.vault
        self.quarantine = QuarantineStore(
            state.quarantine_db,
            seal=lambda content, subject: vault.seal_bytes(content, purpose="quarantine", subject=subject),
            unseal=lambda sealed: vault.open_bytes(sealed, purpose="quarantine"),
        )
        self.house = House(
            settings=settings,
            find_caller=self._find_caller,
            find_recorded=self._find_recorded,
            services={},
            limiter=Limiter(settings.limits),
            ledger=self.archive.ledger,
            vault=vault,
            meters=meters,
            running_keys=set(),
            summaries=summaries,
            ids=RequestIds(),
        )
        self.drift_watch = DriftWatch(settings, state, self.archive, meters)
        self.house.drift, self.house.feedback = self.drift_watch.drift, self.drift_watch.feedback
        self.healths.ask_also(self.drift_watch.health)
        self.upkeep = Upkeep(
            self.archive,
            settings,
            state,
            meters=meters,
            ids=self.house.ids,
            keep_days=self.keep_days,
            on_storage_low=self._storage_low,
        )
        self.watching = Watching(
            settings,
            state,
            meters=meters,
            ledger=self.archive.ledger,
            limiter=self.house.limiter,
            engines=lambda: {name: served.live.engine for name, served in self.house.services.items()},
            disk_free_bytes=lambda: self.upkeep.disk_free_bytes,
            certificate_days=certificate_days,
        )

        self.chats = Chats(state, self.house, settings.workers)
        self.services = Services(
            settings,
            state,
            self.house,
            registry=self.registry,
            quarantine=self.quarantine,
            comparisons=self.comparisons,
            releasing=self.releasing,
            chats=self.chats,
            happened=self._happened,
            tasks=self.tasks,
        )
        self.helm = Helm(
            self.registry,
            self.services,
            settings.promotion,
            note=self.archive.note,
            observe=self.services.observe,
            tasks=self.tasks,
        )

        self.replays = Replays(
            self.archive,
            self.registry,
            self.comparisons,
            settings.promotion,
            load=self.services.load_beside,
            is_busy=self.services.is_busy,
            is_chat=self.services.is_chat,
            sensitive_of=self.archive.sensitive_of,
            tasks=self.tasks,
        )

        self.rooms = Rooms(
            self.house,
            self.upkeep,
            self.watching,
            self.helm,
            self._happened,
            self.drift_watch,
            certificate_days=certificate_days,
            began_s=self._began_s,
            tasks=self.tasks,
        )
        self.rooms.upstreams, self.rooms.budgets = self.chats.pictures, self.chats.budgets_left
        self.healths.ask_also(self.rooms.upstream_health)
        self._ticking = Ticking(self._steps(), self.tasks)
        self.healths.ask_also(self.tasks.health)
        self.on_call = OnCall(
            settings,
            AlertStore(state.alerts_db),
            meters=meters,
            read=self.rooms.readings,
            note=self.archive.note,
            address=lambda: self.address,
        )

    # -- what the command line asks -----------------------------------------------------------

    @property
    def notices(self) -> list[Differing]:
        """Folders that are not served as they are, to be told to whoever started the server."""
        return self.services.notices

    # -- start and stop -----------------------------------------------------------------------

    async def start(self) -> None:
        """Open the ledger, load every service, begin to tick. Raises DeclarationError or StateError."""
        self._was_unclean = self.rooms.was_unclean = self.state.was_unclean
        await self.archive.start()
        self.state.mark_running()  # not before: a start that is refused is no run
        self._reader = await asyncio.to_thread(self.archive.reader)
        await self._note_start()
        self.house.spill = await self.upkeep.start()
        self.house.traces = self.watching.begin_telemetry(
            os.environ,
            version=__version__,
            families=lambda: self.house.meters.families(self.gauges),
        )
        self.tasks.keep_up("tick", self._tick)
        await self.releasing.sweep()
        await self.on_call.start()
        self.drift_watch.drift.start()
        for folder in self._folders:
            await self._serve_folder(folder)
        self.keep_days()  # noted now: it holds also when a service is served no longer
        self.house.starting = False
        log("started", services=sorted(self.house.services), version=__version__)

    async def stop(self, *, is_hurried: Callable[[], bool] = lambda: False) -> None:
        """Finish what was admitted, then stop workers and ledger. Bounded by `server.stop_within_s`.

        Once `is_hurried` says so, what is still at work is told `shutting_down` instead.
        """
        self.house.draining = True
        deadline_s = monotonic_s() + self.settings.server.stop_within_s
        while self.house.limiter.in_flight and monotonic_s() < deadline_s and not is_hurried():
            await asyncio.sleep(0.02)
        self.tasks.cancel()
        await self.on_call.stop()
        await self.drift_watch.drift.stop()
        await self.services.stop()
        with contextlib.suppress(StorageUnavailable, StorageOutcomeUnknown):
            await self.helm.keep(
                whatever=True
            )  # a disk that takes nothing costs a second of it, as a kill does
        # Who was cut short is being told so: that too is recorded before the ledger closes.
        deadline_s = monotonic_s() + _LAST_ENDINGS_WITHIN_S
        while self._inside() and monotonic_s() < deadline_s:
            await asyncio.sleep(0.01)
        try:
            await flush_summaries(self.house.summaries, self.house.ledger, self.house.ids)
            await note(self.house.ledger, self.house.ids, "stop", **self._totals())
        except (AuditUnavailable, AuditOutcomeUnknown) as fault:
            log("stop_not_recorded", level="error", why=fault.text)
        else:
            self.state.mark_stopped()
        _close(self.drift_watch)
        if self._reader is not None:
            _close(self._reader)  # before the ledger: whoever closes last empties the write-ahead log
        await self.archive.stop()
        await self.upkeep.stop()
        await self.watching.close()
        for store in (self.keyring, self.quarantine, self.registry, self.comparisons):
            _close(store)
        log("stopped")

    async def _note_start(self) -> None:
        ledger, ids = self.house.ledger, self.house.ids
        if self._was_unclean:
            log("unclean_stop", level="warning", recovered_seq=ledger.snapshot().last_seq)
            self.house.meters.count_event("unclean_stop")
            await note(
                ledger,
                ids,
                "recovery",
                last_seq=ledger.snapshot().last_seq,
                why="the last run did not end with a stop",
                **await self._left_open(),
            )
        await note(ledger, ids, "start", version=__version__, pid=os.getpid(), unclean=self._was_unclean)

    async def _left_open(self) -> dict[str, list[str]]:
        """Name the streams that the last run had begun and not ended; nothing where there are none."""
        if self._reader is None:
            return {}
        async with self._reading:
            streams = await asyncio.to_thread(unfinished_streams, self._reader)
        return {"unfinished": streams} if streams else {}

    def _inside(self) -> int:
        """Count the requests that have arrived and not ended."""
        picture = self.house.meters.snapshot()
        return picture.arrivals - sum(picture.endings.values())

    def _totals(self) -> dict[str, Any]:
        picture = self.house.meters.snapshot()
        return {"arrivals": picture.arrivals, "endings": picture.endings}

    # -- services -----------------------------------------------------------------------------

    async def _serve_folder(self, folder: Path) -> None:
        """Serve the live release of the folder's service, and what stands beside it."""
        served = await self.services.serve_folder(folder)
        self.watching.watch_new_releases()
        self.tasks.insist(f"resume {served.name}", lambda: self.helm.resume(served.name))

    def _say(self, event: str, **named: Any) -> None:
        """Log what becomes of releases, and count it; what the gate refuses is to be heard of."""
        if event == "release_refused":
            found = ", ".join(named.get("found", ()))
            detail = f"{named.get('version') or 'a release'} was refused: {found}"
            self._happened.note(str(named.get("failure", event)), detail=detail, now_s=monotonic_s())
        self.house.meters.count_event(
            event, service=str(named.get("service", "")), reason=str(named.get("failure", ""))
        )
        log(event, **named)

    # -- what operators ask of the log --------------------------------------------------------

    def keep_days(self) -> dict[str, float]:
        """Return for how many days each service's content is kept: as declared last, also of one not served now."""
        days = {
            name: served.live.engine.description.keep_payload_days
            for name, served in self.house.services.items()
        }
        return self.state.remember(keep_days=days).keep_days

    def _writer_lost(self, why: str) -> None:
        self.house.meters.count_event("audit_writer_lost", reason=why)
        detail = f"it ended by {why}; another one took over what it held"
        self._happened.note("audit_writer_lost", detail=detail, now_s=monotonic_s())
        log("audit_writer_lost", level="error", why=why)

    def _storage_low(self, is_low: bool) -> None:
        self.house.storage_low = is_low

    def forget_subject(self, pseudonym: bytes) -> int:
        """Drop what the other rooms hold of an erased person; return how many quarantined records that were."""
        for served in self.house.services.values():
            for release in served.parts():
                if release.last_good is not None:
                    release.last_good.clear()
        self.drift_watch.forget(pseudonym)
        return self.quarantine.forget(pseudonym)

    # -- what the steps ask -------------------------------------------------------------------

    def _find_caller(self, token: str) -> Caller | None:
        record = self.keyring.find(token, utc_us())
        return None if record is None else Caller(record.id, record.role, record.services)

    async def _find_recorded(self, idem: bytes) -> RecordedReply | None:
        reader = self._reader
        if reader is None:
            return None
        not_before_us = utc_us() - int(self.settings.idempotency.keep_h * 3_600 * 1e6)
        try:
            if self.settings.ledger.url:
                async with self._reading:  # one connection, and a network between: neither may block the loop
                    entry = await asyncio.to_thread(reader.by_idem, idem, not_before_us)
            else:
                entry = reader.by_idem(idem, not_before_us)
        except (StorageUnavailable, StorageOutcomeUnknown) as error:
            raise Fault(
                "Whether this Idempotency-Key was used before cannot be read.",
                failure="audit_unavailable",
                hint="Retry in a moment.",
            ) from error
        if entry is None:
            return None
        if self.settings.ledger.url:
            return await asyncio.to_thread(self._recorded_reply, entry)
        return self._recorded_reply(entry)

    def _recorded_reply(self, entry: StoredEntry) -> RecordedReply | None:
        """Open the kept reply; None where its content was erased: the key is then as good as new."""
        if entry.payload is None:
            return None
        opened = self.archive.vault.open(entry.payload, entry_id=entry.id, kind=entry.kind)
        content = opened.parts.get(WHOLE) or opened.parts.get(REST)
        if content is None:
            return None
        kept = msgspec.json.decode(content, type=_Kept)
        return RecordedReply(bytes.fromhex(kept.idem_body), kept.reply)

    def count_shed(self, failure: str, whose: str) -> None:
        """Count a refusal that belongs to no service into the next summary."""
        line = (failure, "", whose)
        if line not in self.house.summaries and len(self.house.summaries) >= 10_000:
            line = (failure, "", "others")
        self.house.summaries[line] += 1

    def connection_refused(self, failure: str, address: str) -> None:
        """Count a refusal by the receiving side, before there was a request to serve."""
        self.house.meters.count_connection_refused(failure)
        self.count_shed(failure, address)

    async def act(self, who: str, act: str, **named: Any) -> None:
        """Record an operator's act, before it takes effect."""
        await note(self.house.ledger, self.house.ids, "operator", who=who, act=act, **named)

    # -- the tick -----------------------------------------------------------------------------

    async def _tick(self) -> None:
        slept_from_s = monotonic_s()
        await asyncio.sleep(_TICK_S)
        now = monotonic_s()
        # While services load nobody is served who could be late.
        self._slept_s = _TICK_S if self.house.starting else now - slept_from_s
        await self._ticking.tick(now)

    def _steps(self) -> list[Step]:
        """Return what happens by itself, in the order in which it is done."""
        house = self.house
        return [
            Step("watch", lambda now: self.watching.tick(slept_s=self._slept_s, meant_s=_TICK_S)),
            Step(
                "disk",
                lambda now: self.upkeep.see_to_the_disk(),
                every_s=lambda: _DISK_EVERY_S if house.ledger.is_writable else 0.0,
            ),
            Step("spill", lambda now: self._see_to_the_spill()),
            Step("ledger", lambda now: self._see_to_the_ledger()),
            Step("keys", lambda now: self.keyring.refresh(now)),
            Step("releases", lambda now: self.helm.tick()),
            Step(
                "history",
                lambda now: self._see_to_the_history(),
                every_s=lambda: _KEEP_EVERY_S,
                is_apart=True,
            ),
            Step(
                "shadows",
                lambda now: self.services.keep_shadows(),
                every_s=lambda: _KEEP_EVERY_S,
                is_apart=True,
            ),
            Step("probations", lambda now: self.helm.keep(), is_apart=True),
            Step("budgets", lambda now: self.chats.keep(), every_s=lambda: _KEEP_EVERY_S, is_apart=True),
            Step("drift", lambda now: self._see_to_the_drift()),
            Step("quarantine", lambda now: self.services.refresh_poison(), every_s=lambda: _POISON_EVERY_S),
            Step(
                "summaries",
                lambda now: self._flush_summaries(),
                every_s=lambda: self.settings.ledger.summary_every_s,
            ),
            Step(
                "old releases",
                lambda now: self.releasing.collect("server"),
                every_s=lambda: _COLLECT_EVERY_S,
                is_apart=True,
                due_s=monotonic_s() + _COLLECT_EVERY_S,
            ),
            *self.upkeep.steps(),
        ]

    def _see_to_the_spill(self) -> None:
        self.upkeep.say_spilling()
        self.upkeep.merge_if_waiting(self.tasks)

    async def _see_to_the_ledger(self) -> None:
        await try_again(self.house.ledger, self.house.ids)
        if self.watching.should_write():
            # Nobody calls, so nothing else would tell that the log cannot be written any more.
            await note(self.house.ledger, self.house.ids, "server", event="still_writable")

    async def _see_to_the_history(self) -> None:
        if self.helm.has_unrecorded():
            await self.helm.record_history()

    def _see_to_the_drift(self) -> None:
        if not self.house.starting:
            self.drift_watch.see_to(self.services.live(), self.tasks.begin)

    async def _flush_summaries(self) -> None:
        if self.house.summaries:
            await flush_summaries(self.house.summaries, self.house.ledger, self.house.ids)

    # -- health and figures -------------------------------------------------------------------

    def health(self) -> list[Component]:
        """Return every component's present state, looked at a moment ago at most."""
        now = monotonic_s()
        if now - self._parts_seen_s > _HEALTH_HOLDS_S:
            self._parts, self._parts_seen_s = self._components(), now
        return self._parts

    def _components(self) -> list[Component]:
        see = self.healths.see
        ledger = self.house.ledger.snapshot()
        parts = [see("ledger", ok=ledger.state == "open", why=ledger.why)]
        if self.house.starting:
            parts.append(see("services", ok=False, why="still loading"))
        for name, served in self.house.services.items():
            picture = served.live.engine.snapshot()
            ready = served.live.engine.is_ready()
            # The first line only: health opens without a key, and what follows is the user's traceback.
            why = "" if ready else (picture.trouble or "no worker is ready").partition("\n")[0]
            parts.append(see(f"workers:{name}", ok=ready, why=why))
            spent = "restart budget used up" if picture.backing_off else ""
            parts.append(see(f"restarts:{name}", ok=not spent, why=spent, needed=False))
            for part, release in (
                ("standby", served.standby),
                ("canary", served.canary),
                ("shadow", served.shadow),
            ):
                if release is not None:
                    ready = release.engine.is_ready()
                    why = "" if ready else f"{release.label} is not ready"
                    parts.append(see(f"{part}:{name}", ok=ready, why=why, needed=False))
        return [
            *parts,
            *self.upkeep.health(self.healths),
            *self.on_call.health(self.healths),
            *self.watching.health(self.healths),
            *self.healths.others(),
        ]

    def readiness(self) -> tuple[bool, list[str]]:
        """Say whether new requests should come here, and why not."""
        why = []
        if self.house.draining:
            why.append("draining")
        if self.house.starting:
            why.append("starting")
        if not self._takes_records():
            why.append("the ledger cannot be written")
        if self.house.storage_low:
            why.append("the disk is full")
        why += [
            f"no worker of {name} is ready"
            for name, one in self.house.services.items()
            if not one.live.engine.is_ready()
        ]
        return not why, why

    def _takes_records(self) -> bool:
        """Say whether records have a place: the ledger, or the side file where every service here may spill."""
        if self.house.ledger.is_writable:
            return True
        spill, services = self.house.spill, self.house.services
        return (
            bool(services)
            and spill is not None
            and spill.has_room
            and services.keys() <= self.house.spilling_services
        )

    def status(self) -> steer_status.Status:
        """Return what `nightproof status` shows."""
        meters = self.house.meters.snapshot()
        drift = self.drift_watch.status()
        chats, upstreams = self.house.meters.chat.recent(now_s=monotonic_s()), self.rooms.upstreams()
        services = [
            steer_status.service_status(
                name,
                served.live.engine.snapshot(),
                ready=served.live.engine.is_ready(),
                standby=served.standby.label if served.standby else "",
                quarantined=len(served.live.poison),
                parts=self.helm.overview(name),
                meters=meters,
                drift=drift.get(name),
                chat=chats.get(name),
                upstreams=upstreams.get(name, ()),
            )
            for name, served in self.house.services.items()
        ]
        return steer_status.status(
            version=__version__,
            pid=os.getpid(),
            up_s=monotonic_s() - self._began_s,
            address=self.address,
            readiness=self.readiness(),
            services=services,
            components=self.health(),
            meters=meters,
            limiter=self.house.limiter.snapshot(),
            ledger=self.house.ledger.snapshot(),
            memory_bytes=proc.rss_bytes(),
            disk_free_bytes=self.upkeep.disk_free_bytes,
        )

    def runbook(self, page: str, failure: str, service: str) -> str:
        """Return a runbook page with this server's present values in it."""
        metrics, _ = self.house.meters.render(self.gauges, openmetrics=False)
        return self.rooms.runbook(
            page,
            failure,
            service,
            server=Present(address=self.address, state=str(self.state.path), metrics=metrics.decode()),
            on_call=self.on_call,
            components=self.health(),
        )

    def engine_of(self, service: str) -> Engine | None:
        """Return the live engine of a service."""
        served = self.house.services.get(service)
        return None if served is None else served.live.engine

    def example_call(self, service: str) -> tuple[str, str] | None:
        """Return a path and a body for people to try, from the golden cases; None if there are none."""
        served = self.house.services.get(service)
        if served is None:
            return None
        chat = served.live.engine.description.chat
        if chat is not None and not chat.is_typed:
            asked = {"model": service, "messages": [{"role": "user", "content": "What can you do for me?"}]}
            return "/v1/chat/completions", orjson.dumps(asked).decode()
        cases = read_golden(self.state.bundles / served.live.digest, utc_now())
        return (f"/services/{service}/predict", cases[0].input.decode()) if cases else None

    def metrics_page(self, *, openmetrics: bool) -> tuple[bytes, str]:
        """Return `/metrics` and its content type; asked for more often than is good, the last one again."""
        thrift = self.watching.page_thrift
        began_s = monotonic_s()
        page = self._metrics_pages.get(openmetrics)
        if page is None or thrift.may_spend(began_s):
            page = self.house.meters.render(self.gauges, openmetrics=openmetrics)
            self._metrics_pages[openmetrics] = page
            thrift.spent(monotonic_s() - began_s)
        return page

    def gauges(self) -> Iterable[Metric]:
        """Return the rooms' present values for `/metrics`."""
        yield from self.rooms.gauges()
        yield gauge(
            "nightproof_ready", "Whether new requests should come here.", {(): float(self.readiness()[0])}
        )
        yield gauge(
            "nightproof_component_ok",
            "Health by component.",
            {(part.name,): float(part.ok) for part in self.health()},
            ["component"],
        )
        yield from self.drift_watch.gauges()
        yield from self.upkeep.gauges()
        yield from self.watching.gauges()
        yield from self.on_call.gauges()
        yield gauge("nightproof_build_info", "The version.", {(__version__,): 1.0}, ["version"])


def _close(store: _Closable) -> None:
    try:
        store.close()
    except (StorageUnavailable, StorageOutcomeUnknown) as error:
        # On a failed disk a file may not even close; the others must, and the exit code stands.
        log("not_closed", level="warning", why=str(error))


class _Closable(Protocol):
    def close(self) -> None: ...


class _Kept(msgspec.Struct):
    """The part of a payload that idempotency reads."""

    reply: Reply
    idem_body: str
