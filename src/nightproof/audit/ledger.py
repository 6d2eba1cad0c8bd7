"""The ledger: entries made durable, many in one commit, each waiter told once.

`append` queues an entry and returns a future that is done when the entry is on the disk. One writer, on the
other end of a `Link`, owns the only read-write connection. While it commits, what arrives is gathered for the
next commit, so a batch is as large as the load and nobody waits for a window to end.

A commit that fails before it counted (disk full, locked, read-only) is a no: the waiters are told, and
the ledger tries again by itself. One whose outcome is not known (a failed fsync) fences the ledger for
good: see `docs/life-of-a-request.md` and the runbook `audit_outcome_unknown`. While a disk only stands
still, nobody waits longer than `commit_slow_s`: the waiters are told that the outcome is not known, others
are refused, and after five times as long the ledger is fenced too.

A writer that is ended (killed, out of memory) is started again, and asked whether the batch it held is there:
nobody's request fails by it. One that ends too often fences the ledger.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from nightproof.audit import messages
from nightproof.audit.messages import Act, FromWriter, Link
from nightproof.audit.record import Entry
from nightproof.base.clock import monotonic_s
from nightproof.base.errors import Fault, error_named
from nightproof.settings.settings import LedgerSettings
from nightproof.storage.ledger_rows import Checkpoint

State = Literal["open", "unavailable", "fenced", "closed"]
_SIBLINGS = 4
_GATHER_S = 0.001
_ENOUGH_TO_START = 16
_PROBE_EVERY_S = 0.5
_WATCH_EVERY_S = 0.25
_FENCED_AFTER_SLOW = 5
_MOST_LOSSES = 5
_LOSSES_WITHIN_S = 60.0
_STOPS_WITHIN_S = 10.0


class AuditUnavailable(Fault):
    """The entry was not recorded, for certain."""

    code = "audit_unavailable"


class AuditOutcomeUnknown(Fault):
    """Whether the entry was recorded is not known."""

    code = "audit_outcome_unknown"
    later: asyncio.Future[int] | None = None
    """Is done as the append would have been, once the disk answers after all; None where it has failed for good."""


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
    writer_pid: int
    """The process that writes the log; 0 while there is none."""


COMMIT_BUCKETS_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class _Batch:
    __slots__ = ("began_s", "entries", "futures", "is_late", "number")

    def __init__(
        self, number: int, entries: list[Entry], futures: list[asyncio.Future[int]], began_s: float
    ) -> None:
        self.number = number
        self.entries = entries
        self.futures = futures
        self.began_s = began_s
        self.is_late = False
        """Its waiters have been told that nobody can say yet."""


class Ledger:
    """Appends with group commit.

    Its one lock is the event loop: all fields are touched on the loop's thread. The writer gets whole batches
    and gives back one outcome per batch.
    """

    def __init__(
        self,
        link: Callable[[], Link],
        settings: LedgerSettings,
        *,
        on_fence: Callable[[str], None],
        on_lost: Callable[[int], None] = lambda entries: None,
        on_state: Callable[[State, str], None] = lambda state, why: None,
        on_opened: Callable[[messages.Opened], None] = lambda opened: None,
        on_sealed: Callable[[Checkpoint], None] = lambda checkpoint: None,
        on_written: Callable[[list[Entry]], None] = lambda entries: None,
        on_writer_lost: Callable[[str], None] = lambda why: None,
    ) -> None:
        self._make_link = link
        self._link: Link | None = None
        self._settings = settings
        self._on_fence = on_fence
        self._on_lost = on_lost
        self._on_state = on_state
        self._on_opened = on_opened
        self._on_sealed = on_sealed
        self._on_written = on_written
        self._on_writer_lost = on_writer_lost
        self._waiting: deque[tuple[Entry, asyncio.Future[int]]] = deque()
        self._state: State = "closed"
        self._why = ""
        self._size = 0
        self._number = 0
        self._in_flight: _Batch | None = None
        """What the writer has in hand."""
        self._jobs: dict[int, tuple[asyncio.Future[Any], float]] = {}
        """What the writer was asked to do, and when."""
        self._opening: asyncio.Future[None] | None = None
        """Until the first writer has opened the log, or could not."""
        self._has_writer = False
        self._losses_s: deque[float] = deque()
        self._flush_is_due = False
        self._gather_timer: asyncio.TimerHandle | None = None
        self._others = 0
        self._unavailable_since_s = 0.0
        self._commits = self._rows = 0
        self._last_commit_s = self._longest_commit_s = self._commit_sum_s = 0.0
        self._buckets = [0] * (len(COMMIT_BUCKETS_S) + 1)
        self._watch_timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop = asyncio.get_running_loop()

    async def start(self) -> None:
        """Start the writer and have it open the log. Raises what keeps the log shut."""
        self._link = self._make_link()
        self._opening = self._loop.create_future()
        self._link.start(self._heard, self._writer_lost)
        try:
            await self._opening
            if not self._has_writer:  # it ended in the very turn of the loop in which it had opened the log
                raise error_named("StateError", "The audit log's writer ended at its start.", _RETRY)
        except BaseException:
            await self._link.stop(_STOPS_WITHIN_S)
            raise
        finally:
            self._opening = None
        self._watch_timer = self._loop.call_later(_WATCH_EVERY_S, self._watch)
        self._become("open", "")

    async def stop(self) -> None:
        """Commit what is waiting, have a checkpoint signed over it, then let the writer close the log."""
        if self._link is None or self._state == "closed":
            return
        if self._state != "fenced":
            await self._idle.wait()
        if self._watch_timer is not None:
            self._watch_timer.cancel()
        # A fenced writer may hang in the kernel for good; the process ends without it.
        await self._link.stop(0.5 if self._state == "fenced" else _STOPS_WITHIN_S)
        self._end_jobs()
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
            # The writer starts while the loop goes on.
            self._gather_timer.cancel()
            self._flush()
        return future

    def do(self, act: Act, **named: Any) -> asyncio.Future[Any]:
        """Have the writer do something between two commits; keep it short, since commits wait behind it.

        The future gives what the act returns, or raises what it raised; AuditUnavailable where the writer has
        ended.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._link is None or self._state in ("fenced", "closed") or not self._has_writer:
            future.set_exception(AuditUnavailable("The audit log takes no entries at present.", hint=_RETRY))
            future.exception()  # seen: nobody may be waiting
        else:
            self._number += 1
            self._jobs[self._number] = (future, monotonic_s())
            self._link.send(messages.Do(self._number, act, named))
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
            writer_pid=self._link.pid if self._link is not None else 0,
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
        self._number += 1
        self._in_flight = _Batch(self._number, entries, futures, monotonic_s())
        self._hand_over(self._in_flight)

    def _hand_over(self, batch: _Batch, *, is_again: bool = False) -> None:
        if self._link is not None and self._has_writer:
            self._link.send(messages.Write(batch.number, batch.entries, is_again))

    # -- what the writer says -------------------------------------------------------------------

    def _heard(self, message: FromWriter) -> None:
        if isinstance(message, messages.Written):
            batch = self._in_flight
            if batch is not None and batch.number == message.number:
                self._committed(batch, message.first_seq)
        elif isinstance(message, messages.Sealed):
            self._on_sealed(message.checkpoint)
        elif isinstance(message, messages.NotWritten):
            self._not_written(message)
        elif isinstance(message, messages.Done):
            self._job_ended(message.number, message.value, None)
        elif isinstance(message, messages.NotDone):
            error = error_named(message.kind, message.text, message.hint)
            self._job_ended(message.number, None, error)
        elif isinstance(message, messages.Opened):
            self._opened(message)
        elif isinstance(message, messages.NotOpened):
            self._not_opened(message)
        else:
            self._fence_as_it_is(message.why)

    def _opened(self, opened: messages.Opened) -> None:
        self._has_writer = True
        self._on_opened(opened)
        if self._opening is not None:
            self._size = opened.size
            if not self._opening.done():
                self._opening.set_result(None)
        elif self._in_flight is not None:
            self._hand_over(self._in_flight, is_again=True)

    def _not_opened(self, refusal: messages.NotOpened) -> None:
        if self._opening is not None and not self._opening.done():
            self._opening.set_exception(error_named(refusal.kind, refusal.text, refusal.hint))
        else:
            self._fence_as_it_is(refusal.text)

    def _writer_lost(self, why: str) -> None:
        """See the writer gone: start another one, which is asked what became of the batch."""
        self._has_writer = False
        self._end_jobs()
        if self._opening is not None:
            if not self._opening.done():
                self._opening.set_exception(
                    error_named("StateError", f"The audit log's writer ended at its start ({why}).", _RETRY)
                )
            return
        if self._state in ("fenced", "closed") or self._link is None:
            return
        self._on_writer_lost(why)
        now = monotonic_s()
        self._losses_s.append(now)
        while self._losses_s[0] <= now - _LOSSES_WITHIN_S:
            self._losses_s.popleft()
        if len(self._losses_s) > _MOST_LOSSES:
            self._fence_as_it_is(f"the log's writer ended {len(self._losses_s)} times in a minute ({why})")
            return
        try:
            self._link.start(self._heard, self._writer_lost)
        except OSError as error:
            self._fence_as_it_is(f"the log's writer cannot be started: {error.strerror}")

    def _committed(self, batch: _Batch, first_seq: int) -> None:
        """See a batch durable."""
        self._in_flight = None
        if self._state == "fenced":
            return  # everyone was told already
        took_s = monotonic_s() - batch.began_s
        self._size = first_seq + len(batch.entries)
        self._commits += 1
        self._rows += len(batch.entries)
        self._last_commit_s = took_s
        self._longest_commit_s = max(self._longest_commit_s, took_s)
        self._commit_sum_s += took_s
        self._buckets[bisect_left(COMMIT_BUCKETS_S, took_s)] += 1
        self._on_written(batch.entries)
        for seq, future in enumerate(batch.futures, first_seq):
            if not future.done():
                future.set_result(seq)
        if self._waiting:
            if not self._flush_is_due:
                self._plan_flush()
        else:
            self._idle.set()
        if self._state == "unavailable":
            self._become("open", "")

    def _not_written(self, told: messages.NotWritten) -> None:
        batch = self._in_flight
        if batch is None or batch.number != told.number:
            return
        self._in_flight = None
        if self._state == "fenced":
            return
        if told.is_certain:
            self._fail(batch.futures, AuditUnavailable)
            self._refuse_waiting()
            self._unavailable_since_s = monotonic_s()
            self._become("unavailable", told.why)
        else:
            self._fence(batch.futures, told.why)

    def _job_ended(self, number: int, value: Any, error: Exception | None) -> None:
        future, _ = self._jobs.pop(number, (None, 0.0))
        if future is None or future.done():
            return
        if error is not None:
            future.set_exception(error)
            future.exception()  # seen: nobody may be waiting
        else:
            future.set_result(value)

    def _end_jobs(self) -> None:
        """Tell those whose jobs no writer will do."""
        for number in list(self._jobs):
            self._job_ended(number, None, AuditUnavailable(_TOLD[AuditUnavailable], hint=_RETRY))

    def _end_late_jobs(self) -> None:
        """Let nobody wait without end for a job that a writer does not come to."""
        late_s = monotonic_s() - self._settings.commit_slow_s * _FENCED_AFTER_SLOW
        for number in [number for number, (_, began_s) in self._jobs.items() if began_s < late_s]:
            self._job_ended(number, None, AuditUnavailable(_TOLD[AuditUnavailable], hint=_RETRY))

    def _watch(self) -> None:
        """See to a commit that does not end: nobody waits for it without end."""
        self._watch_timer = self._loop.call_later(_WATCH_EVERY_S, self._watch)
        self._end_late_jobs()
        batch = self._in_flight
        if batch is None or self._state == "fenced":
            return
        took_s = monotonic_s() - batch.began_s
        slow_s = self._settings.commit_slow_s
        if took_s > slow_s * _FENCED_AFTER_SLOW:
            self._fence(batch.futures, f"the disk has not answered for {took_s:.1f} s")
        elif took_s > slow_s:
            why = f"the disk has not answered for {slow_s:g} s"
            if not batch.is_late:
                batch.is_late = True
                batch.futures = [self._leave_open(future) for future in batch.futures]
            self._refuse_waiting()
            self._unavailable_since_s = monotonic_s()
            self._become("unavailable", why)

    def _leave_open(self, future: asyncio.Future[int]) -> asyncio.Future[int]:
        """Tell a waiter that the outcome is not known yet; return what is done once it is."""
        if future.done():
            return future  # its caller has left
        fault = AuditOutcomeUnknown(_TOLD[AuditOutcomeUnknown], hint=_RETRY)
        fault.later = self._loop.create_future()
        future.set_exception(fault)
        future.exception()  # seen: a caller who left must not leave a warning
        return fault.later

    def _fence(self, futures: list[asyncio.Future[int]], why: str) -> None:
        self._fail(futures, AuditOutcomeUnknown)
        self._refuse_waiting()
        self._idle.set()  # whatever becomes of the commit, a stop need not wait for it
        self._become("fenced", why)
        self._on_fence(why)

    def _fence_as_it_is(self, why: str) -> None:
        """Fence for what is not a batch's doing; what the writer had in hand is in doubt with it."""
        if self._state not in ("fenced", "closed"):
            batch, self._in_flight = self._in_flight, None
            self._fence(batch.futures if batch is not None else [], why)

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


# Callers are told that, not why: the reason names paths, and stands in the log, in health and in status.
_TOLD: dict[type[Fault], str] = {
    AuditUnavailable: "The audit log could not be written, so no answer goes out.",
    AuditOutcomeUnknown: "Whether the audit log holds this request is not known, so no answer goes out.",
}
_RETRY = "Retry with an Idempotency-Key; the operator is told."
