"""Keep the log going beside the requests: reserve, side file, witness, retention and the vault's news.

The runtime asks it at every tick. Promises: nothing here blocks the event loop for longer than a statfs call,
and nothing here ends the ticking; what fails is logged and tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import Metric

from nightproof.audit.ledger import AuditOutcomeUnknown, AuditUnavailable
from nightproof.audit.record import OPENED
from nightproof.audit.spill import Spill
from nightproof.audit.witness import Witness
from nightproof.base.clock import monotonic_s, utc_us
from nightproof.base.conditions import Condition
from nightproof.base.ids import RequestIds
from nightproof.settings.settings import Settings
from nightproof.steer import keep
from nightproof.steer.archive import Archive
from nightproof.steer.clockwatch import ClockWatch
from nightproof.steer.tasks import Tasks
from nightproof.steer.tick import Step
from nightproof.storage.reserve import Reserve, choose
from nightproof.storage.spill_file import SpillFile
from nightproof.storage.sqlite import StorageOutcomeUnknown, StorageUnavailable
from nightproof.storage.statefolder import StateFolder
from nightproof.watch.families import gauge
from nightproof.watch.health import Component, Health
from nightproof.watch.log import log
from nightproof.watch.meters import Meters

CONDITIONS = ("disk_low", "clock_jumped", "spilling", "spill_full", "witness_late", "witness_refused")
_LAST_WITNESS_WITHIN_S = 5.0
_VAULT_EVERY_S = 1.0
_SPILL_PURPOSE = "spill"


class Upkeep:
    """What the log needs done beside the requests."""

    def __init__(
        self,
        archive: Archive,
        settings: Settings,
        state: StateFolder,
        *,
        meters: Meters,
        ids: RequestIds,
        keep_days: Callable[[], dict[str, float]],
        on_storage_low: Callable[[bool], None],
    ) -> None:
        self._archive = archive
        self._settings = settings
        self._state = state
        self._meters = meters
        self._ids = ids
        self._keep_days = keep_days
        self._on_storage_low = on_storage_low
        self._reserve = Reserve(state.reserve, settings.ledger.reserve_bytes)
        self._merging: asyncio.Task[None] | None = None
        self._is_low = False
        self._spill_said = ""
        self._is_jump_said = False
        self.clock = ClockWatch()
        self.disk_free_bytes = state.disk_free_bytes()
        self.witness = Witness(
            settings.witness,
            newest=lambda: archive.last_checkpoint,
            reader=archive.reader,
            vkey=lambda: archive.vkey,
            on_refused=self._witness_refused,
        )
        self.spill: Spill | None = None

    # -- start, tick and stop -----------------------------------------------------------------

    async def start(self) -> Spill:
        """Erase again what a restored backup brought back, and open the side file."""
        await keep.reapply_erasures(self._archive)
        self.spill = self._open_spill()
        return self.spill

    def steps(self) -> list[Step]:
        """Return what is done for the log now and then, by the tick."""
        every_s = self._settings.retention.every_s
        steps = [
            Step(
                "retention",
                lambda now: self._see_to_the_old(),
                every_s=lambda: every_s,
                is_apart=True,
                due_s=monotonic_s() + every_s,
            )
        ]
        if self.witness.is_set:
            steps.append(
                Step(
                    "witness",
                    lambda now: self.witness.give(),
                    every_s=lambda: self.witness.pause_s,
                    is_apart=True,
                    due_s=monotonic_s() + self.witness.pause_s,
                )
            )
        if self._settings.ledger.url:
            # What other gateways on the same log have erased.
            steps.append(
                Step(
                    "vault",
                    lambda now: asyncio.to_thread(self._archive.vault.refresh),
                    every_s=lambda: _VAULT_EVERY_S,
                    is_apart=True,
                )
            )
        return steps

    def see_to_the_disk(self) -> None:
        """Measure the free space; give the reserve up on a full disk, and take it back when there is room."""
        self.disk_free_bytes = free = self._state.disk_free_bytes()
        choice = choose(
            is_held=self._reserve.is_held,
            is_refused=not self._archive.ledger.is_writable,
            free_bytes=free,
            size_bytes=self._reserve.size_bytes,
        )
        if choice == "give_up":
            self._say_low(True)
            self._reserve.give_up()
            log("reserve_given_up", level="error", free_bytes=free)
            self._meters.count_event("reserve_given_up")
        elif choice == "take_back" and self._reserve.take_back():
            if self._is_low:
                log("reserve_taken_back", free_bytes=free)
            self._say_low(False)

    def say_spilling(self) -> None:
        """Log and count when the side file begins to be used, and when it takes no more."""
        spill = self.spill
        if spill is None:
            return
        now = "" if spill.is_empty else "spilling" if spill.has_room else "spill_full"
        if now and now != self._spill_said:
            log(now, level="error", bytes=spill.size_bytes)
            self._meters.count_event(now)
        self._spill_said = now

    def merge_if_waiting(self, tasks: Tasks) -> None:
        """Begin to merge the side file into the log, if something waits there and the log takes entries."""
        spill = self.spill
        if spill is not None and self._archive.ledger.is_writable:
            self._make_spill_key()
        may_merge = self._archive.ledger.is_writable and (self._merging is None or self._merging.done())
        if spill is not None and not spill.is_empty and may_merge:
            self._merging = tasks.begin(self._merge(spill, tasks))

    async def stop(self) -> None:
        """Give the witness the last checkpoint, and close the side file. After the ledger's stop."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.witness.give(), _LAST_WITNESS_WITHIN_S)
        if self.spill is not None:
            self.spill.close()

    # -- what is seen from outside ------------------------------------------------------------

    def health(self, health: Health) -> list[Component]:
        """Return the disk's, the witness's and the side file's present state."""
        see, free = health.see, self.disk_free_bytes
        low = self._is_low or free < self._settings.ledger.disk_low_bytes
        why = f"{free} bytes free"
        if self._is_low:
            why += f", {2 * self._settings.ledger.reserve_bytes} are wanted before requests are served again"
        parts = [see("disk", ok=not low, why=why if low else "", needed=False)]
        if self.clock.has_jumped:
            parts.append(see("clock", ok=False, why=self._clock_trouble(), needed=False))
        if self.witness.is_set:
            witness = self.witness.snapshot()
            late = self.witness.is_late or witness.is_refused
            parts.append(
                see("witness", ok=not late, why=(witness.why or "late") if late else "", needed=False)
            )
        if self.spill is not None:
            waits = not self.spill.is_empty
            why = f"{self.spill.size_bytes} bytes wait to be merged" if waits else ""
            if waits and not self.spill.has_room:
                why += "; full: its services refuse"
            parts.append(see("spill", ok=not waits, why=why, needed=False))
        return parts

    def conditions(self) -> Iterable[Condition]:
        """Return what is wrong with disk, witness and side file."""
        free = self.disk_free_bytes
        if self._is_low or free < self._settings.ledger.disk_low_bytes:
            yield Condition(failure="disk_low", detail=f"{free / 1e6:.0f} MB free")
        if self.clock.has_jumped:
            yield Condition(failure="clock_jumped", detail=self._clock_trouble())
        if self.witness.is_set:
            witness = self.witness.snapshot()
            if witness.is_refused:
                yield Condition(failure="witness_refused", detail=witness.why)
            if self.witness.is_late:
                yield Condition(failure="witness_late", detail=f"for {witness.age_s:.0f} s: {witness.why}")
        if self.spill is not None and not self.spill.is_empty:
            detail = f"{self.spill.size_bytes} bytes wait to be merged"
            yield Condition(failure="spilling", detail=detail)
            if not self.spill.has_room:
                yield Condition(failure="spill_full", detail=detail)

    def _clock_trouble(self) -> str:
        return f"the clock jumped {self.clock.ahead_s / 3_600:.1f} h ahead; nothing is destroyed by time"

    def gauges(self) -> Iterable[Metric]:
        """Return the present values for `/metrics`."""
        newest = self._archive.last_checkpoint
        yield gauge(
            "nightproof_audit_signed_entries",
            "Entries under the last signed checkpoint.",
            {(): float(newest.size if newest is not None else 0)},
        )
        witness = self.witness.snapshot()
        if witness.is_set:
            yield gauge(
                "nightproof_witness_entries", "Entries that the witness has seen.", {(): float(witness.size)}
            )
            yield gauge(
                "nightproof_witness_age_seconds", "Since the witness had all there is.", {(): witness.age_s}
            )
            yield gauge(
                "nightproof_witness_refused",
                "Whether the witness says that our log does not continue what it saw.",
                {(): float(witness.is_refused)},
            )
        if self.spill is not None:
            yield gauge(
                "nightproof_spilled_bytes",
                "Records in the side file that wait to be merged.",
                {(): float(self.spill.size_bytes)},
            )
        yield gauge(
            "nightproof_disk_free_bytes",
            "Space left for the state folder.",
            {(): float(self.disk_free_bytes)},
        )

    # -- the work -----------------------------------------------------------------------------

    def _say_low(self, is_low: bool) -> None:
        self._is_low = is_low
        self._on_storage_low(is_low)

    def _open_spill(self) -> Spill:
        """Open the side file; its key is made now, since a full disk would take none."""
        ledger = self._settings.ledger
        self._make_spill_key()
        return Spill(
            SpillFile(ledger.spill_folder or self._state.spill),
            self._archive.vault,
            most_bytes=ledger.spill_bytes,
            within_s=ledger.spill_within_s,
        )

    def _make_spill_key(self) -> None:
        """See that the side file's key is there and durable; after a rotation of keys it is another one."""
        self._archive.vault.seal_bytes(b"", purpose=_SPILL_PURPOSE)

    async def _merge(self, spill: Spill, tasks: Tasks) -> None:
        try:
            merged = await spill.merge(self._archive.ledger, self._recorded_of, self._ids)
        except (AuditUnavailable, AuditOutcomeUnknown, StorageUnavailable, StorageOutcomeUnknown) as error:
            log("spill_not_merged", level="warning", why=error.text)
        else:
            log("spill_merged", entries=merged)
            # Its frames carry keys of their own: of who was erased before the merge, they go again.
            tasks.insist("erasures", functools.partial(keep.reapply_erasures, self._archive))

    async def _recorded_of(self, ids: Sequence[str]) -> set[str]:
        def look() -> set[str]:
            reader = self._archive.reader()
            try:
                # A stream's opening has the id of its ending, and is no ending.
                return {one for one in ids if any(entry.kind != OPENED for entry in reader.by_id(one))}
            finally:
                reader.close()

        return await asyncio.to_thread(look)

    async def _see_to_the_old(self) -> None:
        """Destroy content past its time, and begin a new key of keys when the present one is old."""
        done = await keep.expire_by_clock(self._archive, self.clock, self._keep_days())
        if done is None:
            await self._say_clock_jumped()
            return
        self._is_jump_said = False
        if done.dropped:
            log("expired", services=done.dropped)
        days = self._settings.vault.rotate_days
        if self._archive.vault.is_rotation_due(utc_us(), after_days=days):
            epoch = await keep.rotate(self._archive, "server")
            log("key_rotated", epoch=epoch)

    async def _say_clock_jumped(self) -> None:
        """Record and log once that nothing is destroyed by time until an operator has looked at the clock."""
        if not self._is_jump_said:
            self._is_jump_said = True
            ahead_s = int(self.clock.ahead_s)
            log("clock_jumped", level="error", ahead_s=ahead_s)
            self._meters.count_event("clock_jumped")
            await self._archive.note("server", event="clock_jumped", ahead_s=ahead_s)

    def _witness_refused(self, why: str) -> None:
        log("witness_refused", level="error", why=why)
        self._meters.count_event("witness_refused")
