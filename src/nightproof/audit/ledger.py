"""The ledger: entries made durable, many in one commit, each waiter told once.

`append` queues an entry and returns a future that is done when the entry is on the disk. One writer
thread owns the only read-write connection. While it commits, what arrives is gathered for the next
commit, so a batch is as large as the load and nobody waits for a window to end.

A commit that fails before it counted (disk full, locked, read-only) is a no: the waiters are told, and
the ledger tries again by itself. One whose outcome is not known (a failed fsync) fences the ledger for
good: see `docs/life-of-a-request.md` and the runbook `audit_outcome_unknown`. While a disk only stands
still, nobody waits longer than `commit_slow_s`: the waiters are told that the outcome is not known, others
are refused, and after five times as long the ledger is fenced too.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Literal

import msgspec

from nightproof.audit.record import Entry
from nightproof.base.clock import monotonic_s
from nightproof.base.errors import Fault
from nightproof.settings.settings import LedgerSettings
from nightproof.storage.ledger_store import LedgerStore, Row
from nightproof.storage.sqlite import StorageOutcomeUnknown, StorageUnavailable

State = Literal["open", "unavailable", "fenced", "closed"]
_SIBLINGS = 4
_GATHER_S = 0.001
_ENOUGH_TO_START = 16
_PROBE_EVERY_S = 0.5
_WATCH_EVERY_S = 0.25
_FENCED_AFTER_SLOW = 5


class AuditUnavailable(Fault):
    """The entry was not recorded, for certain."""

    code = "audit_unavailable"


class AuditOutcomeUnknown(Fault):
    """Whether the entry was recorded is not known."""

    code = "audit_outcome_unknown"


class LedgerSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger looks like at one moment."""

    state: State
    why: str
    last_seq: int
    waiting: int
    commits: int
    rows: int
    last_commit_s: float
    longest_commit_s: float
    commit_buckets: list[int]
    commit_sum_s: float


COMMIT_BUCKETS_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class _Batch:
    __slots__ = ("began_s", "futures", "rows")

    def __init__(self, rows: list[Row], futures: list[asyncio.Future[int]], began_s: float) -> None:
        self.rows = rows
        self.futures = futures
        self.began_s = began_s


class Ledger:
    """Appends with group commit.

    Its one lock is the event loop: all fields are touched on the loop's thread. The writer thread gets
    whole batches through a queue and gives back one outcome per batch.
    """

    def __init__(
        self,
        open_store: Callable[[], LedgerStore],
        settings: LedgerSettings,
        *,
        on_fence: Callable[[str], None],
        on_lost: Callable[[int], None] = lambda entries: None,
        on_state: Callable[[State, str], None] = lambda state, why: None,
    ) -> None:
        self._open_store = open_store
        self._settings = settings
        self._on_fence = on_fence
        self._on_lost = on_lost
        self._on_state = on_state
        self._waiting: deque[tuple[Entry, asyncio.Future[int]]] = deque()
        self._state: State = "closed"
        self._why = ""
        self._next_seq = 1
        self._in_flight: _Batch | None = None
        """What the writer has in hand."""
        self._flush_is_due = False
        self._gather_timer: asyncio.TimerHandle | None = None
        self._others = 0
        self._unavailable_since_s = 0.0
        self._commits = self._rows = 0
        self._last_commit_s = self._longest_commit_s = self._commit_sum_s = 0.0
        self._buckets = [0] * (len(COMMIT_BUCKETS_S) + 1)
        self._batches: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._watch_timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop = asyncio.get_running_loop()

    async def start(self) -> None:
        """Open the store and start the writer. Raises the store's error if it cannot be opened."""
        opened: asyncio.Future[int] = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._write_forever, args=(opened,), name="ledger", daemon=True
        )
        self._thread.start()
        self._next_seq = await opened + 1
        self._watch_timer = self._loop.call_later(_WATCH_EVERY_S, self._watch)
        self._become("open", "")

    async def stop(self) -> None:
        """Commit what is waiting, then close the store."""
        if self._thread is None:
            return
        if self._state != "fenced":
            await self._idle.wait()
        if self._watch_timer is not None:
            self._watch_timer.cancel()
        self._batches.put(None)
        # A fenced writer may hang in the kernel for good; the process ends without it.
        await asyncio.to_thread(self._thread.join, 0.5 if self._state == "fenced" else 10.0)
        self._thread = None
        self._become("closed", "the server stopped")

    def append(self, entry: Entry, *, others: int = 0) -> asyncio.Future[int]:
        """Queue an entry; the future gives its sequence number once it is durable.

        `others` is the number of requests at work that will need a commit soon: where there are several,
        the commit waits a millisecond for them, since it costs the same for one row as for ten. The
        future raises AuditUnavailable (not recorded) or AuditOutcomeUnknown (nobody can say).
        """
        future: asyncio.Future[int] = self._loop.create_future()
        if self._state in ("fenced", "closed"):
            future.set_exception(AuditUnavailable("The audit log takes no entries at present.", hint=_RETRY))
            future.exception()  # seen: the caller may have left
            return future
        self._waiting.append((entry, future))
        self._idle.clear()
        self._others = others
        if self._in_flight is None and not self._flush_is_due:
            self._plan_flush()
        elif self._gather_timer is not None and len(self._waiting) >= min(others, _ENOUGH_TO_START):
            # The writer starts while the loop goes on: the two must not take turns.
            self._gather_timer.cancel()
            self._flush()
        return future

    @property
    def is_writable(self) -> bool:
        """Say whether the last commit, or the last try, went well."""
        return self._state == "open"

    @property
    def should_try(self) -> bool:
        """Say whether an entry may be tried now: the ledger is open, or it is time to probe it again."""
        if self._state == "open":
            return True
        if self._state != "unavailable" or monotonic_s() - self._unavailable_since_s < _PROBE_EVERY_S:
            return False
        if self._in_flight is not None:
            return False  # the disk has still to answer the one before
        self._unavailable_since_s = monotonic_s()  # one probe at a time
        return True

    def snapshot(self) -> LedgerSnapshot:
        """Return a frozen picture."""
        return LedgerSnapshot(
            state=self._state,
            why=self._why,
            last_seq=self._next_seq - 1,
            waiting=len(self._waiting),
            commits=self._commits,
            rows=self._rows,
            last_commit_s=self._last_commit_s,
            longest_commit_s=self._longest_commit_s,
            commit_buckets=list(self._buckets),
            commit_sum_s=self._commit_sum_s,
        )

    def __repr__(self) -> str:
        return f"<Ledger {self._state} seq={self._next_seq - 1} waiting={len(self._waiting)}>"

    # -- on the loop --------------------------------------------------------------------------

    def _plan_flush(self) -> None:
        """Flush at the end of this turn of the loop, or a moment later where company is on its way.

        PostgreSQL's commit_delay and commit_siblings are the model.
        """
        self._flush_is_due = True
        if self._others < _SIBLINGS:
            self._loop.call_soon(self._flush)
        else:
            self._gather_timer = self._loop.call_later(_GATHER_S, self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        self._gather_timer = None
        if self._in_flight is not None or not self._waiting:
            return
        rows: list[Row] = []
        futures: list[asyncio.Future[int]] = []
        size_bytes = 0
        seq = self._next_seq
        while (
            self._waiting
            and len(rows) < self._settings.batch_rows
            and size_bytes < self._settings.batch_bytes
        ):
            entry, future = self._waiting.popleft()
            rows.append((seq, entry.id, entry.at_us, entry.kind, entry.idem, entry.leaf, entry.payload))
            futures.append(future)
            size_bytes += entry.size_bytes
            seq += 1
        self._in_flight = _Batch(rows, futures, monotonic_s())
        self._batches.put(self._in_flight)

    def _committed(self, batch: _Batch, error: Exception | None) -> None:
        """See the outcome of a batch; runs on the loop, called from the writer."""
        self._in_flight = None
        if self._state == "fenced":
            return  # everyone was told already
        took_s = monotonic_s() - batch.began_s
        if error is None:
            self._next_seq += len(batch.rows)
            self._commits += 1
            self._rows += len(batch.rows)
            self._last_commit_s = took_s
            self._longest_commit_s = max(self._longest_commit_s, took_s)
            self._commit_sum_s += took_s
            place = 0
            while place < len(COMMIT_BUCKETS_S) and took_s > COMMIT_BUCKETS_S[place]:
                place += 1
            self._buckets[place] += 1
            for row, future in zip(batch.rows, batch.futures, strict=False):
                if not future.done():
                    future.set_result(row[0])
            if self._waiting:
                if not self._flush_is_due:
                    self._plan_flush()
            else:
                self._idle.set()
            if self._state == "unavailable":
                self._become("open", "")
        elif isinstance(error, StorageUnavailable):
            self._fail(batch.futures, AuditUnavailable)
            self._refuse_waiting()
            self._unavailable_since_s = monotonic_s()
            self._become("unavailable", error.text)
        else:
            self._fence(batch, str(error))

    def _watch(self) -> None:
        """See to a commit that does not end: nobody waits for it without end."""
        self._watch_timer = self._loop.call_later(_WATCH_EVERY_S, self._watch)
        batch = self._in_flight
        if batch is None or self._state == "fenced":
            return
        took_s = monotonic_s() - batch.began_s
        slow_s = self._settings.commit_slow_s
        if took_s > slow_s * _FENCED_AFTER_SLOW:
            self._fence(batch, f"the disk has not answered for {took_s:.1f} s")
        elif took_s > slow_s:
            why = f"the disk has not answered for {slow_s:g} s"
            left = [future for future in batch.futures if future.cancelled()]
            self._fail([one for one in batch.futures if not one.done()], AuditOutcomeUnknown)
            batch.futures = left  # if it fails in the end, they are lost, and nobody else counts them
            self._refuse_waiting()
            self._unavailable_since_s = monotonic_s()
            self._become("unavailable", why)

    def _fence(self, batch: _Batch, why: str) -> None:
        self._fail(batch.futures, AuditOutcomeUnknown)
        self._refuse_waiting()
        self._idle.set()  # whatever becomes of the commit, a stop need not wait for it
        self._become("fenced", why)
        self._on_fence(why)

    def _refuse_waiting(self) -> None:
        """Refuse what waits behind: it would fail the same way, and its callers' time is running."""
        futures = [future for _, future in self._waiting]
        self._waiting.clear()
        self._fail(futures, AuditUnavailable)
        if self._in_flight is None:
            self._idle.set()

    def _fail(self, futures: list[asyncio.Future[int]], kind: type[Fault]) -> None:
        unwaited = sum(future.done() for future in futures)
        if unwaited:
            self._on_lost(unwaited)  # entries whose callers had left: nobody else counts them
        for future in futures:
            if not future.done():
                future.set_exception(kind(_TOLD[kind], hint=_RETRY))
                future.exception()  # seen: a caller who left must not leave a warning

    def _become(self, state: State, why: str) -> None:
        if state != self._state:
            self._state, self._why = state, why
            self._on_state(state, why)

    # -- on the writer's thread ---------------------------------------------------------------

    def _write_forever(self, opened: asyncio.Future[int]) -> None:
        try:
            store = self._open_store()
            last_seq = store.last_seq()
        except Exception as error:  # noqa: BLE001
            # Whatever keeps the store shut is told to `start`, which refuses to serve.
            self._loop.call_soon_threadsafe(opened.set_exception, error)
            return
        self._loop.call_soon_threadsafe(opened.set_result, last_seq)
        checkpointed_s = monotonic_s()
        unchecked_rows = 0
        try:
            while True:
                batch = self._next_batch(unchecked_rows)
                if batch is None:
                    return
                if batch.rows:
                    fault = self._commit(store, batch)
                    self._loop.call_soon_threadsafe(self._committed, batch, fault)
                    if fault is not None and not isinstance(fault, StorageUnavailable):
                        return
                    unchecked_rows += len(batch.rows)
                now = monotonic_s()
                due = now - checkpointed_s > self._settings.checkpoint_every_s
                if unchecked_rows and (due or unchecked_rows > self._settings.checkpoint_pages):
                    checkpointed_s, unchecked_rows = now, 0
                    self._checkpoint(store)
        except RuntimeError:
            return  # the loop is closed: nobody is left to tell
        finally:
            self._close(store)

    def _next_batch(self, unchecked_rows: int) -> _Batch | None:
        if not unchecked_rows:
            return self._batches.get()
        try:
            return self._batches.get(timeout=self._settings.checkpoint_every_s)
        except queue.Empty:
            return _Batch([], [], 0.0)

    @staticmethod
    def _commit(store: LedgerStore, batch: _Batch) -> Exception | None:
        try:
            store.append(batch.rows)
        except Exception as error:  # noqa: BLE001
            # Every error has a meaning for the waiters; one that is no StorageUnavailable fences.
            return error
        return None

    @staticmethod
    def _checkpoint(store: LedgerStore) -> None:
        try:
            store.checkpoint("passive")
        except (StorageUnavailable, StorageOutcomeUnknown):
            pass  # the records are safe in the write-ahead log; the next commit meets the fault and tells it

    @staticmethod
    def _close(store: LedgerStore) -> None:
        try:
            store.close()
        except (StorageUnavailable, StorageOutcomeUnknown):
            pass  # nothing more is owed: every answered entry was durable before


# Callers are told that, not why: the reason names paths, and stands in the log, in health and in status.
_TOLD: dict[type[Fault], str] = {
    AuditUnavailable: "The audit log could not be written, so no answer goes out.",
    AuditOutcomeUnknown: "Whether the audit log holds this request is not known, so no answer goes out.",
}
_RETRY = "Retry with an Idempotency-Key; the operator is told."
