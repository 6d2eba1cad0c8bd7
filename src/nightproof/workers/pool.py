"""The local engine: child processes that answer batches, watched, replaced, and never trusted.

`Pool` remembers; `decide.py` chooses; `process.py` does. All state is touched on the event loop's
thread only, so that its one lock is the loop itself: no method here awaits between reading a field and
writing it. Promises: each job's waiter is told once; a worker that hangs, dies, grows or answers golden
cases wrongly is replaced; the last loaded worker is never risked on a record that has killed one.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from pathlib import Path

from nightproof.base.clock import monotonic_s
from nightproof.base.errors import DeclarationError
from nightproof.base.fingerprint import fingerprint_of
from nightproof.declare.describe import Description
from nightproof.settings.settings import WorkerSettings
from nightproof.storage import proc
from nightproof.workers import decide, wire
from nightproof.workers.decide import BatchCost, ChildView, Scale
from nightproof.workers.engine import EngineSnapshot, Job, Observer, Outcome
from nightproof.workers.process import ChildProcess, cause_of, scrubbed_environment

_TICK_S = 0.1
_STALLED_S = 0.3
_BUSY_OVER_S = 5.0
_MEASURE_EVERY_S = 1.0
_SETTLE_S = 10.0
_GOLDEN_PATIENCE_S = 5.0
_MOST_ATTEMPTS = {"model_timeout": 2, "model_crash": 3, "model_out_of_memory": 2, "killed": 5}
_SUSPECTS_KEPT = 1_000
_OUTPUT_MOST_BYTES = 1 << 20


class _Batch:
    """Jobs that one worker holds, with the clock it is on."""

    __slots__ = ("handed_s", "jobs", "number", "timer")

    def __init__(self, number: int, jobs: list[Job], handed_s: float, timer: asyncio.TimerHandle) -> None:
        self.number = number
        self.jobs = jobs
        self.handed_s = handed_s
        self.timer = timer


class _Slot:
    """One worker of the pool."""

    def __init__(self, number: int, now: float) -> None:
        self.number = number
        self.process: ChildProcess | None = None
        self.state: decide.State = "starting"
        self.since_s = now
        self.batch: _Batch | None = None
        self.pinged_s: float | None = None
        self.ping_number = 0
        self.golden_timer: asyncio.TimerHandle | None = None
        self.golden_s = now
        self.rss_bytes = 0
        self.settled_rss_bytes = 0
        self.end_reason = ""

    @property
    def loaded(self) -> bool:
        return self.state in ("ready", "busy")

    def view(self) -> ChildView:
        return ChildView(
            slot=self.number,
            state=self.state,
            since_s=self.since_s,
            pinged_s=self.pinged_s,
            rss_bytes=self.rss_bytes,
            settled_rss_bytes=self.settled_rss_bytes,
        )


class Pool:
    """min…max workers with warm spares behind one queue."""

    def __init__(
        self,
        folder: Path,
        *,
        release: str,
        settings: WorkerSettings,
        on_poison: Callable[[Job], None],
        observe: Observer,
        workers: tuple[int, int] | None = None,
        spares: int | None = None,
        description: Description | None = None,
    ) -> None:
        self.release = release
        self._folder = folder
        self._settings = settings
        self._on_poison = on_poison
        self._observe = observe
        self._workers_wanted = workers
        self._spares_wanted = spares
        self._known = description
        self._slots: dict[int, _Slot] = {}
        self._numbers = itertools.count(1)
        self._queue: deque[Job] = deque()
        self._first_in_line: deque[Job] = deque()
        """Retries and rules: they have lost time already, or are the way out."""
        self._queue_bytes = 0
        self._dispatch_is_due = False
        self._loaded = 0
        """Workers that are ready or busy; kept by `_turn`, since every request asks."""
        self._suspects: OrderedDict[bytes, int] = OrderedDict()
        self._awaiting_verdict: list[Job] = []
        self._verdict_of: dict[int, Job] = {}
        self._cost = BatchCost()
        self._scale = Scale(1)
        self._busy = 0.0
        """How many workers were running a batch lately, on average."""
        self._deaths_s: deque[float] = deque()
        self._failures_in_a_row = 0
        self._no_start_before_s = 0.0
        self._restarts = 0
        self._exhausted = False
        self._trouble = ""
        self._golden_ok = True
        self._stopping = False
        self._first: asyncio.Future[None] | None = None
        self._tick_timer: asyncio.TimerHandle | None = None
        self._ticked_s = monotonic_s()
        self._fill_timer: asyncio.TimerHandle | None = None
        self._measured_s = self._pinged_s = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._all_gone: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()

    # -- the seam -----------------------------------------------------------------------------

    @property
    def description(self) -> Description:
        """What the release declares, as its worker told. Only after `start`."""
        if self._known is None:
            raise RuntimeError("the pool has not started")
        return self._known

    async def start(self) -> None:
        """Start one worker, and the others once it is ready. Raises DeclarationError with its trouble."""
        self._first = self._loop.create_future()
        self._start_one()
        self._tick_timer = self._loop.call_later(_TICK_S, self._tick)
        try:
            await self._first
        except BaseException:
            await self.stop()
            raise

    async def stop(self, *, within_s: float = 2.0) -> None:
        """End all workers; what is still queued or running is told `shutting_down`."""
        self._stopping = True
        for timer in (self._tick_timer, self._fill_timer):
            if timer is not None:
                timer.cancel()
        for job in [*self._first_in_line, *self._queue]:
            self._tell(job, Outcome(failure="shutting_down"))
        self._first_in_line.clear()
        self._queue.clear()
        living = [slot for slot in self._slots.values() if slot.process is not None and slot.state != "gone"]
        for slot in living:
            self._end(slot, "stop")
        if living:
            self._all_gone = self._loop.create_future()
            await asyncio.wait([self._all_gone], timeout=within_s)
        for task in self._tasks:
            task.cancel()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue the jobs and hand them on if a worker is free."""
        now = monotonic_s()
        for job in jobs:
            job.queued_s = now
            if self._suspects and job.rule < 0:
                job.solo_kills = self._suspects.get(fingerprint_of(job.input), 0)
                job.alone = job.solo_kills > 0
            if job.alone or job.rule >= 0:
                self._first_in_line.append(job)
            else:
                self._queue.append(job)
            self._queue_bytes += len(job.input)
        if not self._dispatch_is_due:
            # At the end of this turn of the loop: what arrives in the same turn shares a batch.
            self._dispatch_is_due = True
            self._loop.call_soon(self._dispatch)

    def expected_wait_s(self, jobs: int) -> float:
        """Estimate when `jobs` new ones would be answered, in seconds from now."""
        queued = len(self._queue) + len(self._first_in_line)
        workers = min(self._loaded, self.description.workers_max)
        if not workers:
            return math.inf
        running = [slot.batch for slot in self._slots.values() if slot.batch is not None]
        busy_left_s = 0.0
        if len(running) >= workers:
            now = monotonic_s()
            busy_left_s = min(
                max(0.0, self._cost.estimate_s(len(batch.jobs)) - (now - batch.handed_s)) for batch in running
            )
        most = self.description.max_batch
        size = min(most, math.ceil((queued + jobs) / workers))
        return decide.expected_wait_s(
            queued=queued,
            new=jobs,
            workers=workers,
            max_batch=most,
            batch_s=self._cost.estimate_s(size),
            busy_left_s=busy_left_s,
        )

    def is_ready(self) -> bool:
        """Say whether a worker is up that passed its golden cases."""
        return self._loaded > 0 and not self._stopping

    def has_hope(self) -> bool:
        """Say whether a worker is loading that may be ready soon: the last ones did not fail to load."""
        return self._failures_in_a_row < 2 and any(slot.state == "starting" for slot in self._slots.values())

    def snapshot(self) -> EngineSnapshot:
        """Return a frozen picture of the pool."""
        counts = dict.fromkeys(("starting", "ready", "busy", "spare"), 0)
        answering = self._scale.active
        for slot in self._slots.values():
            if slot.state == "busy":
                counts["busy"] += 1
            elif slot.state == "ready":
                counts["ready" if counts["ready"] + counts["busy"] < answering else "spare"] += 1
            elif slot.state == "starting":
                counts["starting"] += 1
        return EngineSnapshot(
            service=self._known.service if self._known else "",
            release=self.release,
            workers=counts,
            pids=[
                slot.process.pid for slot in self._slots.values() if slot.process is not None and slot.loaded
            ],
            queued=len(self._queue) + len(self._first_in_line),
            queue_bytes=self._queue_bytes,
            running=sum(len(slot.batch.jobs) for slot in self._slots.values() if slot.batch is not None),
            restarts=self._restarts,
            backing_off=self._exhausted,
            trouble=self._trouble,
            golden_ok=self._golden_ok,
        )

    def process_pids(self) -> list[int]:
        """Name every worker process, loading ones too."""
        return [slot.process.pid for slot in self._slots.values() if slot.process is not None]

    def oldest_wait_s(self) -> float:
        """Return how long the job that waits longest has been waiting."""
        self._drop_the_dead()
        return monotonic_s() - self._queue[0].queued_s if self._queue else 0.0

    def __repr__(self) -> str:
        picture = self.snapshot()
        return f"<Pool {picture.service}@{self.release} {picture.workers} queued={picture.queued}>"

    # -- handing out --------------------------------------------------------------------------

    def _dispatch(self) -> None:
        self._dispatch_is_due = False
        if self._stopping:
            return
        while self._first_in_line or self._queue:
            now = monotonic_s()
            free = [slot for slot in self._slots.values() if slot.state == "ready"]
            if not free:
                return
            jobs = self._next_in_line(now)
            if not jobs:
                self._drop_the_dead()
                if not self._queue or not self._has_place(now):
                    return
                if self._waits_to_fill(now):
                    return
                jobs = self._next_batch(now)
                if not jobs:
                    return
            self._hand(free[0], jobs, now)

    def _has_place(self, now: float) -> bool:
        """Say whether one more batch may run: fewer run than workers are active, or the wait says to scale."""
        running = sum(slot.batch is not None for slot in self._slots.values())
        if running < self._scale.active:
            return True
        self._rescale(now)
        return running < self._scale.active

    def _rescale(self, now: float) -> None:
        described = self.description
        least, most = described.workers_min, described.workers_max
        wait_s = now - self._queue[0].queued_s if self._queue else 0.0
        patience_s = min(0.1, max(0.005, described.deadline_ms / 10_000))
        before = self._scale.active
        self._scale = decide.next_scale(
            self._scale,
            wait_s=wait_s,
            busy=self._busy,
            patience_s=patience_s,
            at_least=least,
            at_most=most,
            now=now,
        )
        if self._scale.active != before:
            self._observe("scaled", service=described.service, active=self._scale.active, before=before)

    def _next_in_line(self, now: float) -> list[Job]:
        """Take the next retry or rule that may run now; a suspect waits until it cannot take the last worker."""
        for _ in range(len(self._first_in_line)):
            job = self._first_in_line.popleft()
            if self._is_dead(job, now):
                self._queue_bytes -= len(job.input)
                continue
            if job.solo_kills and self._loaded < 2:
                self._first_in_line.append(job)
                continue
            self._queue_bytes -= len(job.input)
            return [job]
        return []

    def _next_batch(self, now: float) -> list[Job]:
        newest = decide.newest_first(
            oldest_wait_s=now - self._queue[0].queued_s, budget_s=self.description.deadline_ms / 1_000
        )
        take = self._queue.pop if newest else self._queue.popleft
        jobs: list[Job] = []
        most = self.description.max_batch
        while self._queue and len(jobs) < most:
            job = take()
            self._queue_bytes -= len(job.input)
            if not self._is_dead(job, now):
                jobs.append(job)
        return jobs

    def _waits_to_fill(self, now: float) -> bool:
        wait_s = self.description.max_wait_ms / 1_000
        if not wait_s or len(self._queue) >= self.description.max_batch:
            return False
        left_s = wait_s - (now - self._queue[0].queued_s)
        if left_s <= 0:
            return False
        if self._fill_timer is None:
            self._fill_timer = self._loop.call_later(left_s, self._filled)
        return True

    def _filled(self) -> None:
        self._fill_timer = None
        self._dispatch()

    def _is_dead(self, job: Job, now: float) -> bool:
        """Say whether nobody waits for the job any more; one past its deadline is told so here."""
        if job.waiter is None:
            return True
        if now >= job.deadline_s:
            self._tell(job, Outcome(failure=job.last_failure or "deadline_exceeded"))
            return True
        return False

    def _drop_the_dead(self) -> None:
        while self._queue and self._queue[0].waiter is None:
            self._queue_bytes -= len(self._queue.popleft().input)

    def _hand(self, slot: _Slot, jobs: list[Job], now: float) -> None:
        if slot.process is None:
            raise RuntimeError("a slot without a process was free")
        number = next(self._numbers)
        timer = self._loop.call_later(
            self.description.predict_timeout_ms / 1_000, self._over_time, slot, number
        )
        slot.batch = _Batch(number, jobs, now, timer)
        self._turn(slot, "busy")
        for job in jobs:
            job.handed_s = now
            job.batch_size = len(jobs)
            job.worker_pid = slot.process.pid
        slot.process.send(wire.Run(number, [job.input for job in jobs], jobs[0].rule))

    def _tell(self, job: Job, outcome: Outcome) -> None:
        if job.waiter is not None:
            job.waiter.tell(job, outcome)

    # -- what a worker says -------------------------------------------------------------------

    def _heard(self, slot: _Slot, message: wire.FromWorker) -> None:
        if isinstance(message, wire.Done):
            self._batch_done(slot, message)
        elif isinstance(message, wire.Pong):
            self._ponged(slot, message)
        elif isinstance(message, wire.Described):
            if self._known is None:
                self._take_description(message.description)
        elif isinstance(message, wire.Loaded):
            self._became_ready(slot)
        else:
            self._load_failed(slot, message)

    def _take_description(self, description: Description) -> None:
        self._known = description
        if self._workers_wanted is None:
            self._workers_wanted = (description.workers_min, description.workers_max)
        if self._spares_wanted is None:
            self._spares_wanted = description.spares
        self._scale = Scale(self._workers_wanted[0])

    def _batch_done(self, slot: _Slot, done: wire.Done) -> None:
        batch = slot.batch
        if batch is None or batch.number != done.batch:
            return  # a late word of a batch that was given up
        batch.timer.cancel()
        slot.batch = None
        self._turn(slot, "ready")
        now = monotonic_s()
        self._cost.learn(len(batch.jobs), now - batch.handed_s)
        if done.alone:
            for job in batch.jobs:
                job.attempts += 1
                job.alone = True
                self._requeue(job)
        else:
            out_of_memory = False
            for job, answer in zip(batch.jobs, done.answers, strict=False):
                job.predict_us = done.predict_us
                out_of_memory |= answer.failure == "model_out_of_memory"
                self._tell(
                    job,
                    Outcome(answer.output, answer.failure, answer.detail, answer.errors, answer.findings),
                )
                if job.solo_kills:
                    self._suspects.pop(fingerprint_of(job.input), None)
            for job in batch.jobs[len(done.answers) :]:
                self._tell(job, Outcome(failure="internal_error", detail="the worker answered too few"))
            if out_of_memory:
                self._end(slot, "out_of_memory")
        self._failures_in_a_row = 0
        if self._awaiting_verdict:
            self._ask_for_verdicts()
        self._dispatch()

    def _ponged(self, slot: _Slot, pong: wire.Pong) -> None:
        if pong.number != slot.ping_number:
            return
        slot.pinged_s = None
        job = self._verdict_of.pop(slot.number, None)
        if slot.golden_timer is None:
            return
        slot.golden_timer.cancel()
        slot.golden_timer = None
        self._turn(slot, "ready")
        if pong.trouble:
            self._trouble, self._golden_ok = pong.trouble, False
            self._observe("golden_case_failed", service=self.description.service, release=self.release)
            self._end(slot, "golden_case_failed")
        else:
            self._golden_ok = True
        if job is not None:
            self._verdict(job, poison=not pong.trouble)
        self._dispatch()

    def _became_ready(self, slot: _Slot) -> None:
        self._turn(slot, "ready")
        slot.since_s = slot.golden_s = monotonic_s()
        self._trouble, self._golden_ok = "", True
        self._failures_in_a_row = 0
        if self._exhausted:
            self._exhausted = False
        self._observe(
            "worker_ready", service=self.description.service, pid=slot.process.pid if slot.process else 0
        )
        if self._first is not None and not self._first.done():
            self._first.set_result(None)
        # It has just passed its golden cases: the verdict on a record that killed two others may fall.
        for job in self._awaiting_verdict:
            self._verdict(job, poison=True)
        self._awaiting_verdict.clear()
        self._dispatch()
        self._supervise()

    def _load_failed(self, slot: _Slot, failed: wire.LoadFailed) -> None:
        self._trouble = failed.text
        self._golden_ok = failed.failure != "golden_case_failed"
        self._observe("load_failed", service=self._name, release=self.release, failure=failed.failure)
        if self._first is not None and not self._first.done():
            self._first.set_exception(DeclarationError(failed.text, hint=failed.hint))
        self._end(slot, "load_failed")

    @property
    def _name(self) -> str:
        return self._known.service if self._known else self._folder.name

    # -- when it goes wrong -------------------------------------------------------------------

    def _over_time(self, slot: _Slot, number: int) -> None:
        if slot.batch is not None and slot.batch.number == number:
            self._end(slot, "model_timeout")

    def _golden_over_time(self, slot: _Slot) -> None:
        slot.golden_timer = None
        self._end(slot, "silent")

    def _turn(self, slot: _Slot, state: decide.State) -> None:
        """Change a worker's state."""
        self._loaded += (state in ("ready", "busy")) - slot.loaded
        slot.state = state

    def _end(self, slot: _Slot, reason: str) -> None:
        if slot.state in ("leaving", "gone"):
            return
        self._turn(slot, "leaving")
        slot.since_s = monotonic_s()
        slot.end_reason = reason
        if slot.process is not None:
            slot.process.kill()

    def _gone(self, slot: _Slot, returncode: int) -> None:
        """See a worker gone, whoever ended it: deal with what it held, then see to a replacement."""
        now = monotonic_s()
        killed_by_us = slot.process is not None and slot.process.killed_by_us
        reason = slot.end_reason if killed_by_us else "model_crash"
        was_loading = slot.state == "starting"
        self._turn(slot, "gone")
        self._slots.pop(slot.number, None)
        for timer in (slot.golden_timer, slot.batch.timer if slot.batch else None):
            if timer is not None:
                timer.cancel()
        if self._all_gone is not None and not self._slots and not self._all_gone.done():
            self._all_gone.set_result(None)
        if reason in ("stop", "surplus"):
            if slot.batch is not None:
                for job in slot.batch.jobs:
                    self._tell(job, Outcome(failure="shutting_down"))
            return
        cause = cause_of(returncode)
        if was_loading and not killed_by_us and self._first is not None and not self._first.done():
            self._first.set_exception(
                DeclarationError(
                    f"The worker ended while it loaded {self._folder} ({cause}).",
                    hint="load or an import in service.py ends the process; run `nightproof check FOLDER`.",
                )
            )
        if reason == "load_timeout":
            self._trouble = f"load did not end within {self._load_timeout_s:g} s"
            if self._first is not None and not self._first.done():
                self._first.set_exception(
                    DeclarationError(
                        f"{self._folder}: {self._trouble}.", hint="Raise load_timeout_s, or mend load."
                    )
                )
        if reason != "memory_growth":
            self._note_death(now, loading=was_loading or reason in ("load_failed", "load_timeout"))
        self._restarts += 1
        self._observe(
            "worker_gone",
            service=self._name,
            reason=reason,
            cause=cause,
            pid=slot.process.pid if slot.process else 0,
        )
        job_in_question = self._verdict_of.pop(slot.number, None)
        if job_in_question is not None:
            self._awaiting_verdict.append(job_in_question)
        if slot.batch is not None:
            outside = (not killed_by_us and cause == "SIGKILL") or reason in ("silent", "memory_growth")
            self._retry(slot.batch.jobs, reason, inside=not killed_by_us and not outside, outside=outside)
        self._supervise()
        self._dispatch()

    def _retry(self, jobs: list[Job], reason: str, *, inside: bool, outside: bool) -> None:
        """Give each job of a dead worker another try while time remains; mates are tried one by one."""
        failure = {"memory_limit": "model_out_of_memory", "model_timeout": "model_timeout"}.get(
            reason, "model_crash"
        )
        allowed = _MOST_ATTEMPTS["killed" if outside else failure]
        for job in jobs:
            job.attempts += 1
            job.last_failure = failure
            if not outside:
                if inside and len(jobs) == 1 and job.rule < 0:
                    self._suspect(job)
                job.alone = True
            if job.solo_kills >= 2:
                self._awaiting_verdict.append(job)
            elif job.waiter is None:
                continue
            elif job.attempts >= allowed:
                self._tell(job, Outcome(failure=failure))
            else:
                self._requeue(job)
        if self._awaiting_verdict:
            self._ask_for_verdicts()

    def _requeue(self, job: Job) -> None:
        self._first_in_line.append(job)
        self._queue_bytes += len(job.input)

    def _suspect(self, job: Job) -> None:
        job.solo_kills += 1
        fingerprint = fingerprint_of(job.input)
        self._suspects[fingerprint] = job.solo_kills
        self._suspects.move_to_end(fingerprint)
        while len(self._suspects) > _SUSPECTS_KEPT:
            self._suspects.popitem(last=False)

    def _ask_for_verdicts(self) -> None:
        """Have an idle worker answer the golden cases: only then is a record, and not the model, to blame."""
        for slot in self._slots.values():
            if not self._awaiting_verdict:
                return
            if slot.state == "ready":
                self._verdict_of[slot.number] = self._awaiting_verdict.pop()
                self._ask_golden(slot)

    def _verdict(self, job: Job, *, poison: bool) -> None:
        self._suspects.pop(fingerprint_of(job.input), None)
        if poison:
            self._on_poison(job)
        self._tell(job, Outcome(failure="poison_input" if poison else "model_crash"))

    def _ask_golden(self, slot: _Slot) -> None:
        if slot.process is None:
            return
        self._turn(slot, "busy")
        slot.ping_number = next(self._numbers)
        slot.golden_s = monotonic_s()
        patience_s = max(_GOLDEN_PATIENCE_S, self.description.predict_timeout_ms / 250)
        slot.golden_timer = self._loop.call_later(patience_s, self._golden_over_time, slot)
        slot.process.send(wire.Ping(slot.ping_number, golden=True))

    # -- keeping the number up ----------------------------------------------------------------

    @property
    def _load_timeout_s(self) -> float:
        return self._known.load_timeout_s if self._known else 120.0

    def _note_death(self, now: float, *, loading: bool) -> None:
        self._deaths_s.append(now)
        if loading:
            self._failures_in_a_row += 1
        pause_s = decide.next_backoff_s(
            self._failures_in_a_row,
            first_s=self._settings.backoff_first_s,
            most_s=self._settings.backoff_most_s,
        )
        self._no_start_before_s = max(self._no_start_before_s, now + pause_s)

    def _may_start(self, now: float) -> int:
        """Return how many workers may be started now: the restart budget, the pause, one load at a time."""
        while self._deaths_s and now - self._deaths_s[0] > self._settings.restart_window_s:
            self._deaths_s.popleft()
        if now < self._no_start_before_s:
            return 0
        starting = sum(slot.state == "starting" for slot in self._slots.values())
        if self._loaded and starting:
            return 0
        if len(self._deaths_s) < self._settings.restarts:
            self._exhausted = False
            return max(0, 2 - starting)
        if not self._exhausted:
            self._exhausted = True
            self._observe("workers_exhausted", service=self._name, deaths=len(self._deaths_s))
        if starting:
            return 0
        self._no_start_before_s = now + self._settings.backoff_most_s
        return 1

    def _supervise(self) -> None:
        if self._stopping or self._known is None or self._first is None or not self._first.done():
            self._watch_first_load()
            return
        now = monotonic_s()
        least, most = self._workers_wanted or (1, 1)
        wanted = min(max(self._scale.active, least), most) + (self._spares_wanted or 0)
        actions = decide.decide_children(
            [slot.view() for slot in self._slots.values()],
            wanted=wanted,
            may_start=wanted,
            limits=decide.PoolLimits(
                load_timeout_s=self._load_timeout_s,
                ping_within_s=self._settings.ping_within_s,
                memory_bytes=self._known.memory_mb * 1024 * 1024,
                growth_bytes=self._settings.recycle_growth_mb * 1024 * 1024,
            ),
            now=now,
        )
        for action in actions:
            if isinstance(action, decide.Start):
                if self._may_start(now):
                    self._start_one()
            else:
                self._end(self._slots[action.slot], action.reason)

    def _watch_first_load(self) -> None:
        now = monotonic_s()
        for slot in list(self._slots.values()):
            if slot.state == "starting" and now - slot.since_s > self._load_timeout_s:
                self._end(slot, "load_timeout")

    def _start_one(self) -> None:
        slot = _Slot(next(self._numbers), monotonic_s())
        self._slots[slot.number] = slot
        task = self._loop.create_task(self._start_process(slot))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start_process(self, slot: _Slot) -> None:
        process = ChildProcess(
            lambda _, message: self._heard(slot, message), lambda _, returncode: self._gone(slot, returncode)
        )
        slot.process = process
        try:
            await process.start(show_output=self._settings.show_output, environment=scrubbed_environment())
        except OSError as error:
            self._slots.pop(slot.number, None)
            self._trouble = f"a worker cannot be started: {error.strerror}"
            self._note_death(monotonic_s(), loading=True)
            if self._first is not None and not self._first.done():
                self._first.set_exception(DeclarationError(self._trouble, hint="Free memory or processes."))
            return
        process.send(wire.Load(str(self._folder), _OUTPUT_MOST_BYTES))

    def _tick(self) -> None:
        self._tick_timer = self._loop.call_later(_TICK_S, self._tick)
        now = monotonic_s()
        self._excuse_a_stall(now - self._ticked_s)
        self._ticked_s = now
        if now - self._measured_s >= _MEASURE_EVERY_S:
            self._measured_s = now
            self._measure(now)
        if now - self._pinged_s >= self._settings.ping_every_s:
            self._pinged_s = now
            self._ping(now)
        running = sum(slot.batch is not None for slot in self._slots.values())
        self._busy += (running - self._busy) * _TICK_S / _BUSY_OVER_S
        self._drop_the_dead()
        if self._known is not None:
            self._rescale(now)
        self._supervise()
        self._dispatch()

    def _measure(self, now: float) -> None:
        for slot in self._slots.values():
            if slot.process is None or not slot.loaded:
                continue
            slot.rss_bytes = proc.rss_bytes(slot.process.pid)
            if not slot.settled_rss_bytes and now - slot.since_s > _SETTLE_S:
                slot.settled_rss_bytes = slot.rss_bytes

    def _ping_the_idle(self, now: float) -> None:
        golden_is_due = True
        for slot in list(self._slots.values()):
            if slot.state != "ready" or slot.pinged_s is not None or slot.process is None:
                continue
            if golden_is_due and now - slot.golden_s > self._settings.golden_every_s:
                golden_is_due = False  # one worker at a time: the others answer meanwhile
                self._ask_golden(slot)
                continue
            slot.ping_number = next(self._numbers)
            slot.pinged_s = now
            slot.process.send(wire.Ping(slot.ping_number))
