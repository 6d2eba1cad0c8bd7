"""The ledger: entries made durable, many in one commit, each waiter told once.

`append` queues an entry and returns a future that is done when the entry is on the disk. One writer
thread owns the only read-write connection, through a `LogWriter`. While it commits, what arrives is gathered
for the next commit, so a batch is as large as the load and nobody waits for a window to end. Between commits
the same thread signs checkpoints and does the jobs given to `run`.

A commit that fails before it counted (disk full, locked, read-only) is a no: the waiters are told, and
the ledger tries again by itself. One whose outcome is not known (a failed fsync) fences the ledger for
good: see `docs/life-of-a-request.md` and the runbook `audit_outcome_unknown`. While a disk only stands
still, nobody waits longer than `commit_slow_s`: the waiters are told that the outcome is not known, others
are refused, and after five times as long the ledger is fenced too.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, TypeVar, cast

import msgspec

from nightproof.audit.record import Entry
from nightproof.audit.writer import LogWriter
from nightproof.base.clock import monotonic_s
from nightproof.base.errors import Fault
from nightproof.settings.settings import LedgerSettings
from nightproof.storage.ledger_protocol import LedgerWriting
from nightproof.storage.sqlite import StorageOutcomeUnknown, StorageUnavailable

State = Literal["open", "unavailable", "fenced", "closed"]
T = TypeVar("T")
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
    __slots__ = ("began_s", "entries", "first_seq", "futures")

    def __init__(self, entries: list[Entry], futures: list[asyncio.Future[int]], began_s: float) -> None:
        self.entries = entries
        self.futures = futures
        self.began_s = began_s
        self.first_seq = 0
        """The first entry's place, once committed."""


class _Job:
    __slots__ = ("future", "work")

    def __init__(self, work: Callable[[LedgerWriting], Any], future: asyncio.Future[Any]) -> None:
        self.work = work
        self.future = future


class Ledger:
    """Appends with group commit.

    Its one lock is the event loop: all fields are touched on the loop's thread. The writer thread gets
    whole batches through a queue and gives back one outcome per batch.
    """

    def __init__(
        self,
        open_log: Callable[[], LogWriter],
        settings: LedgerSettings,
        *,
        on_fence: Callable[[str], None],
        on_lost: Callable[[int], None] = lambda entries: None,
        on_state: Callable[[State, str], None] = lambda state, why: None,
    ) -> None:
        self._open_log = open_log
        self._settings = settings
        self._on_fence = on_fence
        self._on_lost = on_lost
        self._on_state = on_state
        self._waiting: deque[tuple[Entry, asyncio.Future[int]]] = deque()
        self._state: State = "closed"
        self._why = ""
        self._size = 0
        self._in_flight: _Batch | None = None
        """What the writer has in hand."""
        self._flush_is_due = False
        self._gather_timer: asyncio.TimerHandle | None = None
        self._others = 0
        self._unavailable_since_s = 0.0
        self._commits = self._rows = 0
        self._last_commit_s = self._longest_commit_s = self._commit_sum_s = 0.0
        self._buckets = [0] * (len(COMMIT_BUCKETS_S) + 1)
        self._batches: queue.SimpleQueue[_Batch | _Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._watch_timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop = asyncio.get_running_loop()

    async def start(self) -> None:
        """Open the log and start the writer. Raises the store's error if it cannot be opened."""
        opened: asyncio.Future[int] = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._write_forever, args=(opened,), name="ledger", daemon=True
        )
        self._thread.start()
        self._size = await opened
        self._watch_timer = self._loop.call_later(_WATCH_EVERY_S, self._watch)
        self._become("open", "")

    async def stop(self) -> None:
        """Commit what is waiting, sign a checkpoint over it, then close the store."""
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

    def run(self, work: Callable[[LedgerWriting], T]) -> asyncio.Future[T]:
        """Do a job on the writer's thread, between two commits; keep it short, since commits wait behind it.

        The future gives what the job returns, or raises what it raised; AuditUnavailable where the writer has
        ended.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        if self._state in ("fenced", "closed"):
            future.set_exception(AuditUnavailable("The audit log takes no entries at present.", hint=_RETRY))
            future.exception()  # seen: nobody may be waiting
        else:
            self._batches.put(_Job(work, future))
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
            last_seq=self._size - 1,
            waiting=len(self._waiting),
            commits=self._commits,
            rows=self._rows,
            last_commit_s=self._last_commit_s,
            longest_commit_s=self._longest_commit_s,
            commit_buckets=list(self._buckets),
            commit_sum_s=self._commit_sum_s,
        )

    def __repr__(self) -> str:
        return f"<Ledger {self._state} size={self._size} waiting={len(self._waiting)}>"

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
        entries: list[Entry] = []
        futures: list[asyncio.Future[int]] = []
        size_bytes = 0
        while (
            self._waiting
            and len(entries) < self._settings.batch_rows
            and size_bytes < self._settings.batch_bytes
        ):
            entry, future = self._waiting.popleft()
            entries.append(entry)
            futures.append(future)
            size_bytes += entry.size_bytes
        self._in_flight = _Batch(entries, futures, monotonic_s())
        self._batches.put(self._in_flight)

    def _committed(self, batch: _Batch, error: Exception | None) -> None:
        """See the outcome of a batch; runs on the loop, called from the writer."""
        self._in_flight = None
        if self._state == "fenced":
            return  # everyone was told already
        took_s = monotonic_s() - batch.began_s
        if error is None:
            self._size = batch.first_seq + len(batch.entries)
            self._commits += 1
            self._rows += len(batch.entries)
            self._last_commit_s = took_s
            self._longest_commit_s = max(self._longest_commit_s, took_s)
            self._commit_sum_s += took_s
            place = 0
            while place < len(COMMIT_BUCKETS_S) and took_s > COMMIT_BUCKETS_S[place]:
                place += 1
            self._buckets[place] += 1
            for seq, future in enumerate(batch.futures, batch.first_seq):
                if not future.done():
                    future.set_result(seq)
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

    def _fence_without_batch(self, why: str) -> None:
        if self._state != "fenced":
            self._fence(self._in_flight or _Batch([], [], 0.0), why)

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
            log = self._open_log()
        except Exception as error:  # noqa: BLE001
            # Whatever keeps the store shut is told to `start`, which refuses to serve.
            self._tell(opened, error=error)
            return
        self._tell(opened, log.size)
        try:
            self._write_until_stopped(log)
        except RuntimeError:
            return  # the loop is closed: nobody is left to tell
        finally:
            self._close(log)
            self._refuse_jobs()

    def _write_until_stopped(self, log: LogWriter) -> None:
        checkpointed_s = monotonic_s()
        unchecked_rows = 0
        while True:
            next_one = self._next_work(log, unchecked_rows)
            if next_one is None:
                return
            if isinstance(next_one, _Job):
                if not self._do(log, next_one):
                    return
            elif next_one.entries:
                fault = self._commit(log, next_one)
                self._loop.call_soon_threadsafe(self._committed, next_one, fault)
                if fault is not None and not isinstance(fault, StorageUnavailable):
                    return
                unchecked_rows += len(next_one.entries)
            elif log.seal_due_in_s == 0.0 and not self._seal(log):
                return
            now = monotonic_s()
            due = now - checkpointed_s > self._settings.checkpoint_every_s
            if unchecked_rows and (due or unchecked_rows > self._settings.checkpoint_pages):
                checkpointed_s, unchecked_rows = now, 0
                self._checkpoint(log)

    def _next_work(self, log: LogWriter, unchecked_rows: int) -> _Batch | _Job | None:
        """Wait for work; an empty batch says that the time has come to look after the log itself."""
        seal_in_s = log.seal_due_in_s
        waits_s = [self._settings.checkpoint_every_s] if unchecked_rows else []
        if seal_in_s is not None:
            waits_s.append(seal_in_s)
        if not waits_s:
            return self._batches.get()
        try:
            return self._batches.get(timeout=min(waits_s))
        except queue.Empty:
            return _Batch([], [], 0.0)

    @staticmethod
    def _commit(log: LogWriter, batch: _Batch) -> Exception | None:
        try:
            batch.first_seq = log.write(batch.entries)
        except Exception as error:  # noqa: BLE001
            # Every error has a meaning for the waiters; one that is no StorageUnavailable fences.
            return error
        return None

    def _do(self, log: LogWriter, job: _Job) -> bool:
        """Do a job between two commits; return whether the log may be written after it."""
        try:
            done = job.work(log.store)
        except Exception as error:  # noqa: BLE001
            # The one who asked is told, whatever it is; only the disk's own doubt concerns the log.
            self._tell(job.future, error=error)
            if isinstance(error, StorageOutcomeUnknown):
                self._loop.call_soon_threadsafe(self._fence_without_batch, str(error))
                return False
        else:
            self._tell(job.future, done)
        return True

    def _seal(self, log: LogWriter) -> bool:
        """Sign a checkpoint over what no batch has sealed; return whether the log may be written after it."""
        try:
            log.seal()
        except StorageUnavailable:
            return True  # the next batch, or the next time, seals it
        except Exception as error:  # noqa: BLE001
            # As with a batch: what is not a certain no, nobody can judge.
            self._loop.call_soon_threadsafe(self._fence_without_batch, str(error))
            return False
        return True

    def _refuse_jobs(self) -> None:
        """Tell those whose jobs come too late."""
        while not self._batches.empty():
            late = self._batches.get()
            if isinstance(late, _Job):
                self._tell(late.future, error=AuditUnavailable(_TOLD[AuditUnavailable], hint=_RETRY))

    def _tell(
        self, future: asyncio.Future[T], result: T | None = None, *, error: Exception | None = None
    ) -> None:
        def tell() -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
                future.exception()  # seen: nobody may be waiting
            else:
                future.set_result(cast("T", result))

        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(tell)

    @staticmethod
    def _checkpoint(log: LogWriter) -> None:
        try:
            log.store.checkpoint("passive")
        except (StorageUnavailable, StorageOutcomeUnknown):
            pass  # the records are safe in the write-ahead log; the next commit meets the fault and tells it

    def _close(self, log: LogWriter) -> None:
        try:
            if self._state != "fenced":
                log.seal()
        except Exception:  # noqa: BLE001, S110
            pass  # the records are there; the next start seals them
        try:
            log.store.close()
        except (StorageUnavailable, StorageOutcomeUnknown):
            pass  # nothing more is owed: every answered entry was durable before


# Callers are told that, not why: the reason names paths, and stands in the log, in health and in status.
_TOLD: dict[type[Fault], str] = {
    AuditUnavailable: "The audit log could not be written, so no answer goes out.",
    AuditOutcomeUnknown: "Whether the audit log holds this request is not known, so no answer goes out.",
}
_RETRY = "Retry with an Idempotency-Key; the operator is told."
