"""Build the rooms in order, start them, keep them, stop them in the opposite order.

Called by `gateway.server`. After `start`, `house` can be served from; before, every service call is told
that the server is starting. `stop` first finishes what was admitted, then ends workers, then closes the
ledger, so that no acknowledged answer is without its record.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import orjson
from prometheus_client import Metric

from nightproof import __version__
from nightproof.audit.ledger import COMMIT_BUCKETS_S, AuditOutcomeUnknown, AuditUnavailable
from nightproof.base.clock import monotonic_s, utc_now, utc_us
from nightproof.base.errors import DeclarationError, Fault
from nightproof.base.fingerprint import fingerprint_of
from nightproof.base.ids import RequestIds
from nightproof.base.masking import subject_of
from nightproof.base.values import Caller, Reply
from nightproof.checks.input import InputChecks
from nightproof.checks.output import OutputChecks
from nightproof.declare.folder import read_golden
from nightproof.limits.limiter import Limiter
from nightproof.pipeline.house import House, RecordedReply, ServedRelease, ServedService
from nightproof.pipeline.last_good import LastGood
from nightproof.pipeline.record import REST, WHOLE
from nightproof.settings.settings import Settings
from nightproof.steer import status as steer_status
from nightproof.steer.archive import Archive
from nightproof.steer.find import Desk
from nightproof.steer.tick import flush_summaries, note, try_again
from nightproof.steer.upkeep import Upkeep
from nightproof.steer.watching import LiveRelease, Watching
from nightproof.storage import proc
from nightproof.storage.bundles import snapshot
from nightproof.storage.keyring import Keyring
from nightproof.storage.ledger_protocol import LedgerReading
from nightproof.storage.ledger_rows import StoredEntry
from nightproof.storage.quarantine import QuarantineStore
from nightproof.storage.registry_store import RegisteredRelease, RegistryStore
from nightproof.storage.sqlite import StorageOutcomeUnknown, StorageUnavailable
from nightproof.storage.statefolder import StateFolder
from nightproof.watch.health import Component, Health
from nightproof.watch.log import log
from nightproof.watch.meters import Meters, gauge, histogram_of
from nightproof.workers.engine import Engine, Job
from nightproof.workers.pool import Pool

_TICK_S = 0.25
_DISK_EVERY_S = 2.0
_LAST_ENDINGS_WITHIN_S = 1.0
_CERTIFICATE_WARN_DAYS = 21


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
        self._certificate_days = certificate_days
        self._began_s = monotonic_s()
        self._health = Health()
        self._pools: list[Pool] = []
        self._tick_task: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._reader: LedgerReading | None = None
        self._reading = asyncio.Lock()
        self._disk_seen_s = 0.0
        self._was_unclean = False
        self.keyring = Keyring(state.keyring_db, state.keyring_pepper)
        self._registry = RegistryStore(state.registry_db)
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
        )
        self.desk = Desk(self.archive, self.sensitive_of)
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
        self.watching = Watching(
            settings, state, self.archive, meters, note=self._note, sensitive_of=self.sensitive_of
        )
        self.house.drift, self.house.feedback = self.watching.drift, self.watching.feedback
        self.upkeep = Upkeep(
            self.archive,
            settings,
            state,
            meters=meters,
            ids=self.house.ids,
            keep_days=self.keep_days,
            on_storage_low=self._storage_low,
        )

    # -- start and stop -----------------------------------------------------------------------

    async def start(self) -> None:
        """Open the ledger, load every service, begin to tick. Raises DeclarationError or StateError."""
        self._was_unclean = self.state.was_unclean
        await self.archive.start()
        self.state.mark_running()  # not before: a start that is refused is no run
        self._reader = await asyncio.to_thread(self.archive.reader)
        await self._note_start()
        self.house.spill = await self.upkeep.start(self._begin)
        self._tick_task = asyncio.create_task(self._tick())
        self.watching.drift.start()
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
        if self._tick_task is not None:
            self._tick_task.cancel()
        for task in self._background:
            task.cancel()
        await self.watching.drift.stop()
        await asyncio.gather(*(pool.stop() for pool in self._pools))
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
        _close(self.watching)
        if self._reader is not None:
            _close(self._reader)  # before the ledger: whoever closes last empties the write-ahead log
        await self.archive.stop()
        await self.upkeep.stop()
        for store in (self.keyring, self.quarantine, self._registry):
            _close(store)
        log("stopped")

    async def _note(self, kind: str, **named: Any) -> None:
        await note(self.house.ledger, self.house.ids, kind, **named)

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
            )
        await note(ledger, ids, "start", version=__version__, pid=os.getpid(), unclean=self._was_unclean)

    def _inside(self) -> int:
        """Count the requests that have arrived and not ended."""
        picture = self.house.meters.snapshot()
        return picture.arrivals - sum(picture.endings.values())

    def _totals(self) -> dict[str, Any]:
        picture = self.house.meters.snapshot()
        return {"arrivals": picture.arrivals, "endings": picture.endings}

    # -- services -----------------------------------------------------------------------------

    async def _serve_folder(self, folder: Path) -> None:
        """Take a snapshot of the folder, load it, and make it live: later edits of the folder change nothing."""
        bundle = await asyncio.to_thread(lambda: snapshot(folder.resolve(), self.state.bundles))
        label = f"dev-{bundle.digest[:8]}"
        pool = self._pool(bundle.path, label)
        try:
            await pool.start()
        except DeclarationError as error:
            raise DeclarationError(f"{folder}: {error.text}", hint=error.hint) from error
        name = pool.description.service
        if name in self.house.services:
            raise DeclarationError(
                f"{folder} declares service {name!r}, which another folder declares too.",
                hint="Give one another name.",
            )
        before = self._registry.live(name)
        self._registry.register(name, label, bundle.digest)
        self._registry.set_live(name, label)
        release = self._release(pool, name, label, bundle.digest)
        if pool.description.audit_on_failure == "spill":
            self.house.spilling_services.add(name)
        self.house.services[name] = ServedService(name, release)
        if before is None or before.label != label:
            await note(
                self.house.ledger,
                self.house.ids,
                "release",
                service=name,
                release=label,
                digest=bundle.digest,
            )
        previous = self._registry.previous(name)
        if previous is not None and any(way.kind == "previous_release" for way in pool.description.fallbacks):
            self._begin(self._warm_standby(self.house.services[name], previous))

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start what runs beside; it is cancelled at the stop."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _warm_standby(self, served: ServedService, previous: RegisteredRelease) -> None:
        """Load the release before, for `fallback.previous_release()`. It failing leaves the service whole."""
        path = self.state.bundles / previous.digest
        if not await asyncio.to_thread(path.is_dir):
            log("standby_missing", level="warning", service=served.name, release=previous.label)
            return
        pool = self._pool(path, previous.label, workers=(1, 1), spares=0)
        try:
            await pool.start()
        except DeclarationError as error:
            log(
                "standby_not_loaded",
                level="warning",
                service=served.name,
                release=previous.label,
                why=error.text,
            )
            return
        served.standby = self._release(pool, served.name, previous.label, previous.digest)
        log("standby_ready", service=served.name, release=previous.label)

    def _pool(
        self, path: Path, label: str, *, workers: tuple[int, int] | None = None, spares: int | None = None
    ) -> Pool:
        pool = Pool(
            path,
            release=label,
            settings=self.settings.workers,
            on_poison=lambda job: self._hold(label, job),
            observe=self._observe,
            workers=workers,
            spares=spares,
        )
        self._pools.append(pool)
        return pool

    def _release(self, pool: Pool, name: str, label: str, digest: str) -> ServedRelease:
        ages = [way.max_age_s for way in pool.description.fallbacks if way.kind == "last_good"]
        return ServedRelease(
            service=name,
            label=label,
            digest=digest,
            engine=pool,
            input_checks=InputChecks(pool.description),
            output_checks=OutputChecks(pool.description),
            poison=set(self.quarantine.active_fingerprints(name, label, utc_us())),
            last_good=LastGood(max_age_s=max(ages)) if ages else None,
        )

    def _live(self) -> Iterable[LiveRelease]:
        for name, served in self.house.services.items():
            live = served.live
            yield LiveRelease(
                name, live.label, live.digest, live.engine, live.input_checks, live.output_checks
            )

    def _hold(self, label: str, job: Job) -> None:
        """Put a record that ended two workers into quarantine, and refuse it from now on."""
        for served in self.house.services.values():
            if served.live.label == label:
                fingerprint = fingerprint_of(job.input)
                served.live.poison.add(fingerprint)
                self.house.meters.count_event("quarantined", service=served.name, reason="poison_input")
                log(
                    "quarantined",
                    level="error",
                    service=served.name,
                    release=label,
                    fingerprint=fingerprint.hex()[:16],
                )
                pointers = served.live.engine.description.subject_pointers
                named = subject_of(orjson.loads(job.input), pointers) if pointers else None
                try:
                    self.quarantine.hold(
                        service=served.name,
                        release=label,
                        fingerprint=fingerprint,
                        reason="poison_input",
                        input_bytes=job.input,
                        subject=self.archive.vault.pseudonym(named) if named else b"",
                    )
                except (StorageUnavailable, StorageOutcomeUnknown) as error:
                    log("quarantine_not_kept", level="error", why=str(error))

    def refresh_poison(self) -> None:
        """Read the quarantine again: entries expire, and operators release them."""
        for served in self.house.services.values():
            held = self.quarantine.active_fingerprints(served.name, served.live.label, utc_us())
            served.live.poison.clear()  # only now: if it cannot be read, what is known stays
            served.live.poison |= held

    def _observe(self, event: str, **named: Any) -> None:
        service, reason = str(named.get("service", "")), str(named.get("reason", named.get("failure", "")))
        self.house.meters.count_event(event, service=service, reason=reason)
        level = "info" if event in ("worker_ready", "scaled") else "warning"
        log(event, level=level, **named)

    # -- what operators ask of the log --------------------------------------------------------

    def sensitive_of(self, service: str) -> list[str]:
        """Return pointers to the fields of a service that are shown masked; of one that is not served, to all."""
        served = self.house.services.get(service)
        if served is not None:
            return list(served.live.engine.description.sensitive_pointers)
        every = {
            pointer
            for one in self.house.services.values()
            for pointer in one.live.engine.description.sensitive_pointers
        }
        return sorted(every)

    def keep_days(self) -> dict[str, float]:
        """Return for how many days each service's content is kept: as declared last, also of one not served now."""
        return self.state.keep_days(
            {
                name: served.live.engine.description.keep_payload_days
                for name, served in self.house.services.items()
            }
        )

    def _storage_low(self, is_low: bool) -> None:
        self.house.storage_low = is_low

    def forget_subject(self, pseudonym: bytes) -> int:
        """Drop what the other rooms hold of an erased person; return how many quarantined records that were."""
        for served in self.house.services.values():
            if served.live.last_good is not None:
                served.live.last_good.clear()
        self.watching.forget(pseudonym)
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
        facts = orjson.loads(entry.leaf)
        if entry.payload is None or "idem_body" not in facts:
            return None
        opened = self.archive.vault.open(entry.payload, entry_id=entry.id, kind=entry.kind)
        content = opened.parts.get(WHOLE) or opened.parts.get(REST)
        if content is None:
            return None
        reply = msgspec.json.decode(content, type=_Kept).reply
        return RecordedReply(bytes.fromhex(facts["idem_body"]), reply)

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
        flushed_s = poison_s = monotonic_s()
        while True:
            await asyncio.sleep(_TICK_S)
            now = monotonic_s()
            try:
                every_s = _DISK_EVERY_S if self.house.ledger.is_writable else _TICK_S
                if now - self._disk_seen_s > every_s:
                    self._disk_seen_s = now
                    self.upkeep.see_to_the_disk()
                self.upkeep.say_spilling()
                self.upkeep.merge_if_waiting(self._begin)
                await try_again(self.house.ledger, self.house.ids)
                self.keyring.refresh(now)
                if not self.house.starting:
                    self.watching.see_to(self._live(), self._begin)
                if now - poison_s > 5.0:
                    poison_s = now
                    self.refresh_poison()
                if self.house.summaries and now - flushed_s > self.settings.ledger.summary_every_s:
                    flushed_s = now
                    await flush_summaries(self.house.summaries, self.house.ledger, self.house.ids)
            except Exception as error:  # noqa: BLE001
                # A border: whatever goes wrong now (a store that cannot be read, mostly) is tried again at the
                # next tick, and nothing ends the ticking. The log has it; health shows the ledger's state.
                log("tick", level="warning", error=type(error).__name__)

    # -- health and figures -------------------------------------------------------------------

    def health(self) -> list[Component]:
        """Return every component's present state."""
        see = self._health.see
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
            if served.standby is not None:
                ready = served.standby.engine.is_ready()
                parts.append(see(f"standby:{name}", ok=ready, why="" if ready else "not ready", needed=False))
        parts += self.upkeep.health(self._health)
        days = self._certificate_days()
        if days is not None:
            near = days < _CERTIFICATE_WARN_DAYS
            parts.append(
                see("certificate", ok=not near, why=f"ends in {days:.1f} days" if near else "", needed=False)
            )
        return parts

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
        drift = self.watching.status()
        services = [
            steer_status.service_status(
                name,
                served.live.engine.snapshot(),
                ready=served.live.engine.is_ready(),
                standby=served.standby.label if served.standby else "",
                quarantined=len(served.live.poison),
                meters=meters,
                drift=drift.get(name),
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

    def engine_of(self, service: str) -> Engine | None:
        """Return the live engine of a service."""
        served = self.house.services.get(service)
        return None if served is None else served.live.engine

    def first_golden_input(self, service: str) -> str | None:
        """Return the first golden input of the live release as JSON, for people to try; None if there is none."""
        served = self.house.services.get(service)
        if served is None:
            return None
        cases = read_golden(self.state.bundles / served.live.digest, utc_now())
        return cases[0].input.decode() if cases else None

    def gauges(self) -> Iterable[Metric]:
        """Return the rooms' present values for `/metrics`."""
        pictures = {name: served.live.engine.snapshot() for name, served in self.house.services.items()}
        limiter, ledger = self.house.limiter.snapshot(), self.house.ledger.snapshot()
        yield gauge(
            "nightproof_workers",
            "Workers by state.",
            {
                (name, state): float(count)
                for name, one in pictures.items()
                for state, count in one.workers.items()
            },
            ["service", "state"],
        )
        queued = {(name,): float(one.queued) for name, one in pictures.items()}
        yield gauge("nightproof_queue_depth", "Records that wait for a worker.", queued, ["service"])
        yield gauge(
            "nightproof_worker_restarts",
            "Workers replaced since the start.",
            {(name,): float(one.restarts) for name, one in pictures.items()},
            ["service"],
        )
        yield gauge(
            "nightproof_quarantined",
            "Records refused as poison now.",
            {(name,): float(len(served.live.poison)) for name, served in self.house.services.items()},
            ["service"],
        )
        yield gauge("nightproof_in_flight", "Requests inside.", {(): float(limiter.in_flight)})
        yield gauge(
            "nightproof_ready", "Whether new requests should come here.", {(): float(self.readiness()[0])}
        )
        yield gauge(
            "nightproof_component_ok",
            "Health by component.",
            {(part.name,): float(part.ok) for part in self.health()},
            ["component"],
        )
        yield gauge(
            "nightproof_audit_writable",
            "Whether the ledger takes entries.",
            {(): float(ledger.state == "open")},
        )
        yield gauge("nightproof_audit_entries", "Entries in the ledger.", {(): float(ledger.last_seq + 1)})
        yield histogram_of(
            "nightproof_audit_commit_seconds",
            "From hand-over to durable.",
            COMMIT_BUCKETS_S,
            ledger.commit_buckets,
            ledger.commit_sum_s,
        )
        yield gauge(
            "nightproof_process_resident_memory_bytes",
            "Memory of the server process.",
            {(): float(proc.rss_bytes())},
        )
        yield gauge(
            "nightproof_process_cpu_seconds", "CPU seconds of the server process.", {(): proc.cpu_s()}
        )
        yield gauge(
            "nightproof_process_open_fds", "Open files of the server process.", {(): float(proc.open_files())}
        )
        yield from self.watching.gauges()
        yield from self.upkeep.gauges()
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
