"""Laws of the worker pool's parts: frames survive any cutting, estimates are sane, decisions keep their bounds."""

from __future__ import annotations

import itertools
import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightproof.base.errors import FieldError
from nightproof.base.frames import FRAME_MOST_BYTES, FrameReader
from nightproof.workers import wire
from nightproof.workers.decide import (
    BatchCost,
    ChildView,
    Kill,
    PoolLimits,
    Retire,
    Scale,
    Start,
    decide_children,
    forecast,
    next_scale,
)
from nightproof.workers.engine import Job, Outcome, Waiter
from nightproof.workers.line import Line, Turn

LAW = settings(max_examples=100, deadline=None)

# -- frames -------------------------------------------------------------------------------------

texts = st.text(max_size=20)
answers = st.builds(
    wire.Answer,
    output=st.binary(max_size=200),
    failure=texts,
    detail=texts,
    errors=st.lists(st.builds(FieldError, texts, texts, texts), max_size=2),
    findings=st.lists(texts, max_size=2),
)
messages = st.one_of(
    st.builds(wire.Done, st.integers(0, 2**40), st.lists(answers, max_size=4), st.integers(0, 2**40)),
    st.builds(wire.Pong, st.integers(0, 2**40), texts),
    st.builds(wire.LoadFailed, texts, texts, texts),
)


@LAW
@given(sent=st.lists(messages, max_size=8), cuts=st.lists(st.integers(0, 10_000), max_size=30))
def test_however_the_stream_is_cut_the_same_messages_come_out(sent: list[wire.FromWorker], cuts: list[int]):
    stream = b"".join(map(wire.frame, sent))
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    reader = FrameReader()

    heard = [
        wire.from_worker.decode(body)
        for start, end in itertools.pairwise(places)
        for body in reader.feed(stream[start:end])
    ]

    assert heard == sent


@LAW
@given(before=st.binary(max_size=40), more=st.integers(1, 2**31))
def test_a_frame_beyond_the_limit_ends_the_stream_before_it_is_read(before: bytes, more: int):
    length = min(FRAME_MOST_BYTES + more, 2**32 - 1).to_bytes(4, "big")
    reader = FrameReader()
    reader.feed(len(before).to_bytes(4, "big") + before)

    with pytest.raises(ValueError, match="beyond"):
        reader.feed(length)


@LAW
@given(noise=st.binary(max_size=300))
def test_what_a_worker_makes_up_is_a_message_or_an_error_that_is_expected(noise: bytes):
    try:
        for body in FrameReader().feed(noise):
            wire.from_worker.decode(body)
    except (ValueError, msgspec.DecodeError):
        pass  # the two that end a worker


# -- estimates ----------------------------------------------------------------------------------

batches = st.lists(
    st.tuples(st.integers(1, 4_096), st.floats(0, 600, allow_nan=False)), min_size=1, max_size=60
)


@LAW
@given(batches=batches, asked=st.integers(1, 4_096))
def test_an_estimate_is_never_negative_infinite_or_nonsense(batches: list[tuple[int, float]], asked: int):
    cost = BatchCost()
    for size, took_s in batches:
        cost.learn(size, took_s)

    told_s = cost.estimate_s(asked)

    assert math.isfinite(told_s)
    assert told_s >= 0
    assert cost.estimate_s(asked + 1) >= told_s, "a larger batch is never cheaper"


@LAW
@given(
    batches=batches,
    queued=st.integers(0, 10_000),
    new=st.integers(1, 1_000),
    workers=st.integers(0, 64),
    max_batch=st.integers(1, 4_096),
    busy_left_s=st.floats(0, 60),
)
def test_a_forecast_grows_with_the_queue_and_shrinks_with_workers(
    batches: list[tuple[int, float]], queued: int, new: int, workers: int, max_batch: int, busy_left_s: float
):
    cost = BatchCost()
    for size, took_s in batches:
        cost.learn(size, took_s)

    def told(queued: int, workers: int) -> float:
        return forecast(
            queued=queued, new=new, workers=workers, max_batch=max_batch, cost=cost, busy_left_s=busy_left_s
        ).queue_s

    assert told(queued, workers) >= 0
    assert told(queued + 100, workers) >= told(queued, workers)
    assert told(queued, 0) == math.inf


# -- decisions ----------------------------------------------------------------------------------

NOW = 1_000.0
LIMITS = PoolLimits(load_timeout_s=10, ping_within_s=1, memory_bytes=1_000, growth_bytes=100)


@st.composite
def pools(draw: st.DrawFn) -> list[ChildView]:
    """Draw any workers in any state."""
    return [
        ChildView(
            slot=slot,
            state=draw(st.sampled_from(["starting", "ready", "busy", "leaving", "gone"])),
            since_s=NOW - draw(st.floats(0, 20)),
            pinged_s=draw(st.none() | st.floats(NOW - 2, NOW)),
            rss_bytes=draw(st.integers(0, 1_100)),
            settled_rss_bytes=draw(st.integers(0, 1_000)),
        )
        for slot in range(draw(st.integers(0, 8)))
    ]


@LAW
@given(children=pools(), wanted=st.integers(1, 8), may_start=st.integers(0, 8))
def test_decisions_about_workers_keep_their_bounds(children: list[ChildView], wanted: int, may_start: int):
    actions = decide_children(children, wanted=wanted, may_start=may_start, limits=LIMITS, now=NOW)

    told = [action.slot for action in actions if isinstance(action, Kill | Retire)]
    here = {child.slot: child for child in children if child.state not in ("leaving", "gone")}
    staying = len(here) - len(told)
    starts = sum(isinstance(action, Start) for action in actions)
    loaded = sum(child.state in ("ready", "busy") for child in here.values())
    recycled = [
        action for action in actions if isinstance(action, Retire) and action.reason == "memory_growth"
    ]
    assert len(told) == len(set(told)), "nobody is ended twice"
    assert set(told) <= set(here), "nor one that is gone"
    assert starts <= may_start
    assert staying + starts <= max(staying, wanted + 1)
    assert all(here[action.slot].state != "busy" for action in actions if isinstance(action, Retire))
    assert len(recycled) <= 1
    assert not recycled or loaded > 1, "the only loaded worker is not recycled"
    if staying > wanted + 1:  # one more, while the replacement of the only worker loads
        idle = [child for child in here.values() if child.slot not in told and child.state == "ready"]
        assert not idle, "who is one too many and idle goes"


@LAW
@given(
    active=st.integers(0, 20),
    wait_s=st.floats(0, 10),
    busy=st.floats(0, 20),
    calm_since_s=st.none() | st.floats(0, NOW),
    at_least=st.integers(1, 8),
    more=st.integers(0, 8),
)
def test_the_number_of_workers_stays_in_its_bounds_and_moves_by_one(
    active: int, wait_s: float, busy: float, calm_since_s: float | None, at_least: int, more: int
):
    after = next_scale(
        Scale(active, calm_since_s),
        wait_s=wait_s,
        busy=busy,
        patience_s=0.1,
        at_least=at_least,
        at_most=at_least + more,
        now=NOW,
    )

    assert at_least <= after.active <= at_least + more
    assert abs(after.active - min(max(active, at_least), at_least + more)) <= 1


# -- the line -----------------------------------------------------------------------------------


class _Told:
    """Stands for the future of a waiter."""

    def done(self) -> bool:
        """Say that nobody awaits it."""
        return True


@LAW
@given(
    acts=st.lists(
        st.tuples(st.sampled_from(["join", "first", "leave", "batch", "urgent", "drop"]), st.integers(0, 40)),
        max_size=80,
    )
)
def test_no_job_is_handed_out_twice_or_lost_and_the_bytes_are_those_that_wait(acts: list[tuple[str, int]]):
    line, jobs, handed = Line(), [], []

    for act, number in acts:
        if act in ("join", "first"):
            waiter = Waiter(_Told())  # type: ignore[arg-type]
            job = Job(b"x" * number, 100.0 if number % 5 else 1.0, waiter, queued_s=float(len(jobs)))
            waiter.add(job)
            jobs.append(job)
            (line.join if act == "join" else line.go_first)(job)
        elif act == "leave" and jobs:
            job = jobs[number % len(jobs)]
            if job.waiter is not None:
                job.waiter.give_up("caller_gone")
        elif act == "batch" and line.queue:
            handed += line.next_batch(50.0, most=number % 4 + 1, budget_s=30.0)
        elif act == "urgent":
            turn: Turn = (["run", "wait", "drop"] * 14)[number]  # type: ignore[assignment]
            one = line.next_urgent(lambda job, turn=turn: turn)  # type: ignore[misc]
            handed += [one] if one is not None else []
        elif act == "drop":
            line.drop_the_dead()

        assert line.size_bytes == sum(len(job.input) for job in (*line.queue, *line.urgent))

    assert len({id(job) for job in handed}) == len(handed)
    assert not {id(job) for job in handed} & {id(job) for job in (*line.queue, *line.urgent)}
    line.end_all(Outcome(failure="shutting_down"))
    assert (len(line), line.size_bytes) == (0, 0)
