"""The local engine: child processes that answer batches, watched, replaced, and never trusted.

`Pool` remembers; `decide.py` and `afterwards.py` choose; `process.py` does. All state is touched on the event loop's
thread only, so that its one lock is the loop itself: no method here awaits between reading a field and
writing it. Promises: each job's waiter is told once; a worker that hangs, dies, grows or answers golden
cases wrongly is replaced; the last loaded worker is never risked on a record that has killed one.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from nightproof.base.clock import monotonic_s
from nightproof.base.errors import DeclarationError
from nightproof.declare.describe import Description
from nightproof.settings.settings import WorkerSettings
from nightproof.storage import proc
from nightproof.workers import decide, wire
from nightproof.workers.afterwards import End, end_of, is_tried_out, not_loaded
from nightproof.workers.budget import RestartBudget
from nightproof.workers.decide import BatchCost, Forecast, Scale
from nightproof.workers.engine import EngineSnapshot, Job, NotLoaded, Observer, Origin, Outcome
from nightproof.workers.golden import GoldenRecord
from nightproof.workers.line import Line, Turn, is_dead, tell
from nightproof.workers.process import ChildProcess
from nightproof.workers.slot import LOADED, Batch, Slot, counts_by_state
from nightproof.workers.suspects import KILLS_FOR_A_VERDICT, REFUSALS, Suspects

_TICK_S = 0.1
_ENOUGH_TO_START = 8
_STALLED_S = 0.3
_LATE_S = 0.02
_GRACE_S = 0.005
_BUSY_OVER_S = 5.0
_MEASURE_EVERY_S = 1.0
_BATCH_SHARE = 0.5
_GOLDEN_PATIENCE_S = 5.0
_OUTPUT_MOST_BYTES = 1 << 20


class Pool:
    """min…max workers with warm spares behind one queue."""

    description: Description
    """What the release declares, as its worker told; there only after `start`. No property: each request asks."""

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
        origin: Origin = Origin(),  # noqa: B008 - frozen
    ) -> None:
        self.release = release
        self.versions: dict[str, str] = {}
        """Of Python and the frameworks in use, as the last worker that loaded saw them."""
        self._origin = origin
        self._folder = folder
        self._settings = settings
        self._on_poison = on_poison
        self._observe = observe
        self._workers_wanted = workers
        self._spares_wanted = spares
        self._known = description
        self._slots: dict[int, Slot] = {}
        self._numbers = itertools.count(1)
        self._line = Line()
        self._dispatch_is_due = False
        self._loaded = 0
        """Workers that are ready or busy; kept by `_turn`, since every request asks."""
        self._ready = 0
        """Workers that are ready, kept likewise."""
        self._suspects = Suspects()
        self._verdict_of: dict[int, Job] = {}
        """By worker: the job on whose fate its golden cases decide."""
        self._cost = BatchCost()
        self._batch_most = 1
        """How many records a batch may hold, by what batches have cost; kept, since every request asks."""
        if description is not None:
            self.description = description
            self._bound_batches()
        self._scale = Scale(1)
        self._busy = 0.0
        """How many workers were running a batch lately, on average."""
        self._budget = RestartBudget(settings)
        self._restarts = 0
        self._trouble = ""
        self._golden = GoldenRecord(monotonic_s())
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
        self._line.end_all(Outcome(failure="shutting_down"))
        for job in (*self._suspects.in_question, *self._verdict_of.values()):
            tell(job, Outcome(failure="shutting_down"))
        living = [slot for slot in self._slots.values() if slot.process is not None and slot.state != "gone"]
        for slot in living:
            self._end(slot, "stop")
        if living:
            self._all_gone = self._loop.create_future()
            await asyncio.wait([self._all_gone], timeout=within_s)
        for task in self._tasks:
            task.cancel()

    def resize(self, workers: tuple[int, int] | None = None, spares: int | None = None) -> None:
        """Keep another number of workers from now on: this many, or as many as the release declares.

        More are started at once. Fewer: only idle ones go, so that nothing that runs is cut short.
        """
        described = self.description
        self._workers_wanted = workers or (described.workers_min, described.workers_max)
        self._spares_wanted = described.spares if spares is None else spares
        least, most = self._workers_wanted
        self._scale = Scale(min(max(self._scale.active, least), most))
        self._supervise()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue the jobs and hand them on if a worker is free."""
        now = monotonic_s()
        for job in jobs:
            job.queued_s = now
            if self._suspects and job.rule < 0:
                self._suspects.note(job, now=now)
            if job.alone or job.rule >= 0:
                self._line.go_first(job)
            else:
                self._line.join(job)
        if self._stopping:
            self._line.end_all(Outcome(failure="shutting_down"))
        elif len(self._line) >= _ENOUGH_TO_START:
            # A worker that is free starts while the loop takes in the rest: the two must not take turns.
            self._dispatch()
        elif not self._dispatch_is_due:
            # At the end of this turn of the loop: what arrives in the same turn shares a batch.
            self._dispatch_is_due = True
            self._loop.call_soon(self._dispatch)

    @property
    def folder(self) -> Path:
        """Where the release's files are."""
        return self._folder

    def forecast(self, jobs: int) -> Forecast:
        """Estimate when `jobs` new ones would be answered."""
        if self._ready and not self._line.queue and not self._line.urgent:
            return Forecast(0.0, self._cost.estimate_s(min(jobs, self._batch_most)))
        busy_left_s = 0.0
        workers = min(self._loaded, self.description.workers_max)
        running = [slot.batch for slot in self._slots.values() if slot.batch is not None]
        if running and len(running) >= workers:
            now = monotonic_s()
            busy_left_s = max(
                0.0, min(self._cost.estimate_s(len(batch.jobs)) - (now - batch.handed_s) for batch in running)
            )
        return decide.forecast(
            queued=len(self._line),
            new=jobs,
            workers=workers,
            max_batch=self._batch_most,
            cost=self._cost,
            busy_left_s=busy_left_s,
        )

    def is_ready(self) -> bool:
        """Say whether a worker is up that passed its golden cases."""
        return self._loaded > 0 and not self._stopping

    def has_hope(self) -> bool:
        """Say whether a worker is loading that may be ready soon: the last ones did not fail to load."""
        return not self._budget.loads_fail and self._count("starting") > 0

    def snapshot(self) -> EngineSnapshot:
        """Return a frozen picture of the pool."""
        return EngineSnapshot(
            service=self._known.service if self._known else "",
            release=self.release,
            workers=counts_by_state(self._slots.values(), answering=self._scale.active),
            pids=[
                slot.process.pid for slot in self._slots.values() if slot.process is not None and slot.loaded
            ],
            queued=len(self._line),
            queue_bytes=self._line.size_bytes,
            running=sum(len(slot.batch.jobs) for slot in self._slots.values() if slot.batch is not None),
            restarts=self._restarts,
            backing_off=self._budget.is_exhausted,
            trouble=self._trouble,
            golden_passed_s=self._golden.passed_s,
            golden_level=self._golden.level,
        )

    def process_pids(self) -> list[int]:
        """Name every worker process, loading ones too."""
        return [slot.process.pid for slot in self._slots.values() if slot.process is not None]

    def oldest_wait_s(self) -> float:
        """Return how long the job that waits longest has been waiting."""
        self._line.drop_the_dead()
        return self._line.wait_s(monotonic_s())

    def __repr__(self) -> str:
        picture = self.snapshot()
        return f"<Pool {picture.service}@{self.release} {picture.workers} queued={picture.queued}>"

    # -- handing out --------------------------------------------------------------------------

    def _dispatch(self) -> None:
        self._dispatch_is_due = False
        if self._stopping:
            return
        line = self._line
        while line.urgent or line.queue:
            if not self._ready:
                return
            now = monotonic_s()
            free = next(slot for slot in self._slots.values() if slot.state == "ready")
            urgent = line.next_urgent(self._turn_of) if line.urgent else None
            if urgent is not None:
                self._hand(free, [urgent], now)
                continue
            line.drop_the_dead()
            if not line.queue or not self._has_place(now) or self._waits_to_fill(now):
                return
            jobs = line.next_batch(now, most=self._batch_most, budget_s=self.description.deadline_ms / 1_000)
            if not jobs:
                return
            self._hand(free, jobs, now)

    def _bound_batches(self) -> None:
        """Say how many records a batch may hold: none that is expected to take half of predict's own time."""
        within_s = self.description.predict_timeout_ms / 1_000 * _BATCH_SHARE
        self._batch_most = self._cost.most_within(within_s, most=self.description.max_batch)

    def _has_place(self, now: float) -> bool:
        """Say whether one more batch may run: fewer run than workers are active, or the wait says to scale."""
        running = sum(slot.batch is not None for slot in self._slots.values())
        if running < self._scale.active:
            return True
        self._rescale(now)
        return running < self._scale.active

    def _rescale(self, now: float) -> None:
        described = self.description
        least, most = self._workers_wanted or (described.workers_min, described.workers_max)
        patience_s = min(0.1, max(0.005, described.deadline_ms / 10_000))
        before = self._scale.active
        self._scale = decide.next_scale(
            self._scale,
            wait_s=self._line.wait_s(now),
            busy=self._busy,
            patience_s=patience_s,
            at_least=least,
            at_most=most,
            now=now,
        )
        if self._scale.active != before:
            self._observe("scaled", service=described.service, active=self._scale.active, before=before)

    def _turn_of(self, job: Job) -> Turn:
        """Say whether a retry or a rule may run now; a suspect waits until it cannot take the last worker."""
        now = monotonic_s()
        standing = self._suspects.standing_of(job, now=now) if job.alone and job.rule < 0 else "free"
        if standing in REFUSALS:
            tell(job, REFUSALS[standing])
            return "drop"
        if is_dead(job, now) and not self._suspects.is_on_trial(job, now=now):
            return "drop"
        if standing == "in_question" or (standing == "suspect" and self._loaded < 2):
            return "wait"
        return "run"

    def _waits_to_fill(self, now: float) -> bool:
        wait_s = self.description.max_wait_ms / 1_000
        if not wait_s or len(self._line.queue) >= self.description.max_batch:
            return False
        left_s = wait_s - self._line.wait_s(now)
        if left_s > 0 and self._fill_timer is None:
            self._fill_timer = self._loop.call_later(left_s, self._filled)
        return left_s > 0

    def _filled(self) -> None:
        self._fill_timer = None
        self._dispatch()

    def _hand(self, slot: Slot, jobs: list[Job], now: float) -> None:
        if slot.process is None:
            raise RuntimeError("a slot without a process was free")
        number = next(self._numbers)
        due_s = now + self.description.predict_timeout_ms / 1_000
        timer = self._loop.call_at(due_s, self._over_time, slot, number, due_s)
        slot.batch = Batch(number, jobs, now, timer)
        self._turn(slot, "busy")
        size, pid = len(jobs), slot.process.pid
        for job in jobs:
            job.handed_s = now
            job.batch_size = size
            job.worker_pid = pid
        slot.process.send(wire.Run(number, [job.input for job in jobs], jobs[0].rule))

    # -- what a worker says -------------------------------------------------------------------

    def _heard(self, slot: Slot, message: wire.FromWorker) -> None:
        if isinstance(message, wire.Done):
            self._batch_done(slot, message)
        elif slot.state in ("leaving", "gone"):
            return  # its last words; what it held is dealt with when it is gone
        elif isinstance(message, wire.Pong):
            self._ponged(slot, message)
        elif isinstance(message, wire.Described):
            if self._known is None:
                self._take_description(message.description)
        elif isinstance(message, wire.Loaded):
            self.versions = message.versions
            self._became_ready(slot)
        else:
            self._load_failed(slot, message)

    def _take_description(self, description: Description) -> None:
        self._known = self.description = description
        self._bound_batches()
        self._workers_wanted = self._workers_wanted or (description.workers_min, description.workers_max)
        if self._spares_wanted is None:
            self._spares_wanted = description.spares
        self._scale = Scale(self._workers_wanted[0])

    def _batch_done(self, slot: Slot, done: wire.Done) -> None:
        batch = slot.batch
        if batch is None or batch.number != done.batch:
            return  # a late word of a batch that was given up
        batch.timer.cancel()
        slot.batch = None
        if slot.state == "busy":  # and not on its way out: the answers count, but it gets no more
            self._turn(slot, "ready")
        # By the worker's own clock: the loop's would count its own lag as the model's, and under overload
        # the lag that refusals make would bring more refusals.
        self._cost.learn(len(batch.jobs), done.predict_us / 1e6)
        self._bound_batches()
        if done.alone:
            for job in batch.jobs:
                job.attempts += 1
                job.alone = True
                self._line.go_first(job)
        else:
            out_of_memory = False
            for job, answer in zip(batch.jobs, done.answers, strict=False):
                job.predict_us = done.predict_us
                out_of_memory |= answer.failure == "model_out_of_memory"
                tell(
                    job,
                    Outcome(answer.output, answer.failure, answer.detail, answer.errors, answer.findings),
                )
                if job.alone and self._suspects:
                    self._suspects.clear(job)
            for job in batch.jobs[len(done.answers) :]:
                tell(job, Outcome(failure="internal_error", detail="the worker answered too few"))
            if out_of_memory:
                self._end(slot, "out_of_memory")
        if self._suspects.in_question:
            self._ask_for_verdicts()
        if slot.golden_is_due and slot.state == "ready" and not self._asks_golden():
            self._ask_golden(slot)  # one that is never idle is asked between two batches
        self._dispatch()

    def _ponged(self, slot: Slot, pong: wire.Pong) -> None:
        if pong.number != slot.ping_number:
            return
        slot.pinged_s = None
        if slot.golden_timer is None:
            return
        slot.golden_timer.cancel()
        slot.golden_timer = None
        job = self._verdict_of.pop(slot.number, None)
        self._turn(slot, "ready")
        is_quick = monotonic_s() - slot.golden_s <= self.description.predict_timeout_ms / 1_000
        if self._suspects.over_time.judge(slot.golden_s, is_quick=is_quick and not pong.trouble):
            self._observe("slow_record", service=self._name, release=self.release)
        if pong.trouble:
            self._trouble = pong.trouble
            self._failed_golden()
            self._end(slot, "golden_case_failed")
        else:
            self._golden.passed(monotonic_s())
        if job is not None:
            self._verdict(job, poison=not pong.trouble)
        self._dispatch()

    def _became_ready(self, slot: Slot) -> None:
        self._turn(slot, "ready")
        slot.since_s = slot.golden_s = monotonic_s()
        self._trouble = ""
        self._golden.passed(monotonic_s())
        self._budget.loaded()
        self._observe("worker_ready", service=self.description.service, pid=slot.pid)
        if self._first is not None and not self._first.done():
            self._first.set_result(None)
        # It has just passed its golden cases: the verdict on a record that killed two others may fall.
        for job in self._suspects.in_question:
            self._verdict(job, poison=True)
        self._suspects.in_question.clear()
        self._dispatch()
        self._supervise()

    def _load_failed(self, slot: Slot, failed: wire.LoadFailed) -> None:
        self._trouble = failed.text
        self._observe(
            "load_failed",
            service=self._name,
            release=self.release,
            failure=failed.failure,
            why=failed.text.partition("\n")[0],
        )
        if failed.failure == "golden_case_failed":
            self._failed_golden()
        if self._first is not None and not self._first.done():
            self._first.set_exception(NotLoaded(failed.text, hint=failed.hint, failure=failed.failure))
        self._end(slot, "load_failed")

    def _failed_golden(self) -> None:
        """Tell of a worker's wrong golden answer, and once of the release whose workers all give them."""
        for reason in self._golden.failed():
            self._observe("golden_case_failed", service=self._name, release=self.release, reason=reason)

    @property
    def _name(self) -> str:
        return self._known.service if self._known else self._folder.name

    # -- when it goes wrong -------------------------------------------------------------------

    def _over_time(self, slot: Slot, number: int, due_s: float) -> None:
        if slot.batch is None or slot.batch.number != number:
            return
        if monotonic_s() - due_s > _LATE_S:
            # The server itself was held up: the answer may be here, unread. Read first, then judge.
            again_s = monotonic_s() + _GRACE_S
            slot.batch.timer = self._loop.call_at(again_s, self._over_time, slot, number, math.inf)
        else:
            self._ran_over(slot, slot.batch.jobs, due_s)
            self._end(slot, "model_timeout")

    def _ran_over(self, slot: Slot, jobs: list[Job], due_s: float) -> None:
        """Count a record against itself if others take little and worker and server ran; golden cases prove it."""
        usual = self._cost.estimate_s(1) * 1_000 / self.description.predict_timeout_ms
        is_fair = 0 < usual <= _BATCH_SHARE and due_s < math.inf and not proc.is_stopped(slot.pid)
        if is_fair and self._suspects.ran_over(jobs, now=monotonic_s()):
            for other in self._slots.values():
                other.golden_is_due = True
            self._ping(monotonic_s())

    def _golden_over_time(self, slot: Slot, due_s: float) -> None:
        if monotonic_s() - due_s > _LATE_S:
            again_s = monotonic_s() + _GRACE_S
            slot.golden_timer = self._loop.call_at(again_s, self._golden_over_time, slot, math.inf)
        else:
            slot.golden_timer = None
            self._end(slot, "silent")

    def _turn(self, slot: Slot, state: decide.State) -> None:
        """Change a worker's state."""
        was, slot.state = slot.state, state
        self._loaded += (state in LOADED) - (was in LOADED)
        self._ready += (state == "ready") - (was == "ready")

    def _end(self, slot: Slot, reason: str) -> None:
        if slot.state in ("leaving", "gone"):
            return
        self._turn(slot, "leaving")
        slot.since_s = monotonic_s()
        slot.end_reason = reason
        if slot.process is not None:
            slot.process.kill()

    def _count(self, state: decide.State) -> int:
        return sum(slot.state == state for slot in self._slots.values())

    def _gone(self, slot: Slot, returncode: int) -> None:
        """See a worker gone, whoever ended it: deal with what it held, then see to a replacement."""
        now = monotonic_s()
        process = slot.process
        by_us = process is not None and process.killed_by_us
        reason = slot.end_reason if by_us else "model_crash"
        was_loading = slot.state == "starting" or reason in ("load_failed", "load_timeout")
        self._turn(slot, "gone")
        self._slots.pop(slot.number, None)
        slot.stop_clocks()
        if self._all_gone is not None and not self._slots and not self._all_gone.done():
            self._all_gone.set_result(None)
        jobs = slot.batch.jobs if slot.batch is not None else []
        if self._stopping or reason == "surplus":
            for job in jobs:
                tell(job, Outcome(failure="shutting_down"))
            return
        cause = proc.cause_of(returncode)
        if was_loading:
            self._load_ended(reason, cause)
        if reason != "memory_growth":
            self._budget.spend(now, while_loading=was_loading)
        self._restarts += 1
        self._observe("worker_gone", service=self._name, reason=reason, cause=cause, pid=slot.pid)
        in_question = self._verdict_of.pop(slot.number, None)
        if in_question is not None:
            self._suspects.in_question.append(in_question)
        broke_its_word = process is not None and process.broke_its_word
        self._retry(jobs, end_of(reason, by_us=by_us, cause=cause, broke_its_word=broke_its_word), now=now)
        self._supervise()
        self._dispatch()

    def _load_ended(self, reason: str, cause: str) -> None:
        """Keep why a load came to nothing; at the first start, that is what `start` raises."""
        if reason == "load_failed":
            return  # told, by its own words
        error = not_loaded(reason, cause, load_timeout_s=self._load_timeout_s)
        self._trouble = error.text
        if self._first is not None and not self._first.done():
            self._first.set_exception(error)

    def _retry(self, jobs: list[Job], end: End, *, now: float) -> None:
        """Give each job of a dead worker another try while time remains; mates are tried one by one."""
        for job in jobs:
            job.attempts += 1
            job.last_failure = end.failure
            job.died_of += (end.counts_as,)
            if not end.outside:
                job.alone = True
                if end.inside and len(jobs) == 1 and job.rule < 0:
                    self._suspects.blame(job)
            if job.solo_kills >= KILLS_FOR_A_VERDICT:
                self._suspects.in_question.append(job)
            elif is_tried_out(job.died_of, end.counts_as):
                tell(job, Outcome(failure=end.failure))
            elif job.waiter is not None or self._suspects.is_on_trial(job, now=now):
                self._line.go_first(job)
        if self._suspects.in_question:
            self._ask_for_verdicts()

    def _ask_for_verdicts(self) -> None:
        """Have an idle worker answer the golden cases: only then is a record, and not the model, to blame."""
        for slot in self._slots.values():
            if not self._suspects.in_question:
                return
            if slot.state == "ready":
                self._verdict_of[slot.number] = self._suspects.in_question.pop()
                self._ask_golden(slot)

    def _verdict(self, job: Job, *, poison: bool) -> None:
        if poison:
            self._suspects.condemn(job, now=monotonic_s())
            self._on_poison(job)
        else:
            self._suspects.clear(job)
        tell(job, Outcome(failure="poison_input" if poison else "model_crash"))

    def _ask_golden(self, slot: Slot) -> None:
        if slot.process is None:
            return
        self._turn(slot, "busy")
        slot.ping_number = next(self._numbers)
        slot.pinged_s = None
        slot.golden_s = monotonic_s()
        slot.golden_is_due = False
        due_s = slot.golden_s + max(_GOLDEN_PATIENCE_S, self.description.predict_timeout_ms / 250)
        slot.golden_timer = self._loop.call_at(due_s, self._golden_over_time, slot, due_s)
        slot.process.send(wire.Ping(slot.ping_number, golden=True))

    # -- keeping the number up ----------------------------------------------------------------

    @property
    def _load_timeout_s(self) -> float:
        return self._known.load_timeout_s if self._known else 120.0

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
                self._start_if_allowed(now)
            else:
                self._end(self._slots[action.slot], action.reason)

    def _start_if_allowed(self, now: float) -> None:
        was_exhausted = self._budget.is_exhausted
        if self._budget.may_start(now, starting=self._count("starting"), loaded=self._loaded):
            self._start_one()
        if self._budget.is_exhausted and not was_exhausted:
            self._observe("workers_exhausted", service=self._name, deaths=self._budget.deaths)

    def _watch_first_load(self) -> None:
        now = monotonic_s()
        for slot in list(self._slots.values()):
            if slot.state == "starting" and now - slot.since_s > self._load_timeout_s:
                self._end(slot, "load_timeout")

    def _start_one(self) -> None:
        slot = Slot(next(self._numbers), monotonic_s())
        self._slots[slot.number] = slot
        task = self._loop.create_task(self._start_process(slot))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start_process(self, slot: Slot) -> None:
        if self._stopping:
            self._slots.pop(slot.number, None)
            return
        process = ChildProcess(
            lambda _, message: self._heard(slot, message), lambda _, returncode: self._gone(slot, returncode)
        )
        slot.process = process
        try:
            await process.start(show_output=self._settings.show_output, python=self._origin.python)
        except OSError as error:
            self._turn(slot, "gone")
            self._slots.pop(slot.number, None)
            self._trouble = f"a worker cannot be started: {error.strerror}"
            self._budget.spend(monotonic_s(), while_loading=True)
            if self._first is not None and not self._first.done():
                self._first.set_exception(DeclarationError(self._trouble, hint="Free memory or processes."))
            return
        process.send(
            wire.Load(str(self._folder), _OUTPUT_MOST_BYTES, self._origin.digest, self._origin.versions)
        )

    def _tick(self) -> None:
        self._tick_timer = self._loop.call_later(_TICK_S, self._tick)
        now = monotonic_s()
        self._excuse_a_stall(now - self._ticked_s)
        self._ticked_s = now
        if now - self._measured_s >= _MEASURE_EVERY_S:
            self._measured_s = now
            for slot in self._slots.values():
                slot.measure(now)
        if now - self._pinged_s >= self._settings.ping_every_s:
            self._pinged_s = now
            self._ping(now)
        running = sum(slot.batch is not None for slot in self._slots.values())
        self._busy += (running - self._busy) * _TICK_S / _BUSY_OVER_S
        self._line.drop_the_dead()
        if self._known is not None:
            self._rescale(now)
        self._supervise()
        self._dispatch()

    def _ping(self, now: float) -> None:
        """Ask the idle whether they live, and one worker at a time for its golden cases, idle or not."""
        for slot in list(self._slots.values()):
            if slot.process is None or not slot.loaded:
                continue
            if now - slot.golden_s > self._settings.golden_every_s:
                slot.golden_is_due = True
            if slot.state != "ready" or slot.pinged_s is not None:
                continue
            if slot.golden_is_due and not self._asks_golden():
                self._ask_golden(slot)
            else:
                slot.ping_number = next(self._numbers)
                slot.pinged_s = now
                slot.process.send(wire.Ping(slot.ping_number))

    def _asks_golden(self) -> bool:
        return any(slot.golden_timer is not None for slot in self._slots.values())

    def _excuse_a_stall(self, since_last_tick_s: float) -> None:
        """Where the server itself was held up, its workers' answers may lie here unread: do not blame them."""
        if since_last_tick_s > _TICK_S + _STALLED_S:
            for slot in self._slots.values():
                slot.excuse(since_last_tick_s)
